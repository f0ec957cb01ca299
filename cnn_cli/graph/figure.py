"""A graph drawn by matplotlib, as SVG, PDF or PNG."""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from cnn_cli.errors import CnnError
from cnn_cli.graph.boxes import Arrow, Box
from cnn_cli.graph.columns import arrange_in_columns
from cnn_cli.graph.curves import Arrangement, Piece, Point, Size
from cnn_cli.graph.u_shape import arrange_as_u, find_encoder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, PAPER = "#1f2933", "#5f6c7b", "#7b8794", "#ffffff"
# Fill and border, distinguishable with any color vision: lightness differs as well as hue (after Okabe and Ito).
COLORS = {
    "input": ("#ffffff", "#7b8794"),
    "block": ("#eef2f6", "#52606d"),
    "convolution": ("#d6e6f5", "#2a6496"),
    "linear": ("#d3ede1", "#1d7a55"),
    "pooling": ("#fde5c8", "#b8690b"),
    "join": ("#ffffff", "#1f2933"),
    "parameter": ("#f6e3ee", "#a3457c"),
    "shape": ("#f4f1ea", "#8a8069"),
    "point": ("#fbf4cc", "#9a8410"),
}
HEAD, TITLE, SMALL = 20.0, 13.0, 11.0  # px of text
MARGIN, TOP, TIP = 28.0, 60.0, 8.0  # px around the drawing, above it for the heading, and of an arrowhead
SCALE, LIMIT = 2.0, 6000  # pixels of a PNG per px, unless that makes more than LIMIT pixels per side


def render_figure(name: str, caption: str, boxes: Sequence[Box], arrows: Sequence[Arrow], kind: str) -> bytes:
    """The drawing of these boxes with a heading. kind: svg, pdf or png.

    CnnError for one that would be illegible as a PNG.
    """
    import matplotlib
    from matplotlib.figure import Figure

    sizes = [box_size(box) for box in boxes]
    page = arrange(sizes, arrows)
    width = max(page.width + 6, _text_width(name, HEAD, True), _text_width(caption, SMALL)) + 2 * MARGIN
    height = page.height + TOP + 2 * MARGIN
    scale = min(SCALE, LIMIT / max(width, height))
    if kind == "png" and scale < 0.4:
        raise CnnError("the drawing is too large for a PNG; fold it with --depth, or write an .svg or .pdf")
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-MARGIN, width - MARGIN), ylim=(height - TOP - MARGIN, -TOP - MARGIN))
    axes.set_axis_off()
    for box, center, size in zip(boxes, page.centers, sizes, strict=True):
        _draw_box(axes, box, center, size)
    for number, pieces in enumerate(page.arrows):
        _draw_arrow(axes, pieces, f"arrow-{number}")
    halo = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}  # hides lines behind the text
    for label in page.labels:
        _write(axes, (label.x, label.y), label.text, SMALL, SOFT, centered=label.centered, bbox=halo)
    _write(axes, (0, -45), name, HEAD, INK, fontweight="bold")
    _write(axes, (0, -25), caption, SMALL, SOFT)
    buffer = BytesIO()
    times = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]  # for reproducible files
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cnn", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=72 * scale, metadata=times)
    return buffer.getvalue()


def arrange(sizes: Sequence[Size], arrows: Sequence[Arrow]) -> Arrangement:
    """An encoder-decoder as a U, others from top to bottom."""
    encoder = find_encoder(len(sizes), arrows)
    return arrange_as_u(sizes, arrows, encoder) if encoder else arrange_in_columns(sizes, arrows)


def box_size(box: Box) -> Size:
    lines = box_texts(box)
    wide = max(_text_width(text, size, bold) for text, size, bold, _ in lines)
    padding = 26 if box.kind in ("join", "input") else 22
    return max(wide + padding, 70), sum(size * 1.35 for _, size, _, _ in lines) + 13


def box_texts(box: Box) -> list[tuple[str, float, bool, str]]:
    """(text, size, bold, color) of the lines in a box."""
    named = box.kind not in ("input", "block", "join") and box.name != box.title
    above = [(box.name, SMALL, False, SOFT)] if named else []
    return [*above, (box.title, TITLE, True, INK), *((line, SMALL, False, INK) for line in box.texts)]


def _text_width(text: str, size: float, bold: bool = False) -> float:
    """The approximate width of a text in DejaVu Sans, or in Verdana, which may replace it in an SVG."""
    units = sum(
        0.34 if c in "ijltI.,:;|'·-() " else 0.92 if c in "mwMW@%" else 0.68 if c.isupper() else 0.62 for c in text
    )
    return units * size * (1.08 if bold else 1.0)


def _draw_box(axes: "Axes", box: Box, center: Point, size: Size) -> None:
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height) = center, size
    radius = height / 2 if box.kind in ("join", "input") else 6.0
    fill, border = COLORS[box.kind]
    for shift in (4, 0) if box.kind == "block" else (0,):  # two sheets: a folded group
        corner = (x - width / 2 + shift, y - height / 2 + shift)
        patch = FancyBboxPatch(corner, width, height, f"round,pad=0,rounding_size={radius}", linewidth=1.2, zorder=1)
        patch.set(facecolor=fill, edgecolor=border)
        axes.add_patch(patch)
    baseline = y - height / 2 + 6.5
    for text, points, bold, color in box_texts(box):
        baseline += points * 1.35
        weight = "bold" if bold else "normal"
        _write(axes, (x, baseline - points * 0.3), text, points, color, centered=True, fontweight=weight)


def _draw_arrow(axes: "Axes", pieces: Sequence[Piece], name: str) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    end = pieces[-1][3]
    before = next(p for piece in reversed(pieces) for p in reversed(piece[:3]) if math.dist(p, end) > 0.01)
    angle = math.atan2(end[1] - before[1], end[0] - before[0])
    sides = [(end[0] - TIP * math.cos(angle + a), end[1] - TIP * math.sin(angle + a)) for a in (-0.4, 0.4)]
    middle = end[0] - TIP / 2 * math.cos(angle), end[1] - TIP / 2 * math.sin(angle)  # the line ends within the head
    points = [pieces[0][0], *(point for piece in pieces for point in piece[1:])]
    path = Path([*points[:-1], middle], [Path.MOVETO, *[Path.CURVE4] * (len(points) - 1)])
    axes.add_patch(PathPatch(path, fill=False, edgecolor=LINE, linewidth=1.5, zorder=2, gid=name))
    axes.add_patch(Polygon([end, *sides], facecolor=LINE, edgecolor="none", zorder=2))


def _write(
    axes: "Axes", place: Point, text: str, size: float, color: str, centered: bool = False, **options: Any
) -> None:
    words = "".join(c if c.isprintable() else " " for c in text)
    side = "center" if centered else "left"
    axes.text(*place, words, fontsize=size, color=color, ha=side, va="baseline", zorder=3, parse_math=False, **options)
