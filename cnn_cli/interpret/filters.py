"""The learned filters of a convolution, analyzed: which are dead, similar or strong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from cnn_cli.errors import CnnError, UsageError, closest, listed
from cnn_cli.network.modules import Again
from cnn_cli.pictures import image
from cnn_cli.tables import counted

DEAD = 0.05  # fraction of the layer's largest norm below which a filter has next to no effect
SIMILAR = 0.95  # cosine similarity
_MIN_WEIGHTS = 9  # filters with fewer weights are often similar by chance


@dataclass(frozen=True)
class Filters:
    """The weights of one convolution, (O, I, H, W) float32: O filters with I channels each.

    I is the number of input channels of one filter: all of them, or those of its group.
    """

    layer: str
    type: str  # Conv2d or ConvTranspose2d
    weights: image.Array
    groups: int
    color: bool  # the three channels are the image's red, green and blue


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d | nn.ConvTranspose2d]:
    """The two-dimensional convolutions of a network by name, in module order."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}


def choose_convolution(network: nn.Module, layer: str | None = None) -> str:
    """The name of the convolution `layer`, by default the first. UsageError lists the convolutions."""
    names = list(convolutions(network))
    kinds = dict.fromkeys(type(m).__name__ for m in network.modules() if not list(m.children()))
    if not names:
        raise UsageError(f"the network has no convolution, so no filters to show; its layers: {listed(list(kinds))}")
    if layer is None or layer in names:
        return layer or names[0]
    other = dict(network.named_modules()).get(layer)
    kind = f"layer {layer} is not a convolution ({type(other).__name__})" if layer and other else f"no layer {layer!r}"
    if isinstance(other, Again):
        kind = f"layer {layer} shares the weights of another layer; name that one"
    raise UsageError(f"{kind}.{closest(layer, names)} Convolutions: {listed(names)}")


def filters_of(network: nn.Module, layer: str | None = None) -> Filters:
    """The filters of a convolution, chosen as in `choose_convolution`. CnnError if a weight is not finite."""
    layer = choose_convolution(network, layer)
    conv = convolutions(network)[layer]
    transposed = isinstance(conv, nn.ConvTranspose2d)
    weights = conv.weight.detach().float().cpu().numpy()  # (O, I/g, H, W), or (I, O/g, H, W) if transposed
    if transposed:
        inputs, outputs, height, width = weights.shape
        groups = weights.reshape(conv.groups, inputs // conv.groups, outputs, height, width)
        weights = groups.swapaxes(1, 2).reshape(-1, inputs // conv.groups, height, width)
    if bad := int((~np.isfinite(weights)).sum()):
        raise CnnError(
            f"layer {layer}: {bad} of {weights.size} weights are not finite numbers, so there is nothing to draw; "
            "the training diverged: train again with a smaller --lr"
        )
    color = conv.in_channels == 3 and conv.groups == 1 and layer == choose_convolution(network)
    return Filters(layer, type(conv).__name__, weights, conv.groups, color)


@dataclass(frozen=True)
class Health:
    """Filters with next to no effect (`dead`) and groups of nearly equal filters (`similar`), by index."""

    dead: tuple[int, ...]
    similar: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        """`2 dead, 5 similar in 2 groups`, or an empty text."""
        count, groups = sum(map(len, self.similar)), len(self.similar)
        similar = f"{count} similar" + (f" in {groups} groups" if groups > 1 else "")
        return ", ".join([f"{len(self.dead)} dead"] * bool(self.dead) + [similar] * bool(groups))


def health(filters: Filters) -> Health:
    """Which filters are dead (norm below a twentieth of the largest) and which are similar (cosine similarity ≥ 0.95).

    Only filters of one group have the same input channels and can be similar; those with fewer than 9 weights are
    often similar by chance, and do not count.
    """
    norms = _norms(filters)
    dead = norms <= DEAD * norms.max()
    similar: list[tuple[int, ...]] = []
    if filters.weights[0].size >= _MIN_WEIGHTS:
        for start in range(0, len(norms), len(norms) // filters.groups):
            members = [i for i in range(start, start + len(norms) // filters.groups) if not dead[i]]
            similar += _groups(members, _cosines(filters, members))
    return Health(tuple(np.flatnonzero(dead).tolist()), tuple(similar))


def ordered(filters: Filters, by_norm: bool = False) -> tuple[int, ...]:
    """The filters' indices in order, or by norm, largest first."""
    norms = _norms(filters)
    return tuple(np.argsort(-norms, kind="stable").tolist() if by_norm else range(len(norms)))


def cosine_similarity(filters: Filters, others: Filters) -> image.Array:
    """(O,): between each filter and its counterpart; 1 is the same direction, 0 is orthogonal."""
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
    """Groups of two or more filters, each similar to the first of its group, in index order."""
    groups, taken = [], np.zeros(len(members), bool)
    for i in range(len(members)):
        if not taken[i] and (mates := np.flatnonzero((cosines[i] >= SIMILAR) & ~taken)).size > 1:
            taken[mates] = True
            groups.append(tuple(members[j] for j in mates.tolist()))
    return groups


def describe(filters: Filters, shown: tuple[int, int]) -> str:
    """`layer 0 (Conv2d): 32 filters of 3x3 on 1 channel`, and the number shown."""
    outputs, inputs, height, width = filters.weights.shape
    seen = "red, green and blue" if filters.color else counted(inputs, "channel")
    seen += f" each, in {filters.groups} groups" if filters.groups > 1 else ""
    text = f"layer {filters.layer} ({filters.type}): {counted(outputs, 'filter')} of {height}x{width} on {seen}"
    if shown != (outputs, inputs):
        text += f"; shown: the first {shown[0]} of {outputs} filters, {shown[1]} of {inputs} channels"
    return text
