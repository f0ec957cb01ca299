"""A graph as SVG for an HTML document, whose style sheet has the colors of the kinds of boxes."""

from html import escape

from cnn_cli.graph import readable_depth
from cnn_cli.graph.boxes import Box, collect_boxes
from cnn_cli.graph.curves import Piece, Point, Size
from cnn_cli.graph.figure import MARGIN, arrange, box_size, box_texts
from cnn_cli.language.plan import Plan

_TIP = 7.0  # px of an arrowhead


def inline_svg(plan: Plan, label: str) -> str:
    """The drawing, folded so that it stays readable. label: its name for screen readers."""
    boxes, arrows = collect_boxes(plan, readable_depth(plan))
    sizes = [box_size(box) for box in boxes]
    page = arrange(sizes, arrows)
    width, height = page.width + MARGIN, page.height + MARGIN
    parts = [_arrow(pieces) for pieces in page.arrows]
    parts += [_box(box, at, size) for box, at, size in zip(boxes, page.centers, sizes, strict=True)]
    for mark in page.labels:
        anchor = ' text-anchor="middle"' if mark.centered else ""
        parts.append(f'<text class="size" x="{mark.x:.1f}" y="{mark.y:.1f}"{anchor}>{escape(mark.text)}</text>')
    box = f"{-MARGIN / 2:g} {-MARGIN / 2:g} {width:.0f} {height:.0f}"
    head = f'<svg class="network" viewBox="{box}" width="{width:.0f}" role="img" aria-label="{escape(label)}">'
    return f"{head}{''.join(parts)}</svg>"


def _box(box: Box, center: Point, size: Size) -> str:
    (x, y), (width, height) = center, size
    radius = height / 2 if box.kind in ("join", "input") else 6.0
    parts = []
    for shift in (4, 0) if box.kind == "block" else (0,):  # two sheets: a folded group
        corner = f'x="{x - width / 2 + shift:.1f}" y="{y - height / 2 + shift:.1f}"'
        parts.append(f'<rect {corner} width="{width:.1f}" height="{height:.1f}" rx="{radius:g}"/>')
    baseline = y - height / 2 + 6.5
    for text, points, is_bold, _ in box_texts(box):
        baseline += points * 1.35
        kind = "title" if is_bold else "detail"
        parts.append(f'<text class="{kind}" x="{x:.1f}" y="{baseline - points * 0.3:.1f}">{escape(text)}</text>')
    return f'<g class="{box.kind}">{"".join(parts)}</g>'


def _arrow(pieces: tuple[Piece, ...]) -> str:
    """A curve and its head in the direction of the last piece; all arrows arrive vertically or horizontally."""
    (x, y), before = (
        pieces[-1][3],
        next(p for piece in reversed(pieces) for p in reversed(piece[:3]) if p != pieces[-1][3]),
    )
    across = abs(x - before[0]) > abs(y - before[1])
    sign = 1 if (x > before[0] if across else y > before[1]) else -1
    path = f"M{pieces[0][0][0]:.1f},{pieces[0][0][1]:.1f}" + "".join(
        "C" + " ".join(f"{a:.1f},{b:.1f}" for a, b in piece[1:]) for piece in pieces
    )
    back = [(x - sign * _TIP, y + s * 3.5) if across else (x + s * 3.5, y - sign * _TIP) for s in (-1, 1)]
    head = " ".join(f"{a:.1f},{b:.1f}" for a, b in ((x, y), *back))
    return f'<path class="arrow" d="{path}"/><polygon class="head" points="{head}"/>'
