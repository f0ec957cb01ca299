"""`cnn synthesize`."""

from dataclasses import dataclass

from cnn_cli.cli.app import command
from cnn_cli.cli.options import JSON, SEED, Network, Picture, Spec, Weights, flag, option
from cnn_cli.cli.output import emit_result

_CHANNELS_HELP = "Channels of the layer: 3, 0-15 or 3,5,8-10."
_PARAMETRIZATION_HELP = "Parametrization of the image: fourier or pixels."
_TRANSFORMS_HELP = "Random transforms applied in each step, or none."


@dataclass(frozen=True)
class Objective:
    """The objective of the optimization."""

    target: list[str] | None = option("Objective", "NAME|INDEX", "Class to maximize; may be repeated.", "--class")
    all_classes: bool = flag("Objective", "Maximize each class in turn.")
    layer: str | None = option("Objective", "NAME", "Layer whose channels to maximize.")
    channels: str | None = option("Objective", "NUMBERS", _CHANNELS_HELP, "--channel", "--channels")


@dataclass(frozen=True)
class Optimization:
    """Options of the optimization."""

    parametrization: str = option("Optimization", "NAME", _PARAMETRIZATION_HELP, default="fourier")
    transforms: str = option("Optimization", "LIST", _TRANSFORMS_HELP, default="jitter,scale,rotate,blur")
    steps: int = option("Optimization", "N", "Number of gradient-ascent steps.", default=256)
    size: int | None = option("Optimization", "N", "Side length in pixels [the network's input size].", min=1)
    seed: int = SEED


@command("synthesize")
def synthesize_command(
    network: Network,
    objective: Objective,
    optimization: Optimization,
    spec: Spec,
    weights: Weights,
    picture: Picture,
    json: bool = JSON,
) -> None:
    """Draw inputs that maximize a class score or channel."""
    from cnn_cli.interpret.ascent import Ascent, transforms_of
    from cnn_cli.interpret.synthesis import UnitRequest, show_synthesis

    transforms = transforms_of(optimization.transforms)
    ascent = Ascent(optimization.parametrization, transforms, optimization.steps, optimization.seed)
    request = UnitRequest(objective.target or (), objective.all_classes, objective.layer, objective.channels)
    loaded, device = weights.load(network, spec), weights.torch_device
    result = show_synthesis(loaded, request, ascent, picture.target, optimization.size, device)
    emit_result(result, json)
    picture.preview(result.path, result.body)
