"""A layer's settings, complete and checked, and the row that its rules make of what arrives."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from cnn_cli.errors import closest
from cnn_cli.language.context import UNKNOWN, Context, LimitReached, Output, Site, evaluate_deep
from cnn_cli.language.plan import Group, Layer
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import REQUIRED, LayerType, ShapeError, sizes
from cnn_cli.values import product, shown

MOST_VALUES = 10**12  # parameters of a network, or activation values of one layer: more is a slip

Place = tuple[int, int]
Given = dict[str, tuple[Node, Any]]  # name → where it is written, and its value


@dataclass(frozen=True)
class LayerCall:
    """A layer as it is written: what stands behind its colon, at which line and column, and what arrives there."""

    rule: LayerType
    argument: Node
    place: Place
    site: Site

    @property
    def where(self) -> str:
        return f"{self.site.label} ({self.rule.name})"


def unknown_part(site: Site) -> tuple[Group, Output]:
    """In place of a part that could not be understood: from here on the shape is unknown."""
    return Group(site.path, False, (), "input"), Output(None, site.input.row)


def call_layer(context: Context, call: LayerCall, inputs: tuple[Output, ...]) -> tuple[Layer | Group, Output]:
    """A layer that takes what arrives in `inputs` (none for a parameter, several for a join)."""
    given = _given(context, call)
    settings = _complete(context, call, given)
    if settings is None or any(f.shape is None for f in inputs):
        return unknown_part(call.site)
    return add_layer(context, call, settings, inputs, tuple(given))


def add_layer(
    context: Context, call: LayerCall, settings: dict[str, Any], inputs: tuple[Output, ...], names: tuple[str, ...] = ()
) -> tuple[Layer | Group, Output]:
    """The shape rule, the bounds, and the row. `names` are the settings that the spec writes."""
    rule, site = call.rule, call.site
    shapes = tuple(f.shape or () for f in inputs)
    try:
        out = rule.output(settings, shapes if rule.joins else shapes[0] if shapes else ())
    except ShapeError as error:
        context.shape_problem(call.place, call.where, error, inputs)
        return unknown_part(site)
    rows = tuple(f.row for f in inputs)
    layer = Layer(site.path, rule.name, rule, settings, names, rows, shapes, out, call.place[0])
    _bounded(context, layer, call)
    warning = rule.warning(layer.input_shape, context.types)
    if warning and not any(rule.settings[name].inferred for name in names):  # who writes in_features means it
        context.problem(call.place, call.where, warning, warning=True)
    context.layers.append(layer)
    context.types.add(layer.type)
    return layer, Output(out, site.path, settings.get("chunks", 0), bare=rule.name == "Parameter")


def _bounded(context: Context, layer: Layer, call: LayerCall) -> None:
    context.params += layer.params
    counts = (context.params, "parameters"), (product(layer.output_shape), "activation values for one image")
    for count, what in counts:
        if count > MOST_VALUES:
            message = (
                f"needs {count:.3g} {what}, and more than {MOST_VALUES:.0e} are surely a slip; write smaller sizes"
            )
            context.problem(call.place, call.where, message)
            raise LimitReached


def _complete(context: Context, call: LayerCall, given: Given) -> dict[str, Any] | None:
    """All settings of a layer: written, inferred, defaults. None, and a problem each, where they are wrong."""
    rule, site = call.rule, call.site
    read, mistakes = _read(call, given)
    mistakes += [*_strangers(call, given), *_missing(call, given, read)]
    for place, message in mistakes:
        context.problem(place, call.where, message)
    if mistakes or any(value is UNKNOWN for _, value in given.values()):
        return None
    try:
        inferred = rule.infer(site.input.shape) if site.input.shape is not None else {}
    except ShapeError as error:
        context.shape_problem(call.place, call.where, error, (site.input,))
        return None
    for place, message in _contradictions(site.input, given, read, inferred):
        context.problem(place, call.where, message)
    settings = {n: inferred[n] if n in inferred else read.get(n, s.default) for n, s in rule.settings.items()}
    if any(s is REQUIRED for s in settings.values()):  # nothing to infer from: an earlier mistake hides what arrives
        return None
    try:
        rule.check(settings)
    except ValueError as error:
        context.problem(call.place, call.where, str(error))
        return None
    return settings


def _given(context: Context, call: LayerCall) -> Given:
    """What is written for a layer: nothing, keyword arguments, or one value for the first."""
    argument, rule, site = call.argument, call.rule, call.site
    if isinstance(argument.value, dict):
        own = {name: node for name, node in argument.value.items() if name in rule.settings}
        return {name: (node, evaluate_deep(context, node, site)) for name, node in own.items()}
    if argument.value is None or rule.first is None:
        return {}
    return {rule.first: (argument, evaluate_deep(context, argument, site))}


def _read(call: LayerCall, given: Given) -> tuple[dict[str, Any], list[tuple[Place, str]]]:
    """The values in their normal form, and what is wrong with the others."""
    read, mistakes = {}, []
    for name, (node, value) in given.items():
        if value is UNKNOWN:
            continue
        try:
            read[name] = call.rule.settings[name].kind.read(value)
        except ValueError as error:
            hint = f"; write ${value}" if isinstance(value, str) and value in call.site.scope.values else ""
            if node is call.argument and isinstance(value, list):
                hint = f"; write settings by name, {_form(call, given)}"
            mistakes.append(((node.line, node.column), f"{name} {error}{hint}"))
    return read, mistakes


def _strangers(call: LayerCall, given: Given) -> Iterator[tuple[Place, str]]:
    """Settings that the layer does not have."""
    argument, rule = call.argument, call.rule
    if isinstance(argument.value, dict):
        for name in argument.value:
            if name not in rule.settings:
                yield argument.keys[name], _unknown(name, rule)
    elif argument.value is not None and rule.first is None:
        message = f"takes no settings, but {shown(argument.plain)} is written; remove it"
        yield (argument.line, argument.column), message


def _unknown(name: str, rule: LayerType) -> str:
    if name in ("from", "repeat"):
        return f"`{name}` stands beside the layer, not inside it: {{{rule.name}: …, {name}: …}}"
    if name == "inplace":
        return "no layer works in place, so that every output can be looked at; remove inplace"
    known = closest(name, rule.settings) or f" Write one of {', '.join(rule.settings) or 'none: it has no settings'}"
    return f"unknown setting {name[:60]!r}.{known}"


def _missing(call: LayerCall, given: Given, read: Collection[str]) -> Iterator[tuple[Place, str]]:
    """Required settings that are not there, unless one was misspelt or all are in one list, as its message says."""
    rule, argument = call.rule, call.argument
    if isinstance(argument.value, list) and rule.first in given and rule.first not in read:
        return
    strangers = argument.value if isinstance(argument.value, dict) else ()
    meant = "".join(closest(name, rule.settings) for name in strangers if name not in rule.settings)
    names = [n for n in _required(rule) if n not in given and repr(n) not in meant]
    if names:
        verb = "is" if len(names) == 1 else "are"
        yield call.place, f"{' and '.join(names)} {verb} missing; write {_form(call, given)}"


def _required(rule: LayerType) -> list[str]:
    return [name for name, s in rule.settings.items() if s.default is REQUIRED and not s.inferred]


def _form(call: LayerCall, given: Given) -> str:
    """The layer with what is written and what is required: {Conv2d: {out_channels: 32, kernel_size: …}}."""
    known = {} if isinstance(call.argument.value, list) else given
    parts = [f"{name}: {shown(node.plain)}" for name, (node, _) in known.items()]
    parts += [f"{name}: …" for name in _required(call.rule) if name not in known]
    return f"{{{call.rule.name}: {{{', '.join(parts)}}}}}"


def _contradictions(
    output: Output, given: Given, read: dict[str, Any], inferred: dict[str, Any]
) -> Iterator[tuple[Place, str]]:
    """What follows from the input need not be written; written all the same, it must be right."""
    shape = output.shape or ()
    for name, value in inferred.items():
        if read.get(name, value) != value:
            node = given[name][0]
            fix = f"remove it or write {value}"
            if name == "in_features" and len(shape) > 1 and read[name] == product(shape):
                fix = "put Flatten before it"
            message = f"{name} {read[name]} is written, but {sizes(shape)} arrives from {output.source}; {fix}"
            yield (node.line, node.column), message
