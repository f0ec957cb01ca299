"""Types of detection errors, similar to TIDE (Bolya et al. 2020): missed, duplicate, wrong class, localization and
background, at the score threshold with the best F1."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cnn_cli.tasks.average_precision import (
    NO_OBJECT,
    NOT_COUNTED,
    Array,
    Detections,
    Objects,
    overlaps,
    pairs_of,
)

NEAR = 0.1  # the least IoU of a localization error; below it, a detection is of the background
HIT = 0.5
KINDS = ("hits", "doubled", "wrong_class", "badly_placed", "background")
LEFT_OUT = -1
NOTHING_CORRECT = "no detection is correct at any score threshold"
# of the fields of DetectionErrors: name and explanation
ERROR_TITLES = {
    "missed": ("missed", "objects without a detection"),
    "doubled": ("duplicate", "of an object that is already detected"),
    "wrong_class": ("wrong class", "of an object of another class"),
    "badly_placed": ("localization", "IoU with the object below 0.5"),
    "background": ("background", "of no object"),
}


@dataclass(frozen=True)
class DetectionErrors:
    """Numbers of detections with a score of at least `score`, by type; `missed` objects have no detection.

    doubled: of an object that another detection hits. wrong_class: of an object of another class. badly_placed: the
    IoU with an object of the class is below 0.5, but at least 0.1. background: none of these.
    """

    score: float
    hits: int
    missed: int
    doubled: int
    wrong_class: int
    badly_placed: int
    background: int

    @property
    def precision(self) -> float:
        """The fraction of detections that are hits."""
        false = self.doubled + self.wrong_class + self.badly_placed + self.background
        return self.hits / max(1, self.hits + false)

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ClassifiedDetections:
    """The types of n detections: `kinds` (n,) are indices of KINDS, or LEFT_OUT if the score is below `score` or the
    object is difficult or a crowd. `objects` (n,) is the object that a detection is assigned to, or NO_OBJECT, and
    `overlaps` (n,) the IoU with it. `missed` are the objects without any detection.
    """

    score: float
    kinds: Array
    objects: Array
    overlaps: Array
    missed: Array

    def count(self) -> DetectionErrors:
        numbers = {name: int((self.kinds == i).sum()) for i, name in enumerate(KINDS)}
        return DetectionErrors(score=self.score, missed=len(self.missed), **numbers)


def classify_errors(detections: Detections, objects: Objects, hits: Array) -> ClassifiedDetections:
    """hits: those of compute_average_precision()."""
    score = best_score(detections.scores, hits, int((objects.flags == 0).sum()))
    chosen = (detections.scores >= score) & (hits != NOT_COUNTED)
    counted = np.flatnonzero(objects.flags == 0)
    order = counted[objects.images[counted].argsort(kind="stable")]
    which, number = pairs_of(detections.images, objects.images[order])
    other = order[number]
    iou = overlaps(detections.boxes[which], objects.boxes[other], np.zeros(len(other), bool))
    same = detections.labels[which] == objects.labels[other]
    own, own_object = _closest(len(chosen), which[same], other[same], iou[same])
    foreign, foreign_object = _closest(len(chosen), which[~same], other[~same], iou[~same])
    hit = hits >= 0
    doubled = ~hit & (own >= HIT)
    wrong = ~hit & ~doubled & (foreign >= HIT)
    placed = ~hit & ~doubled & ~wrong & (own >= NEAR)
    kinds = np.select([~chosen, hit, doubled, wrong, placed], [LEFT_OUT, 0, 1, 2, 3], 4)
    meant = np.select([hit, doubled | placed, wrong], [hits, own_object, foreign_object], NO_OBJECT)
    pair = meant[which] == other
    shared = np.zeros(len(chosen))
    shared[which[pair]] = iou[pair]
    missed = np.setdiff1d(counted, meant[chosen])
    return ClassifiedDetections(score, kinds, meant, shared, missed)


def _closest(count: int, detections: Array, objects: Array, iou: Array) -> tuple[Array, Array]:
    """From pairs: the largest IoU of each of `count` detections, and its object; 0 and NO_OBJECT without one."""
    largest, closest = np.zeros(count), np.full(count, NO_OBJECT)
    order = iou.argsort(kind="stable")
    largest[detections[order]], closest[detections[order]] = iou[order], objects[order]
    return largest, closest


def best_score(scores: Array, hits: Array, objects: int) -> float:
    """The score threshold with the highest F1; 1 if there is no hit."""
    counted = hits != NOT_COUNTED
    order = np.argsort(-scores[counted], kind="stable")
    sorted_scores, true = scores[counted][order], (hits[counted][order] >= 0).cumsum()
    if not len(true) or not true[-1]:
        return 1.0
    f1 = 2 * true / (np.arange(1, len(true) + 1) + objects)
    last = np.append(sorted_scores[1:] != sorted_scores[:-1], True)  # equal scores are taken together
    return float(sorted_scores[np.where(last, f1, -1).argmax()])
