"""A figure as the bytes of an SVG, PDF or PNG file, by matplotlib: one drawing for all three."""

import math
from io import BytesIO
from typing import TYPE_CHECKING

from cnn_cli.errors import CnnError
from cnn_cli.graph.shapes import LINE, PAPER, Curve, Figure, Piece, Point, Rect, Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCALE = 2.0  # pixels of a PNG per px of the figure
LIMIT = 6000  # pixels per side of a PNG; a larger figure is drawn smaller
TIP = 8.0  # px, the length of an arrowhead


def render_figure(figure: Figure, kind: str) -> bytes:
    """kind: svg, pdf or png. CnnError for a figure that would be illegible as a PNG."""
    import matplotlib
    from matplotlib.figure import Figure as Page

    scale = min(SCALE, LIMIT / max(figure.width, figure.height))
    if kind == "png" and scale < 0.4:
        raise CnnError("the drawing is too large for a PNG; fold it with --depth, or write an .svg or .pdf")
    page = Page(figsize=(figure.width / 72, figure.height / 72), dpi=72, facecolor=PAPER)
    axes = page.add_axes(
        (0, 0, 1, 1), xlim=(figure.x, figure.x + figure.width), ylim=(figure.y + figure.height, figure.y)
    )
    axes.set_axis_off()
    for order, shape in enumerate(figure.shapes):
        _add(axes, shape, order)
    out = BytesIO()
    times = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]  # the same network, the same file
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cnn", "pdf.fonttype": 42}):
        page.savefig(out, format=kind, dpi=72 * scale, metadata=times)
    return out.getvalue()


def _add(axes: "Axes", shape: Shape, order: int) -> None:
    from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
    from matplotlib.path import Path

    if isinstance(shape, Rect):
        style = f"round,pad=0,rounding_size={shape.radius}"
        box = FancyBboxPatch((shape.x, shape.y), shape.width, shape.height, style, linewidth=1.2, zorder=order)
        box.set(facecolor=shape.fill, edgecolor=shape.border)
        axes.add_patch(box)
    elif isinstance(shape, Curve):
        base, corners = _arrowhead(shape.pieces)
        points = [shape.pieces[0][0], *(point for piece in shape.pieces for point in piece[1:])]
        path = Path([*points[:-1], base], [Path.MOVETO, *[Path.CURVE4] * (len(points) - 1)])
        line = PathPatch(path, fill=False, edgecolor=LINE, linewidth=1.5, zorder=order, gid=f"arrow-{order}")
        axes.add_patch(line)
        axes.add_patch(Polygon(corners, facecolor=LINE, edgecolor="none", zorder=order))
    else:
        words = "".join(c if c.isprintable() else " " for c in shape.text)
        halo = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0} if shape.halo else None
        axes.text(
            shape.x,
            shape.y,
            words,
            fontsize=shape.size,
            color=shape.color,
            fontweight="bold" if shape.bold else "normal",
            horizontalalignment="left" if shape.anchor == "start" else "center",
            verticalalignment="baseline",
            bbox=halo,
            zorder=order,
            parse_math=False,
        )


def _arrowhead(pieces: tuple[Piece, ...]) -> tuple[Point, list[Point]]:
    """Where the line ends, within the head, and the three corners of the head."""
    end = pieces[-1][3]
    before = next(p for piece in reversed(pieces) for p in reversed(piece[:3]) if math.dist(p, end) > 0.01)
    angle = math.atan2(end[1] - before[1], end[0] - before[0])
    sides = [(end[0] - TIP * math.cos(angle + a), end[1] - TIP * math.sin(angle + a)) for a in (-0.4, 0.4)]
    return (end[0] - TIP / 2 * math.cos(angle), end[1] - TIP / 2 * math.sin(angle)), [end, *sides]
