"""The settings of a layer, completed and checked, and its row of the plan with the shapes that its rules give."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from cnn_cli.errors import unknown
from cnn_cli.language.context import UNKNOWN, Context, LimitReached, Output, Site, evaluate, evaluate_deep
from cnn_cli.language.foreign_names import SETTINGS_ELSEWHERE
from cnn_cli.language.plan import Group, Layer
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import REQUIRED, LayerType, ShapeError, SizeOf, sizes
from cnn_cli.values import shown

MOST_VALUES = 10**12  # parameters of a network, or activation values of one layer: more is a mistake

Place = tuple[int, int]
Arguments = dict[str, tuple[Node, Any]]  # setting → where it is written, and its value

MOST_VALID = 20_000
_VALID: dict[tuple[Any, ...], Layer] = {}  # layers without mistakes, by what their settings and sizes depend on


@dataclass(frozen=True)
class LayerCall:
    """A layer as it is written: its row of the table, what follows its colon, its line and column, and its site."""

    rule: LayerType
    argument: Node
    place: Place
    site: Site
    size: tuple[str, Output] | None = None  # the setting that names a sibling, and that sibling
    shared_with: str = ""  # the row whose weights it shares

    @property
    def where(self) -> str:
        return f"{self.site.label} ({self.rule.name})"


def unknown_part(site: Site) -> tuple[Group, Output]:
    """A placeholder for a part with a mistake: its output has an unknown shape."""
    return Group(site.path, False, (), "input"), Output(None, site.input.row)


def named_size(context: Context, call: LayerCall) -> str:
    """The setting whose value is the name of a sibling; empty if there is none."""
    for name, setting in call.rule.settings.items():
        own = call.argument.value.get(name) if isinstance(call.argument.value, dict) else call.argument
        if setting.sibling and own is not None and (name == call.rule.first or own is not call.argument):
            return name if isinstance(own.value, str) and isinstance(evaluate(context, own, call.site), str) else ""
    return ""


def call_layer(context: Context, call: LayerCall, inputs: tuple[Output, ...]) -> tuple[Layer | Group, Output]:
    """Add a layer with these inputs: none for a Parameter, several for a join."""
    arguments = _arguments(context, call)
    inputs += (call.size[1],) if call.size else ()
    key = _key(call, arguments, inputs)
    valid = _VALID.get(key) if key else None
    settings = valid.settings if valid else _complete(context, call, arguments)
    if settings is None or any(f.shape is None for f in inputs):
        return unknown_part(call.site)
    part, output = add_layer(context, call, settings, inputs, tuple(arguments), valid)
    if key and isinstance(part, Layer):
        if len(_VALID) >= MOST_VALID:
            _VALID.clear()
        _VALID[key] = part
    return part, output


def _key(call: LayerCall, arguments: Arguments, inputs: tuple[Output, ...]) -> tuple[Any, ...] | None:
    """What the settings and sizes of a layer depend on; None if some of it may be a mistake, or is inferred.

    Most layers of a network, and of all networks together, have one of a few keys, and are checked only once.
    """
    written = call.argument.value
    known = len(arguments) == (len(written) if isinstance(written, dict) else written is not None)
    if call.size or not known or any(call.rule.settings[name].inferred for name in arguments):
        return None
    values = tuple((name, repr(value)) for name, (_, value) in arguments.items())  # 1, 1.0 and True differ
    return call.rule.name, values, call.site.input.shape, tuple(x.shape for x in inputs)


def add_layer(
    context: Context,
    call: LayerCall,
    settings: dict[str, Any],
    inputs: tuple[Output, ...],
    names: tuple[str, ...] = (),
    same: Layer | None = None,
) -> tuple[Layer | Group, Output]:
    """Apply the shape rule and the limits, and note the layer. `names` are the settings that the spec writes.

    `same` is a layer with these settings and shapes.
    """
    rule, site = call.rule, call.site
    shapes = tuple(f.shape or () for f in inputs)
    try:
        out = same.output_shape if same else rule.output(settings, shapes if rule.joins else (*shapes, ())[0])
    except ShapeError as error:
        context.shape_problem(call.place, call.where, error, inputs[:-1] if call.size else inputs)
        return unknown_part(site)
    line, column = call.place
    layer = Layer(
        name=site.path,
        type=rule.name,
        rule=rule,
        settings=settings,
        written=names,
        takes=tuple(f.row for f in inputs),
        input_shapes=shapes,
        output_shape=out,
        line=line,
        column=column,
        shared_with=call.shared_with,
    )
    _bounded(context, layer, call)
    warning = rule.warning(layer.input_shape, context.types)
    if warning and not any(rule.settings[name].inferred for name in names):  # a written in_features is intended
        context.problem(call.place, call.where, warning, warning=True)
    context.layers.append(layer)
    context.types.add(layer.type)
    pieces = rule.pieces(settings, shapes[0]) if rule.pieces else ()
    return layer, Output(out, site.path, pieces, bare=rule.name == "Parameter")


def _bounded(context: Context, layer: Layer, call: LayerCall) -> None:
    context.params += layer.params
    counts = (context.params, "parameters"), (prod(layer.output_shape), "activation values for one image")
    for count, quantity in counts:
        if count > MOST_VALUES:
            message = f"has {count:.3g} {quantity}, more than the limit of {MOST_VALUES:.0e}; reduce its sizes"
            context.problem(call.place, call.where, message)
            raise LimitReached


def _complete(context: Context, call: LayerCall, arguments: Arguments) -> dict[str, Any] | None:
    """All settings of a layer: written, inferred and defaults. None if some are wrong, each noted as a problem."""
    rule, site = call.rule, call.site
    read, mistakes = _read(call, arguments)
    mistakes += [*_unknown_settings(call), *_missing(call, arguments, read)]
    for place, message in mistakes:
        context.problem(place, call.where, message)
    if mistakes or any(value is UNKNOWN for _, value in arguments.values()):
        return None
    try:
        inferred = rule.infer(site.input.shape) if site.input.shape is not None else {}
    except ShapeError as error:
        context.shape_problem(call.place, call.where, error, (site.input,))
        return None
    for place, message in _contradictions(site.input, arguments, read, inferred):
        context.problem(place, call.where, message)
    settings = {n: inferred[n] if n in inferred else read.get(n, s.default) for n, s in rule.settings.items()}
    if any(s is REQUIRED for s in settings.values()):  # not inferred: an earlier mistake hides the input shape
        return None
    try:
        rule.check(settings)
    except ValueError as error:
        context.problem(call.place, call.where, str(error))
        return None
    return settings


def _arguments(context: Context, call: LayerCall) -> Arguments:
    """What is written after the colon: nothing, settings by name, or one value for the first setting."""
    argument, rule, site = call.argument, call.rule, call.site
    if isinstance(argument.value, dict):
        own = {name: node for name, node in argument.value.items() if name in rule.settings}
    elif argument.value is None or rule.first is None:
        return {}
    else:
        own = {rule.first: argument}
    arguments = {name: (node, evaluate_deep(context, node, site)) for name, node in own.items()}
    if call.size:
        name, sibling = call.size
        size = UNKNOWN if sibling.shape is None else SizeOf(sibling.shape, sibling.row)
        arguments[name] = (own[name], size)
    return arguments


def _read(call: LayerCall, arguments: Arguments) -> tuple[dict[str, Any], list[tuple[Place, str]]]:
    """The valid values in their normal form, and what is wrong with the others."""
    read, mistakes = {}, []
    for name, (node, value) in arguments.items():
        if value is UNKNOWN:
            continue
        if isinstance(value, SizeOf):
            read[name] = value
            continue
        try:
            read[name] = call.rule.settings[name].kind.read(value)
        except ValueError as error:
            hint = f"; write ${value}" if isinstance(value, str) and value in call.site.scope.values else ""
            if isinstance(value, float) and isinstance(node.value, str) and value.is_integer():
                hint = "; write // to divide integers, or round(…)"
            if call.rule.settings[name].sibling and isinstance(value, str) and not hint:
                hint = "; the name of a sibling works in a mapping of named layers"
            if node is call.argument and isinstance(value, list):
                hint = f"; write settings by name, {_form(call, {})}"
            mistakes.append((node.place, f"{name} {error}{hint}"))
    return read, mistakes


def _unknown_settings(call: LayerCall) -> Iterator[tuple[Place, str]]:
    """Settings that the layer does not have."""
    argument, rule = call.argument, call.rule
    if isinstance(argument.value, dict):
        for name in argument.value:
            if name not in rule.settings:
                yield argument.keys[name], _unknown(name, rule)
    elif argument.value is not None and rule.first is None:
        yield argument.place, f"takes no settings, but got {shown(argument.plain)}; remove it"


def _unknown(name: str, rule: LayerType) -> str:
    if name in ("from", "repeat"):
        return f"`{name}` belongs beside the layer, not inside it; write {{{rule.name}: …, {name}: …}}"
    if name == "inplace":
        return "in-place operation is not supported, so that every output can be inspected; remove `inplace`"
    if name == "activation":
        return "an activation is a separate layer; remove `activation` and write `- ReLU` on the next line"
    if not rule.settings:
        return f"takes no settings, but got {name[:60]!r}; remove it"
    meant = SETTINGS_ELSEWHERE.get(name)
    if meant in rule.settings:
        return f"unknown setting {name!r}. Did you mean {meant!r}?"
    return unknown("setting", name, rule.settings)


def _missing(call: LayerCall, arguments: Arguments, read: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """Required settings that are missing, unless one is misspelled, or a list was meant to hold them all."""
    rule, argument = call.rule, call.argument
    if isinstance(argument.value, list) and rule.first not in read:
        return
    unknown_names = argument.value if isinstance(argument.value, dict) else ()
    meant = "".join(_unknown(name, rule) for name in unknown_names if name not in rule.settings)
    names = [n for n in rule.required if n not in arguments and repr(n) not in meant]
    if names:
        yield call.place, missing(names, _form(call, arguments))


def missing(names: list[str], form: str) -> str:
    """`kernel_size is missing; write …`."""
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing; write {form}"


def _form(call: LayerCall, arguments: Arguments) -> str:
    """The layer with what is written and what is required: {Conv2d: {out_channels: 32, kernel_size: …}}."""
    parts = [f"{name}: {shown(node.plain)}" for name, (node, _) in arguments.items()]
    parts += [f"{name}: …" for name in call.rule.required if name not in arguments]
    return f"{{{call.rule.name}: {{{', '.join(parts)}}}}}"


def _contradictions(
    output: Output, arguments: Arguments, read: dict[str, Any], inferred: dict[str, Any]
) -> Iterator[tuple[Place, str]]:
    """Sizes that follow from the input need not be written, but must be right where they are."""
    shape = output.shape or ()
    for name, value in inferred.items():
        if read.get(name, value) != value:
            node = arguments[name][0]
            fix = f"remove {name} or write {value}"
            if name == "in_features" and len(shape) > 1 and read[name] == prod(shape):
                fix = "put Flatten before it"
            yield node.place, f"{name} is {read[name]}, but got {sizes(shape)} from {output.source}; {fix}"
