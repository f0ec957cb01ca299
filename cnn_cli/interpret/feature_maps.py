"""Feature maps (activations) of layers: the strongest channels, and those that are zero, constant or saturated."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cnn_cli.errors import CnnError
from cnn_cli.interpret.activations import captured, layer_names, trunk, untouched
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.pictures import image

_SHORT = 8  # a network with at most so many layers with feature maps is shown completely
_LAYERS = 6  # layers shown of a deeper network


@dataclass(frozen=True)
class Maps:
    """The feature maps of a layer for one image: `values` (C, H, W) float32, and the display `order` of its channels.

    `zero` channels are zero everywhere, `constant` ones have one other value everywhere; `saturated` ones have at least
    95% of their values within 1% of a bound of the activation.
    """

    layer: str
    type: str
    values: image.Array
    order: tuple[int, ...]
    zero: tuple[int, ...]
    constant: tuple[int, ...]
    saturated: tuple[int, ...]


def default_layers(network: nn.Module, plan: Plan) -> list[str]:
    """All layers with feature maps of a shallow network; else six of its trunk, which are block outputs, not shortcuts.

    In place of a convolution or an addition, the activation after it (and after a normalization) is shown.
    """
    names = layer_names(network, plan)
    if len(names) <= _SHORT:
        return names
    after = {a.takes[0]: a for a in reversed(plan.layers) if len(a.reads) == 1}
    outputs = [
        _activated(a, after)
        for a in trunk(plan)
        if a.name in names and (len(a.reads) > 1 or "convolution" in a.rule.traits)
    ]
    outputs = list(dict.fromkeys(outputs))
    return [outputs[i] for i in image.evenly_spaced(len(outputs), _LAYERS)]


def _activated(layer: Layer, after: dict[str, Layer]) -> str:
    following = after.get(layer.name)
    if following and "normalization" in following.rule.traits:
        following = after.get(following.name)
    return following.name if following and following.rule.elementwise else layer.name


def maps_of(network: nn.Module, plan: Plan, pixels: Tensor, layers: Sequence[str]) -> list[Maps]:
    """The feature maps of `layers` for one image (C, H, W), in order of computation.

    Strongest channels first. Consecutive layers that act per channel (activations, pooling, normalization) share the
    order of the last of them, so that a channel keeps its column on the page. CnnError for values that are not finite.
    """
    names = [n for n in layer_names(network, plan) if n in layers]
    device = next(network.parameters(), pixels).device
    with untouched(network), torch.no_grad(), captured(network, names) as caught:
        network(pixels.unsqueeze(0).to(device))
    arrays = {name: caught[name][0].float().cpu().numpy() for name in names}
    for name, values in arrays.items():
        if bad := int((~np.isfinite(values)).sum()):
            raise CnnError(
                f"layer {name}: {bad} of {values.size} values are not finite numbers, so there is nothing to draw; "
                "the training diverged: train again with a smaller --lr"
            )
    rows = {layer.name: layer for layer in plan.layers}
    leaders = _leaders(plan, names)
    orders = {name: _strongest(arrays[name]) for name in set(leaders.values())}
    return [_maps(rows[n], arrays[n], orders[leaders[n]]) for n in names]


def _strongest(values: image.Array) -> tuple[int, ...]:
    """Channels by mean absolute value, without those that are zero everywhere unless all are."""
    strength = np.abs(values).mean((1, 2))
    order = np.argsort(-strength, kind="stable")
    return tuple(order[: int((strength > 0).sum()) or len(order)].tolist())


def _leaders(plan: Plan, names: Sequence[str]) -> dict[str, str]:
    """For each layer the last shown layer that it reaches through per-channel layers alone."""
    layers = {layer.name: layer for layer in plan.layers}
    leaders: dict[str, str] = {}
    for name in reversed(names):
        leaders.setdefault(name, name)
        before = layers[name]
        while _keeps_channels(before) and before.takes[0] in layers:
            previous = layers[before.takes[0]]
            if previous.output_shape[:1] != before.output_shape[:1]:
                break
            before = previous
            if before.name in names:
                leaders.setdefault(before.name, leaders[name])
    return leaders


def _keeps_channels(layer: Layer) -> bool:
    """Whether each output channel is computed from the input channel of the same index alone."""
    return len(layer.reads) == 1 and (0 not in layer.taps or "normalization" in layer.rule.traits)


def _maps(layer: Layer, values: image.Array, order: tuple[int, ...]) -> Maps:
    low, high = values.min((1, 2)), values.max((1, 2))
    zero = (low == 0) & (high == 0)
    near = [np.abs(values - bound) <= 0.01 * max(abs(bound), 1) for bound in layer.rule.bounds(layer.settings)]
    saturated = np.any(near, axis=0).mean((1, 2)) >= 0.95 if near else np.zeros(len(values), bool)
    constant = (low == high) & ~zero & (values[0].size > 1)
    return Maps(
        layer.name, layer.type, values, order, *(tuple(np.flatnonzero(m).tolist()) for m in (zero, constant, saturated))
    )
