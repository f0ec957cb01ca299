"""Detection: targets of cells, losses, suppression, and what is measured, against plain loops and torchvision."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou, nms
from torchvision.ops.giou_loss import generalized_box_iou_loss

from cnn_cli.data.boxes import box_table
from cnn_cli.distributed.world import World
from cnn_cli.errors import UsageError
from cnn_cli.language.expansion import expand
from cnn_cli.language.plan import Plan
from cnn_cli.language.spec import parse
from cnn_cli.tasks.average_precision import Detections, Objects, compute_average_precision
from cnn_cli.tasks.base import Task
from cnn_cli.tasks.cells import assign, cells_of, generalized_iou
from cnn_cli.tasks.detection import Detection, detection_task
from cnn_cli.tasks.detection_errors import classify_errors
from cnn_cli.tasks.selection import read_result, task_for, task_of
from cnn_cli.tasks.suppression import detections_of

SPEC = """
d:
  input: [3, 64, 96]
  args: {classes: 3}
  detects: [{scores: s1, boxes: b1}, {scores: s2, boxes: b2}]
  layers:
    c1: {Conv2d: {out_channels: 8, kernel_size: 3, stride: 8, padding: 1}}
    c2: {Conv2d: {out_channels: 8, kernel_size: 3, stride: 2, padding: 1}}
    s1: {from: c1, layers: {Conv2d: {out_channels: $classes, kernel_size: 1}}}
    b1: {from: c1, layers: [{Conv2d: {out_channels: 4, kernel_size: 1}}, Softplus]}
    s2: {from: c2, layers: {Conv2d: {out_channels: $classes, kernel_size: 1}}}
    b2: {from: c2, layers: {Conv2d: {out_channels: 4, kernel_size: 1}}}
"""
CLASSES = ("a", "b", "c")


def plan_of(text: str = SPEC) -> Plan:
    return expand(next(iter(parse(text, "spec").networks.values()))).checked()


def task() -> Detection:
    return detection_task(plan_of(), CLASSES)


def random_boxes(images: int, seed: int = 0) -> Tensor:
    """Up to five boxes in each image, some difficult or crowds; the first image has none."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(images):
        corners = rng.uniform(0, [80, 50], (rng.integers(1, 6) if i else 0, 2))
        sizes = rng.uniform(2, rng.choice([8, 40, 90]), (len(corners), 2))
        both = np.concatenate([corners, np.minimum(corners + sizes, [96, 64])], 1)
        rows.append([(*map(float, box), int(rng.integers(3)), int(rng.choice([0, 0, 0, 1, 2]))) for box in both])
    return box_table(rows)


def random_outputs(images: int, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    sizes = {"s1": (3, 8, 12), "b1": (4, 8, 12), "s2": (3, 4, 6), "b2": (4, 4, 6)}
    return {name: torch.randn(images, *size).abs().requires_grad_() for name, size in sizes.items()}


def owner(boxes: list[list[float]], x: float, y: float, stride: int, low: float, high: float) -> int:
    """The row of the object that a cell is to find, by the words of the guide; −1 for none."""
    choices = []
    for row, (x0, y0, x1, y1, label, flag, _) in enumerate(boxes):
        sides = (x - x0, y - y0, x1 - x, y1 - y)
        away = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) / stride
        near = away <= 0.5 or (min(sides) > 0 and away < 1.5)
        if label >= 0 and not flag and near and low < max(sides) <= high:
            choices.append(((x1 - x0) * (y1 - y0), row))
    return min(choices)[1] if choices else -1


def test_cells_find_the_smallest_object_around_them() -> None:
    boxes, cells = random_boxes(20), cells_of(task().scales, torch.device("cpu"))
    rows, excused = assign(cells, boxes)
    assert rows.shape == (20, 8 * 12 + 4 * 6) and (rows >= 0).sum() > 20
    for image, table in enumerate(boxes.tolist()):
        for cell, ((x, y), stride, (low, high)) in enumerate(
            zip(cells.centers.tolist(), cells.strides.tolist(), cells.limits.tolist(), strict=True)
        ):
            assert rows[image, cell] == owner(table, x, y, int(stride), low, high)
            flagged = [b for b in table if b[4] >= 0 and b[5] and b[0] < x < b[2] and b[1] < y < b[3]]
            assert excused[image, cell] == bool(flagged and rows[image, cell] < 0)
    assert cells.limits[0].tolist() == [0, 64] and cells.limits[-1].tolist() == [64, math.inf]


def test_generalized_iou_is_that_of_torchvision() -> None:
    torch.manual_seed(0)
    a, b = (torch.rand(50, 4).cumsum(1)[:, [0, 1, 2, 3]] for _ in range(2))
    iou, generalized = generalized_iou(a, b)
    torch.testing.assert_close(generalized, generalized_box_iou(a, b).diagonal())
    torch.testing.assert_close(1 - generalized, generalized_box_iou_loss(a, b), rtol=1e-5, atol=1e-5)
    assert (iou >= generalized - 1e-6).all()


def test_the_loss_by_plain_loops() -> None:
    detection, boxes, outputs = task(), random_boxes(4, 1), random_outputs(4)
    cells = detection.cells(torch.device("cpu"))
    rows, excused = assign(cells, boxes)
    total = torch.zeros(())
    for image in range(4):
        for cell in range(len(cells.centers)):
            first = cell < 96
            y, x = divmod(cell if first else cell - 96, 12 if first else 6)
            scores, raw = (outputs[name][image, :, y, x] for name in (("s1", "b1") if first else ("s2", "b2")))
            distances = (raw if first else raw.exp()) * cells.strides[cell]
            center = cells.centers[cell]
            box = torch.cat([center - distances[:2], center + distances[2:]])
            wanted, row = torch.zeros(3), int(rows[image, cell])
            if row >= 0:
                true = boxes[image, row]
                iou, generalized = generalized_iou(box, true[:4])
                wanted[int(true[4])] = iou.detach()
                total = total + 1 - generalized
            if not excused[image, cell]:
                p = scores.sigmoid()
                entropy = -(wanted * p.log() + (1 - wanted) * (1 - p).log())
                total = total + ((wanted - p) ** 2 * entropy).sum()
    objects = sum(max(1, sum(b[4] >= 0 and b[5] == 0 for b in image)) for image in boxes.tolist())
    assert objects == detection.weight(boxes)
    torch.testing.assert_close(detection.objective(outputs, boxes), total / objects, rtol=1e-5, atol=1e-5)


def test_parts_of_a_batch_make_up_the_whole() -> None:
    detection, boxes, outputs = task(), random_boxes(6, 2), random_outputs(6)
    whole = detection.objective(outputs, boxes)
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    weights = [detection.weight(boxes[part]) for part in parts]
    means = [detection.objective({k: v[part] for k, v in outputs.items()}, boxes[part]) for part in parts]
    torch.testing.assert_close(sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights), whole)
    assert sum(weights) == detection.weight(boxes) and weights[0] == 1  # an image without objects counts as one
    (gradient,) = torch.autograd.grad(means[0], outputs["s1"])
    assert gradient[0].abs().sum() > 0 and gradient[1:].abs().sum() == 0


def test_suppression_is_that_of_each_class() -> None:
    torch.manual_seed(3)
    scores = torch.rand(2, 3, 60)
    corners = torch.rand(2, 60, 2) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(2, 60, 2) * 30], 2)
    for image, found in enumerate(detections_of(scores, boxes, (64, 64), [60])):
        clipped = boxes[image].clamp(0, 64)
        expected = []
        for label in range(3):
            kept = nms(clipped, scores[image, label], 0.6)
            expected += [(float(scores[image, label, i]), label, clipped[i].tolist()) for i in kept]
        expected = sorted((e for e in expected if e[0] > 0.01), reverse=True)[:100]
        assert found.scores.tolist() == [e[0] for e in expected]
        assert found.labels.tolist() == [e[1] for e in expected]
        assert found.boxes.tolist() == [e[2] for e in expected]


def perfect_outputs(detection: Detection, boxes: Tensor) -> dict[str, Tensor]:
    """What a perfect network gives: the distances of each cell to its object, and a high score for its class."""
    cells = detection.cells(torch.device("cpu"))
    rows, _ = assign(cells, boxes)
    true = boxes.gather(1, rows.clamp(min=0)[..., None].expand(-1, -1, 7))
    distances = torch.cat([cells.centers - true[..., :2], true[..., 2:4] - cells.centers], 2) / cells.strides[:, None]
    labels = F.one_hot(true[..., 4].long().clamp(min=0), 3) * (rows >= 0)[..., None]
    scores, distances = (labels * 20.0 - 10).transpose(1, 2), distances.clamp(min=1e-6).transpose(1, 2)
    parts = {"s1": scores[..., :96], "b1": distances[..., :96], "s2": scores[..., 96:], "b2": distances[..., 96:].log()}
    return {name: x.reshape(*x.shape[:2], *((8, 12) if name.endswith("1") else (4, 6))) for name, x in parts.items()}


def test_a_perfect_network_is_measured_so_by_any_number_of_processes() -> None:
    detection = task()
    boxes = random_boxes(7, 5)
    boxes[..., 5] = 0
    one = detection.measure(torch.device("cpu"))
    one.add(perfect_outputs(detection, boxes), boxes)
    result = one.result("test", World())
    document = result.document()
    missed = document["errors"]["missed"]  # objects whose cells all belong to smaller ones
    assert result.score > 0.8 and missed <= 3 and document["errors"]["background"] == 0
    assert document["objects"] == int((boxes[..., 4] >= 0).sum()) and document["n"] == 7
    low, high = document["intervals"]["ap50"]
    assert low <= document["ap50"] <= high and "95% intervals: AP " in result.text()
    again = read_result(json.loads(json.dumps(document)))
    assert again == result and again.text() == result.text()

    class Gathered(World):
        def gather(self, value):  # type: ignore[no-untyped-def]
            return gathered

        def broadcast_object(self, value):  # type: ignore[no-untyped-def]
            return value

    gathered = []
    for rank in range(2):
        measure = detection.measure(torch.device("cpu"))
        for image in range(rank, 7, 2):
            part = boxes[image : image + 1]
            measure.add(perfect_outputs(detection, part), part)
        gathered.append((measure.detections, measure.true, measure.losses))
    both = measure.result("test", Gathered()).document()
    assert both.pop("loss") == pytest.approx(document["loss"], abs=1e-6)
    assert both == {k: v for k, v in document.items() if k != "loss"}


def test_errors_by_hand() -> None:
    true = np.array([[0, 0, 20, 20], [30, 0, 50, 20], [0, 40, 20, 60], [60, 0, 80, 20]], float)
    found = np.array(
        [[0, 0, 20, 20], [1, 0, 20, 20], [30, 0, 50, 20], [8, 40, 28, 60], [80, 80, 90, 90], [60, 0, 80, 20]], float
    )
    labels = np.array([0, 0, 1, 1, 0, 1])
    zeros = np.zeros(6, int)
    objects = Objects(zeros[:4], true, np.array([0, 0, 1, 0]), np.array([0, 0, 0, 1]), np.full(4, 400.0))
    detections = Detections(zeros, found, labels, np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.1]), np.full(6, 400.0))
    hits = compute_average_precision(detections, objects, 2).hits
    assert hits.tolist() == [0, -1, -1, -1, -1, -1]
    hits[-1] = 2  # so that the best score takes all of them
    errors = classify_errors(detections, objects, hits).count()
    assert errors.score == 0.9 or errors.score == 0.1
    classified = classify_errors(
        Detections(zeros[:5], found[:5], labels[:5], np.full(5, 0.5), np.full(5, 400.0)), objects, hits[:5]
    )
    assert classified.kinds.tolist() == [0, 1, 2, 3, 4] and classified.objects.tolist() == [0, 0, 1, 2, -1]
    assert classified.overlaps.tolist() == pytest.approx([1, 0.95, 1, 12 / 28, 0])
    everything = classified.count()
    assert (everything.hits, everything.doubled, everything.wrong_class) == (1, 1, 1)
    assert (everything.badly_placed, everything.background, everything.missed) == (1, 1, 0)


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("d:\n  input: [3, 8, 8]\n  layers: [Flatten, {Linear: 3}]\n", CLASSES,
         "d outputs 3, but the images have boxes"),
        (SPEC, ("a", "b"), "outputs scores for 3 classes, but the data has 2; add --set classes=2"),
        (SPEC.replace("kernel_size: 1}}}\n    b1", "kernel_size: 1}}, Sigmoid]}\n    b1").replace(
            "s1: {from: c1, layers: {", "s1: {from: c1, layers: [{"
        ), CLASSES, "the scores s1 end in Sigmoid, but the focal loss takes logits"),
    ],
)  # fmt: skip
def test_networks_that_are_no_detectors_are_refused(text: str, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task_for(plan_of(text), classes, "detection")


def test_the_task_follows_from_the_network() -> None:
    plan = plan_of()
    assert task_of(plan) == "detection"
    chosen: Task = task_for(plan, CLASSES, "detection")
    assert chosen.metric == "ap"
    with pytest.raises(UsageError, match=r"d is a detector, but the data has no boxes; .*, shapes or digit-scenes$"):
        task_for(plan, CLASSES)
