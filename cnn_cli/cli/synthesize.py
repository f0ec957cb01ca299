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
        option("--class", panel="Objective", metavar="NAME|INDEX", help="A class score; may be repeated."),
    ] = None
    all_classes: Annotated[bool, option("--all-classes", panel="Objective", help="Every class score.")] = False
    layer: Annotated[
        str | None, option("--layer", panel="Objective", metavar="NAME", help="Channels of a layer, by its name.")
    ] = None
    channels: Annotated[
        str | None,
        option("--channel", "--channels", panel="Objective", metavar="NUMBERS", help="Of --layer: 3, 0-15 or 3,5,8."),
    ] = None


@dataclass(frozen=True)
class Optimization:
    """How they are found."""

    parametrization: Annotated[
        str, option("--parametrization", panel="Optimization", metavar="NAME", help="fourier (smooth) or pixels.")
    ] = "fourier"
    transforms: Annotated[
        str, option("--transforms", panel="Optimization", metavar="LIST", help="Random transforms per step; or none.")
    ] = "jitter,scale,rotate,blur"
    steps: Annotated[int, option("--steps", panel="Optimization", metavar="N", help="Steps of gradient ascent.")] = 256
    size: Annotated[
        int | None,
        option(
            "--size",
            panel="Optimization",
            metavar="N",
            min=1,
            help="Side of the images in pixels [the network's input].",
        ),
    ] = None
    seed: Seed = 0


@command("synthesize", "Interpretation")
def synthesize(
    network: Network,
    objective: Objective,
    optimization: Optimization,
    spec: Spec,
    weights: Weights,
    picture: Picture,
    json: Json = False,
) -> None:
    """Visualize features: inputs that maximize a class score or a channel."""
    from cnn_cli.interpret import synthesize_page
    from cnn_cli.interpret.synthesize import Ascent, transforms_of

    transforms = transforms_of(optimization.transforms)
    ascent = Ascent(optimization.parametrization, transforms, optimization.steps, optimization.seed)
    document = synthesize_page.show_synthesis(
        weights.load(network, spec),
        ascent,
        objective.target or (),
        objective.all_classes,
        objective.layer,
        objective.channels,
        size=optimization.size,
        device=weights.torch_device,
        output=picture.output,
        force=picture.force,
    )
    emit_json(document) if json else emit(synthesize_page.report(document))
    picture.preview(document["picture"], document["body"])
