"""COCO's average precision of detections, as pycocotools computes it, for all images at once.

Detections of a class are matched to its objects from the highest score down, each to the unmatched object that it
overlaps most, at ten thresholds of the intersection over union (IoU), 0.50 to 0.95. AP is the mean over 101 recalls of
the highest precision at that recall or a higher one. Images and classes are independent of each other, so the loop goes
over ranks: one step matches the n-th candidate of all of them, at all thresholds and object sizes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

THRESHOLDS: Array = np.linspace(0.5, 0.95, 10)  # the least IoU of a hit
RECALLS: Array = np.linspace(0, 1, 101)
SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # areas in pixels
MOST_DETECTIONS = 100  # of a class in an image; those with lower scores are not counted
DIFFICULT, CROWD = 1, 2  # flags of objects that count neither as hits nor as misses
NO_OBJECT, NOT_COUNTED = -1, -2
_LIMITS: Array = np.array(list(SIZES.values()))


@dataclass(frozen=True)
class Objects:
    """n ground-truth boxes: (n, 4) x0, y0, x1, y1; (n,) image index, class, flag, and area in the original image.

    flags: 0, or DIFFICULT or CROWD. A crowd takes any number of detections, and the overlap with it is the part of the
    detection that is inside.
    """

    images: Array
    boxes: Array
    labels: Array
    flags: Array
    areas: Array


@dataclass(frozen=True)
class Detections:
    """n predicted boxes, as in Objects, with their scores (n,)."""

    images: Array
    boxes: Array
    labels: Array
    scores: Array
    areas: Array


@dataclass(frozen=True)
class Matches:
    """What AP is computed from: n detections by class and descending score, and the m objects that they can hit.

    images, labels: (n,); hits, misses: (thresholds, n) bool, neither of what is not counted; object_images,
    object_labels: (m,).
    """

    images: Array
    labels: Array
    hits: Array
    misses: Array
    object_images: Array
    object_labels: Array


@dataclass(frozen=True)
class AveragePrecision:
    """`precision` (sizes, thresholds, K, recalls) float64, and `counts` (sizes, K): objects that detections can hit.

    The order of the sizes is that of SIZES. The precisions of a class without objects are NaN, and means leave it out.
    `hits` (n,) int64: the object that a detection hits at an IoU of 0.5, NO_OBJECT, or NOT_COUNTED for a detection of a
    crowd or a difficult object and those beyond MOST_DETECTIONS.
    """

    precision: Array
    counts: Array
    hits: Array
    matches: Matches

    def mean(self, size: str = "all", threshold: float | None = None, label: int | None = None) -> float | None:
        """AP over classes and thresholds, or of one of them; None if there are no objects."""
        values = self.precision[list(SIZES).index(size)]
        if threshold is not None:
            values = values[[int(np.abs(THRESHOLDS - threshold).argmin())]]
        values = values if label is None else values[:, [label]]
        counted = values[~np.isnan(values)]
        return float(counted.mean()) if len(counted) else None


def compute_average_precision(detections: Detections, objects: Objects, classes: int) -> AveragePrecision:
    """Boxes of both in the same unit, areas in pixels of the original image."""
    kept = _highest(detections, classes)
    limited = Detections(*(getattr(detections, name)[kept] for name in Detections.__dataclass_fields__))
    groups = limited.images * classes + limited.labels
    order = (objects.images * classes + objects.labels).argsort(kind="stable")
    true = Objects(*(getattr(objects, name)[order] for name in Objects.__dataclass_fields__))
    ignored = (true.flags > 0) | ~_of_sizes(true.areas)  # (sizes, n)
    matched, excused, taken = _matches(limited, groups, true, ignored, classes)
    excused |= ~matched & ~_of_sizes(limited.areas)[:, None]
    counts = np.stack([np.bincount(true.labels[~one], minlength=classes) for one in ignored])
    hits = np.full(len(detections.labels), NOT_COUNTED)
    taken = np.append(order, NO_OBJECT)[taken]
    hits[kept] = np.where(excused[0, 0], NOT_COUNTED, taken)
    order = np.lexsort((-limited.scores, limited.labels))  # stable: equal scores by image, and by their order in it
    labels = limited.labels[order]
    right, wrong = (matched & ~excused)[..., order], (~matched & ~excused)[..., order]
    counted = ~ignored[0]
    matches = Matches(limited.images[order], labels, right[0], wrong[0], true.images[counted], true.labels[counted])
    return AveragePrecision(_precision(labels, right, wrong, counts), counts, hits, matches)


def overlaps(boxes: Array, others: Array, crowd: Array) -> Array:
    """(n, 4), (n, 4), (n,) bool → (n,) the IoU of each pair, or the part of the first box inside of a crowd."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    common = (high - low).clip(0).prod(1)
    own, other = ((x[:, 2:] - x[:, :2]).prod(1) for x in (boxes, others))
    whole = np.where(crowd, own, own + other - common)
    part: Array = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return part


def pairs_of(groups: Array, others: Array) -> tuple[Array, Array]:
    """(n,), (m,) ascending numbers → the indices of all pairs with equal ones: first and second, in order."""
    first = others.searchsorted(groups, "left")
    count = others.searchsorted(groups, "right") - first
    index = np.arange(len(groups)).repeat(count)
    return index, np.arange(len(index)) - (count.cumsum() - count - first).repeat(count)


def _highest(detections: Detections, classes: int) -> Array:
    """The indices of the detections that count, by image, class, and descending score."""
    groups = detections.images * classes + detections.labels
    order = np.lexsort((-detections.scores, groups))
    groups = groups[order]
    counted: Array = order[np.arange(len(groups)) - groups.searchsorted(groups, "left") < MOST_DETECTIONS]
    return counted


def _of_sizes(areas: Array) -> Array:
    """(n,) → (sizes, n) bool: whether an area has each size; limits belong to both sizes that they separate."""
    inside: Array = (areas >= _LIMITS[:, :1]) & (areas <= _LIMITS[:, 1:])
    return inside


def _matches(
    detections: Detections, groups: Array, true: Objects, ignored: Array, classes: int
) -> tuple[Array, Array, Array]:
    """Which detections are matched, and which of these to an object that does not count: both (sizes, thresholds, n);
    and the object of each at the first size and threshold, (n,), or −1."""
    shape = (len(SIZES), len(THRESHOLDS))
    detection, target = pairs_of(groups, true.images * classes + true.labels)
    crowd = true.flags == CROWD
    iou = overlaps(detections.boxes[detection], true.boxes[target], crowd[target])
    near = iou >= THRESHOLDS[0]
    detection, target, iou = detection[near], target[near], iou[near]
    # The preference for a pair, at each size and threshold: objects that do not count come after all that do.
    worth = np.where(ignored[:, target], iou, iou + 2)[:, None] * (iou >= THRESHOLDS[:, None])
    worth = np.concatenate([worth, np.zeros((*shape, 1))], 2).reshape(-1, len(iou) + 1)
    target = np.append(target, 0)
    free = np.ones((len(worth), max(1, len(crowd))))
    best = np.zeros((len(worth), len(groups)))  # the worth of each detection's match
    taken = np.full(len(groups), NO_OBJECT)
    first = np.flatnonzero(np.diff(detection, prepend=-1))  # the first pair of each detection that has any
    last, candidates = np.append(first[1:], len(iou)) - 1, detection[first]
    of_group = groups[candidates]
    rank = np.arange(len(candidates)) - of_group.searchsorted(of_group, "left")
    by_rank = rank.argsort(kind="stable")
    for now in np.split(by_rank, np.bincount(rank).cumsum()[:-1]) if len(rank) else ():
        # The last pair first: of objects with the same overlap, pycocotools takes the last one.
        pair = last[now, None] - np.arange((last - first)[now].max() + 1)
        pair = np.where(pair >= first[now, None], pair, len(iou))
        objects = target[pair]  # (detections, pairs)
        value = worth[:, pair] * free[:, objects]
        chosen = objects[np.arange(len(now)), value.argmax(2)]
        best[:, candidates[now]] = value = value.max(2)
        taken[candidates[now]] = np.where(value[0] > 0, chosen[0], NO_OBJECT)
        row, which = value.nonzero()
        chosen = chosen[row, which]
        free[row, chosen] = crowd[chosen]
    matched = best.reshape(*shape, -1)
    return matched > 0, (matched > 0) & (matched < 2), taken


def _precision(labels: Array, hits: Array, misses: Array, counts: Array) -> Array:
    """(sizes, thresholds, K, recalls) from labels (n,), hits and misses (sizes, thresholds, n)."""
    classes = counts.shape[1]
    starts = labels.searchsorted(np.arange(classes + 1))
    result = np.full((len(SIZES), len(THRESHOLDS), classes, len(RECALLS)), np.nan)
    for label in np.flatnonzero(counts.any(0)):
        part = slice(starts[label], starts[label + 1])
        true, false = hits[..., part].cumsum(2, dtype=np.float64), misses[..., part].cumsum(2, dtype=np.float64)
        precision = true / (true + false + np.spacing(1))
        precision = np.maximum.accumulate(precision[..., ::-1], 2)[..., ::-1]
        precision = np.concatenate([precision, np.zeros((*precision.shape[:2], 1))], 2)
        for size in np.flatnonzero(counts[:, label]):
            recall = true[size] / counts[size, label]
            for threshold, row in enumerate(recall):
                result[size, threshold, label] = precision[size, threshold, row.searchsorted(RECALLS)]
    return result
