"""The children of lists and mappings: their names, the copies that `repeat` makes, and which siblings may be named."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cnn_cli.errors import closest
from cnn_cli.language.context import UNKNOWN, Closure, Context, Output, Scope, Site, evaluate
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.values import Integer, shown

_REPEAT = Integer(0, 1000)
_COPY = re.compile(r"\{(\d{1,9})\}")
_NAME = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_ATTRIBUTES = """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules
    mtia named_buffers named_children named_modules named_parameters parameters register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_auxiliary set_extra_state
    set_submodule share_memory state_dict to to_empty train training type xpu zero_grad _apply _auxiliary
    _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl _done _forward_hooks
    _forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks _forward_pre_hooks_with_kwargs
    _get_backward_hooks _get_backward_pre_hooks _get_name _is_full_backward_hook _last_uses _load_from_state_dict
    _load_state_dict_post_hooks _load_state_dict_pre_hooks _maybe_warn_non_full_backward_hook _modules _named_members
    _non_persistent_buffers_set _only_training _output _parameters _register_load_state_dict_pre_hook
    _register_state_dict_hook _replicate_for_data_parallel _save_to_state_dict _slow_forward _state_dict_hooks
    _state_dict_pre_hooks _takes _version _wrapped_call_impl
"""
TAKEN = frozenset(_ATTRIBUTES.split())  # attributes of nn.Module and of our Graph: a child may not hide them


@dataclass
class Siblings:
    """The children of a mapping on the way through it: `inputs` has those so far, by what `from` and joins may name."""

    node: Node
    outputs: dict[str, Output]
    used: set[str] = field(default_factory=set)

    def place(self, key: str) -> tuple[int, int]:
        """Where a child is written; the mapping itself for copies, whose names are written nowhere."""
        return self.node.keys.get(key, self.node.place)

    def add(self, key: str, output: Output) -> None:
        self.outputs[key] = output
        self.outputs |= {f"{key}.{n}": Output(output.shape, f"{output.row}.{n}") for n in range(output.pieces)}


def list_items(context: Context, node: Node, site: Site) -> Iterator[tuple[Node | None, Scope]]:
    """The items of a list, repeats written out: copies of `{repeat: N, layers: [a, b]}` become a, b, a, b, …

    None where the number of copies is unknown, so that the shape of what follows is unknown too.
    """
    for item in node.value:
        parts = item.value if isinstance(item.value, dict) else {}
        if "from" in parts:
            message = "`from` refers to a sibling by name, and items of a list have none; write a mapping, `name: {…}`"
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
            message = f"`{name}` is not a child's name: it belongs beside a layer or `layers:`; move it there"
            context.problem(node.keys[name], site.label, message)
        elif repeat is None and not first:
            yield name, child, site.scope
        elif repeat is None or len(first) != 1:
            stem = _COPY.sub("", name)[:60]
            message = f'copies need a number in their name; write "{stem}{{1}}" for {stem}1, {stem}2, …'
            if repeat is None:
                message = f"{name[:60]!r} names copies, but has no `repeat`; write `repeat: N` beside the layer"
            context.problem(node.keys[name], site.label, message)
        else:
            later = Node({k: n for k, n in child.value.items() if k != "from"}, child.line, child.column, child.keys)
            for copy in range(_times(context, repeat, site) or 0):
                own = _COPY.sub(str(int(first[0]) + copy), name)
                yield own, later if copy else child, replace(site.scope, index=copy)


def check_name(context: Context, key: str, siblings: Siblings, site: Site) -> bool:
    """Whether a child can have this name; a problem if not."""
    if key in siblings.outputs:
        reason = "'input' is the input of the mapping" if key == "input" else f"duplicate name {key[:60]!r}"
    elif key in TAKEN:
        reason = f"{key!r} is an attribute of every PyTorch module"
    elif not _NAME.fullmatch(key):
        rule = "letters, digits, _ and -, at most 64 characters, not starting with - or __"
        reason = f"invalid layer name {key[:60]!r} (allowed: {rule})"
    else:
        return True
    context.problem(siblings.place(key), site.label, f"{reason}; choose another name")
    return False


def sibling_name(context: Context, node: Node, siblings: Siblings, site: Site) -> str | None:
    """The earlier sibling that is named (children 0, 1, … by number too); None, and a problem, if there is none."""
    name = str(node.value) if type(node.value) is int else node.value
    if isinstance(name, str) and name in siblings.outputs:
        return name
    earlier = ", ".join(list(siblings.outputs)[-12:])
    if name == site.path.rpartition(".")[2]:
        reason = f"is the layer itself; write an earlier sibling: {earlier}"
    elif isinstance(name, str) and name in siblings.node.value:
        reason = f"is defined later; move it up, or write an earlier sibling: {earlier}"
    else:
        reason = f"is not an earlier sibling.{closest(str(name)[:60], siblings.outputs)} Expected one of {earlier}"
    context.problem(node, site.label, f"{shown(node.plain)} {reason}")
    return None


def warn_unused(context: Context, siblings: Siblings, children: list[str], site: Site) -> None:
    """Warn of unused outputs: a branch that was meant to be joined."""
    outputs: Any = {} if site.path else context.spec.outputs
    taken = siblings.used | {name.rpartition(".")[0] for name in siblings.used}
    for key in children:
        if key not in taken and key not in outputs:
            message = "its output is unused; join it, name it in `from:` or `outputs:`, or remove it"
            context.warn(siblings.place(key), site.child(key, site.input, site.scope).label, message)
