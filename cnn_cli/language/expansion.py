"""A spec, an input size and arguments become a plan: blocks, repeats and references are followed to the layers.

The spec is followed once, in the order of computation, carrying the shape along: what comes out of a layer decides what
the next one infers, and `$in_channels` what a block makes of itself. A mistake is noted at its place and expanding goes
on wherever a shape is still known, so that all mistakes are found at once.
"""

import re
from dataclasses import replace
from typing import Any

from cnn_cli.errors import closest
from cnn_cli.language.children import Siblings, check_name, check_sibling, list_items, named_children, warn_unused
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
from cnn_cli.language.input_hint import suggest_input
from cnn_cli.language.layer_call import LayerCall, add_layer, call_layer, unknown_part
from cnn_cli.language.plan import Child, Group, Layer, Plan
from cnn_cli.language.spec import Block, Spec, words
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import JOINS, LAYERS, Shape, sizes
from cnn_cli.values import shown

_NO_LAYER = "a layer is missing here; write its name, or [] for nothing"

Part = tuple[Layer | Group, Output]  # a part of the network, and what comes out of it


def expand(spec: Spec, args: dict[str, Node] | None = None, input: Shape | None = None) -> Plan:
    """Follow `spec` with `args` and `input` in place of its own. Mistakes end up in `problems`; none is raised.

    The first problem of size says which input would fit, where one would.
    """
    spec = replace(spec, args=spec.args | (args or {}), input=tuple(input or spec.input))
    result = _expand(spec)
    if result.shape_error is None:
        return result
    problem, small = result.shape_error
    others = {(p.line, p.column) for p in result.errors if p != problem}

    def mended(shape: Shape) -> bool:
        other = _expand(replace(spec, input=shape))
        return other.shape_error is None and {(p.line, p.column) for p in other.errors} <= others

    fact, _, fix = problem.message.rpartition("; ")
    told = replace(problem, message=f"{fact}; {suggest_input(mended, spec.input, small, fix)}")
    return replace(result, problems=tuple(told if p == problem else p for p in result.problems))


def _expand(spec: Spec) -> Plan:
    context = Context(spec, list(spec.problems))
    start = Site("", Output(spec.input or None, "input"), Scope("", {}))
    root: Layer | Group = Group("", False, (), "input")
    output = start.input
    if spec.layers is not None:
        try:
            root, output = _part(context, spec.layers, start.at(bind_arguments(context, "", spec.args, {}, start)))
            if spec.outputs:
                root, output = _with_outputs(context, root, output)
        except LimitReached:
            output = Output(None, "")
    if not context.problems:
        _no_scores(context, output)
    if all(p.warning for p in context.problems):
        _unused_args(context)
        context.problems += context.warnings
        assert output.shape is not None, f"{spec.name}: no output is known, and no mistake was noted"
    return Plan(
        spec,
        spec.input,
        output.shape or (),
        root,
        tuple(context.layers),
        {name: node.plain for name, node in spec.args.items()},
        tuple(sorted(set(context.problems))),
        frozenset(context.blocks),
        context.shape_error,
    )


def _with_outputs(context: Context, root: Layer | Group, output: Output) -> Part:
    """With `outputs:`, the first of them is the network's output, and all are children of the outermost mapping."""
    keys = context.spec.node.value["outputs"].keys
    main = next(iter(context.spec.outputs))
    wanted = context.outermost[main].shape if main in context.outermost else None
    fine = isinstance(root, Group)
    for name in context.spec.outputs:
        child = context.outermost.get(name)
        if child is None or name == "input":
            names = [n for n in context.outermost if n != "input"]
            fix = closest(name[:60], names) or " Write the name of one that is"
            message = f"{name[:60]!r} is no child of the outermost mapping.{fix}"
        elif child.pieces or child.bare:
            message = f"{name!r} is {'in pieces' if child.pieces else 'a parameter'}; name the output of a layer"
        elif wanted and child.shape and child.shape != wanted:
            message = f"{name!r} gives {sizes(child.shape)} and {main!r} {sizes(wanted)}; outputs share their classes"
            message += f", so make it {sizes(wanted)}"
        else:
            continue
        context.problem(keys[name], "outputs", message)
        fine = False
    if not fine or not isinstance(root, Group):
        return root, output
    return replace(root, output=main), context.outermost[main]


def _no_scores(context: Context, output: Output) -> None:
    """Warn of a network that is to be trained, but does not end in one score for each class."""
    if context.spec.train and output.shape and len(output.shape) > 1:
        message = (
            f"gives {sizes(output.shape)}, and `train` needs one score for each class; end with Flatten and Linear"
        )
        context.warn(context.spec.node.keys["layers"], "layers", message)


def _unused_args(context: Context) -> None:
    """Warn of arguments that no text mentions; one in a part that is repeated 0 times is mentioned all the same."""
    owners = {"": (context.spec.args, context.spec.layers)}
    owners |= {name: (context.spec.blocks[name].args, context.spec.blocks[name].layers) for name in context.blocks}
    for owner, (args, layers) in owners.items():
        text = " ".join(w for node in (layers, *args.values()) for w in words(node) if w.startswith("$"))
        named = set(re.findall(r"[A-Za-z_]\w*", text))
        for name, node in args.items():
            if name not in named:
                where = f"blocks.{owner}.args.{name}" if owner else f"args.{name}"
                message = f"nothing uses this argument; write ${name} where it belongs, or remove it"
                context.warn((node.line, node.column), where, message)


def _part(context: Context, node: Node, site: Site) -> Part:
    """Whatever stands where a layer may stand: a list, a mapping, a layer, a block, or an argument that holds one."""
    context.enter(node, site)
    read = _list if isinstance(node.value, list) else _dict if isinstance(node.value, dict) else _word
    result = read(context, node, site)
    context.leave()
    return result


def _word(context: Context, node: Node, site: Site) -> Part:
    """A layer without settings, or an argument that holds layers."""
    text = evaluate(context, node, site)
    if isinstance(text, Closure):
        return _part(context, text.node, site.at(text.scope))
    if text is UNKNOWN:
        return unknown_part(site)
    place = node.line, node.column
    if isinstance(text, str) and text[:1].isupper():
        return _call(context, text, Node(None, *place), place, site)
    hint = closest(text[:60], [*LAYERS, *context.spec.blocks]) if isinstance(text, str) else ""
    wanted = hint or " Write a capitalised name, such as ReLU or {Linear: 10}"
    context.problem(node, site.label, _NO_LAYER if text is None else f"{shown(text)} is no layer.{wanted}")
    return unknown_part(site)


def _dict(context: Context, node: Node, site: Site) -> Part:
    """A layer, a group, or named children. The list or mapping around it has dealt with `from` and `repeat`."""
    parts: dict[str, Node] = node.value
    own = [k for k in parts if k not in ("from", "repeat")]
    if own == ["layers"] and len(parts) > 1:
        return _part(context, parts["layers"], site)
    if len(own) == 1 and own[0][:1].isupper():
        return _call(context, own[0], parts[own[0]], node.keys[own[0]], site)
    mistake = _misplaced(parts, own)
    if mistake:
        context.problem(node.keys[own[0]] if own else node, site.label, mistake)
        return unknown_part(site)
    return _mapping(context, node, site)


def _misplaced(parts: dict[str, Node], own: list[str]) -> str:
    """What is wrong with a mapping that looks like layers without being any; empty for children with names."""
    types = [k for k in own if k in LAYERS]
    if not own:
        return _NO_LAYER
    if len(types) > 1:
        return f"{types[0]} and {types[1]} stand in one mapping; write `- ` before each layer to make it a list"
    settings = LAYERS[types[0]].settings if types else {}
    beside = [k for k in own if k in settings]
    if beside and len(beside) == len(own) - 1:
        given = parts[types[0]].value
        values = (given if isinstance(given, dict) else {}) | {k: parts[k] for k in beside}
        inside = ", ".join(f"{k}: {shown(node.plain)}" for k, node in values.items())
        return f"settings stand inside their layer; write {{{types[0]}: {{{inside}}}}}, or indent them further"
    return ""


def _list(context: Context, node: Node, site: Site) -> Part:
    """nn.Sequential: each item takes the output of the one before."""
    children: list[Child] = []
    output, last = site.input, "input"
    for item, scope in list_items(context, node, site):
        if item is None:
            output = Output(None, output.row)
            continue
        key = str(len(children))
        part, output = _part(context, item, site.child(key, output, scope))
        children.append(Child(key, part, (last,)))
        last = key
    return Group(site.path, False, tuple(children), last), output


def _mapping(context: Context, node: Node, site: Site) -> Part:
    """Named children, each taking the output of the one before unless it says `from`."""
    siblings = Siblings(node, {"input": site.input})
    children: list[Child] = []
    last = "input"
    for key, child, scope in named_children(context, node, site):
        if not check_name(context, key, siblings, site):
            continue
        part, out, takes = _child(context, child, site.child(key, site.input, scope), siblings, last)
        siblings.used.update(takes)
        siblings.add(key, out)
        children.append(Child(key, part, takes))
        last = last if out.bare else key
    if not site.path:
        context.outermost.update(siblings.outputs)
    siblings.used.add(last)
    warn_unused(context, siblings, [child.key for child in children], site)
    output = siblings.outputs[last]
    if output.pieces:
        message = f"{last!r}, the last child, is in pieces; join them: {{Concat: [{last}.0, {last}.1]}}"
        context.problem(node, site.label, message)
        output = Output(None, last)
    return Group(site.path, True, tuple(children), last), output


def _child(
    context: Context, child: Node, site: Site, siblings: Siblings, last: str
) -> tuple[Layer | Group, Output, tuple[str, ...]]:
    """A named child, what comes out of it, and the siblings that it takes."""
    parts = child.value if isinstance(child.value, dict) else {}
    own = [k for k in parts if k not in ("from", "repeat")]
    kind = own[0] if len(own) == 1 else ""
    if kind == "Parameter" or (kind in JOINS and JOINS[kind].joins):
        if "from" in parts:
            context.problem(child.keys["from"], site.label, f"{kind} says itself what it takes; remove `from`")
        call = LayerCall(JOINS[kind], parts[kind], child.keys[kind], site)
        return _join(context, call, siblings) if kind != "Parameter" else (*call_layer(context, call, ()), ())
    named = parts.get("from")
    if named is not None and not check_sibling(context, named, siblings, site):
        return *unknown_part(site), ()
    name = last if named is None else named.value
    site = replace(site, input=_whole(context, name, named or child, siblings, site))
    if kind == "Chunk":
        part, output = call_layer(context, LayerCall(JOINS[kind], parts[kind], child.keys[kind], site), (site.input,))
        return part, output if output.pieces else replace(output, pieces=_pieces(parts[kind])), (name,)
    return *_part(context, child, site), (name,)


def _pieces(argument: Node) -> int:
    """How many pieces a Chunk with a mistake was to have, so that their names are known all the same."""
    number = argument.value["chunks"].value if isinstance(argument.value, dict) and "chunks" in argument.value else None
    number = argument.value if isinstance(argument.value, int) else number
    return number if isinstance(number, int) and 0 < number <= 1024 else 64


def _whole(context: Context, name: str, place: Node, siblings: Siblings, site: Site) -> Output:
    """What a layer takes from a sibling: an output in one piece, no parameter."""
    output = siblings.outputs[name]
    if output.pieces:
        context.problem(
            place, site.label, f"{name!r} is in {output.pieces} pieces; write `from: {name}.0` for the first"
        )
    elif output.bare:
        context.problem(place, site.label, f"{name!r} is a parameter, which only Add and Multiply take; name a layer")
    else:
        return output
    return Output(None, name)


def _join(context: Context, call: LayerCall, siblings: Siblings) -> tuple[Layer | Group, Output, tuple[str, ...]]:
    """Add, Multiply or Concat of siblings."""
    names, site, kind = call.argument, call.site, call.rule.name
    if not isinstance(names.value, list) or len(names.value) < 2:
        message = f"{kind} takes at least two siblings, not {shown(names.plain)}; write {{{kind}: [a, b]}}"
        context.problem(names, site.label, message)
        return *unknown_part(site), ()
    takes = tuple(n.value for n in names.value if check_sibling(context, n, siblings, site))
    inputs = tuple(siblings.outputs[name] for name in takes)
    for name, output in zip(takes, inputs, strict=True):
        if output.pieces:
            context.problem(names, site.label, f"{name!r} is in pieces; write {name}.0, {name}.1 and so on")
    if len(takes) < len(names.value) or any(f.shape is None or f.pieces for f in inputs):
        return *unknown_part(site), takes
    return *add_layer(context, call, {"bare": tuple(f.bare for f in inputs)}, inputs), takes


def _call(context: Context, name: str, argument: Node, place: tuple[int, int], site: Site) -> Part:
    """A layer of the table or a block, by its name."""
    if name in context.spec.blocks:
        return _block(context, context.spec.blocks[name], argument, place, site)
    if name in LAYERS:
        return call_layer(context, LayerCall(LAYERS[name], argument, place, site), (site.input,))
    if name in JOINS:
        message = f"{name} belongs among named siblings; write a mapping with `name: {{{name}: …}}` in it"
    else:
        message = f"unknown layer {name[:60]!r}.{_similar(context, name[:60])}"
    context.problem(place, site.label, message)
    return unknown_part(site)


def _similar(context: Context, name: str) -> str:
    """What may be meant by a name that is no layer."""
    head = re.split(r"[:({ ]", name)[0]
    if head != name and head in LAYERS:
        return f" Write `{head}: {{setting: value}}`, with a space behind the colon"
    hint = closest(name, [*LAYERS, *context.spec.blocks, *JOINS])
    return hint or " `cnn schema` has all layers; one of your own is a block: write it under `blocks:`"


def _block(context: Context, block: Block, argument: Node, place: tuple[int, int], site: Site) -> Part:
    """A block adds no level of names: its layers stand where it is used."""
    context.blocks.add(block.name)
    where = f"{site.label} ({block.name})"
    given: dict[str, Any] = {}
    mistakes: list[tuple[tuple[int, int], str]] = []
    if isinstance(argument.value, dict):
        given = {name: evaluate(context, node, site) for name, node in argument.value.items() if name in block.args}
        mistakes = [(argument.keys[n], _no_argument(n, block)) for n in argument.value if n not in block.args]
    elif argument.value is not None and block.args:
        given[next(iter(block.args))] = evaluate(context, argument, site)
    elif argument.value is not None:
        message = f"takes no arguments, but {shown(argument.plain)} is written; remove it"
        mistakes.append(((argument.line, argument.column), message))
    meant = "".join(message for _, message in mistakes)
    missing = [n for n, default in block.args.items() if default.value is None and n not in given]
    if missing := [n for n in missing if f"{n!r}?" not in meant]:
        form = ", ".join(f"{name}: …" for name in missing)
        verb = "is" if len(missing) == 1 else "are"
        mistakes.append((place, f"{' and '.join(missing)} {verb} missing; write {{{block.name}: {{{form}}}}}"))
    for at, message in mistakes:
        context.problem(at, where, message)
    if mistakes or any(v is UNKNOWN for v in given.values()):
        return unknown_part(site)
    return _part(context, block.layers, site.at(bind_arguments(context, block.name, block.args, given, site)))


def _no_argument(name: str, block: Block) -> str:
    write = closest(name, block.args) or f" Write one of {', '.join(block.args) or 'none: it takes no arguments'}"
    return f"unknown argument {name[:60]!r}.{write}"
