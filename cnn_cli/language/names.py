"""What children are called: which names may be, which copies `repeat` makes, and which siblings `from` may name."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cnn_cli.errors import closest
from cnn_cli.language.context import UNKNOWN, Closure, Flow, Here, Scope, Walk, value
from cnn_cli.language.yamltext import Node
from cnn_cli.values import Integer, shown

_REPEAT = Integer(0, 1000)
_COPY = re.compile(r"\{(\d{1,9})\}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_WORDS = """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules
    mtia named_buffers named_children named_modules named_parameters parameters register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_auxiliary set_extra_state
    set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
"""
TAKEN = frozenset(_WORDS.split())  # attributes of every module of PyTorch, and of ours: a child may not hide them


@dataclass
class Siblings:
    """The children of a mapping on the way through it: `flows` has those so far, by what `from` and joins may name."""

    node: Node
    flows: dict[str, Flow]
    used: set[str] = field(default_factory=set)

    def place(self, key: str) -> tuple[int, int]:
        """Where a child stands; the mapping itself for copies, whose names are not written anywhere."""
        return self.node.keys.get(key, (self.node.line, self.node.column))

    def add(self, key: str, flow: Flow) -> None:
        self.flows[key] = flow
        self.flows |= {f"{key}.{n}": Flow(flow.shape, f"{flow.row}.{n}") for n in range(flow.pieces)}


def items(walk: Walk, node: Node, here: Here) -> Iterator[tuple[Node | None, Scope]]:
    """The items of a list, repeats written out: copies of `{repeat: N, layers: [a, b]}` become a, b, a, b, …

    None stands where it cannot be told how many copies there are, so that nothing behind it has a shape.
    """
    for item in node.value:
        parts = item.value if isinstance(item.value, dict) else {}
        if "from" in parts:
            message = "`from` names a sibling, and in a list there are no names; write a mapping, `name: {…}`"
            walk.problem(item.keys["from"], here.shown, message)
        if "repeat" not in parts:
            yield item, here.scope
            continue
        group = value(walk, parts["layers"], here) if set(parts) == {"repeat", "layers"} else None
        times = _times(walk, parts["repeat"], here)
        if times is None:
            yield None, here.scope
        for copy in range(times or 0):
            walk.step(item, here)  # counted, so that nested repeats of nothing end too
            scope = replace(here.scope, index=copy)
            if isinstance(group, Closure) and isinstance(group.node.value, list):
                written_here = group.node is parts["layers"]  # else it is an argument's, with a scope of its own
                yield from items(walk, group.node, here.at(scope if written_here else group.scope))
            else:
                yield item, scope


def _times(walk: Walk, node: Node, here: Here) -> int | None:
    times = value(walk, node, here)
    try:
        return None if times is UNKNOWN else _REPEAT.read(times.node.plain if isinstance(times, Closure) else times)
    except ValueError as error:
        walk.problem(node, here.shown, f"repeat {error}")
        return None


def copies(walk: Walk, node: Node, here: Here) -> Iterator[tuple[str, Node, Scope]]:
    """The children of a mapping, repeats written out: `"layer{1}"` with `repeat: 3` is layer1, layer2, layer3."""
    for name, child in node.value.items():
        first = _COPY.findall(name)
        repeat = child.value.get("repeat") if isinstance(child.value, dict) else None
        if name in ("from", "repeat"):
            message = f"`{name}` stands beside one layer or beside `layers:`; put it with the child it belongs to"
            walk.problem(node.keys[name], here.shown, message)
        elif repeat is None and not first:
            yield name, child, here.scope
        elif repeat is None or len(first) != 1:
            one = f'write "{_COPY.sub("", name)[:60]}{{1}}" for …1, …2, …'
            fix = "write `repeat` beside the layer" if repeat is None else one
            walk.problem(node.keys[name], here.shown, f"a number in braces and `repeat` go together; {fix}")
        else:
            later = Node({k: n for k, n in child.value.items() if k != "from"}, child.line, child.column, child.keys)
            for copy in range(_times(walk, repeat, here) or 0):
                own = _COPY.sub(str(int(first[0]) + copy), name)
                yield own, later if copy else child, replace(here.scope, index=copy)


def fits(walk: Walk, key: str, siblings: Siblings, here: Here) -> bool:
    """Whether a child may have this name."""
    if key in siblings.flows:
        reason = "is what enters the mapping" if key == "input" else "stands here a second time"
    elif key in TAKEN:
        reason = "is a name that every module of PyTorch has"
    elif not _NAME.fullmatch(key):
        reason = "is no name for a layer (letters, digits, _ and -, at most 64)"
    else:
        return True
    walk.problem(siblings.place(key), here.shown, f"{key[:60]!r} {reason}; choose another name")
    return False


def known(walk: Walk, name: Node, siblings: Siblings, here: Here) -> bool:
    """Whether `name` is a sibling that comes before."""
    if isinstance(name.value, str) and name.value in siblings.flows:
        return True
    walk.problem(name, here.shown, f"{shown(name.plain)} {_why_not(name.value, siblings, here)}")
    return False


def _why_not(name: Any, siblings: Siblings, here: Here) -> str:
    before: Collection[str] = list(siblings.flows)[-12:]
    names = ", ".join(before)
    if name == here.path.rpartition(".")[2]:
        return f"is the layer itself; write one that comes before: {names}"
    if isinstance(name, str) and name in siblings.node.value:
        return f"comes later, and a layer takes what comes before: {names}; move it up"
    return f"is no sibling that comes before.{closest(str(name)[:60], siblings.flows)} Write one of {names}"


def idle(walk: Walk, siblings: Siblings, children: list[str], here: Here) -> None:
    """Warn of outputs that nothing takes: a branch that was meant to be joined."""
    outputs: Any = {} if here.path else walk.spec.outputs
    taken = siblings.used | {name.rpartition(".")[0] for name in siblings.used}
    for key in children:
        if key not in taken and key not in outputs:
            message = "nothing takes its output; join it, name it in `from:` or `outputs:`, or remove it"
            walk.warn(siblings.place(key), here.child(key, here.flow, here.scope).shown, message)
