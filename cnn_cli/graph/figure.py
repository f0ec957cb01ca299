"""A graph as a figure: boxes with their texts, the arrows between them, and a title."""

from collections.abc import Iterator, Sequence

from cnn_cli.graph.boxes import Arrow, Box
from cnn_cli.graph.columns import arrange_in_columns
from cnn_cli.graph.shapes import INK, SMALL, SOFT, Figure, Rect, Shape, Text
from cnn_cli.graph.u_shape import arrange_as_u, nested_skips

# Fill and border, told apart by people with any color vision: lightness differs as well as hue (after Okabe and Ito).
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
TITLE, HEAD = 13.0, 20.0  # px of text
MARGIN = 28.0


def width_of(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is in DejaVu Sans or Verdana: the same estimate for all formats, so that they look
    alike."""
    units = sum(
        0.34 if c in "ijltI.,:;|'·-() " else 0.92 if c in "mwMW@%" else 0.68 if c.isupper() else 0.62 for c in text
    )
    return units * size * (1.08 if bold else 1.0)


def compose(name: str, caption: str, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> Figure:
    """The drawing of these boxes under their name: an encoder-decoder as a U, others from top to bottom."""
    sizes = [_size(box) for box in boxes]
    skips = nested_skips(len(boxes), arrows)
    page = arrange_as_u(sizes, arrows, skips) if skips else arrange_in_columns(sizes, arrows)
    shapes: list[Shape] = []
    for box, center, size in zip(boxes, page.centers, sizes, strict=True):
        shapes += _drawn(box, *center, size)
    shapes += [*page.arrows, *page.labels]
    shapes.append(Text(0, -45, name, HEAD, INK, bold=True, anchor="start"))
    shapes.append(Text(0, -25, caption, SMALL, SOFT, anchor="start"))
    width = max(page.width + 6, width_of(name, HEAD, True), width_of(caption, SMALL))
    top = MARGIN + 60
    return Figure(-MARGIN, -top, width + 2 * MARGIN, page.height + top + MARGIN, tuple(shapes))


def _texts(box: Box) -> list[tuple[str, float, bool, str]]:
    """(text, size, bold, color) of the lines in a box."""
    named = box.kind not in ("input", "block") and box.name != box.title
    above = [(box.name, SMALL, False, SOFT)] if named and box.kind != "join" else []
    return [*above, (box.title, TITLE, True, INK), *((line, SMALL, False, INK) for line in box.texts)]


def _size(box: Box) -> tuple[float, float]:
    lines = _texts(box)
    wide = max(width_of(text, size, bold) for text, size, bold, _ in lines)
    padding = 26 if box.kind in ("join", "input") else 22
    return max(wide + padding, 70), sum(size * 1.35 for _, size, _, _ in lines) + 13


def _drawn(box: Box, x: float, y: float, size: tuple[float, float]) -> Iterator[Rect | Text]:
    width, height = size
    fill, border = COLORS[box.kind]
    left, top = x - width / 2, y - height / 2
    if box.kind == "block":  # two sheets: there is more inside
        yield Rect(left + 4, top + 4, width, height, fill, border)
    yield Rect(left, top, width, height, fill, border, height / 2 if box.kind in ("join", "input") else 6.0)
    baseline = top + 6.5
    for text, points, bold, color in _texts(box):
        baseline += points * 1.35
        yield Text(x, baseline - points * 0.3, text, points, color, bold)
