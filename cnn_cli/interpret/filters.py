"""What a convolution learned: its filters as numbers, which of them are dead, alike, strong or near to each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from cnn_cli.errors import CnnError, UsageError, closest, listed
from cnn_cli.pictures import image

DEAD = 0.05  # of the largest norm of the layer: next to the others, such a filter adds nothing
ALIKE = 0.95  # cosine
_TELLING = 9  # weights: fewer have nearly the same direction by chance


@dataclass(frozen=True)
class Filters:
    """The weights of one convolution, (O, I, H, W) float32: one row of I maps for each of its O outputs.

    I counts the channels that one filter sees: all of them, or those of its group.
    """

    layer: str
    type: str  # Conv2d or ConvTranspose2d
    weights: image.Array
    groups: int
    colour: bool  # the three channels are the red, green and blue of the image


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d | nn.ConvTranspose2d]:
    """The two-dimensional convolutions of a network by their names, in its order."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}


def choose(network: nn.Module, layer: str | None = None) -> str:
    """The name of the convolution that is meant: `layer`, or the first. UsageError names those there are."""
    names = list(convolutions(network))
    kinds = dict.fromkeys(type(m).__name__ for m in network.modules() if not list(m.children()))
    if not names:
        raise UsageError(f"the network has no convolution, so no filters to show; its layers are {listed(list(kinds))}")
    if layer is None or layer in names:
        return layer or names[0]
    other = dict(network.named_modules()).get(layer)
    what = f"layer {layer} is no convolution ({type(other).__name__})" if layer and other else f"no layer {layer!r}"
    raise UsageError(f"{what}.{closest(layer, names)} Its convolutions: {listed(names)}")


def filters_of(network: nn.Module, layer: str | None = None) -> Filters:
    """The filters of a convolution, chosen as in `choose`. CnnError where a weight is not finite."""
    layer = choose(network, layer)
    conv = convolutions(network)[layer]
    transposed = isinstance(conv, nn.ConvTranspose2d)
    weights = conv.weight.detach().float().cpu().numpy()  # (O, I/g, H, W), or (I, O/g, H, W) where transposed
    if transposed:
        inputs, outputs, height, width = weights.shape
        groups = weights.reshape(conv.groups, inputs // conv.groups, outputs, height, width)
        weights = groups.swapaxes(1, 2).reshape(-1, inputs // conv.groups, height, width)
    if bad := int((~np.isfinite(weights)).sum()):
        raise CnnError(
            f"layer {layer}: {bad} of {weights.size} weights are not finite numbers, so there is nothing to draw; "
            "the training diverged: train again with a smaller --lr"
        )
    colour = conv.in_channels == 3 and conv.groups == 1 and layer == choose(network)
    return Filters(layer, type(conv).__name__, weights, conv.groups, colour)


@dataclass(frozen=True)
class Health:
    """Filters that do nothing (`dead`), and groups of filters that do nearly the same (`alike`); by their numbers."""

    dead: tuple[int, ...]
    alike: tuple[tuple[int, ...], ...]

    def words(self) -> str:
        """`2 dead, 5 alike in 2 groups`, or nothing."""
        count, groups = sum(map(len, self.alike)), len(self.alike)
        alike = f"{count} alike" + (f" in {groups} groups" if groups > 1 else "")
        return ", ".join([f"{len(self.dead)} dead"] * bool(self.dead) + [alike] * bool(groups))


def health(filters: Filters) -> Health:
    """Which filters are dead (their norm is below a twentieth of the largest) and which are alike (cosine ≥ 0.95).

    Only filters of one group see the same channels and can be alike; those of fewer than 9 weights often are by chance,
    and do not count.
    """
    norms = _norms(filters)
    dead = norms <= DEAD * norms.max()
    alike: list[tuple[int, ...]] = []
    if filters.weights[0].size >= _TELLING:
        for start in range(0, len(norms), len(norms) // filters.groups):
            members = [i for i in range(start, start + len(norms) // filters.groups) if not dead[i]]
            alike += _groups(members, _cosines(filters, members))
    return Health(tuple(np.flatnonzero(dead).tolist()), tuple(alike))


def ordered(filters: Filters, sort: str = "") -> tuple[int, ...]:
    """The filters' numbers as they are, by `norm` (largest first), or by `likeness`: each next to the one most like it.

    By likeness the first is the one with the largest norm, and every next is the one left most like that before.
    """
    norms = _norms(filters)
    by_norm = np.argsort(-norms, kind="stable")
    if sort == "norm":
        return tuple(by_norm.tolist())
    if sort != "likeness":
        return tuple(range(len(norms)))
    cosines = _cosines(filters, range(len(norms)))
    left = np.ones(len(norms), bool)
    order = [int(by_norm[0])]
    while len(order) < len(norms):
        left[order[-1]] = False
        order.append(int(np.where(left, cosines[order[-1]], -np.inf).argmax()))
    return tuple(order)


def likeness(filters: Filters, others: Filters) -> image.Array:
    """(O,): the cosine between each filter and its counterpart; 1 is the same direction, 0 says nothing."""
    a, b = (_directions(f.weights.reshape(len(f.weights), -1)) for f in (filters, others))
    return np.asarray((a * b).sum(1))


def _norms(filters: Filters) -> image.Array:
    return np.asarray(np.linalg.norm(filters.weights.reshape(len(filters.weights), -1), axis=1))


def _directions(rows: image.Array) -> image.Array:
    """Each row with norm 1; zeros stay zeros."""
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _cosines(filters: Filters, members: Sequence[int]) -> image.Array:
    rows = _directions(filters.weights.reshape(len(filters.weights), -1)[list(members)])
    return rows @ rows.T


def _groups(members: Sequence[int], cosines: image.Array) -> list[tuple[int, ...]]:
    """Groups of two or more: whoever is like the first of a group, in the order of their numbers."""
    groups, taken = [], np.zeros(len(members), bool)
    for i in range(len(members)):
        if not taken[i] and (mates := np.flatnonzero((cosines[i] >= ALIKE) & ~taken)).size > 1:
            taken[mates] = True
            groups.append(tuple(members[j] for j in mates.tolist()))
    return groups


def describe(filters: Filters, shown: tuple[int, int]) -> str:
    """`layer 0 (Conv2d): 32 filters of 3×3 on 1 channel`, and how many of them there was room for."""
    outputs, inputs, height, width = filters.weights.shape
    seen = "red, green and blue" if filters.colour else _counted(inputs, "channel")
    seen += f" each, in {filters.groups} groups" if filters.groups > 1 else ""
    text = f"layer {filters.layer} ({filters.type}): {_counted(outputs, 'filter')} of {height}×{width} on {seen}"
    if shown != (outputs, inputs):
        text += f"; shown: the first {shown[0]} of {outputs} filters, {shown[1]} of {inputs} channels"
    return text


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
