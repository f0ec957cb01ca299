"""Graphs as text for other tools: Mermaid, which GitHub and GitLab draw in Markdown, and DOT, for Graphviz."""

from collections.abc import Sequence

from cnn_cli.graph.boxes import Arrow, Box
from cnn_cli.graph.figure import COLORS


def to_mermaid(name: str, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    """A Mermaid flowchart, from top to bottom."""
    lines = ["---", f"title: {_plain(name)}", "---", "flowchart TD"]
    for number, box in enumerate(boxes):
        left, right = (
            ("([", "])") if box.kind in ("input", "join") else ("[[", "]]") if box.kind == "block" else ("[", "]")
        )
        lines.append(f'  n{number}{left}"{"<br>".join(map(_entity, _lines(box)))}"{right}:::{box.kind}')
    lines += [f'  n{a.start} -->|"{_entity(a.shape)}"| n{a.end}' for a in arrows]
    kinds = dict.fromkeys(box.kind for box in boxes)
    lines += [f"  classDef {kind} fill:{COLORS[kind][0]},stroke:{COLORS[kind][1]},color:#1f2933" for kind in kinds]
    return "\n".join(lines) + "\n"


def to_dot(name: str, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    """A DOT digraph, from top to bottom."""
    lines = [
        f'digraph "{_escaped(name)}" {{',
        '  node [shape=box, style="rounded,filled", fontname="DejaVu Sans", fontsize=11];',
    ]
    lines.append('  edge [fontname="DejaVu Sans", fontsize=9, color="#7b8794"];')
    for number, box in enumerate(boxes):
        fill, border = COLORS[box.kind]
        label = "\\n".join(_escaped(line) for line in _lines(box))
        lines.append(f'  n{number} [label="{label}", fillcolor="{fill}", color="{border}"];')
    lines += [f'  n{a.start} -> n{a.end} [label="{_escaped(a.shape)}"];' for a in arrows]
    return "\n".join([*lines, "}", ""])


def _lines(box: Box) -> list[str]:
    named = [box.name] if box.kind not in ("input", "block") and box.name != box.title else []
    return [*named, box.title, *box.texts]


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).replace("\\", "\\\\").replace('"', '\\"')


def _plain(text: str) -> str:
    """A title has no escapes: all but letters, digits and a few signs become spaces."""
    return "".join(c if c.isalnum() or c in "._-" else " " for c in text)


def _entity(text: str) -> str:
    """Mermaid's escapes: characters with a meaning in its syntax, by their code points."""
    return "".join(
        c if c.isalnum() or c in " .,·:/+()→-_=" else f"#{ord(c)};" if c.isprintable() else " " for c in text
    )
