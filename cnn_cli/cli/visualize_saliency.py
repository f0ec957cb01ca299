"""`cnn visualize-saliency`."""

from dataclasses import dataclass
from typing import Annotated

from cnn_cli.cli.app import command
from cnn_cli.cli.completion import SALIENCY_METHODS
from cnn_cli.cli.options import Data, Format, Images, Network, Picture, Seed, Spec, Weights, option
from cnn_cli.cli.output import note


@dataclass(frozen=True)
class Saliency:
    """Which maps are computed."""

    method: Annotated[
        list[str] | None,
        option(
            "--method",
            panel="Saliency maps",
            metavar="NAME",
            help=f"Method: {', '.join(SALIENCY_METHODS[:-1])} or {SALIENCY_METHODS[-1]}; may be repeated [all].",
        ),
    ] = None
    target: Annotated[
        str | None,
        option("--class", panel="Saliency maps", metavar="NAME|INDEX", help="Class to explain [the predicted class]."),
    ] = None
    layer: Annotated[
        str | None,
        option("--layer", panel="Saliency maps", metavar="NAME", help="Layer for Grad-CAM [the last feature map]."),
    ] = None
    sanity: Annotated[
        bool,
        option(
            "--sanity", panel="Saliency maps", help="Add maps of random weights, and deletion and insertion scores."
        ),
    ] = False
    overlay: Annotated[
        float,
        option(
            "--overlay",
            panel="Saliency maps",
            metavar="ALPHA",
            help="Opacity of the maps over the image; 0 draws none.",
        ),
    ] = 0.7
    seed: Seed = 0


@command("visualize-saliency", "Interpretation")
def visualize_saliency_command(
    network: Network,
    images: Images,
    saliency: Saliency,
    spec: Spec,
    data: Data,
    weights: Weights,
    picture: Picture,
    format: Format,
) -> None:
    """Draw saliency maps: pixels that drive a class score.

    Needs the extra `explain`: pip install cnn-cli[explain].
    """
    from cnn_cli.interpret.saliency import need_captum
    from cnn_cli.interpret.saliency_maps import SaliencyRequest, show_saliency

    format.check()
    device = weights.torch_device
    need_captum()
    request = SaliencyRequest(
        saliency.method or (), saliency.target, saliency.layer, saliency.sanity, saliency.overlay, saliency.seed
    )
    loaded = weights.load(network, spec)
    inputs = images.load(loaded, data)
    result = show_saliency(loaded, inputs, request, picture.target, device)
    for line in result.result.notes:
        note(line)
    format.emit(result)
    picture.preview(result.path, result.body)
