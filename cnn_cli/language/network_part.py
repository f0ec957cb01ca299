"""`{Network: resnet50, until: layer4, args: {…}}`: how another network becomes a part of this one."""

import re
from dataclasses import dataclass, replace
from typing import Any

from cnn_cli.errors import closest, listed, unknown
from cnn_cli.language.context import UNKNOWN, Closure, Context, Output, Site, evaluate
from cnn_cli.language.layer_call import unknown_part
from cnn_cli.language.plan import Group, Layer
from cnn_cli.language.siblings import paths, value_at
from cnn_cli.language.spec import Spec, words
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import JOINS
from cnn_cli.values import shown

_ALL = " `cnn list` shows all; those in the same file can be used, too"
_KEYS = ("Network", "until", "args", "from", "repeat")


@dataclass(frozen=True)
class NetworkPart:
    """A network of the registry as a part, with the arguments that are passed to it, up to a value of it or its end."""

    spec: Spec
    layers: Node
    args: dict[str, Any]
    until: str | None


def read_network_part(context: Context, node: Node, site: Site) -> NetworkPart | None:
    """The part described by a mapping with `Network`; None, with a problem reported, if it has a mistake."""
    parts: dict[str, Node] = node.value
    mistakes = [(node.keys[key], unknown("key", key, _KEYS)) for key in parts if key not in _KEYS]
    name, until = (evaluate(context, parts[key], site) if key in parts else None for key in ("Network", "until"))
    if name is UNKNOWN or until is UNKNOWN:
        return None
    spec = context.root.networks.get(name) if isinstance(name, str) else None
    if message := _mistake(context, name, spec):
        mistakes.append((parts["Network"].place, message))
    if until is not None and not (isinstance(until, str) and until):
        mistakes.append((parts["until"].place, f"`until` must name a value, such as layer4, not {shown(until)}"))
    args = _arguments(context, node, spec, site, mistakes) if spec is not None else {}
    for place, message in mistakes:
        context.problem(place, site.label, message)
    if mistakes or spec is None or spec.layers is None or any(value is UNKNOWN for value in args.values()):
        return None
    return NetworkPart(spec, _needed_layers(spec, spec.layers, until), args, until)


def _needed_layers(spec: Spec, layers: Node, until: str | None) -> Node:
    """The layers without children that only auxiliary outputs need: the input here may not fit those."""
    children = layers.value
    end = (until or next(iter(spec.outputs), "")).partition(".")[0]
    if not spec.outputs or not isinstance(children, dict) or end not in children or "repeat" in words(layers):
        return layers
    takes: dict[str, list[str]] = {}
    last = "input"
    for key, child in children.items():
        parts = child.value if isinstance(child.value, dict) else {}
        named = "from" in parts or any(kind in JOINS and isinstance(parts[kind].value, list) for kind in parts)
        takes[key] = re.findall(r"[\w-]+", str(child.plain)) + [last] * (not named)
        last = last if "Parameter" in parts else key
    needed, waiting = set[str](), [end]
    while waiting:
        key = waiting.pop()
        if key in takes and key not in needed:
            needed.add(key)
            waiting += takes[key]
    upto = list(children)[: list(children).index(end) + 1]  # later ones cannot lead to it
    return replace(layers, value={key: children[key] for key in upto if key in needed})


def _mistake(context: Context, name: Any, spec: Spec | None) -> str:
    """Why the network `name` cannot be a part here; empty if it can."""
    if spec is None:
        return f"unknown network {shown(name)}.{closest(str(name)[:60], context.root.networks) or _ALL}"
    if spec.name in context.networks:
        chain = " → ".join([*context.networks[context.networks.index(spec.name) :], spec.name])
        return f"{spec.name} would be a part of itself ({chain}); name another network"
    if any(not p.warning for p in spec.problems) or spec.layers is None:
        return _has_mistakes(spec)
    return ""


def _has_mistakes(spec: Spec) -> str:
    return f"the network {spec.name} has mistakes, which `cnn check` reports; fix them first"


def _arguments(
    context: Context, node: Node, spec: Spec, site: Site, mistakes: list[tuple[tuple[int, int], str]]
) -> dict[str, Any]:
    """The arguments that `args:` passes to the network; their mistakes are appended to `mistakes`."""
    args = node.value.get("args", Node({}, *node.place))
    written = args.value
    if not isinstance(written, dict):
        mistakes.append((args.place, f"`args` must be a mapping, not {shown(args.plain)}; write {{classes: 10}}"))
        return {}
    mistakes += [(args.keys[n], unknown("argument", n, spec.args or ["none"])) for n in written if n not in spec.args]
    required = [name for name, default in spec.args.items() if default.value is None and name not in written]
    if required and not mistakes:
        form = ", ".join(f"{name}: …" for name in required)
        mistakes.append((node.keys["Network"], f"{spec.name} needs {' and '.join(required)}; write args: {{{form}}}"))
    passed = {name: value for name, value in written.items() if name in spec.args}
    blocks = {
        name for name, value in passed.items() if isinstance(value.value, str) and value.value in context.spec.blocks
    }
    return {
        name: Closure(value, site.scope) if name in blocks else evaluate(context, value, site)
        for name, value in passed.items()
    }


def without_heads(
    context: Context, call: NetworkPart, site: Site, part: Layer | Group, output: Output
) -> tuple[Layer | Group, Output]:
    """The part without the layers that only the auxiliary outputs of its network need, which are for its training."""
    if not call.spec.outputs or not isinstance(part, Group) or not part.named:
        return part, output
    if call.until is None:
        main = next(iter(call.spec.outputs))
        part, output = replace(part, output=main), replace(output.inside.get(main, output), inside=output.inside)
    heads = {child.key for child in part.children} - part.leading_to(part.output)
    prefixes = tuple(f"{site.path}.{key}".strip(".") for key in heads)

    def belongs(name: str) -> bool:
        return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)

    context.layers = [layer for layer in context.layers if not belongs(layer.name)]
    context.unused = {path: noted for path, noted in context.unused.items() if not belongs(path)}
    inside = {name: value for name, value in output.inside.items() if name.partition(".")[0] not in heads}
    children = tuple(child for child in part.children if child.key not in heads)
    return replace(part, children=children), replace(output, inside=inside)


def ended(
    context: Context, node: Node, call: NetworkPart, site: Site, made: tuple[Layer | Group, Output]
) -> tuple[Layer | Group, Output]:
    """The part with the output that `until` names; a problem if the network has no such value."""
    part, output = made
    if call.until is None:
        main = next(iter(call.spec.outputs), "")
        if main and output.shape is not None and not (isinstance(part, Group) and part.named and main in output.inside):
            context.problem(node.keys["Network"], site.label, _has_mistakes(call.spec))
            return unknown_part(site)
        return part, output
    value = value_at(output.inside, call.until)
    split = value_at(output.inside, call.until.rpartition(".")[0])
    place = node.value["until"].place
    if value is None:
        known = [*output.inside, *paths(output.inside, call.until.partition(".")[0])]
        fix = closest(call.until[:60], known) or f" Expected one of {listed(list(output.inside))}"
        context.problem(place, site.label, f"{call.spec.name} has no value {call.until[:60]!r}.{fix}")
    elif value.pieces or value.bare or (split and split.pieces):
        reason = "is split into pieces" if value.pieces else "is a Parameter" if value.bare else "is a piece"
        context.problem(place, site.label, f"{call.until!r} of {call.spec.name} {reason}; name the output of a layer")
    else:
        return part, output
    return unknown_part(site)
