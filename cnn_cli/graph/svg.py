"""A figure as SVG text: scalable, selectable, and readable in any browser."""

from xml.sax.saxutils import escape

from cnn_cli.graph.figure import LINE, PAPER, Curve, Figure, Rect, Text

_FONT = "DejaVu Sans, Verdana, Geneva, sans-serif"


def svg(figure: Figure) -> str:
    """The document; every name in it is escaped here."""
    width, height = round(figure.width), round(figure.height)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}">'
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 1 L10 5 L0 9 z" fill="{LINE}"/></marker></defs>'
    )
    ground = f'<rect width="{width}" height="{height}" fill="{PAPER}"/>'
    return "\n".join([head, arrow, ground, *(_element(shape) for shape in figure.shapes), "</svg>", ""])


def _element(shape: Rect | Text | Curve) -> str:
    if isinstance(shape, Rect):
        return (
            f'<rect x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}" '
            f'rx="{shape.radius:.1f}" fill="{shape.fill}" stroke="{shape.border}" stroke-width="1.2"/>'
        )
    if isinstance(shape, Curve):
        start = shape.pieces[0][0]
        path = " ".join(
            f"C{a[0]:.1f} {a[1]:.1f} {b[0]:.1f} {b[1]:.1f} {c[0]:.1f} {c[1]:.1f}" for _, a, b, c in shape.pieces
        )
        look = f'fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#arrow)"'
        return f'<path d="M{start[0]:.1f} {start[1]:.1f} {path}" {look}/>'
    bold = ' font-weight="bold"' if shape.bold else ""
    halo = f' paint-order="stroke" stroke="{PAPER}" stroke-width="4" stroke-linejoin="round"' if shape.halo else ""
    place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size:g}" text-anchor="{shape.anchor}"'
    return f'<text {place} fill="{shape.colour}"{bold}{halo}>{escape(_printable(shape.text))}</text>'


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
