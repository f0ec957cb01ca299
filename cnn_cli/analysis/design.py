"""Warnings of `cnn check` about valid networks that are hard to train."""

from collections import Counter
from collections.abc import Iterator

from cnn_cli.errors import Problem
from cnn_cli.language.plan import Layer, Plan

MAX_UNNORMALIZED = 20  # weighted layers in a row: VGG-19 still trains


def design_warnings(plan: Plan) -> list[Problem]:
    """Warnings about the last layer, consecutive linear layers, and missing normalization; none with errors."""
    if plan.errors or plan.named_outputs:
        return []
    places: dict[tuple[int, int, int], Problem] = {}
    for i, find in enumerate((_last_layer, _consecutive, _unnormalized)):
        for layer, message in find(plan):
            where = f"{plan.network}, layers.{layer.name} ({layer.type})"
            problem = Problem(plan.spec.origin, layer.line, layer.column, where, message, True)
            places.setdefault((i, layer.line, layer.column), problem)  # a block that is used ten times is reported once
    return list(places.values())


def _last_layer(plan: Plan) -> Iterator[tuple[Layer, str]]:
    """An activation between the class scores and the loss."""
    last, rows = plan.last, {layer.name: layer for layer in plan.layers}
    while last and last.rule.traits & {"view", "view in evaluation"} and last.takes:
        last = rows.get(last.takes[0])
    if last and len(plan.output) == 1 and (reason := last.rule.as_last(plan.output[0])):
        yield last, f"is the last layer before the loss: {reason}"


def _consecutive(plan: Plan) -> Iterator[tuple[Layer, str]]:
    """Convolutions and Linear layers with nothing but linear layers between them, except for deliberate designs."""
    rows = {layer.name: layer for layer in plan.layers}
    consumers = Counter(name for layer in plan.layers for name in layer.takes)
    for layer in plan.layers:
        if "weighted sum" not in layer.rule.traits:
            continue
        before = rows.get(layer.takes[0])
        while before and consumers[before.name] == 1 and "linear" in before.rule.traits:
            before = rows.get(before.takes[0])
        if before and consumers[before.name] == 1 and _redundant(before, layer):
            kinds = f"layers.{before.name} ({before.type}) and this layer compute one linear function"
            yield layer, f"no activation before it: {kinds}; put an activation such as ReLU between them"


def _redundant(first: Layer, second: Layer) -> bool:
    """Whether two layers in a row could be one: not for depthwise and separable convolutions, nor for bottlenecks,
    which factorize a larger matrix."""
    if "weighted sum" not in first.rule.traits or _separable(first, second):
        return False
    if set(first.settings.get("kernel_size", ())) == {1}:  # a projection, as in MobileNet's inverted bottlenecks
        return first.output_shape[0] >= second.output_shape[0]
    return first.output_shape[0] >= min(first.input_shape[0], second.output_shape[0])


def _separable(first: Layer, second: Layer) -> bool:
    kernels = [layer.settings.get("kernel_size", (1, 1)) for layer in (first, second)]
    groups = any(layer.settings.get("groups", 1) > 1 for layer in (first, second))
    return groups or any(len(set(kernel)) > 1 for kernel in kernels)


def _unnormalized(plan: Plan) -> Iterator[tuple[Layer, str]]:
    """Many weighted layers in a row without normalization or shortcuts."""
    if any(layer.rule.traits & {"normalization", "join"} or layer.type == "SELU" for layer in plan.layers):
        return
    depth: dict[str, int] = {}
    for layer in plan.layers:
        depth[layer.name] = depth.get(layer.takes[0] if layer.takes else "", 0) + ("weighted sum" in layer.rule.traits)
        if depth[layer.name] > MAX_UNNORMALIZED:
            count = f"more than {MAX_UNNORMALIZED} convolutions and Linear layers without normalization"
            yield layer, f"{count}: gradients vanish or explode; add BatchNorm2d after the convolutions"
            return
