"""Drawings of networks: `cnn summary NETWORK --graph FILE`, by our own hand, so that no other program is needed."""

from pathlib import Path

from cnn_cli.errors import UsageError
from cnn_cli.files import write_bytes
from cnn_cli.graph.boxes import boxes
from cnn_cli.language.plan import Plan
from cnn_cli.layers import sizes
from cnn_cli.tables import format_count

KINDS = (".svg", ".png", ".mmd", ".dot")
READABLE = 60  # boxes; beyond this a drawing without --depth folds what lies deepest


def draw(plan: Plan, path: Path, *, depth: int | None = None, force: bool = False) -> Path:
    """Write the drawing of `plan` as its name says: SVG, PNG, Mermaid or DOT.

    depth: fold what lies deeper than so many names; None: all layers, or as deep as stays readable.
    UsageError for another kind of file, or one that is there already and not to be overwritten; CnnError where it
    cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UsageError(f"--graph {path}: a drawing is written as {', '.join(KINDS)}; choose such a name")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already; --force overwrites it")
    write_bytes(path, drawing(plan, kind, depth))
    return path


def drawing(plan: Plan, kind: str, depth: int | None = None) -> bytes:
    """The bytes of a drawing of one of KINDS."""
    from cnn_cli.graph import text

    found, arrows = boxes(plan, depth if depth is not None else readable_depth(plan))
    if kind in (".mmd", ".dot"):
        return (text.mermaid if kind == ".mmd" else text.dot)(plan.network, found, arrows).encode()
    from cnn_cli.graph.figure import figure

    picture = figure(plan.network, _caption(plan), found, arrows)
    if kind == ".svg":
        from cnn_cli.graph.svg import svg

        return svg(picture).encode()
    from cnn_cli.graph.png import png

    return png(picture)


def readable_depth(plan: Plan) -> int | None:
    """The deepest folding with at most READABLE boxes; None where nothing need be folded."""
    if len(boxes(plan, None)[0]) <= READABLE:
        return None
    deepest = max(layer.name.count(".") + 1 for layer in plan.layers)
    return next((d for d in range(deepest - 1, 1, -1) if len(boxes(plan, d)[0]) <= READABLE), 1)


def _caption(plan: Plan) -> str:
    """What a drawing says under the name."""
    macs = format_count(plan.macs, "MACs")
    return f"{sizes(plan.input)} → {sizes(plan.output)}, {plan.params:,} parameters, {macs}"
