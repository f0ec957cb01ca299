"""`{Again: head}`: an earlier layer or group, applied with the same weights to other inputs.

The part is not expanded anew: its layers keep their settings and get new inputs, so sizes that were inferred at its
first use must fit here too.
"""

from dataclasses import dataclass, replace
from typing import Any

from cnn_cli.language.context import UNKNOWN, Context, Output, Site, evaluate
from cnn_cli.language.layer_call import LayerCall, add_layer, unknown_part
from cnn_cli.language.plan import Child, Group, Layer
from cnn_cli.language.siblings import Siblings, sibling, value_at
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import ShapeError, SizeOf, sizes
from cnn_cli.values import shown

Part = tuple[Layer | Group, Output]


@dataclass(frozen=True)
class _Use:
    """A further use of a part: the node that names it, its own path, and the path of this use."""

    node: Node
    first: str
    path: str

    def path_of(self, part: Layer | Group) -> str:
        return self.path + part.name[len(self.first) :]


def use_again(context: Context, node: Node, siblings: Siblings, site: Site) -> Part:
    """The part of `{Again: NAME}`, applied to the values in `site.input`."""
    name = evaluate(context, node, site)
    if name is UNKNOWN:
        return unknown_part(site)
    name = str(name) if type(name) is int else name
    child = siblings.child(name) if isinstance(name, str) else None
    message = _no_part(node, name, siblings) if child is None else _mistake(context, child, site)
    if message:
        context.problem(node, site.label, message)
    elif child is None:
        sibling(context, Node(name, *node.place), siblings, site)  # notes why there is none
    elif (value_at(siblings.outputs, str(name)) or site.input).shape is not None:  # else its mistake is already noted
        return _used(context, _Use(node, child.part.name, site.path), child.part, site.input, site)
    return unknown_part(site)


def _no_part(node: Node, name: Any, siblings: Siblings) -> str:
    """Why a name does not stand for a part; empty if there is no such value at all."""
    if not isinstance(name, str):
        return f"Again takes the name of an earlier layer or group, not {shown(node.plain)}; write {{Again: NAME}}"
    if value_at(siblings.outputs, name) is None:
        return ""
    return f"{name[:60]!r} is a value, not a layer; Again takes the name of an earlier layer or group"


def _mistake(context: Context, child: Child, site: Site) -> str:
    """Why a part cannot be used again here; empty if it can."""
    part, entering = child.part, len(site.input.inputs) or 1
    if isinstance(part, Layer) and part.type == "Parameter":
        return f"{child.key!r} is a Parameter, which may be named as often as needed; write its name"
    if isinstance(part, Layer) and (part.rule.joins or part.pieces or part.size_of):
        return f"{part.type} has no weights to share; write it out again"
    if context.until and context.until.startswith(f"{site.path}."):
        return "`until` cannot end inside a part that is used again; name a value of its first use"
    first = len(child.takes) or 1
    if entering != first:
        return f"gets {entering} input{'s' * (entering > 1)}, but {first} at its first use; change `from`"
    return ""


def _used(context: Context, use: _Use, part: Layer | Group, entering: Output, site: Site) -> Part:
    """A layer or group of the part, applied to its input here."""
    site = replace(site, path=use.path_of(part), input=entering)
    context.step(use.node, site)
    values = Siblings.entered(use.node, entering)
    if isinstance(part, Layer):
        return _layer(context, use, part, entering.inputs or (entering,) * bool(part.takes), site)
    children: list[Child] = []
    for child in part.children:
        taken = [value_at(values.outputs, name) or Output(None, name) for name in child.takes]
        several = len(taken) > 1 or (isinstance(child.part, Layer) and child.part.rule.joins)
        entering = Output(None, site.path, inputs=tuple(taken)) if several else (*taken, Output(None, ""))[0]
        inner, output = _used(context, use, child.part, entering, site)
        values.add(child.key, output)
        children.append(Child(child.key, inner, child.takes))
    output = value_at(values.outputs, part.output) or Output(None, site.path)
    group = Group(site.path, part.named, tuple(children), part.output)
    return group, replace(output, inside=values.inside())


def _layer(context: Context, use: _Use, layer: Layer, inputs: tuple[Output, ...], site: Site) -> Part:
    """A layer of the part: its settings must equal those that would be inferred here."""
    if any(x.shape is None for x in inputs):
        return unknown_part(site)
    settings, rule = dict(layer.settings), layer.rule
    if name := layer.size_of:
        settings[name] = SizeOf(inputs[-1].shape or (), inputs[-1].row)
    call = LayerCall(rule, use.node, use.node.place, site, shared_with=layer.shared_with or layer.name)
    if layer.size_of:
        call = replace(call, size=(layer.size_of, inputs[-1]))
    try:
        inferred = rule.infer(inputs[0].shape or ()) if inputs and not rule.joins else {}
    except ShapeError as error:
        context.shape_problem(call.place, call.where, error, inputs)
        return unknown_part(site)
    for name, value in inferred.items():
        if settings[name] != value:
            message = f"shares the weights of layers.{call.shared_with}, whose {name} is {settings[name]}, but got "
            message += f"{sizes(inputs[0].shape or ())} from {inputs[0].source}; make the inputs of both equal"
            context.problem(call.place, call.where, message)
            return unknown_part(site)
    return add_layer(context, call, settings, inputs, layer.written)
