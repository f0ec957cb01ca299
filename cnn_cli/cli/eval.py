"""`cnn eval`."""

from pathlib import Path

from cnn_cli.cli.app import command
from cnn_cli.cli.options import SPLIT, Data, Format, Network, Spec, Weights, flag, option
from cnn_cli.cli.output import note, note_weights
from cnn_cli.errors import UsageError


@command("eval")
def evaluate_command(
    network: Network,
    spec: Spec,
    data: Data,
    weights: Weights,
    format: Format,
    split: str | None = SPLIT,
    batch_size: int | None = option("Speed", "N", "Batch size [as in training].", "-b", "--batch-size"),
    workers: int | None = option("Speed", "N", "Data-loading workers [one per CPU, at most 8].", "-j", "--workers"),
    original_size: bool = flag("Data", "Segmentation: evaluate at the original size of masks [network input size]."),
    tiles: bool = flag("Data", "Segmentation: like --original-size, but predict overlapping tiles at full resolution."),
    calibrate: bool = flag(
        "Calibration", "Fit the softmax temperature on the val split and store it in the checkpoint."
    ),
    output: Path | None = option("Output", "FOLDER", "Folder for the results [the run folder].", "-o", "--output"),
) -> None:
    """Evaluate a trained network on a data set.

    Writes eval.json and pictures of the results to the run folder, or to -o. For a folder of several seeds (cnn train
    --seeds), evaluates all runs, and reports mean and standard deviation.
    """
    from cnn_cli.checkpoints.run_folder import find_run
    from cnn_cli.training import eval_report
    from cnn_cli.training.calibration import calibrate as fit_and_store
    from cnn_cli.training.seeds import evaluate_seeds, seed_runs

    format.check()
    request = eval_report.EvaluationRequest(data.data, data.data_dir, split, batch_size, workers, original_size, tiles)
    network = find_run(network, spec.files)
    if seed_runs(Path(network)):
        if weights.weights:
            raise UsageError(f"{network} contains runs with their own weights; leave out --weights")
        if calibrate:
            raise UsageError(f"--calibrate takes a single run; name one of those in {network}")
        seeds = evaluate_seeds(Path(network), request, weights.torch_device, spec.args, spec.size, output=output)
        return format.emit(seeds)
    loaded = weights.load(network, spec)
    if calibrate:
        loaded, calibration = fit_and_store(loaded, request, weights.torch_device)
        note(calibration.text())
    evaluation = eval_report.evaluate_network(loaded, request, weights.torch_device)
    note_weights(network, loaded)
    for line in evaluation.notes:
        note(line)
    format.emit(evaluation)
    if folder := output or loaded.run:
        paths = [eval_report.write_evaluation(folder, evaluation), *eval_report.draw_evaluation(folder, evaluation)]
        note("\n" + "\n".join(str(path.resolve()) for path in paths))
