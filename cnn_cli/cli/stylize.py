"""`cnn stylize`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import SEED, Format, Network, Picture, Spec, Weights, flag, option
from cnn_cli.cli.output import note
from cnn_cli.errors import UsageError

_IMAGES_HELP = "Content image and style image; with --texture, only the style image."
Files = Annotated[list[Path], typer.Argument(metavar="[CONTENT] STYLE", help=_IMAGES_HELP)]
_CONTENT_HELP = "Layer of the content loss [the second activation at the second-lowest resolution]."
_STYLE_HELP = "Layers of the style loss, separated by commas [the first activation at each resolution]."
_WEIGHT_HELP = "Weight of the style loss, relative to the content loss."


@dataclass(frozen=True)
class Style:
    """The losses and the optimization."""

    texture: bool = flag("Style transfer", "Synthesize the texture of STYLE, without a content image.")
    content_layer: str | None = option("Style transfer", "NAME", _CONTENT_HELP)
    style_layers: str | None = option("Style transfer", "LIST", _STYLE_HELP)
    style_weight: float = option("Style transfer", "W", _WEIGHT_HELP, default=1.0)
    start: str | None = option("Style transfer", "NAME", "Image to start from: content or noise [content].")
    steps: int = option("Style transfer", "N", "Number of L-BFGS steps.", default=200)
    size: int = option("Style transfer", "N", "Longer side in pixels.", default=256, min=16, max=4000)


@command("stylize")
def stylize_command(
    network: Network,
    files: Files,
    style: Style,
    spec: Spec,
    weights: Weights,
    picture: Picture,
    format: Format,
    untrained: bool = flag("Network", "Use random initial weights."),
    seed: int = SEED,
) -> None:
    """Draw an image in the style of another (neural style transfer).

    Writes the image, and a page with its losses and intermediate images.
    """
    from cnn_cli.interpret.stylization import StyleRequest, stylize, write_stylization

    format.check()
    content, source = _content_and_style(files, style)
    loaded = weights.load(network, spec, untrained)
    if loaded.weights is None:
        note("the weights are untrained, so the result will be poor; train the network, or load --weights")
    request = StyleRequest(
        source,
        content,
        style.size,
        style.content_layer,
        tuple(name.strip() for name in (style.style_layers or "").split(",") if name.strip()),
        style.style_weight,
        style.steps,
        style.start or "content",
        seed,
    )
    result, sheet = stylize(loaded, request, picture.target, weights.torch_device)
    write_stylization(result, sheet)
    format.emit(result)
    picture.preview(result.picture)


def _content_and_style(files: list[Path], style: Style) -> tuple[Path | None, Path]:
    """The two files. UsageError for the wrong number of images, and for content options without a content image."""
    if style.texture:
        if len(files) != 1:
            raise UsageError(f"--texture takes one image, the style, not {len(files)}")
        if style.start is not None or style.content_layer is not None:
            raise UsageError("--start and --content-layer need a content image; leave out --texture")
        return None, files[0]
    if len(files) != 2:
        raise UsageError(
            f"name two images, CONTENT and STYLE, not {len(files)}; or one with --texture, to synthesize its texture"
        )
    return files[0], files[1]
