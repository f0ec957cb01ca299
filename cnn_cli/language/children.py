"""The children of lists and mappings: their names, and the copies that `repeat` makes."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from cnn_cli.language.context import UNKNOWN, Closure, Context, Output, Scope, Site, evaluate
from cnn_cli.language.siblings import Siblings, value_at
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.values import Integer

_REPEAT = Integer(0, 1000)
_COPY = re.compile(r"\{(\d{1,9})\}")
_NAME = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_ATTRIBUTES = """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule give_exports half ipu
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_auxiliary set_extra_state set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
    _apply _auxiliary _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl _done _exports
    _forward_hooks _forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks
    _forward_pre_hooks_with_kwargs _get_backward_hooks _get_backward_pre_hooks _get_name _gives_exports _inside
    _is_full_backward_hook _last_uses _load_from_state_dict _load_state_dict_post_hooks _load_state_dict_pre_hooks
    _maybe_warn_non_full_backward_hook _modules _named_members _non_persistent_buffers_set _only_training _output
    _parameters _register_load_state_dict_pre_hook _register_state_dict_hook _replicate_for_data_parallel
    _save_to_state_dict _slow_forward _state_dict_hooks _state_dict_pre_hooks _takes _version _wrapped_call_impl
"""
TAKEN = frozenset(_ATTRIBUTES.split())  # attributes of nn.Module and of our Graph: a child may not hide them


def list_items(
    context: Context, node: Node, site: Site, arrives: Callable[[], Output]
) -> Iterator[tuple[Node | None, Scope]]:
    """The items of a list, repeats written out: copies of `{repeat: N, layers: [a, b]}` become a, b, a, b, …

    `arrives` returns the output of the previous item, as N may depend on its size. None if the number of copies is
    unknown, which makes the shape of the next item unknown too.
    """
    for item in node.value:
        parts = item.value if isinstance(item.value, dict) else {}
        if "from" in parts:
            message = (
                "`from` refers to a sibling by name, but items of a list have no names; write a mapping, `name: {…}`"
            )
            context.problem(item.keys["from"], site.label, message)
        if "repeat" not in parts:
            yield item, site.scope
            continue
        group = evaluate(context, parts["layers"], site) if set(parts) == {"repeat", "layers"} else None
        times = _times(context, parts["repeat"], replace(site, input=arrives()))
        if times is None:
            yield None, site.scope
        for copy in range(times or 0):
            context.step(item, site)  # counted, so that nested repeats without layers terminate too
            scope = replace(site.scope, index=copy)
            if isinstance(group, Closure) and isinstance(group.node.value, list):
                written_here = group.node is parts["layers"]  # else it is an argument's, with a scope of its own
                yield from list_items(context, group.node, site.at(scope if written_here else group.scope), arrives)
            else:
                yield item, scope


def _times(context: Context, node: Node, site: Site) -> int | None:
    times = evaluate(context, node, site)
    try:
        return None if times is UNKNOWN else _REPEAT.read(times.node.plain if isinstance(times, Closure) else times)
    except ValueError as error:
        context.problem(node, site.label, f"repeat {error}")
        return None


def named_children(
    context: Context, node: Node, site: Site, arrives: Callable[[Node], Site]
) -> Iterator[tuple[str, Node | None, Scope]]:
    """The children of a mapping, repeats written out: `"layer{1}"` with `repeat: 3` is layer1, layer2, layer3.

    The child is None if its name or number of copies has a mistake. `arrives` returns the site of a child before its
    copies, with the input of the first of them.
    """
    for name, child in node.value.items():
        first = _COPY.findall(name)
        repeat = child.value.get("repeat") if isinstance(child.value, dict) else None
        if name in ("from", "repeat"):
            message = f"`{name}` is not a child's name: it belongs beside a layer or `layers:`; move it there"
            context.problem(node.keys[name], site.label, message)
            yield name, None, site.scope
        elif repeat is None and not first:
            yield name, child, site.scope
        elif repeat is None or len(first) != 1:
            stem = _COPY.sub("", name)[:60]
            message = f'copies need a number in their name; write "{stem}{{1}}" for {stem}1, {stem}2, …'
            yield f"{stem}{{1}}", None, site.scope
            if repeat is None:
                message = f"{name[:60]!r} names copies, but has no `repeat`; write `repeat: N` beside the layer"
            context.problem(node.keys[name], site.label, message)
            yield name, None, site.scope
        else:
            times = _times(context, repeat, arrives(child))
            later = Node({k: n for k, n in child.value.items() if k != "from"}, child.line, child.column, child.keys)
            # one copy if the number is unknown, so that its mistakes are found
            for copy in range(1 if times is None else times):
                own = _COPY.sub(str(int(first[0]) + copy), name)
                yield own, later if copy else child, replace(site.scope, index=copy)
            if times is None:
                yield name, None, site.scope


def before_copies(child: Node, siblings: Siblings, last: str, site: Site) -> Site:
    """The site where the number of copies is evaluated: `$in_channels` is that of the input of the first copy."""
    name = child.value["from"].value if "from" in child.value else last
    several = isinstance(name, list)
    value = None if several else value_at(siblings.outputs, str(name))
    entering = value.closed if value else Output(None, "", inputs=(site.input,) * (2 * several))
    return replace(site, input=entering)


def check_alone(context: Context, node: Node, site: Site) -> None:
    """Note `from` or `repeat` beside a layer that is neither an item of a list nor a named child."""
    parts = node.value if isinstance(node.value, dict) else {}
    own = [key for key in parts if key not in ("from", "repeat")]
    named = "Network" not in own and not (len(own) == 1 and (own[0] == "layers" or own[0][:1].isupper()))
    for key in () if named else ("from", "repeat"):
        if key in parts:
            message = f"`{key}` works only beside a named child; write a mapping, `name: {{{key}: …, …}}`"
            if key == "repeat":
                message = "`repeat` works only beside an item of a list or a named child; put this into a list, [{…}]"
            context.problem(parts[key], site.label, message)


def check_name(context: Context, key: str, siblings: Siblings, site: Site) -> bool:
    """Whether a child can have this name; notes a problem if not."""
    if key in siblings.outputs:
        reason = "'input' is the input of the mapping" if key == "input" else f"duplicate name {key[:60]!r}"
    elif key in TAKEN:
        reason = f"{key!r} is already an attribute of the PyTorch module"
    elif not _NAME.fullmatch(key):
        rule = "letters, digits, _ and -, at most 64 characters, not starting with - or __"
        reason = f"invalid layer name {key[:60]!r} (allowed: {rule})"
    else:
        return True
    context.problem(siblings.place(key), site.label, f"{reason}; choose another name")
    return False
