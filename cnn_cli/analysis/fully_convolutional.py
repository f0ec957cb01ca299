"""A classifier as a fully convolutional network: the same weights, any larger image, a map of class scores.

Linear layers become convolutions whose kernel is as large as their input map, and pooling to a fixed size becomes
pooling with windows of the size for this input (Sermanet et al., OverFeat, 2014; Long, Shelhamer and Darrell, 2015).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.language.registry import draft_document
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import Shape, sizes

SUFFIX = "-convolved"  # of the name of the new network
_DROPPED = "[]"  # in place of a layer type: the layer is removed
_GLOBAL_POOLING = {"AdaptiveAvgPool2d": "AvgPool2d", "AdaptiveMaxPool2d": "MaxPool2d"}
_GLOBAL_POOLING |= {name: name for name in _GLOBAL_POOLING.values()}

Place = tuple[int, int]
Map = tuple[int, int, int]  # of values that were flattened: channels, height, width


@dataclass(frozen=True)
class Edit:
    """The change of a layer: its new type, the settings that are added, and those that stay with their new names."""

    type: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)  # settings of the old layer that stay, by their new names


@dataclass(frozen=True)
class FullyConvolutional:
    """The plans before and after, and every old layer with the new one, None if it is removed."""

    before: Plan
    after: Plan
    layers: tuple[tuple[Layer, Layer | None], ...]

    @property
    def changes(self) -> list[tuple[Layer, Layer | None]]:
        """Removed layers, and those whose type or settings changed, apart from settings that follow from the input."""
        return [(old, new) for old, new in self.layers if new is None or old.type != new.type or _differs(old, new)]

    def renamed(self) -> dict[str, tuple[str, Shape]]:
        """Every tensor by its old name: its new name and shape."""
        kept = [(old, new) for old, new in self.layers if new is not None]
        return {
            old.tensor_name(t): (new.tensor_name(u), u.shape)
            for old, new in kept
            for t, u in zip(old.tensors, new.tensors, strict=True)
        }


def convert(plan: Plan) -> FullyConvolutional:
    """The fully convolutional form of a classifier, without the heads of auxiliary outputs. UsageError names the layer
    that cannot be converted."""
    if plan.outputs:
        plan = _main_path(plan)
    if plan.named_outputs:
        names = ", ".join(plan.named_outputs)
        raise UsageError(f"{plan.network} has several outputs ({names}); only a network with a single one is converted")
    if len(plan.output) != 1:
        raise UsageError(
            f"{plan.network} outputs {sizes(plan.output)}, which are scores at every position already; choose a "
            "network that ends in Flatten and Linear"
        )
    edits = _edits(plan)
    by_place = {(layer.line, layer.column): edits[layer.name] for layer in plan.layers if layer.name in edits}
    for layer in plan.layers:
        place = (layer.line, layer.column)
        if place in by_place and edits.get(layer.name) != by_place[place]:
            raise _refusal(
                plan,
                layer,
                "is repeated with different sizes, so no single definition fits",
                "write out the repeated layers",
            )
    after = draft_document(_document(plan, by_place), f"{plan.network} as a fully convolutional network")
    _check(plan, after)
    remaining = iter(after.layers)
    removed = {name for name, edit in edits.items() if edit.type == _DROPPED}
    pairs = [(old, None if old.name in removed else next(remaining)) for old in plan.layers]
    _check_order(plan, pairs)
    return FullyConvolutional(plan, after.checked(), tuple(pairs))


def _main_path(plan: Plan) -> Plan:
    """The network without auxiliary outputs, and without the children that lead to these alone."""
    document = plan.document()
    network = document[plan.network]
    layers = {name: part for name, part in network["layers"].items() if name not in plan.only_in_training}
    document[plan.network] = {k: v for k, v in network.items() if k not in ("outputs", "train", "recipes")} | {
        "layers": layers
    }
    return draft_document(document, plan.spec.origin).checked()


def _edits(plan: Plan) -> dict[str, Edit]:
    """The changes by the name of the layer, tracing the values from the image on."""
    maps: dict[str, Map | None] = {"input": None}  # None: not flattened
    bare = {layer.name for layer in plan.layers if not layer.takes}
    edits = {}
    for layer in plan.layers:
        taken = [name if name in maps else name.rpartition(".")[0] for name in layer.reads]
        flat = [maps[name] for name in taken if name not in bare]
        if not any(flat):
            edit, maps[layer.name] = _on_image(plan, layer)
        else:
            if None in flat or len(flat) < len(taken):
                raise _refusal(plan, layer, "joins flattened values with others", "join them before Flatten")
            edit, maps[layer.name] = _on_flattened(plan, layer, [m for m in flat if m])
        if edit:
            if any(layer.name == part or layer.name.startswith(f"{part}.") for part in plan.parts):
                raise _refusal(
                    plan, layer, "is inside another network that is used as a part", "convert a network without parts"
                )
            edits[layer.name] = edit
    end = maps[plan.ends[0]]
    if end is None or end[1:] != (1, 1):
        last = plan.layers[-1]
        raise _refusal(plan, last, f"outputs {sizes(plan.output)} that no Linear layer computed", "end in Linear")
    return edits


def _on_image(plan: Plan, layer: Layer) -> tuple[Edit | None, Map | None]:
    """The change of a layer that takes channels x height x width, and the map that it flattens."""
    i, o = layer.input_shape, layer.output_shape
    if layer.type == "Flatten" and len(i) == 3 and len(o) == 1:
        return Edit(_DROPPED), (i[0], i[1], i[2])
    if len(o) != 3 and layer.takes:
        raise _refusal(
            plan, layer, f"turns {sizes(i)} into {sizes(o)}, which is not a map", "flatten all axes, before Linear"
        )
    fixed = layer.type.startswith("Adaptive") or (o[1:] == (1, 1) and layer.settings.get("padding") == (0, 0))
    if layer.type in _GLOBAL_POOLING and fixed and layer.settings.get("kernel_size", i[1:]) == i[1:]:
        return _pooling(plan, layer), None
    return None, None


def _pooling(plan: Plan, layer: Layer) -> Edit:
    """Pooling to a fixed size, as pooling with windows of the size that they have for this input."""
    before, after = layer.input_shape[1:], layer.output_shape[1:]
    if any(n % o for n, o in zip(before, after, strict=True)):
        fix = f"choose an --input whose {sizes(before)} there is a multiple of {sizes(after)}"
        raise _refusal(plan, layer, f"pools {sizes(before)} to {sizes(after)} with uneven windows", fix)
    if before == after:
        return Edit(_DROPPED)
    kernel = [n // o for n, o in zip(before, after, strict=True)]
    stride = [1 if o == 1 else k for k, o in zip(kernel, after, strict=True)]
    return Edit(_GLOBAL_POOLING[layer.type], {"kernel_size": _side(kernel), "stride": _side(stride)})


def _on_flattened(plan: Plan, layer: Layer, maps: list[Map]) -> tuple[Edit | None, Map]:
    """The change of a layer that takes flattened values, and the map that its output stands for."""
    first, single = maps[0], all(m[1:] == (1, 1) for m in maps)
    channels = layer.output_shape[0] if layer.output_shape else 1
    if layer.type == "Linear":
        kept = {"out_features": "out_channels", "bias": "bias"}
        return Edit("Conv2d", {"kernel_size": _side(first[1:])}, kept), (channels, 1, 1)
    if layer.type == "Flatten":
        return Edit(_DROPPED), first
    if "dropout" in layer.type.lower() or layer.rule.elementwise:
        return None, first
    if single and layer.type == "BatchNorm1d":
        names = ("eps", "momentum", "affine", "track_running_stats")
        return Edit("BatchNorm2d", {}, {name: name for name in names}), first
    if single and layer.type == "LayerNorm" and layer.settings["elementwise_affine"] and layer.settings["bias"]:
        return Edit("LayerNorm2d", {"eps": layer.settings["eps"]}), first
    if single and layer.type in ("Softmax", "LogSoftmax", "Softmin"):
        return Edit(layer.type, {"dim": 1}), first
    if layer.rule.joins and (single or (layer.type != "Concat" and len(set(maps)) == 1)) and not layer.pieces:
        return None, (channels, 1, 1) if single else first
    if single:
        raise _refusal(plan, layer, "has no equivalent for maps", "remove it, or put it before Flatten")
    fact = f"treats each of the {first[0]}·{first[1]}·{first[2]} flattened values on its own"
    raise _refusal(plan, layer, fact, "put it before Flatten, or after the first Linear")


def _document(plan: Plan, edits: Mapping[Place, Edit]) -> dict[str, Any]:
    """The network as plain data, edited at these places, without `train` and `recipes`."""
    document = plan.document()
    network = {k: v for k, v in document.pop(plan.network).items() if k not in ("train", "recipes")}
    if plan.description:
        network["description"] = f"{plan.description}, as a fully convolutional network"
    assert plan.spec.layers is not None
    network["layers"] = _edited(plan.spec.layers, edits)
    if plan.args:
        network["args"] = {name: _edited(node, edits) for name, node in plan.spec.args.items()}
    for name, block in document.get("blocks", {}).items():
        block["layers"] = _edited(plan.spec.blocks[name].layers, edits)
    return {f"{plan.network[: 64 - len(SUFFIX)]}{SUFFIX}": network, **document}


def _edited(node: Node, edits: Mapping[Place, Edit]) -> Any:
    """A part of a spec as plain data, with the edits at these places applied."""
    if isinstance(node.value, list):
        items = [(child, _edited(child, edits)) for child in node.value]
        return [plain for child, plain in items if plain != [] or child.plain == []]
    if not isinstance(node.value, dict):
        return _layer(edits[node.place], None) if node.place in edits else node.plain
    keys = {k: edits[place] for k, place in node.keys.items() if place in edits}
    if not keys:
        return {k: _edited(child, edits) for k, child in node.value.items()}
    (name, edit), *_ = keys.items()
    others = {k: child.plain for k, child in node.value.items() if k != name}
    layer = _layer(edit, node.value[name])
    if layer == []:
        return others | {"layers": []} if "from" in others else []
    return (layer if isinstance(layer, dict) else {layer: None}) | others


def _layer(edit: Edit, argument: Node | None) -> Any:
    """The text of a layer, with unchanged settings as they are written."""
    if edit.type == _DROPPED:
        return []
    written: dict[str, Node] = {}
    if argument is not None and argument.value is not None:
        written = argument.value if isinstance(argument.value, dict) else {next(iter(edit.renamed), ""): argument}
    kept = {new: written[old].plain for old, new in edit.renamed.items() if old in written}
    settings = kept | dict(edit.settings)
    return {edit.type: settings} if settings else edit.type


def _check(plan: Plan, after: Plan) -> None:
    """UsageError if the new network does not output a map, or does not take larger images."""
    channels, height, width = plan.input
    larger = draft_document(after.document(), after.spec.origin, (channels, 2 * height, 2 * width))
    for draft in (after, larger):
        if draft.errors:
            problem = draft.errors[0]
            where, fact = problem.where.rpartition(", ")[2], problem.message.partition("; ")[0]
            raise UsageError(
                f"{plan.network} does not accept larger images: {where}: {fact}; use a layer that takes any size"
            )
    if after.output != (*plan.output, 1, 1) or len(larger.output) != 3:
        raise UsageError(
            f"{plan.network} as a fully convolutional network would output {sizes(after.output)}, which is not a map"
        )


def _check_order(plan: Plan, pairs: list[tuple[Layer, Layer | None]]) -> None:
    """UsageError if a layer takes another value than before, by a path into a list whose numbers have changed."""
    names = {"input": "input"}
    for old, new in pairs:
        names[old.name] = new.name if new else names.get(old.takes[0], old.takes[0])
        wanted = [names.get(name, name) for name in old.takes]
        if new and all(name in names for name in old.takes) and list(new.takes) != wanted:
            fact = f"takes {', '.join(old.takes)} by position in a list from which Flatten is removed"
            raise _refusal(plan, old, fact, "give the children of that list names")


def _differs(old: Layer, new: Layer) -> bool:
    return any(old.settings.get(name) != new.settings.get(name) for name in {*old.written, *new.written})


def _side(sides: Any) -> Any:
    """A single number if both sides are equal."""
    return sides[0] if sides[0] == sides[1] else list(sides)


def _refusal(plan: Plan, layer: Layer, fact: str, fix: str) -> UsageError:
    name = f"{layer.name} ({layer.type})" if layer.name else layer.type
    return UsageError(f"{plan.network} cannot become a fully convolutional network: {name} {fact}; {fix}")
