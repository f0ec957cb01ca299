"""A figure as a PNG, drawn at twice the size that is written, so that lines and letters are smooth."""

import math
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_cli.errors import CnnError
from cnn_cli.graph.figure import LINE, PAPER, Curve, Figure, Piece, Point, Rect, Text

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

SCALE = 2.0  # px of the picture for a px of the figure: sharp on the screens of today
LIMIT = 6000  # px a side of the picture; a larger figure is drawn smaller
SMOOTH = 2  # drawn so much larger, then reduced


def png(figure: Figure) -> bytes:
    """The file's bytes. CnnError for a figure so large that nothing could be read."""
    from PIL import Image, ImageDraw

    scale = min(SCALE, LIMIT / max(figure.width, figure.height))
    if scale < 0.4:
        raise CnnError("the drawing is too large for a PNG; fold it with --depth, or write an .svg")
    size = (round(figure.width * scale), round(figure.height * scale))
    image = Image.new("RGB", (size[0] * SMOOTH, size[1] * SMOOTH), PAPER)
    draw = ImageDraw.Draw(image)
    fonts: dict[tuple[float, bool], ImageFont.FreeTypeFont] = {}
    for shape in figure.shapes:
        if isinstance(shape, Rect):
            _rect(draw, shape, scale * SMOOTH)
        elif isinstance(shape, Curve):
            _curve(draw, shape, scale * SMOOTH)
        else:
            _text(draw, shape, scale * SMOOTH, fonts)
    out = BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(out, format="png", optimize=True)
    return out.getvalue()


def _rect(draw: "ImageDraw.ImageDraw", shape: Rect, scale: float) -> None:
    box = [shape.x * scale, shape.y * scale, (shape.x + shape.width) * scale, (shape.y + shape.height) * scale]
    draw.rounded_rectangle(box, shape.radius * scale, shape.fill, shape.border, round(1.2 * scale))


def _curve(draw: "ImageDraw.ImageDraw", shape: Curve, scale: float) -> None:
    points = [shape.pieces[0][0], *(_at(piece, n / 16) for piece in shape.pieces for n in range(1, 17))]
    end, tip = points[-1], 8.0
    before = next((p for p in reversed(points) if math.dist(p, end) > tip * 0.75), points[0])
    line = [(x * scale, y * scale) for x, y in points if math.dist((x, y), end) > tip * 0.5]
    draw.line(line, LINE, round(1.5 * scale), joint="curve")
    angle = math.atan2(end[1] - before[1], end[0] - before[0])
    corners = [end, *((end[0] - tip * math.cos(angle + a), end[1] - tip * math.sin(angle + a)) for a in (-0.4, 0.4))]
    draw.polygon([(x * scale, y * scale) for x, y in corners], LINE)


def _at(piece: Piece, t: float) -> Point:
    """The point at share t of a cubic curve."""
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return sum(w * p[0] for w, p in zip(weights, piece, strict=True)), sum(
        w * p[1] for w, p in zip(weights, piece, strict=True)
    )


def _text(
    draw: "ImageDraw.ImageDraw", shape: Text, scale: float, fonts: "dict[tuple[float, bool], ImageFont.FreeTypeFont]"
) -> None:
    if (key := (shape.size, shape.bold)) not in fonts:
        fonts[key] = _font(shape.size * scale, shape.bold)
    text = "".join(c if c.isprintable() else " " for c in shape.text)
    anchor = "ls" if shape.anchor == "start" else "ms"
    place = (shape.x * scale, shape.y * scale)
    if shape.halo:
        draw.text(place, text, PAPER, fonts[key], anchor=anchor, stroke_width=round(2 * scale), stroke_fill=PAPER)
    draw.text(place, text, shape.colour, fonts[key], anchor=anchor)


def _font(size: float, bold: bool) -> "ImageFont.FreeTypeFont":
    """DejaVu Sans as matplotlib carries it, found without loading matplotlib."""
    from PIL import ImageFont

    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise CnnError("drawing a PNG needs matplotlib's fonts; install cnn-cli again, or write an .svg")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)
