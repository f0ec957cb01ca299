"""Commands that use data: train and eval."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from cnn_cli.cli import options
from cnn_cli.cli.app import app
from cnn_cli.cli.options import arguments, input_size, style
from cnn_cli.cli.output import emit, emit_json, note, note_weights
from cnn_cli.errors import UsageError

_SETTINGS = {"data", "epochs", "batch_size", "optimizer", "lr", "weight_decay", "momentum", "schedule"}
_SETTINGS |= {"val_fraction", "shuffle", "seed", "workers", "weights", "freeze"}


Schedule = Annotated[
    str | None,
    typer.Option("--schedule", metavar="NAME", help="Of the learning rate: constant, cosine, onecycle or step."),
]
ValFraction = Annotated[float | None, typer.Option("--val-fraction", help="Part of the training images to choose by.")]
Shuffle = Annotated[bool | None, typer.Option("--shuffle/--no-shuffle", help="A new order of the images every epoch.")]
Film = Annotated[
    bool, typer.Option("--filters-every-epoch", help="A film strip of how the first convolution's filters form.")
]


@app.command()
def train(
    network: options.Network,
    run: Annotated[
        Path | None, typer.Argument(help="With --resume: the run folder; the newest run if it is left out.")
    ] = None,
    data: options.Data = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="How often every training image is seen, in all.")
    ] = None,
    batch_size: options.BatchSize = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", metavar="NAME", help="sgd, adam or adamw.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", help="Weight decay.")] = None,
    momentum: Annotated[float | None, typer.Option("--momentum", help="Momentum of sgd.")] = None,
    schedule: Schedule = None,
    val_fraction: ValFraction = None,
    shuffle: Shuffle = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of weights, order, dropout and validation images.")
    ] = None,
    weights: options.Weights = None,
    freeze: options.Freeze = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
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

    Each setting comes from its option, else the variable CNN_<NAME>, else the spec's train:, else its default.
    """
    given = {name: value for name, value in locals().items() if name in _SETTINGS and value != []}
    if run and not resume:
        raise UsageError(f"unexpected {str(run)!r}; to go on with a run, add --resume")
    from cnn_cli.training import launch

    request = launch.Request(
        network=network,
        options=given,
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
    outcome = launch.resume(request, launch.run_to_resume(request, run)) if resume else launch.begin(request)
    if json:
        emit_json(outcome)
    else:
        emit(launch.outcome_text(outcome))


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
    from cnn_cli.training import score

    if split not in (None, *score.SPLITS):
        raise UsageError(f"--split must be test, val or train, not {split!r}")
    form = style(csv, markdown, json)
    opened = score.trained(network, tuple(models or ()), weights)
    document, remarks = score.score(opened, data, data_dir, split, batch_size, workers, pick(device))
    note_weights(network, opened.weights, remarks)
    if json:
        emit_json(document)
    else:
        emit(score.report(document) if form == "text" else score.class_table(document, form))
    if target := output or opened.run:
        note(
            "\n"
            + "\n".join(str(p.resolve()) for p in score.write(target, document, score.suffix(document, opened.about)))
        )
