"""What is wrong with detections: missed, doubled, wrong class, badly placed, background, as TIDE (Bolya et al. 2020)
tells errors apart, here at the score at which the most is right."""

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

NEAR = 0.1  # the IoU from which on a detection is a badly placed one of an object, rather than of the background
HIT = 0.5


@dataclass(frozen=True)
class DetectionErrors:
    """Numbers of detections with scores from `score` on, by what is wrong; `missed` objects have none of these.

    doubled: of an object that another detection hits. wrong_class: of an object of another class. badly_placed: the
    IoU with an object of the class is below 0.5, but at least 0.1. background: of none of these.
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
        """The share of detections that are hits."""
        false = self.doubled + self.wrong_class + self.badly_placed + self.background
        return self.hits / max(1, self.hits + false)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def classify_errors(detections: Detections, objects: Objects, hits: Array) -> DetectionErrors:
    """hits: those of compute_average_precision(). Detections of crowds and of difficult objects are in no count."""
    score = best_score(detections.scores, hits, int((objects.flags == 0).sum()))
    chosen = (detections.scores >= score) & (hits != NOT_COUNTED)
    counted = np.flatnonzero(objects.flags == 0)
    false = np.flatnonzero(chosen & (hits == NO_OBJECT))
    order = counted[objects.images[counted].argsort(kind="stable")]
    which, number = pairs_of(detections.images[false], objects.images[order])
    other = order[number]
    iou = overlaps(detections.boxes[false[which]], objects.boxes[other], np.zeros(len(other), bool))
    same = detections.labels[false[which]] == objects.labels[other]
    own, foreign = (np.zeros(len(false)) for _ in range(2))
    np.maximum.at(own, which[same], iou[same])
    np.maximum.at(foreign, which[~same], iou[~same])
    doubled = own >= HIT
    wrong = ~doubled & (foreign >= HIT)
    placed = ~doubled & ~wrong & (own >= NEAR)
    blamed = (wrong[which] & ~same & (iou >= HIT)) | (placed[which] & same & (iou >= NEAR))
    explained = set(other[blamed].tolist()) | set(hits[chosen & (hits >= 0)].tolist())
    return DetectionErrors(
        score=score,
        hits=int((chosen & (hits >= 0)).sum()),
        missed=len(set(counted.tolist()) - explained),
        doubled=int(doubled.sum()),
        wrong_class=int(wrong.sum()),
        badly_placed=int(placed.sum()),
        background=int((~doubled & ~wrong & ~placed).sum()),
    )


def best_score(scores: Array, hits: Array, objects: int) -> float:
    """The score from which on detections have the highest F1; 1 where there is no hit."""
    counted = hits != NOT_COUNTED
    order = np.argsort(-scores[counted], kind="stable")
    sorted_scores, true = scores[counted][order], (hits[counted][order] >= 0).cumsum()
    if not len(true) or not true[-1]:
        return 1.0
    f1 = 2 * true / (np.arange(1, len(true) + 1) + objects)
    last = np.append(sorted_scores[1:] != sorted_scores[:-1], True)  # equal scores are taken together
    return float(sorted_scores[np.where(last, f1, -1).argmax()])
