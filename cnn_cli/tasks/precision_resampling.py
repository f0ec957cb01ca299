"""Average precision of resampled images: detections are matched once, and then only weighted."""

import numpy as np

from cnn_cli.tasks.average_precision import RECALLS, THRESHOLDS, Array, Matches
from cnn_cli.tasks.uncertainty import LEVEL, draws, percentiles

FIGURES = {"ap": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6)}  # the IoU thresholds of each


def weighted_precision(matches: Matches, weights: Array) -> Array:
    """(r, images) integers, how often each image is drawn → (r, thresholds), the mean over the classes that occur; NaN
    if there are none."""
    classes = np.unique(matches.object_labels)
    total, occur = np.zeros((len(weights), len(THRESHOLDS))), np.zeros(len(weights), np.int64)
    for label in classes:
        count = weights[:, matches.object_images[matches.object_labels == label]].sum(1)
        total += _of_class(matches, label, weights, count)
        occur += count > 0
    return np.divide(total, occur[:, None], out=np.full_like(total, np.nan), where=occur[:, None] > 0)


def _of_class(matches: Matches, label: int, weights: Array, count: Array) -> Array:
    """(r, thresholds): the average precision of a class; 0 where `count` (r,) is 0, since the class does not occur."""
    first, last = matches.labels.searchsorted([label, label + 1])
    drawn = weights[:, matches.images[first:last]]
    hits, misses = matches.hits[:, first:last], matches.misses[:, first:last]
    result, counted, detected = np.zeros((len(weights), len(hits))), None, np.zeros((0, 0))
    for i, (hit, miss) in enumerate(zip(hits, misses, strict=True)):
        if counted is None or not np.array_equal(counted, hit | miss):
            counted = hit | miss
            detected = (drawn * counted).cumsum(1)
        if not hit.any():
            continue
        # Precision is highest at a hit, and recall rises only there.
        true = drawn[:, hit].cumsum(1)
        precision = true / np.maximum(detected[:, hit], 1)
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        reached = RECALLS.searchsorted(true / np.maximum(count, 1)[:, None], "right")
        reached[true == 0] = 0
        result[:, i] = (precision * np.diff(reached, axis=1, prepend=0)).sum(1)
    return result / len(RECALLS)


def precision_intervals(matches: Matches, images: int) -> dict[str, object]:
    """95% intervals of AP, AP50 and AP75 by the bootstrap over images; empty without objects."""
    if not len(matches.object_labels):
        return {}
    values = np.concatenate([weighted_precision(matches, weights) for weights in draws(images)])
    ends = {name: list(percentiles(values[:, part].mean(1))) for name, part in FIGURES.items()}
    return {"level": LEVEL, **ends}
