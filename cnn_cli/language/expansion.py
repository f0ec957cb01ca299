"""From a spec, an input size and arguments to a plan: blocks, repeats and references are expanded to layers.

The spec is traversed once, in the order of computation, together with the shapes: the output of a layer determines what
the next one infers, and the value of `$in_channels` in a block. A mistake is noted, and expansion continues
as far as shapes are known, so that all mistakes are found at once.
"""

import re
from dataclasses import replace
from functools import partial
from typing import Any

from cnn_cli.errors import closest, unknown
from cnn_cli.language.again import use_again
from cnn_cli.language.block_cache import expand_block
from cnn_cli.language.children import before_copies, check_alone, check_name, list_items, named_children
from cnn_cli.language.context import (
    UNKNOWN,
    Closure,
    Context,
    LimitReached,
    Output,
    Scope,
    Site,
    bind_arguments,
    evaluate,
)
from cnn_cli.language.foreign_names import LAYERS_ELSEWHERE, SETTINGS_ELSEWHERE, unsupported
from cnn_cli.language.input_hint import suggest_input
from cnn_cli.language.joins import join, single, sized_by, takes_number, with_number
from cnn_cli.language.layer_call import LayerCall, call_layer, missing, named_size, unknown_part
from cnn_cli.language.network_part import ended, read_network_part, without_heads
from cnn_cli.language.outputs import choose_outputs, warn_no_scores
from cnn_cli.language.plan import Child, Group, Layer, Plan
from cnn_cli.language.siblings import Siblings, sibling, value_at
from cnn_cli.language.spec import Block, Spec, used_blocks
from cnn_cli.language.unused import note_unused, warn_unused_args, warn_unused_outputs
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import JOINS, LAYERS, Shape
from cnn_cli.values import shown

_NO_LAYER = "a layer is missing here; write its name, or [] for the identity"
_LOWERCASE = {name.lower(): name for name in LAYERS}

Part = tuple[Layer | Group, Output]  # a part of the network, and its output


def expand(spec: Spec, args: dict[str, Node] | None = None, input: Shape | None = None) -> Plan:
    """Expand `spec` with `args` and `input` in place of its own. Mistakes are collected in `problems`, not raised.

    The first problem that is about sizes suggests an input that fits, if there is one.
    """
    spec = replace(spec, args=spec.args | (args or {}), input=tuple(input or spec.input))
    result = _expand(spec)
    if result.shape_error is None:
        return result
    problem, small = result.shape_error
    others = {(p.line, p.column) for p in result.errors if p != problem}

    def fits(shape: Shape) -> bool:
        other = _expand(replace(spec, input=shape))
        return other.shape_error is None and {(p.line, p.column) for p in other.errors} <= others

    fact, _, fix = problem.message.rpartition("; ")
    advice = replace(problem, message=f"{fact}; {suggest_input(fits, spec.input, small, fix)}")
    return replace(result, problems=tuple(advice if p == problem else p for p in result.problems))


def _expand(spec: Spec) -> Plan:
    context = Context(spec, spec, list(spec.problems), networks=[spec.name])
    start = Site("", Output(spec.input or None, "input"), Scope(spec, "", {}))
    root: Layer | Group = Group("", False, (), "input")
    outputs = {"": start.input}
    if spec.layers is not None:
        try:
            root, output = _part(context, spec.layers, start.at(bind_arguments(context, "", spec.args, {}, start)))
            root, outputs = choose_outputs(context, root, output)
        except LimitReached:
            outputs = {"": Output(None, "")}
    output = next(iter(outputs.values()))
    if not context.problems:
        warn_no_scores(context, output)
    if all(p.warning for p in context.problems):
        warn_unused_outputs(context, list(outputs.values()))
        warn_unused_args(context)
        context.problems += context.warnings
        known = all(x.shape is not None for x in outputs.values())
        assert known, f"{spec.name}: an output is unknown, but no mistake was noted"
    return Plan(
        spec=spec,
        input=spec.input,
        shapes={name: x.shape or () for name, x in outputs.items()},
        ends=tuple(x.row for x in outputs.values()),
        root=root,
        layers=tuple(context.layers),
        args={name: node.plain for name, node in spec.args.items()},
        problems=tuple(sorted(set(context.problems))),
        blocks=frozenset(context.blocks),
        parts=context.parts,
        shape_error=context.shape_error,
    )


def _part(context: Context, node: Node, site: Site, item: bool = False) -> Part:
    """A list, a mapping, a layer, a block, or an argument that holds one of them; `item`: of a list or mapping."""
    if not item:
        check_alone(context, node, site)
    context.enter(node, site)
    read = _list if isinstance(node.value, list) else _dict if isinstance(node.value, dict) else _word
    around, context.spec = context.spec, site.scope.spec
    part, output = read(context, node, site)
    context.spec = around
    context.leave()
    if output.inputs:
        fix = "write a mapping, `join: {Concat: [input.0, input.1]}`"
        context.problem(node, site.label, f"gets {len(output.inputs)} inputs but does not join them; {fix}")
        return unknown_part(site)
    return part, output


def _word(context: Context, node: Node, site: Site) -> Part:
    """A layer without settings, or an argument that holds layers."""
    text = evaluate(context, node, site)
    if isinstance(text, Closure):
        return _part(context, text.node, site.at(text.scope))
    if text is UNKNOWN:
        return unknown_part(site)
    if isinstance(text, str) and text:
        return _call(context, text, Node(None, *node.place), node.place, site)
    message = f"{shown(text)} is not a layer; write a layer's name, such as ReLU, or {{Linear: 10}}"
    context.problem(node, site.label, _NO_LAYER if text is None else message)
    return unknown_part(site)


def _dict(context: Context, node: Node, site: Site) -> Part:
    """A layer, a group, or named children. `from` and `repeat` are handled by the list or mapping around it."""
    parts: dict[str, Node] = node.value
    own = [k for k in parts if k not in ("from", "repeat")]
    if own == ["layers"] and len(parts) > 1:
        return _part(context, parts["layers"], site)
    if "Network" in own:
        return _network(context, node, site)
    if len(own) == 1 and own[0][:1].isupper():
        return _call(context, own[0], parts[own[0]], node.keys[own[0]], site)
    for key in own:
        if meant := _lowercase_layer(key, parts[key]):
            context.problem(node.keys[key], site.label, f"unknown layer {key!r}. Did you mean {meant!r}?")
            return unknown_part(site)
    if mistake := _misplaced(parts, own):
        context.problem(node.keys[own[0]] if own else node, site.label, mistake)
        return unknown_part(site)
    return _mapping(context, node, site)


def _lowercase_layer(key: str, argument: Node) -> str:
    """The layer meant by `conv2d: {out_channels: 8}`: a child of that name would have layers, not settings."""
    meant = _LOWERCASE.get(key, "")
    value = argument.value
    settings = LAYERS[meant].settings if meant else {}
    written = any(k in settings or k in SETTINGS_ELSEWHERE for k in value) if isinstance(value, dict) else False
    return meant if meant and (written or value is None or isinstance(value, int | float)) else ""


def _misplaced(parts: dict[str, Node], own: list[str]) -> str:
    """What is wrong with a mapping that was meant as a layer; empty for named children."""
    types = [k for k in own if k in LAYERS]
    if not own:
        return _NO_LAYER
    if len(types) > 1:
        return f"{types[0]} and {types[1]} are in one mapping; write `- ` before each layer to make a list"
    settings = LAYERS[types[0]].settings if types else {}
    beside = [k for k in own if k in settings]
    if beside and len(beside) == len(own) - 1:
        argument = parts[types[0]].value
        values = (argument if isinstance(argument, dict) else {}) | {k: parts[k] for k in beside}
        inside = ", ".join(f"{k}: {shown(node.plain)}" for k, node in values.items())
        return f"settings belong inside their layer; write {{{types[0]}: {{{inside}}}}}, or indent them further"
    return ""


def _list(context: Context, node: Node, site: Site) -> Part:
    """nn.Sequential: each item takes the output of the one before."""
    children: list[Child] = []
    inside: dict[str, Output] = {}
    output, takes = site.input, Siblings.entered(node, site.input).takes("input")
    arrives = lambda: output  # noqa: E731
    for item, scope in list_items(context, node, site, arrives):
        if item is None:
            output = Output(None, output.row)
            continue
        key = str(len(children))
        part, output = _part(context, item, site.child(key, output, scope), item=True)
        children.append(Child(key, part, takes))
        inside[key], takes = output, (key,)
        if _at_end(context, site, key):
            break
    return Group(site.path, False, tuple(children), children[-1].key if children else "input"), replace(
        output, inside=inside
    )


def _mapping(context: Context, node: Node, site: Site) -> Part:
    """Named children; each takes the output of the one before, unless it says `from`."""
    siblings = Siblings.entered(node, site.input)
    context.enclosing.append(siblings)
    children, last = siblings.children, "input"
    inner = site.at(replace(site.scope, sibling=partial(value_at, siblings.outputs)))
    copies = lambda child: before_copies(child, siblings, last, inner)  # noqa: E731
    for key, child, scope in named_children(context, node, inner, copies):
        if child is None or not check_name(context, key, siblings, site):
            siblings.refuse(key)
            last = key
            continue
        part, out, takes = _child(context, child, site.child(key, site.input, scope), siblings, last)
        siblings.used.update(takes)
        siblings.add(key, out)
        children.append(Child(key, part, takes))
        last = last if out.bare else key
        if _at_end(context, site, key):
            break
    if context.spec is not context.root or site.path or not (context.spec.outputs or context.spec.named_outputs):
        siblings.used.add(last)
    context.enclosing.pop()
    note_unused(context, siblings, [child.key for child in children], site)
    output = siblings.outputs[last]
    if output.pieces:
        message = f"{last!r}, the last child, is split into pieces; join them: {{Concat: [{last}.0, {last}.1]}}"
        context.problem(node, site.label, message)
        output = Output(None, last)
    return Group(site.path, True, tuple(children), last), replace(output, inside=siblings.inside())


def _child(
    context: Context, child: Node, site: Site, siblings: Siblings, last: str
) -> tuple[Layer | Group, Output, tuple[str, ...]]:
    """A named child, its output, and the siblings that it takes."""
    parts = child.value if isinstance(child.value, dict) else {}
    own = [k for k in parts if k not in ("from", "repeat")]
    kind = own[0] if len(own) == 1 and own[0] in JOINS else ""
    splits = bool(kind) and JOINS[kind].pieces is not None
    if kind and not splits and not takes_number(JOINS[kind], parts[kind]):
        if "from" in parts:
            context.problem(child.keys["from"], site.label, f"{kind} names its inputs itself; remove `from`")
        before = replace(site, input=siblings.outputs[last])  # for $in_channels
        call = LayerCall(JOINS[kind], parts[kind], child.keys[kind], before)
        return join(context, call, siblings) if kind != "Parameter" else (*call_layer(context, call, ()), ())
    takes, entering = _entering(context, parts.get("from", child), siblings, site, last if "from" not in parts else "")
    if not takes:
        return *unknown_part(site), ()
    site = Site(site.path, entering, site.scope)
    if own == ["Again"]:
        return *use_again(context, parts["Again"], siblings, site), takes
    if kind and entering.inputs:
        _several_enter(context, kind, child.keys[kind], site)
    if splits:
        part, output = call_layer(context, LayerCall(JOINS[kind], parts[kind], child.keys[kind], site), (site.input,))
        return part, output if output.pieces else replace(output, pieces=_pieces(kind, parts[kind])), takes
    if len(own) == 1 and own[0] in LAYERS and not entering.inputs:
        call = LayerCall(LAYERS[own[0]], parts[own[0]], child.keys[own[0]], site)
        if name := named_size(context, call):
            return sized_by(context, call, name, siblings, takes)
    return *_part(context, child, site, item=True), takes


def _entering(
    context: Context, node: Node, siblings: Siblings, site: Site, last: str
) -> tuple[tuple[str, ...], Output]:
    """The inputs of a child: the output of the previous one, `last`, or what its `from` names; () if that is wrong."""
    if last:
        return siblings.takes(last), _layer_input(context, last, siblings.outputs[last], node, site)
    if not isinstance(node.value, list):
        source = sibling(context, node, siblings, site)
        return (siblings.takes(source[0]), _layer_input(context, *source, node, site)) if source else ((), site.input)
    if len(node.value) < 2:
        one = str(node.value[0].value) if node.value else "NAME"
        context.problem(node, site.label, f"`from` takes a name, or a list of several; write `from: {one[:60]}`")
        return (), site.input
    several = [sibling(context, one, siblings, site) for one in node.value]
    named = [one for one in several if one is not None]
    for name, output in named:
        single(context, name, output, node, site)
    if len(named) < len(several):
        return (), site.input
    first = named[0][1]
    return tuple(name for name, _ in named), Output(None, first.row, inputs=tuple(output.closed for _, output in named))


def _several_enter(context: Context, layer: str, place: tuple[int, int], site: Site) -> None:
    """Note a layer that takes one input, but gets several."""
    fix = "join them first, or write `from: input.0`"
    context.problem(place, site.label, f"{layer} takes one input, but gets {len(site.input.inputs)}; {fix}")


def _pieces(kind: str, argument: Node) -> tuple[None, ...]:
    """Placeholders for the pieces of a Chunk or Split with a mistake, so that their names are known."""
    value = next(iter(argument.plain.values()), None) if isinstance(argument.value, dict) else argument.plain
    number = len(value) if isinstance(value, list) else value if kind == "Chunk" else None
    return (None,) * (number if type(number) is int and 0 < number <= 1024 else 64)


def _layer_input(context: Context, name: str, output: Output, place: Node, site: Site) -> Output:
    """The output of a sibling as the input of a layer; a problem if it is split or a Parameter."""
    if output.pieces:
        fix = f"write `from: {name}.0` for the first"
        context.problem(place, site.label, f"{name!r} is split into {len(output.pieces)} pieces; {fix}")
    elif output.bare:
        context.problem(
            place, site.label, f"{name!r} is a Parameter, which only operations such as Add take; name a layer"
        )
    else:
        return output.closed
    return Output(None, name)


def _call(context: Context, name: str, argument: Node, place: tuple[int, int], site: Site) -> Part:
    """A layer of the table or a block, by its name."""
    if name in context.spec.blocks:
        return _block(context, context.spec.blocks[name], argument, place, site)
    number = name in JOINS and takes_number(JOINS[name], argument)
    if (name in LAYERS or number) and site.input.inputs:
        _several_enter(context, name, place, site)
        return unknown_part(site)
    if name in LAYERS:
        return call_layer(context, LayerCall(LAYERS[name], argument, place, site), (site.input,))
    if number:
        return with_number(context, LayerCall(JOINS[name], argument, place, site))
    message = _unknown_layer(context, name[:60])
    if name in JOINS or name == "Again":
        message = f"{name} works only among named siblings; write a mapping, `name: {{{name}: …}}`"
    context.problem(place, site.label, message)
    return unknown_part(site)


def _unknown_layer(context: Context, name: str) -> str:
    """The message for a name that is not a layer, with the layer that may be meant."""
    if message := unsupported(name):
        return message
    head = re.split(r"[:({ ]", name)[0]
    if head != name and head in LAYERS:
        return f"unknown layer {name!r}. Write `{head}: {{setting: value}}`, with a space after the colon"
    meant = LAYERS_ELSEWHERE.get(name.lower())
    hint = f" Did you mean {meant!r}?" if meant else closest(name, [*LAYERS, *context.spec.blocks, *JOINS])
    return f"unknown layer {name!r}.{hint or ' `cnn schema` lists all layers; define your own under `blocks:`'}"


def _block(context: Context, block: Block, argument: Node, place: tuple[int, int], site: Site) -> Part:
    """The layers of a block, which adds no level of names."""
    context.blocks.add(block.name)
    where = f"{site.label} ({block.name})"
    passed: dict[str, Any] = {}
    mistakes: list[tuple[tuple[int, int], str]] = []
    if isinstance(argument.value, dict) and block.args:
        passed = {name: evaluate(context, node, site) for name, node in argument.value.items() if name in block.args}
        others = [name for name in argument.value if name not in block.args]
        mistakes = [(argument.keys[name], unknown("argument", name, block.args)) for name in others]
    elif argument.value is not None and block.args:
        passed[next(iter(block.args))] = evaluate(context, argument, site)
    elif argument.value is not None:
        mistakes.append((argument.place, f"takes no arguments, but got {shown(argument.plain)}; remove it"))
    meant = "".join(message for _, message in mistakes)
    required = [name for name, default in block.args.items() if default.value is None and name not in passed]
    if required := [name for name in required if f"{name!r}?" not in meant]:
        form = ", ".join(f"{name}: …" for name in required)
        mistakes.append((place, missing(required, f"{{{block.name}: {{{form}}}}}")))
    for at, message in mistakes:
        context.problem(at, where, message)
    if mistakes or any(v is UNKNOWN for v in passed.values()):
        return unknown_part(site)
    inner = site.at(bind_arguments(context, block.name, block.args, passed, site))
    return expand_block(context, block, inner, lambda: _part(context, block.layers, inner))


def _network(context: Context, node: Node, site: Site) -> Part:
    """Another network as a part, up to the value `until`; like a block it adds no level of names."""
    call = read_network_part(context, node, site)
    if call is None:
        return unknown_part(site)
    saved = context.spec, context.until, context.until_reached, context.part_place, context.blocks
    context.parts[site.path] = call.spec.name
    context.networks.append(call.spec.name)
    context.part_place = context.part_place or node.place
    context.spec, context.blocks = call.spec, set()
    context.until, context.until_reached = call.until and (f"{site.path}.{call.until}").strip("."), False
    scope = bind_arguments(context, "", call.spec.args, call.args, site)
    try:
        part, output = _part(context, call.layers, site.at(scope))
    finally:
        context.networks.pop()
        context.spec, context.until, context.until_reached, context.part_place, context.blocks = saved
    context.blocks.update(used_blocks(context.spec, node.value.get("args")) if "args" in node.value else ())
    return ended(context, node, call, site, without_heads(context, call, site, part, output))


def _at_end(context: Context, site: Site, key: str) -> bool:
    """Whether a child is or contains the value at which the network, used as a part, ends."""
    if context.until is not None and site.child(key, site.input, site.scope).path == context.until:
        context.until_reached = True
    return context.until_reached
