"""Inputs of a layer besides the previous output: the siblings of a join, a number, the size of a sibling."""

from dataclasses import replace
from typing import Any

from cnn_cli.language.context import UNKNOWN, Context, Output, Site, evaluate
from cnn_cli.language.layer_call import LayerCall, add_layer, call_layer, unknown_part
from cnn_cli.language.plan import Group, Layer
from cnn_cli.language.siblings import Siblings, sibling
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import LayerType, sizes
from cnn_cli.values import Number, shown

_NUMBER = Number()
Joined = tuple[Layer | Group, Output, tuple[str, ...]]  # a join, its output, and the siblings that it takes


def single(context: Context, name: str, output: Output, place: Node, site: Site) -> None:
    """Note a name that stands for several values where one is needed."""
    if output.pieces or output.inputs:
        several = "is split into pieces" if output.pieces else "is several values"
        context.problem(place, site.label, f"{name!r} {several}; write {name}.0, {name}.1, …")


def takes_number(rule: LayerType, argument: Node) -> bool:
    """Whether this is `Multiply: 0.17`: the input and a number, rather than siblings by name."""
    value = argument.value
    number = type(value) in (int, float) or (isinstance(value, str) and value.startswith("$"))
    return number and "takes a number" in rule.traits


def with_number(context: Context, call: LayerCall) -> tuple[Layer | Group, Output]:
    """`Multiply: 0.17`: an operation on the input and a number."""
    value = evaluate(context, call.argument, call.site)
    if value is UNKNOWN or call.site.input.shape is None or not _is_valid(context, call, call.argument, value):
        return unknown_part(call.site)
    return _add(context, call, (None, value), (call.site.input,))


def join(context: Context, call: LayerCall, siblings: Siblings) -> Joined:
    """An operation on siblings, one of which may be a number, or Concat."""
    nodes, site, kind = call.argument, call.site, call.rule.name
    if not isinstance(nodes.value, list) or len(nodes.value) < 2:
        fix = f"write {{{kind}: [a, b]}} with the names of siblings"
        if "takes a number" in call.rule.traits:
            fix += f", or {{{kind}: 0.5}}"
        context.problem(nodes, site.label, f"{kind} needs at least two inputs, not {shown(nodes.plain)}; {fix}")
        return *unknown_part(site), ()
    operands = [_operand(context, call, node, siblings) for node in nodes.value]
    named = [x for x in operands if isinstance(x, tuple)]
    takes, inputs = tuple(name for name, _ in named), tuple(output for _, output in named)
    for name, output in named:
        single(context, name, output, nodes, site)
    if any(x is None for x in operands) or any(x.shape is None or x.pieces for x in inputs):
        return *unknown_part(site), takes
    numbers = tuple(None if isinstance(x, tuple) else x for x in operands)
    if not takes or len(operands) - len(takes) > 1:
        message = f"{kind} takes at most one number beside siblings; combine the numbers"
        context.problem(nodes, site.label, message)
        return *unknown_part(site), takes
    return *_add(context, call, numbers if len(takes) < len(operands) else (), inputs), takes


def _operand(context: Context, call: LayerCall, node: Node, siblings: Siblings) -> tuple[str, Output] | float | None:
    """A sibling by name, or a number; None, and a problem, for anything else.

    A whole number is the sibling of that name where the mapping has one (0, 1, …).
    """
    value = evaluate(context, node, call.site)
    if value is UNKNOWN:
        return None
    named = type(node.value) is int and (str(value) in siblings.outputs or str(value) in siblings.node.value)
    if "takes a number" in call.rule.traits and type(value) in (int, float) and not named:
        return value if _is_valid(context, call, node, value) else None
    if value is not node.value and isinstance(value, str):
        node = Node(value, *node.place)
    return sibling(context, node, siblings, call.site)


def _is_valid(context: Context, call: LayerCall, node: Node, value: Any) -> bool:
    """Whether this is a valid number for the operation; notes a problem if not."""
    try:
        _NUMBER.read(value)
    except ValueError as error:
        context.problem(node, call.site.label, f"the operand of {call.rule.name} {error}")
        return False
    return True


def _add(
    context: Context, call: LayerCall, numbers: tuple[float | None, ...], inputs: tuple[Output, ...]
) -> tuple[Layer | Group, Output]:
    settings = {"bare": tuple(x.bare for x in inputs), "numbers": numbers}
    try:
        call.rule.check(settings)
    except ValueError as error:
        context.problem(call.argument, call.where, str(error))
        return unknown_part(call.site)
    return add_layer(context, call, settings, inputs)


def sized_by(context: Context, call: LayerCall, name: str, siblings: Siblings, takes: tuple[str, ...]) -> Joined:
    """A layer whose output has the height and width of a sibling."""
    node = call.argument.value[name] if isinstance(call.argument.value, dict) else call.argument
    text = evaluate(context, node, call.site)
    source = sibling(context, Node(text, *node.place), siblings, call.site)
    if source is None:
        return *unknown_part(call.site), takes
    single(context, *source, node, call.site)
    shape = source[1].shape
    if source[1].bare or (shape and len(shape) != 3):
        fix = "name a sibling of channels x height x width"
        context.problem(
            node, call.site.label, f"{source[0]!r} is {sizes(shape or ())}, without height and width; {fix}"
        )
        return *unknown_part(call.site), takes
    part, output = call_layer(context, replace(call, size=(name, source[1])), (call.site.input,))
    return part, output, (*takes, source[0])
