"""Commands that use data: train and eval."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cnn_cli.cli import options
from cnn_cli.cli.app import app
from cnn_cli.cli.options import arguments, input_size, style
from cnn_cli.cli.output import emit, emit_json, note, note_weights
from cnn_cli.cli.settings import with_settings
from cnn_cli.errors import UsageError
from cnn_cli.tables import render

Recipe = Annotated[
    str, typer.Option("--recipe", metavar="NAME", help="One of the network's other ways to train, laid over train:.")
]
Plain = Annotated[bool, typer.Option("--plain", help="The same as --fast none: the textbook's loop, bit for bit.")]
Seeds = Annotated[
    int | None,
    typer.Option("--seeds", metavar="INTEGER", help="So many runs, with seeds from --seed on; mean and deviation."),
]
Film = Annotated[
    bool, typer.Option("--filters-every-epoch", help="A film strip of how the first convolution's filters form.")
]


@app.command()
@with_settings
def train(
    network: options.Network,
    settings: dict[str, Any],
    run: Annotated[
        Path | None, typer.Argument(help="With --resume: the run folder; the newest run if it is left out.")
    ] = None,
    recipe: Recipe = "",
    plain: Plain = False,
    seeds: Seeds = None,
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    input: options.Input = None,
    set: options.Set = None,
    models: options.Models = None,
    output: options.Output = None,
    film: Film = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run, exactly from where it stopped.")] = False,
    json: options.Json = False,
) -> None:
    """Train a network, or go on with a run. The latter is `cnn train NETWORK --resume [RUN]`.

    Each setting comes from its option, else the variable CNN_<NAME>, else the recipe, else the spec's train:, else its
    default. Several processes: torchrun --nproc-per-node 2 -m cnn_cli train NETWORK.
    """
    if run and not resume:
        raise UsageError(f"unexpected {str(run)!r}; to resume a run, add --resume")
    if plain and "fast" in settings:
        raise UsageError("--plain is --fast none; leave one of them out")
    from cnn_cli.training.request import Request
    from cnn_cli.training.resumption import run_to_resume
    from cnn_cli.training.run import begin
    from cnn_cli.training.run import resume as resume_run
    from cnn_cli.training.seeds import train_seeds

    request = Request(
        network=network,
        options=settings | ({"fast": "none"} if plain else {}),
        recipe=recipe,
        data_dir=data_dir,
        device=device,
        models=tuple(models or ()),
        args=arguments(set),
        input=input_size(input),
        output=output,
        film=film,
        command=shlex.join(["cnn", *sys.argv[1:]]),
        say=note,
    )
    if seeds is not None:
        result: Any = train_seeds(request, seeds, run, resume)
    else:
        result = resume_run(request, run_to_resume(request, run)) if resume else begin(request)
    if result:
        emit_json(result.document()) if json else emit(result.text())


@app.command("eval")
def evaluate(
    network: options.Network,
    data: options.Data = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="test, val or train [test, where there is one].")
    ] = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    data_dir: options.DataDir = None,
    models: options.Models = None,
    output: options.Output = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """Evaluate a trained network. NETWORK is a name (its newest run), a run folder or a checkpoint.

    The result goes beside the run too, or to the folder -o: eval.json and confusion_matrix.png.
    """
    from cnn_cli.device import pick
    from cnn_cli.training import eval_report

    if split not in (None, *eval_report.SPLITS):
        raise UsageError(f"--split must be test, val or train, not {split!r}")
    form = style(csv, markdown, json)
    loaded = eval_report.trained_network(network, tuple(models or ()), weights)
    request = eval_report.EvaluationRequest(data, data_dir, split, batch_size, workers)
    evaluation = eval_report.evaluate_network(loaded, request, pick(device))
    note_weights(network, loaded.weights, evaluation.notes)
    if json:
        emit_json(evaluation.document())
    else:
        emit(evaluation.text() if form == "text" else render(evaluation.table(), form))
    if target := output or loaded.run:
        paths = eval_report.write_evaluation(target, evaluation)
        note("\n" + "\n".join(str(path.resolve()) for path in paths))
