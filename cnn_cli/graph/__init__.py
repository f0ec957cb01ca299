"""Drawings of networks, `cnn summary NETWORK --graph FILE`, without external programs such as Graphviz."""

from pathlib import Path

from cnn_cli.errors import UsageError, enumerated
from cnn_cli.files import write_bytes
from cnn_cli.graph.boxes import collect_boxes
from cnn_cli.graph.figure import render_figure
from cnn_cli.graph.markup import to_dot, to_mermaid
from cnn_cli.language.plan import Plan
from cnn_cli.layers import sizes
from cnn_cli.tables import format_count

KINDS = (".svg", ".pdf", ".png", ".mmd", ".dot")
READABLE = 60  # boxes; a drawing with more is folded, unless --depth says how deep


def draw(plan: Plan, path: Path, *, depth: int | None = None, force: bool = False) -> Path:
    """Write the drawing of `plan` as SVG, PDF, PNG, Mermaid or DOT, by the ending of `path`.

    depth: fold layers whose names have more parts; None: as many as needed so that the drawing stays readable.
    UsageError for another ending, or a file that exists, unless `force`; CnnError if it cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UsageError(f"--graph {path}: unknown format; the name must end in {enumerated(KINDS, 'or')}")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already; --force overwrites it")
    write_bytes(path, render(plan, kind, depth))
    return path


def render(plan: Plan, kind: str, depth: int | None = None) -> bytes:
    """The bytes of a drawing of one of KINDS."""
    boxes, arrows = collect_boxes(plan, depth if depth is not None else readable_depth(plan))
    if kind in (".mmd", ".dot"):
        return (to_mermaid if kind == ".mmd" else to_dot)(plan.network, boxes, arrows).encode()
    macs = format_count(plan.macs, "MACs")
    caption = f"{sizes(plan.input)} → {plan.output_sizes}, {plan.params:,} parameters, {macs}"
    return render_figure(plan.network, caption, boxes, arrows, kind.removeprefix("."))


def readable_depth(plan: Plan) -> int | None:
    """The deepest folding with at most READABLE boxes; None if nothing needs to be folded."""
    if len(collect_boxes(plan, None)[0]) <= READABLE:
        return None
    deepest = max(layer.name.count(".") + 1 for layer in plan.layers)
    return next((d for d in range(deepest - 1, 1, -1) if len(collect_boxes(plan, d)[0]) <= READABLE), 1)
