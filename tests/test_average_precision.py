"""COCO's average precision against pycocotools, where it is installed, and against its definition as plain loops."""

import contextlib
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cnn_cli.tasks.average_precision import (
    CROWD,
    DIFFICULT,
    RECALLS,
    SIZES,
    THRESHOLDS,
    AveragePrecision,
    Detections,
    Objects,
    compute_average_precision,
)
from cnn_cli.tasks.precision_resampling import precision_intervals, weighted_precision

CASES = 40
Case = tuple[int, int, Objects, Detections]


def area(boxes: Any) -> Any:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def random_case(seed: int) -> Case:
    """Images, classes, objects and detections: many ties of scores and overlaps, crowds, empty images and classes.

    Coordinates are multiples of 1/64, so that corners and sizes are exact in both notations.
    """
    rng = np.random.default_rng(seed)
    images, classes, step = int(rng.integers(1, 6)), int(rng.integers(1, 4)), float(rng.choice([1 / 64, 1, 8]))
    objects, detections = int(rng.choice([0, 1, 5, 20])), int(rng.choice([0, 1, 10, 60, 150]))

    def boxes(count: int) -> Any:
        corners, sizes = (rng.uniform(0, rng.choice([20, 60, 200]), (count, 2)) // step * step for _ in range(2))
        return np.concatenate([corners, corners + sizes + step], 1)

    true, found = boxes(objects), boxes(detections)
    places = [(rng.integers(0, images, n), rng.integers(0, classes, n)) for n in (objects, detections)]
    (own_images, own_labels), (found_images, found_labels) = places
    if objects:  # most detections are near an object
        near, source = rng.random(detections) < 0.7, rng.integers(0, objects, detections)
        moved = true[source] + rng.integers(-2, 3, (detections, 4)) * step * (rng.random((detections, 1)) < 0.7)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + step)
        found = np.where(near[:, None], moved, found)
        found_images = np.where(near, own_images[source], found_images)
        found_labels = np.where(near & (rng.random(detections) < 0.9), own_labels[source], found_labels)
    scores = rng.integers(0, 5, detections) / 4 if rng.random() < 0.5 else rng.random(detections)
    flags = rng.choice([0, 0, 0, 0, DIFFICULT, CROWD], objects)
    return (
        images,
        classes,
        Objects(own_images, true, own_labels, flags, area(true)),
        Detections(found_images, found, found_labels, scores, area(found)),
    )


def by_loops(case: Case, size: str, threshold: float, label: int) -> Any:
    """(101,) precisions of a class, from the definition; None without objects."""
    images, _, true, found = case
    least, most = SIZES[size]
    results, count = [], 0
    for image in range(images):
        mine = [i for i in range(len(true.labels)) if true.images[i] == image and true.labels[i] == label]
        ignored = {i: bool(true.flags[i]) or not least <= true.areas[i] <= most for i in mine}
        count += sum(not skip for skip in ignored.values())
        taken = set()
        own = [i for i in range(len(found.labels)) if found.images[i] == image and found.labels[i] == label]
        for d in sorted(own, key=lambda i: -found.scores[i])[:100]:
            choices = []
            for i in mine:
                if i in taken and true.flags[i] != CROWD:
                    continue
                a, b = found.boxes[d], true.boxes[i]
                common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                whole = found.areas[d] if true.flags[i] == CROWD else found.areas[d] + true.areas[i] - common
                if common / whole >= threshold:
                    choices.append((not ignored[i], common / whole, i))
            if choices:
                counts, _, i = max(choices)
                taken.add(i)
                results += [(-found.scores[d], True)] if counts else []
            elif least <= found.areas[d] <= most:
                results.append((-found.scores[d], False))
    if not count:
        return None
    curve, hits = [], 0
    for n, (_, hit) in enumerate(sorted(results, key=lambda pair: pair[0]), 1):
        hits += hit
        curve.append((hits / count, hits / n))
    return np.array([max((p for r, p in curve if r >= recall), default=0.0) for recall in RECALLS])


@pytest.mark.parametrize("seed", range(CASES))
def test_equals_the_definition(seed: int) -> None:
    case = random_case(seed)
    found = compute_average_precision(case[3], case[2], case[1])
    for s, size in enumerate(SIZES):
        for t in (0, 4, 9):
            for label in range(case[1]):
                expected = by_loops(case, size, THRESHOLDS[t], label)
                got = found.precision[s, t, label]
                assert np.isnan(got).all() if expected is None else np.abs(got - expected).max() < 1e-12


def pycocotools_precision(case: Case) -> Any:
    """(thresholds, recalls, classes, sizes), −1 where there are no objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, classes, true, found = case

    class WithDifficult(COCOeval):  # type: ignore[misc]
        def _prepare(self) -> None:
            super()._prepare()
            for annotation in (a for group in self._gts.values() for a in group):
                annotation["ignore"] = annotation["ignore"] or annotation["difficult"]

    def rows(part: Any, i: int) -> dict[str, Any]:
        x0, y0, x1, y1 = part.boxes[i].tolist()
        ids = {"id": i + 1, "image_id": int(part.images[i]), "category_id": int(part.labels[i])}
        return ids | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(part.areas[i]), "iscrowd": 0}

    flags = [{"iscrowd": int(f == CROWD), "difficult": int(f == DIFFICULT)} for f in true.flags]
    annotations = [rows(true, i) | flag for i, flag in enumerate(flags)]
    predictions = [rows(found, i) | {"score": float(found.scores[i])} for i in range(len(found.labels))]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for content in (annotations, predictions):
            side = COCO()
            side.dataset = {"images": [{"id": i} for i in range(images)], "annotations": content}
            side.dataset["categories"] = [{"id": k} for k in range(classes)]
            side.createIndex()
            sides.append(side)
        evaluation = WithDifficult(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 2]


def test_equals_pycocotools() -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed; the tests against plain loops remain")
    for seed in range(50):
        case = random_case(seed)
        found = compute_average_precision(case[3], case[2], case[1]).precision.transpose(1, 3, 2, 0)
        assert np.abs(np.where(np.isnan(found), -1, found) - pycocotools_precision(case)).max() <= 1e-12, seed


def single(true: list[list[float]], found: list[list[float]], scores: list[float]) -> AveragePrecision:
    """One image, one class."""
    a, b = np.array(true, float).reshape(-1, 4), np.array(found, float).reshape(-1, 4)
    zeros, none = np.zeros(len(a), int), np.zeros(len(b), int)
    objects = Objects(zeros, a, zeros, zeros, area(a))
    return compute_average_precision(Detections(none, b, none, np.array(scores), area(b)), objects, 1)


def test_small_cases_by_hand() -> None:
    box, other = [0, 0, 40, 40], [100, 100, 140, 140]
    assert single([box], [box], [0.5]).mean() == pytest.approx(1)
    assert single([box], [], []).mean() == 0
    assert single([], [box], [0.5]).mean() is None
    assert single([box], [[0, 0, 40, 30]], [0.5]).mean() == pytest.approx(0.6)  # an IoU of 0.75: six thresholds
    assert single([box], [other, box], [0.9, 0.5]).mean() == pytest.approx(0.5)  # half of those up to it are hits
    assert single([box], [box, box], [0.9, 0.5]).mean() == pytest.approx(1)  # a double comes after all hits
    assert single([box, other], [box], [0.9]).mean(threshold=0.5) == pytest.approx(51 / 101)  # recalls 0 to 0.5
    assert single([box], [box], [0.5]).mean("medium") == pytest.approx(1)
    assert single([box], [box], [0.5]).mean("large") is None


def drawn_case(case: Case, weights: Any) -> Case:
    """The case with each image as often as its weight says."""
    _, classes, objects, detections = case
    copies = [i for i, n in enumerate(weights) for _ in range(n)]
    parts = []
    for part in (objects, detections):
        rows = [np.flatnonzero(part.images == i) for i in copies]
        index = np.concatenate([np.zeros(0, int), *rows])
        columns = {name: getattr(part, name)[index] for name in part.__dataclass_fields__}
        parts.append(type(part)(**columns | {"images": np.repeat(np.arange(len(copies)), [len(r) for r in rows])}))
    return len(copies), classes, *parts


def test_weighted_images_are_repeated_images() -> None:
    """What is matched once and weighted equals what is matched anew, with images that occur 0 to 3 times."""
    rng = np.random.default_rng(0)
    for seed in range(50):
        case = random_case(seed)
        distinct = rng.permutation(len(case[3].scores)) / 200  # equal ones are in the order of the images
        case = (*case[:3], replace(case[3], scores=distinct))
        matches = compute_average_precision(case[3], case[2], case[1]).matches
        weights = rng.integers(0, 4, (3, case[0]))
        weights[0] = 1
        for row, values in zip(weights, weighted_precision(matches, weights), strict=True):
            other = drawn_case(case, row)
            found = compute_average_precision(other[3], other[2], case[1])
            for i in (0, 5, 9):
                expected = found.mean(threshold=THRESHOLDS[i])
                assert values[i] == pytest.approx(math.nan if expected is None else expected, abs=1e-12, nan_ok=True)


def test_interval_is_that_of_naive_resampling() -> None:
    """Twelve images of three objects, 70% of which are detected."""
    rng, n = np.random.default_rng(0), 12
    images = np.arange(n).repeat(3)
    boxes = np.tile(np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]), (n, 1))
    zeros, moved = np.zeros(3 * n, int), boxes + 100 * (rng.random((3 * n, 1)) > 0.7)
    objects = Objects(images, boxes, zeros, zeros, area(boxes))
    case = (n, 1, objects, Detections(images, moved, zeros, rng.random(3 * n), area(boxes)))
    naive = []
    for _ in range(400):
        other = drawn_case(case, rng.multinomial(n, np.full(n, 1 / n)))
        naive.append(compute_average_precision(other[3], other[2], 1).mean(threshold=0.5) or 0.0)
    interval = precision_intervals(compute_average_precision(case[3], objects, 1).matches, n)["ap50"]
    assert np.std(naive) > 0.03
    assert interval == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.3 * np.std(naive))
    assert precision_intervals(single([], [[0, 0, 1, 1]], [0.5]).matches, 1) == {}
