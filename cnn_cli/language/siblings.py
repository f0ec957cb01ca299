"""Values that `from` and joins may name: earlier siblings, pieces of a Chunk or Split, values inside earlier groups."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnn_cli.errors import closest
from cnn_cli.language.context import Context, Output, Site
from cnn_cli.language.plan import Child, Group
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.values import shown


@dataclass
class Siblings:
    """The children of a mapping during its expansion; `outputs` has the values so far, by the names that may be used.

    `input` is the input of the mapping; if it has several, they are `input.0`, `input.1`, …
    """

    node: Node
    outputs: dict[str, Output]
    used: set[str] = field(default_factory=set)
    children: list[Child] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # names with mistakes, as they are written

    @classmethod
    def entered(cls, node: Node, entering: Output) -> "Siblings":
        return cls(node, {"input": entering, **{f"input.{n}": one for n, one in enumerate(entering.inputs)}})

    def place(self, key: str) -> tuple[int, int]:
        """Where a child is written; the mapping itself for copies, whose names are written nowhere."""
        return self.node.keys.get(key, self.node.place)

    def add(self, key: str, output: Output) -> None:
        self.outputs[key] = output
        self.outputs |= {f"{key}.{n}": Output(piece, f"{output.row}.{n}") for n, piece in enumerate(output.pieces)}

    def refuse(self, key: str) -> None:
        """Note a child with a mistake, so that uses of it are not reported as further mistakes."""
        self.outputs.setdefault(key, Output(None, key))
        self.refused.append(key)

    def is_refused(self, name: str) -> bool:
        """Whether a name is, or begins with, that of a child with a mistake; `layer{1}` may be any number of layers."""
        head = name.partition(".")[0]
        return any(may_be(key, head) for key in self.refused)

    def child(self, path: str) -> Child | None:
        """The part at a path such as `encoder.layer1.0`; None if it does not exist."""
        among: Sequence[Child] = self.children
        inner: Child | None = None
        for key in path.split("."):
            inner = next((child for child in among if child.key == key), None)
            among = inner.part.children if inner and isinstance(inner.part, Group) else ()
        return inner

    def takes(self, name: str) -> tuple[str, ...]:
        """The values that a child with `from: name` takes: several if `name` is "input" and the mapping has several."""
        several = self.outputs["input"].inputs if name == "input" else ()
        return tuple(f"input.{n}" for n in range(len(several))) or (name,)

    def inside(self) -> dict[str, Output]:
        """The values that may be named from outside, by their paths from here."""
        return {name: output for name, output in self.outputs.items() if name.partition(".")[0] != "input"}


def may_be(key: str, name: str) -> bool:
    """Whether a key as written can stand for this name: `layer{1}` for layer1, layer2, …"""
    return bool(re.fullmatch(re.sub(r"\\\{\d+\\\}", r"\\d+", re.escape(key)), name))


def value_at(values: Mapping[str, Output], path: str) -> Output | None:
    """The value at a path such as `encoder.layer1.0`; None if it does not exist.

    Its shape is unknown if its group has a mistake.
    """
    if path in values:
        return values[path]
    head, _, rest = path.partition(".")
    if not rest or head not in values:
        return None
    inner = value_at(values[head].inside, rest)
    incomplete = values[head].shape is None and head != "input"
    return Output(None, path) if inner is None and incomplete else inner


def sibling(context: Context, node: Node, siblings: Siblings, site: Site) -> tuple[str, Output] | None:
    """The earlier value that is named (children 0, 1, … by number too); None, and a problem, if there is none."""
    name = str(node.value) if type(node.value) is int else node.value
    output = value_at(siblings.outputs, name) if isinstance(name, str) else None
    if output is not None:
        if name not in siblings.outputs:
            context.taken.add(site.beside(name))
        return name, output
    if isinstance(name, str) and siblings.is_refused(name):
        return name, Output(None, name)
    context.problem(node, site.label, f"{shown(node.plain)} {_not_there(context, str(name), siblings, site)}")
    return None


def _not_there(context: Context, name: str, siblings: Siblings, site: Site) -> str:
    """Why there is no such value, and what to write instead."""
    head = name.partition(".")[0]
    earlier = ", ".join([known for known in siblings.outputs if known not in siblings.refused][-12:])
    if head == site.path.rpartition(".")[2]:
        return f"is the layer itself; write an earlier sibling: {earlier}"
    if head not in siblings.outputs and head in siblings.node.value:
        return f"is defined later; move it up, or write an earlier sibling: {earlier}"
    inputs = [other for other in siblings.outputs if other.startswith("input")]
    if head == "input":
        return f"is not an input of this group; write {' or '.join(inputs[1:] or inputs)}"
    if [head] == site.path.split(".")[-2:-1] and value_at(siblings.outputs, name[len(head) + 1 :]):
        return f"starts outside this group; write {name[len(head) + 1 :]}"
    for outer in reversed(context.enclosing[:-1]):
        if value_at(outer.outputs, name) is not None:
            form = f"{{from: […, {name}], layers: …}}"
            return f"is outside this group; make it an input, {form}, and write `input.1` here"
    while name.count(".") and value_at(siblings.outputs, name.rpartition(".")[0]) is None:
        name = name.rpartition(".")[0]  # as far as the path goes, and one part more
    around = name.rpartition(".")[0]
    group = value_at(siblings.outputs, around)
    if group is not None and not group.inside:
        return f"names a value inside {around}, which is not a group; write {around}"
    known = [*siblings.outputs, *paths(siblings.outputs, head)]
    return f"is not an earlier sibling.{closest(name[:60], known)} Expected one of {earlier}"


def paths(values: Mapping[str, Output], head: str, most: int = 500) -> list[str]:
    """The paths of the values inside of one, the outer ones first."""
    names = [head] if head in values else []
    for path in names:  # grows on the way
        output = value_at(values, path)
        if output is not None and len(names) < most:
            names += [f"{path}.{name}" for name in output.inside]
    return names
