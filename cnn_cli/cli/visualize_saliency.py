"""`cnn visualize-saliency`."""

from dataclasses import dataclass

from cnn_cli.cli.app import command
from cnn_cli.cli.completion import SALIENCY_METHODS
from cnn_cli.cli.options import SEED, Data, Format, Images, Network, Picture, Spec, Weights, flag, option
from cnn_cli.cli.output import note

_MAPS = "Saliency maps"
_METHOD_HELP = f"Method: {', '.join(SALIENCY_METHODS[:-1])} or {SALIENCY_METHODS[-1]}; may be repeated [all]."


@dataclass(frozen=True)
class Saliency:
    """Options of the maps."""

    method: list[str] | None = option(_MAPS, "NAME", _METHOD_HELP)
    target: str | None = option(_MAPS, "NAME|INDEX", "Class to explain [the predicted class].", "--class")
    layer: str | None = option(_MAPS, "NAME", "Layer for Grad-CAM [the last feature map].")
    sanity: bool = flag(_MAPS, "Add maps for random weights, and deletion and insertion scores.")
    overlay: float = option(_MAPS, "ALPHA", "Opacity of the maps over the image; 0 draws no overlays.", default=0.7)
    region: str | None = option(
        _MAPS, "X0,Y0,X1,Y1", "Segmentation: region to explain [the pixels predicted as the class]."
    )
    box: int | None = option(
        _MAPS,
        "N",
        "Detection: box to explain, numbered by descending score; with --class, among boxes of that class [0].",
        min=0,
    )
    seed: int = SEED


@command("visualize-saliency")
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

    For detectors, explains the score of one detected box. Needs the extra `explain`: pip install cnn-cli[explain].
    """
    from cnn_cli.interpret.saliency import need_captum
    from cnn_cli.interpret.saliency_maps import SaliencyRequest, show_saliency

    format.check()
    device = weights.torch_device
    need_captum()
    request = SaliencyRequest(
        saliency.method or (),
        saliency.target,
        saliency.layer,
        saliency.sanity,
        saliency.overlay,
        saliency.seed,
        saliency.region,
        saliency.box,
    )
    loaded = weights.load(network, spec)
    inputs = images.load(loaded, data)
    result = show_saliency(loaded, inputs, request, picture.target, device)
    for line in result.result.notes:
        note(line)
    format.emit(result)
    picture.preview(result.path, result.body)
