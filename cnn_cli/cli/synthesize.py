"""`cnn synthesize`."""

from dataclasses import dataclass
from typing import Annotated

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Json, Network, Picture, Seed, Spec, Weights, option
from cnn_cli.cli.output import emit, emit_json


@dataclass(frozen=True)
class Objective:
    """What the inputs maximize."""

    target: Annotated[
        list[str] | None,
        option("--class", panel="Objective", metavar="NAME|INDEX", help="Class to maximize; may be repeated."),
    ] = None
    all_classes: Annotated[bool, option("--all-classes", panel="Objective", help="Maximize each class in turn.")] = (
        False
    )
    layer: Annotated[
        str | None, option("--layer", panel="Objective", metavar="NAME", help="Layer whose channels are maximized.")
    ] = None
    channels: Annotated[
        str | None,
        option(
            "--channel",
            "--channels",
            panel="Objective",
            metavar="NUMBERS",
            help="Channels of the layer: 3, 0-15 or 3,5,8-10.",
        ),
    ] = None


@dataclass(frozen=True)
class Optimization:
    """How they are found."""

    parametrization: Annotated[
        str,
        option(
            "--parametrization",
            panel="Optimization",
            metavar="NAME",
            help="Parametrization of the image: fourier or pixels.",
        ),
    ] = "fourier"
    transforms: Annotated[
        str,
        option("--transforms", panel="Optimization", metavar="LIST", help="Random transforms in every step, or none."),
    ] = "jitter,scale,rotate,blur"
    steps: Annotated[
        int, option("--steps", panel="Optimization", metavar="N", help="Number of gradient-ascent steps.")
    ] = 256
    size: Annotated[
        int | None,
        option(
            "--size", panel="Optimization", metavar="N", min=1, help="Side length in pixels [the network's input size]."
        ),
    ] = None
    seed: Seed = 0


@command("synthesize", "Interpretation")
def synthesize_command(
    network: Network,
    objective: Objective,
    optimization: Optimization,
    spec: Spec,
    weights: Weights,
    picture: Picture,
    json: Json = False,
) -> None:
    """Draw inputs that maximize a class score or channel."""
    from cnn_cli.interpret.ascent import Ascent, transforms_of
    from cnn_cli.interpret.synthesis import UnitRequest, show_synthesis

    transforms = transforms_of(optimization.transforms)
    ascent = Ascent(optimization.parametrization, transforms, optimization.steps, optimization.seed)
    request = UnitRequest(objective.target or (), objective.all_classes, objective.layer, objective.channels)
    loaded, device = weights.load(network, spec), weights.torch_device
    result = show_synthesis(loaded, request, ascent, picture.target, optimization.size, device)
    emit_json(result.document()) if json else emit(result.text())
    picture.preview(result.path, result.body)
