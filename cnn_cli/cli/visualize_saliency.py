"""`cnn visualize-saliency`."""

from dataclasses import dataclass
from typing import Annotated

from cnn_cli.cli.app import command
from cnn_cli.cli.completion import SALIENCY_METHODS
from cnn_cli.cli.options import Data, Format, Images, Network, Picture, Seed, Spec, Weights, option
from cnn_cli.cli.output import emit, emit_json, note


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
    from cnn_cli.interpret import saliency_page
    from cnn_cli.interpret.saliency import need_captum

    format.check()
    device = weights.torch_device
    need_captum()
    loaded = weights.load(network, spec)
    inputs = images.load(loaded, data)
    document = saliency_page.show_saliency(
        loaded,
        inputs,
        saliency.method or (),
        saliency.target,
        saliency.layer,
        saliency.sanity,
        seed=saliency.seed,
        device=device,
        output=picture.output,
        force=picture.force,
    )
    for line in document["notes"]:
        note(line)
    if format.json:
        emit_json(document)
    else:
        path = f"\n\n{document['picture']}" if format.style == "text" else ""
        emit(saliency_page.report(document, format.style) + path)
    picture.preview(document["picture"], document["body"])
