"""`cnn eval`."""

from typing import Annotated

from cnn_cli.cli.app import command
from cnn_cli.cli.options import BatchSize, Data, Format, Network, Output, Spec, Weights, Workers, option
from cnn_cli.cli.output import note, note_weights
from cnn_cli.errors import UsageError

Split = Annotated[
    str | None, option("--split", panel="Data", metavar="NAME", help="test, val or train [test, if there is one].")
]


@command("eval", "Training")
def evaluate(
    network: Network,
    spec: Spec,
    data: Data,
    weights: Weights,
    format: Format,
    split: Split = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    output: Output = None,
) -> None:
    """Evaluate a trained network: loss, accuracy, per-class figures, confusion matrix.

    The result is also written beside the run, or to the folder -o: eval.json and confusion_matrix.png.
    """
    from cnn_cli.training import eval_report

    if split not in (None, *eval_report.SPLITS):
        raise UsageError(f"--split must be test, val or train, not {split!r}")
    format.check()
    loaded = eval_report.trained_network(network, spec.files, weights.weights, spec.args, spec.size)
    request = eval_report.EvaluationRequest(data.data, data.data_dir, split, batch_size, workers)
    evaluation = eval_report.evaluate_network(loaded, request, weights.torch_device)
    note_weights(network, loaded.weights, evaluation.notes)
    format.emit(evaluation)
    if folder := output or loaded.run:
        paths = eval_report.write_evaluation(folder, evaluation)
        note("\n" + "\n".join(str(path.resolve()) for path in paths))
