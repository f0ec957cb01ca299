"""Commands that draw: visualize-filters and visualize-features."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_cli.cli import options
from cnn_cli.cli.app import app
from cnn_cli.cli.options import arguments, input_size
from cnn_cli.cli.output import emit, emit_json, note
from cnn_cli.cli.predict import Images, Index, Split
from cnn_cli.errors import UsageError
from cnn_cli.values import LARGE

if TYPE_CHECKING:
    from cnn_cli.checkpoints.checkpoint import LoadedNetwork

Untrained = Annotated[bool, typer.Option("--untrained", help="Fresh weights, as before training.")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, max=LARGE, help="What --untrained draws the weights from; else 0.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing picture.")]
Show = Annotated[bool, typer.Option("--show", help="Show the picture in the terminal too.")]


@app.command("visualize-filters")
def visualize_filters(
    network: options.Network,
    layer: Annotated[
        str | None, typer.Option("--layer", help="A convolution by its name (`cnn summary`); else the first.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="An atlas of all convolutions on one page.")] = False,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="ORDER", help="norm: the strongest first; likeness: like to like.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option("--compare", metavar="WHAT", help="Beside it: untrained (as the run began), a run, a checkpoint."),
    ] = None,
    every_epoch: Annotated[
        bool, typer.Option("--every-epoch", help="A film strip of a run trained with --filters-every-epoch.")
    ] = False,
    weights: options.Weights = None,
    untrained: Untrained = False,
    seed: Seed = None,
    per_filter: Annotated[
        bool, typer.Option("--per-filter", help="A scale for each filter, so that weak ones can be seen.")
    ] = False,
    output: options.Output = None,
    force: Force = False,
    show: Show = False,
    input: options.Input = None,
    set: options.Set = None,
    models: options.Models = None,
    json: options.Json = False,
) -> None:
    """What convolutions learned. All filters of one, or an atlas of all of them, as one picture (PNG)."""
    _check_filters(layer, all, sort, compare, every_epoch, untrained, per_filter)
    from cnn_cli.interpret import gallery as g

    loaded = open_for_picture(network, untrained, seed, input, set, models, weights)
    if every_epoch:
        shown = g.show_film(loaded, output, force)
    elif all:
        shown = g.show_all(loaded, output, seed or 0, force, sort or "")
    else:
        shown = g.show_filters(loaded, layer, output, seed or 0, per_filter, force, sort or "", compare)
    if json:
        emit_json(shown)
    else:
        emit(g.report(shown))
    if show:
        show_picture(shown["picture"], shown["body"])


def _check_filters(
    layer: str | None,
    all: bool,
    sort: str | None,
    compare: str | None,
    every_epoch: bool,
    untrained: bool,
    per_filter: bool,
) -> None:
    """UsageError for options that have no meaning together."""
    if sort not in (None, "norm", "likeness"):
        raise UsageError(f"--sort must be norm or likeness, not {sort!r}")
    single = {"--layer": layer, "--compare": compare, "--per-filter": per_filter, "--every-epoch": every_epoch}
    if all and (other := next((name for name, value in single.items() if value), None)):
        raise UsageError(f"--all shows every convolution as it is; leave out {other}, or name one with --layer")
    film = {"--layer": layer, "--sort": sort, "--compare": compare, "--per-filter": per_filter}
    film["--untrained"] = untrained
    if every_epoch and (other := next((name for name, value in film.items() if value), None)):
        raise UsageError(f"--every-epoch shows what training kept of the first convolution; leave out {other}")


@app.command("visualize-features")
def visualize_features(
    network: options.Network,
    images: Images = None,
    index: Index = None,
    split: Split = "test",
    layer: Annotated[
        list[str] | None, typer.Option("--layer", help="A layer by its name (`cnn summary`); may be repeated.")
    ] = None,
    weights: options.Weights = None,
    untrained: Untrained = False,
    seed: Seed = None,
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="A scale for each channel, so that weak ones can be seen.")
    ] = False,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    output: options.Output = None,
    force: Force = False,
    show: Show = False,
    input: options.Input = None,
    set: options.Set = None,
    models: options.Models = None,
    json: options.Json = False,
) -> None:
    """What layers make of images. Their maps, the strongest first, as one picture an image (PNG)."""
    from cnn_cli.interpret import features
    from cnn_cli.interpret.inputs import load_inputs

    loaded = open_for_picture(network, untrained, seed, input, set, models, weights)
    inputs = load_inputs(loaded, images or [], index=index or (), split=split, data=data, data_dir=data_dir)
    shown = features.show_features(loaded, inputs, layer or (), output, seed or 0, per_channel, force)
    if json:
        emit_json(shown)
    else:
        emit(features.report(shown))
    if show:
        for picture in shown["pictures"]:
            show_picture(picture["picture"], picture["body"])


def show_picture(path: str, box: tuple[int, int, int, int] | None = None) -> None:
    """What --show does: the picture, or the part within `box`, in the terminal; a note where it has no colours."""
    from cnn_cli.pictures.preview import can_preview, preview

    if can_preview():
        preview(Path(path), box)
    else:
        note("--show needs a terminal with colours; open the file instead")


def open_for_picture(
    network: str,
    untrained: bool,
    seed: int | None,
    input: str | None,
    set: list[str] | None,
    models: list[Path] | None,
    weights: str | None = None,
    offer: str = "or see fresh weights with --untrained",
) -> "LoadedNetwork":
    """NETWORK with its trained weights, or certainly without any; UsageError, which ends in `offer`, without any."""
    if seed is not None and not untrained:
        raise UsageError("--seed draws fresh weights; use it with --untrained")
    if weights and untrained:
        raise UsageError("--weights and --untrained exclude each other; choose one")
    from cnn_cli.checkpoints.checkpoint import load_network
    from cnn_cli.checkpoints.runs import ROOT

    size, args = input_size(input), arguments(set)
    loaded = load_network(network, models=models or (), args=args, input=size, trained=not untrained, weights=weights)
    for remark in loaded.notes:
        note(remark)
    if untrained:
        return replace(loaded, weights=None, metadata=None, run=None)
    if loaded.weights is None:
        raise UsageError(
            f"no run of {loaded.plan.network} in {ROOT.resolve()}; train it with `cnn train {network}`, "
            f"name a run folder or a checkpoint, {offer}"
        )
    return loaded
