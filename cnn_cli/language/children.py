"""What children are called: which names may be, which copies `repeat` makes, and which siblings `from` may name."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cnn_cli.errors import closest
from cnn_cli.language.context import UNKNOWN, Closure, Context, Output, Scope, Site, evaluate
from cnn_cli.language.yaml_nodes import Node
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
    """The children of a mapping on the way through it: `inputs` has those so far, by what `from` and joins may name."""

    node: Node
    outputs: dict[str, Output]
    used: set[str] = field(default_factory=set)

    def place(self, key: str) -> tuple[int, int]:
        """Where a child stands; the mapping itself for copies, whose names are not written anywhere."""
        return self.node.keys.get(key, (self.node.line, self.node.column))

    def add(self, key: str, output: Output) -> None:
        self.outputs[key] = output
        self.outputs |= {f"{key}.{n}": Output(output.shape, f"{output.row}.{n}") for n in range(output.pieces)}


def list_items(context: Context, node: Node, site: Site) -> Iterator[tuple[Node | None, Scope]]:
    """The items of a list, repeats written out: copies of `{repeat: N, layers: [a, b]}` become a, b, a, b, …

    None stands where it cannot be told how many copies there are, so that nothing behind it has a shape.
    """
    for item in node.value:
        parts = item.value if isinstance(item.value, dict) else {}
        if "from" in parts:
            message = "`from` names a sibling, and in a list there are no names; write a mapping, `name: {…}`"
            context.problem(item.keys["from"], site.label, message)
        if "repeat" not in parts:
            yield item, site.scope
            continue
        group = evaluate(context, parts["layers"], site) if set(parts) == {"repeat", "layers"} else None
        times = _times(context, parts["repeat"], site)
        if times is None:
            yield None, site.scope
        for copy in range(times or 0):
            context.step(item, site)  # counted, so that nested repeats of nothing end too
            scope = replace(site.scope, index=copy)
            if isinstance(group, Closure) and isinstance(group.node.value, list):
                written_here = group.node is parts["layers"]  # else it is an argument's, with a scope of its own
                yield from list_items(context, group.node, site.at(scope if written_here else group.scope))
            else:
                yield item, scope


def _times(context: Context, node: Node, site: Site) -> int | None:
    times = evaluate(context, node, site)
    try:
        return None if times is UNKNOWN else _REPEAT.read(times.node.plain if isinstance(times, Closure) else times)
    except ValueError as error:
        context.problem(node, site.label, f"repeat {error}")
        return None


def named_children(context: Context, node: Node, site: Site) -> Iterator[tuple[str, Node, Scope]]:
    """The children of a mapping, repeats written out: `"layer{1}"` with `repeat: 3` is layer1, layer2, layer3."""
    for name, child in node.value.items():
        first = _COPY.findall(name)
        repeat = child.value.get("repeat") if isinstance(child.value, dict) else None
        if name in ("from", "repeat"):
            message = f"`{name}` stands beside one layer or beside `layers:`; put it with the child it belongs to"
            context.problem(node.keys[name], site.label, message)
        elif repeat is None and not first:
            yield name, child, site.scope
        elif repeat is None or len(first) != 1:
            one = f'write "{_COPY.sub("", name)[:60]}{{1}}" for …1, …2, …'
            fix = "write `repeat` beside the layer" if repeat is None else one
            context.problem(node.keys[name], site.label, f"a number in braces and `repeat` go together; {fix}")
        else:
            later = Node({k: n for k, n in child.value.items() if k != "from"}, child.line, child.column, child.keys)
            for copy in range(_times(context, repeat, site) or 0):
                own = _COPY.sub(str(int(first[0]) + copy), name)
                yield own, later if copy else child, replace(site.scope, index=copy)


def check_name(context: Context, key: str, siblings: Siblings, site: Site) -> bool:
    """Whether a child may have this name."""
    if key in siblings.outputs:
        reason = "is what enters the mapping" if key == "input" else "stands here a second time"
    elif key in TAKEN:
        reason = "is a name that every module of PyTorch has"
    elif not _NAME.fullmatch(key):
        reason = "is no name for a layer (letters, digits, _ and -, at most 64)"
    else:
        return True
    context.problem(siblings.place(key), site.label, f"{key[:60]!r} {reason}; choose another name")
    return False


def check_sibling(context: Context, name: Node, siblings: Siblings, site: Site) -> bool:
    """Whether `name` is a sibling that comes before."""
    if isinstance(name.value, str) and name.value in siblings.outputs:
        return True
    context.problem(name, site.label, f"{shown(name.plain)} {_why_not(name.value, siblings, site)}")
    return False


def _why_not(name: Any, siblings: Siblings, site: Site) -> str:
    before: Collection[str] = list(siblings.outputs)[-12:]
    names = ", ".join(before)
    if name == site.path.rpartition(".")[2]:
        return f"is the layer itself; write one that comes before: {names}"
    if isinstance(name, str) and name in siblings.node.value:
        return f"comes later, and a layer takes what comes before: {names}; move it up"
    return f"is no sibling that comes before.{closest(str(name)[:60], siblings.outputs)} Write one of {names}"


def warn_unused(context: Context, siblings: Siblings, children: list[str], site: Site) -> None:
    """Warn of outputs that nothing takes: a branch that was meant to be joined."""
    outputs: Any = {} if site.path else context.spec.outputs
    taken = siblings.used | {name.rpartition(".")[0] for name in siblings.used}
    for key in children:
        if key not in taken and key not in outputs:
            message = "nothing takes its output; join it, name it in `from:` or `outputs:`, or remove it"
            context.warn(siblings.place(key), site.child(key, site.input, site.scope).label, message)
