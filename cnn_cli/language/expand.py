"""A spec, an input size and arguments become a plan: blocks, repeats and references are followed to the layers.

The spec is followed once, in the order of computation, carrying the shape along: what comes out of a layer decides what
the next one infers, and `$in_channels` what a block makes of itself. A mistake is noted at its place and the walk goes
on wherever a shape is still known, so that all mistakes are found at once.
"""

import re
from dataclasses import replace
from typing import Any

from cnn_cli.errors import closest
from cnn_cli.language.context import UNKNOWN, Closure, Flow, Full, Here, Scope, Walk, bind, value
from cnn_cli.language.joins import JOIN_TYPES
from cnn_cli.language.layer_call import Written, finish, leaf, nothing
from cnn_cli.language.names import Siblings, copies, fits, idle, items, known
from cnn_cli.language.parse import Block, Spec, words
from cnn_cli.language.plan import Child, Group, Layer, Plan
from cnn_cli.language.suggest_input import hint
from cnn_cli.language.yamltext import Node
from cnn_cli.layers import LAYERS, Shape, sizes
from cnn_cli.values import shown

_NO_LAYER = "a layer is missing here; write its name, or [] for nothing"

Part = tuple[Layer | Group, Flow]  # a part of the network, and what comes out of it


def plan(spec: Spec, args: dict[str, Node] | None = None, input: Shape | None = None) -> Plan:
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
    told = replace(problem, message=f"{fact}; {hint(mended, spec.input, small, fix)}")
    return replace(result, problems=tuple(told if p == problem else p for p in result.problems))


def _expand(spec: Spec) -> Plan:
    walk = Walk(spec, list(spec.problems))
    start = Here("", Flow(spec.input or None, "input"), Scope("", {}))
    root: Layer | Group = Group("", False, (), "input")
    flow = start.flow
    if spec.layers is not None:
        try:
            root, flow = _part(walk, spec.layers, start.at(bind(walk, "", spec.args, {}, start)))
            if spec.outputs:
                root, flow = _with_outputs(walk, root, flow)
        except Full:
            flow = Flow(None, "")
    if not walk.problems:
        _no_scores(walk, flow)
    if all(p.warning for p in walk.problems):
        _unused_args(walk)
        walk.problems += walk.warnings
    return Plan(
        spec,
        spec.input,
        flow.shape or (),
        root,
        tuple(walk.layers),
        {name: node.plain for name, node in spec.args.items()},
        tuple(sorted(set(walk.problems))),
        frozenset(walk.blocks),
        walk.shape_error,
    )


def _with_outputs(walk: Walk, root: Layer | Group, flow: Flow) -> Part:
    """With `outputs:`, the first of them is the network's output, and all are children of the outermost mapping."""
    keys = walk.spec.node.value["outputs"].keys
    main = next(iter(walk.spec.outputs))
    wanted = walk.outermost[main].shape if main in walk.outermost else None
    fine = isinstance(root, Group)
    for name in walk.spec.outputs:
        child = walk.outermost.get(name)
        if child is None or name == "input":
            names = [n for n in walk.outermost if n != "input"]
            fix = closest(name[:60], names) or " Write the name of one that is"
            message = f"{name[:60]!r} is no child of the outermost mapping.{fix}"
        elif child.pieces or child.bare:
            message = f"{name!r} is {'in pieces' if child.pieces else 'a parameter'}; name the output of a layer"
        elif wanted and child.shape and child.shape != wanted:
            message = f"{name!r} gives {sizes(child.shape)} and {main!r} {sizes(wanted)}; outputs share their classes"
            message += f", so make it {sizes(wanted)}"
        else:
            continue
        walk.problem(keys[name], "outputs", message)
        fine = False
    if not fine or not isinstance(root, Group):
        return root, flow
    return replace(root, output=main), walk.outermost[main]


def _no_scores(walk: Walk, flow: Flow) -> None:
    """Warn of a network that is to be trained, but does not end in one score for each class."""
    if walk.spec.train and flow.shape and len(flow.shape) > 1:
        message = f"gives {sizes(flow.shape)}, and `train` needs one score for each class; end with Flatten and Linear"
        walk.warn(walk.spec.node.keys["layers"], "layers", message)


def _unused_args(walk: Walk) -> None:
    """Warn of arguments that no text mentions; one in a part that is repeated 0 times is mentioned all the same."""
    owners = {"": (walk.spec.args, walk.spec.layers)}
    owners |= {name: (walk.spec.blocks[name].args, walk.spec.blocks[name].layers) for name in walk.blocks}
    for owner, (args, layers) in owners.items():
        text = " ".join(w for node in (layers, *args.values()) for w in words(node) if w.startswith("$"))
        named = set(re.findall(r"[A-Za-z_]\w*", text))
        for name, node in args.items():
            if name not in named:
                where = f"blocks.{owner}.args.{name}" if owner else f"args.{name}"
                message = f"nothing uses this argument; write ${name} where it belongs, or remove it"
                walk.warn((node.line, node.column), where, message)


def _part(walk: Walk, node: Node, here: Here) -> Part:
    """Whatever stands where a layer may stand: a list, a mapping, a layer, a block, or an argument that holds one."""
    walk.enter(node, here)
    read = _list if isinstance(node.value, list) else _dict if isinstance(node.value, dict) else _word
    result = read(walk, node, here)
    walk.leave()
    return result


def _word(walk: Walk, node: Node, here: Here) -> Part:
    """A layer without settings, or an argument that holds layers."""
    text = value(walk, node, here)
    if isinstance(text, Closure):
        return _part(walk, text.node, here.at(text.scope))
    if text is UNKNOWN:
        return nothing(here)
    place = node.line, node.column
    if isinstance(text, str) and text[:1].isupper():
        return _call(walk, text, Node(None, *place), place, here)
    hint = closest(text[:60], [*LAYERS, *walk.spec.blocks]) if isinstance(text, str) else ""
    wanted = hint or " Write a capitalised name, such as ReLU or {Linear: 10}"
    walk.problem(node, here.shown, _NO_LAYER if text is None else f"{shown(text)} is no layer.{wanted}")
    return nothing(here)


def _dict(walk: Walk, node: Node, here: Here) -> Part:
    """A layer, a group, or named children. The list or mapping around it has dealt with `from` and `repeat`."""
    parts: dict[str, Node] = node.value
    own = [k for k in parts if k not in ("from", "repeat")]
    if own == ["layers"] and len(parts) > 1:
        return _part(walk, parts["layers"], here)
    if len(own) == 1 and own[0][:1].isupper():
        return _call(walk, own[0], parts[own[0]], node.keys[own[0]], here)
    mistake = _misplaced(parts, own)
    if mistake:
        walk.problem(node.keys[own[0]] if own else node, here.shown, mistake)
        return nothing(here)
    return _mapping(walk, node, here)


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


def _list(walk: Walk, node: Node, here: Here) -> Part:
    """nn.Sequential: each item takes the output of the one before."""
    children: list[Child] = []
    flow, last = here.flow, "input"
    for item, scope in items(walk, node, here):
        if item is None:
            flow = Flow(None, flow.row)
            continue
        key = str(len(children))
        part, flow = _part(walk, item, here.child(key, flow, scope))
        children.append(Child(key, part, (last,)))
        last = key
    return Group(here.path, False, tuple(children), last), flow


def _mapping(walk: Walk, node: Node, here: Here) -> Part:
    """Named children, each taking the output of the one before unless it says `from`."""
    siblings = Siblings(node, {"input": here.flow})
    children: list[Child] = []
    last = "input"
    for key, child, scope in copies(walk, node, here):
        if not fits(walk, key, siblings, here):
            continue
        part, out, takes = _child(walk, child, here.child(key, here.flow, scope), siblings, last)
        siblings.used.update(takes)
        siblings.add(key, out)
        children.append(Child(key, part, takes))
        last = last if out.bare else key
    if not here.path:
        walk.outermost.update(siblings.flows)
    siblings.used.add(last)
    idle(walk, siblings, [child.key for child in children], here)
    flow = siblings.flows[last]
    if flow.pieces:
        message = f"{last!r}, the last child, is in pieces; join them: {{Concat: [{last}.0, {last}.1]}}"
        walk.problem(node, here.shown, message)
        flow = Flow(None, last)
    return Group(here.path, True, tuple(children), last), flow


def _child(
    walk: Walk, child: Node, here: Here, siblings: Siblings, last: str
) -> tuple[Layer | Group, Flow, tuple[str, ...]]:
    """A named child, what comes out of it, and the siblings that it takes."""
    parts = child.value if isinstance(child.value, dict) else {}
    own = [k for k in parts if k not in ("from", "repeat")]
    kind = own[0] if len(own) == 1 else ""
    if kind == "Parameter" or (kind in JOIN_TYPES and JOIN_TYPES[kind].joins):
        if "from" in parts:
            walk.problem(child.keys["from"], here.shown, f"{kind} says itself what it takes; remove `from`")
        written = Written(JOIN_TYPES[kind], parts[kind], child.keys[kind], here)
        return _join(walk, written, siblings) if kind != "Parameter" else (*leaf(walk, written, ()), ())
    named = parts.get("from")
    if named is not None and not known(walk, named, siblings, here):
        return *nothing(here), ()
    name = last if named is None else named.value
    here = replace(here, flow=_whole(walk, name, named or child, siblings, here))
    if kind == "Chunk":
        part, flow = leaf(walk, Written(JOIN_TYPES[kind], parts[kind], child.keys[kind], here), (here.flow,))
        return part, flow if flow.pieces else replace(flow, pieces=_pieces(parts[kind])), (name,)
    return *_part(walk, child, here), (name,)


def _pieces(argument: Node) -> int:
    """How many pieces a Chunk with a mistake was to have, so that their names are known all the same."""
    number = argument.value["chunks"].value if isinstance(argument.value, dict) and "chunks" in argument.value else None
    number = argument.value if isinstance(argument.value, int) else number
    return number if isinstance(number, int) and 0 < number <= 1024 else 64


def _whole(walk: Walk, name: str, place: Node, siblings: Siblings, here: Here) -> Flow:
    """What a layer takes from a sibling: an output in one piece, no parameter."""
    flow = siblings.flows[name]
    if flow.pieces:
        walk.problem(place, here.shown, f"{name!r} is in {flow.pieces} pieces; write `from: {name}.0` for the first")
    elif flow.bare:
        walk.problem(place, here.shown, f"{name!r} is a parameter, which only Add and Multiply take; name a layer")
    else:
        return flow
    return Flow(None, name)


def _join(walk: Walk, written: Written, siblings: Siblings) -> tuple[Layer | Group, Flow, tuple[str, ...]]:
    """Add, Multiply or Concat of siblings."""
    names, here, kind = written.argument, written.here, written.rule.name
    if not isinstance(names.value, list) or len(names.value) < 2:
        message = f"{kind} takes at least two siblings, not {shown(names.plain)}; write {{{kind}: [a, b]}}"
        walk.problem(names, here.shown, message)
        return *nothing(here), ()
    takes = tuple(n.value for n in names.value if known(walk, n, siblings, here))
    flows = tuple(siblings.flows[name] for name in takes)
    for name, flow in zip(takes, flows, strict=True):
        if flow.pieces:
            walk.problem(names, here.shown, f"{name!r} is in pieces; write {name}.0, {name}.1 and so on")
    if len(takes) < len(names.value) or any(f.shape is None or f.pieces for f in flows):
        return *nothing(here), takes
    return *finish(walk, written, {"bare": tuple(f.bare for f in flows)}, flows), takes


def _call(walk: Walk, name: str, argument: Node, place: tuple[int, int], here: Here) -> Part:
    """A layer of the table or a block, by its name."""
    if name in walk.spec.blocks:
        return _block(walk, walk.spec.blocks[name], argument, place, here)
    if name in LAYERS:
        return leaf(walk, Written(LAYERS[name], argument, place, here), (here.flow,))
    if name in JOIN_TYPES:
        message = f"{name} belongs among named siblings; write a mapping with `name: {{{name}: …}}` in it"
    else:
        message = f"unknown layer {name[:60]!r}.{_similar(walk, name[:60])}"
    walk.problem(place, here.shown, message)
    return nothing(here)


def _similar(walk: Walk, name: str) -> str:
    """What may be meant by a name that is no layer."""
    head = re.split(r"[:({ ]", name)[0]
    if head != name and head in LAYERS:
        return f" Write `{head}: {{setting: value}}`, with a space behind the colon"
    hint = closest(name, [*LAYERS, *walk.spec.blocks, *JOIN_TYPES])
    return hint or " `cnn schema` has all layers; one of your own is a block: write it under `blocks:`"


def _block(walk: Walk, block: Block, argument: Node, place: tuple[int, int], here: Here) -> Part:
    """A block adds no level of names: its layers stand where it is used."""
    walk.blocks.add(block.name)
    where = f"{here.shown} ({block.name})"
    given: dict[str, Any] = {}
    mistakes: list[tuple[tuple[int, int], str]] = []
    if isinstance(argument.value, dict):
        given = {name: value(walk, node, here) for name, node in argument.value.items() if name in block.args}
        mistakes = [(argument.keys[n], _no_argument(n, block)) for n in argument.value if n not in block.args]
    elif argument.value is not None and block.args:
        given[next(iter(block.args))] = value(walk, argument, here)
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
        walk.problem(at, where, message)
    if mistakes or any(v is UNKNOWN for v in given.values()):
        return nothing(here)
    return _part(walk, block.layers, here.at(bind(walk, block.name, block.args, given, here)))


def _no_argument(name: str, block: Block) -> str:
    write = closest(name, block.args) or f" Write one of {', '.join(block.args) or 'none: it takes no arguments'}"
    return f"unknown argument {name[:60]!r}.{write}"
