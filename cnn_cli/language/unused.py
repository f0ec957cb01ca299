"""Warnings about outputs of layers and arguments that nothing uses."""

import re
from collections.abc import Sequence

from cnn_cli.language.context import Context, Output, Site
from cnn_cli.language.siblings import Siblings
from cnn_cli.language.spec import words


def note_unused(context: Context, siblings: Siblings, children: list[str], site: Site) -> None:
    """Record the children whose outputs no sibling takes: branches to be joined, unless they are taken from outside."""
    pieces = {name.rpartition(".")[0] for name in siblings.used if name in siblings.outputs}
    for key in children:
        if key not in siblings.used and key not in pieces:
            child = site.child(key, site.input, site.scope)
            place = context.part_place or siblings.place(key)
            context.unused[child.path] = place, child.label, siblings.outputs[key].row


def warn_unused_outputs(context: Context, outputs: Sequence[Output]) -> None:
    """Warn about unused outputs."""
    rows = {name for layer in context.layers for name in layer.takes} | {output.row for output in outputs}
    rows |= {name.rpartition(".")[0] for name in rows}  # of a piece, the Chunk
    for path, (place, label, row) in context.unused.items():
        inside = any(name.startswith(f"{path}.") for name in context.taken)
        if path in context.taken or (inside and row in rows):
            continue
        message = "its output is unused; join it, name it in `from:` or `outputs:`, or remove it"
        if inside:
            message = "its output is unused, only values inside it are used; remove the layers after them"
        context.warn(place, label, message)


def warn_unused_args(context: Context) -> None:
    """Warn about arguments that no text uses, including texts that are repeated 0 times."""
    owners = {"": (context.spec.args, context.spec.layers)}
    owners |= {name: (context.spec.blocks[name].args, context.spec.blocks[name].layers) for name in context.blocks}
    for owner, (args, layers) in owners.items():
        text = " ".join(w for node in (layers, *args.values()) for w in words(node) if w.startswith("$"))
        named = set(re.findall(r"[A-Za-z_]\w*", text))
        for name, node in args.items():
            if name not in named:
                where = f"blocks.{owner}.args.{name}" if owner else f"args.{name}"
                message = f"this argument is never used; use it as ${name}, or remove it"
                context.warn(node.place, where, message)
