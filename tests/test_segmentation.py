"""Segmentation: metrics and losses against scikit-learn and plain loops, masks moved with their images, whole runs."""

import hashlib
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs as small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.data import catalog
from cnn_cli.data.augmentation import Augmentation, augment, augment_masks, draw_augmentations
from cnn_cli.data.dataset import SEGMENTATION, Dataset, Split
from cnn_cli.data.masks import VOID
from cnn_cli.data.shapes import CLASSES, make_shapes
from cnn_cli.distributed.world import ALONE
from cnn_cli.errors import UsageError
from cnn_cli.language.registry import find
from cnn_cli.tasks.segmentation import Segmentation, fitted, highest, segmentation_task, with_objective
from cnn_cli.tasks.segmentation_result import SegmentationResult, boundary_counts

SPEC = """
dense:
  input: [3, 16, 16]
  args: {classes: 7}
  layers:
    one: [{Conv2d: {out_channels: 8, kernel_size: 3, padding: 1}}, BatchNorm2d, ReLU]
    two: [{MaxPool2d: 2}, {Conv2d: {out_channels: 8, kernel_size: 3, padding: 1}}, ReLU]
    up: {Upsample: {scale_factor: 2}}
    joined: {Concat: [one, up]}
    head: {Conv2d: {out_channels: $classes, kernel_size: 1}}
  train: {data: shapes, epochs: 2, batch_size: 8, lr: 0.01, val_fraction: 0.2}
"""
CPU = torch.device("cpu")


@pytest.fixture
def few(quick: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`shapes` with 40 images."""
    monkeypatch.setitem(catalog.DATASETS, "shapes", small_shapes())
    return quick


def small_shapes() -> catalog.NamedDataset:
    def read(entry: catalog.NamedDataset, data_dir: Path) -> Dataset:
        shapes = make_shapes(40, 1)
        splits = {name: Split(shapes.images[part], shapes.masks[part]) for name, part in _PARTS.items()}
        return Dataset("shapes", CLASSES, splits, task=SEGMENTATION)

    return catalog.NamedDataset("shapes", "", read, 7, (3, 64, 64), 30, 10, "")


_PARTS = {"train": slice(30), "test": slice(30, None)}


def task(classes: int, **options: Any) -> Segmentation:
    return Segmentation(tuple(f"c{i}" for i in range(classes)), {"": (lambda outputs: outputs, 1.0)}, **options)


def measured(targets: Tensor, scores: Tensor, classes: int, batch: int) -> dict[str, Any]:
    measure = task(classes).measure(CPU)
    for y, z in zip(targets.split(batch), scores.split(batch), strict=True):
        measure.add(z, y)
    return measure.result("test", ALONE).document()


# --- Metrics ----------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(2, 6), st.integers(0, 10_000), st.integers(1, 5))
def test_figures_are_scikit_learns_whatever_the_batches(classes: int, seed: int, batch: int) -> None:
    from sklearn import metrics

    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes - seed % 2, (5, 6, 7), generator=generator).byte()  # one class may be absent
    targets[torch.rand(5, 6, 7, generator=generator) < 0.3] = VOID
    scores = torch.randn(5, classes, 6, 7, generator=generator)
    scores[:, 0] -= 10 * (seed % 3 == 0)  # one class may never be predicted
    found, valid = measured(targets, scores, classes, batch), targets != VOID
    true, predicted, labels = targets[valid], scores.argmax(1)[valid], list(range(classes))
    assert found["confusion_matrix"] == metrics.confusion_matrix(true, predicted, labels=labels).tolist()
    occurring = sorted({*true.tolist(), *predicted.tolist()})
    assert found["miou"] == pytest.approx(metrics.jaccard_score(true, predicted, labels=occurring, average="macro"))
    assert found["dice"] == pytest.approx(metrics.f1_score(true, predicted, labels=occurring, average="macro"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, predicted))
    assert found["void_pixels"] == int((~valid).sum()) and found["n"] == 5
    assert found["absent_classes"] == [f"c{i}" for i in labels if i not in true]
    expected = F.cross_entropy(scores, targets.long(), ignore_index=VOID)
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
    images = [
        metrics.jaccard_score(t[v], p[v], labels=sorted({*t[v].tolist(), *p[v].tolist()}), average="macro")
        for t, p, v in zip(targets, scores.argmax(1), valid, strict=True)
    ]
    assert found["mean_image_miou"] == pytest.approx(sum(images) / 5)
    for row, iou in zip(
        found["per_class"], metrics.jaccard_score(true, predicted, labels=labels, average=None), strict=True
    ):
        index = int(row["class"][1:])
        assert row["iou"] == (pytest.approx(iou) if index in occurring else None)


def test_boundaries_by_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(3)
    true = torch.randint(0, 3, (2, 3, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2).byte()
    predicted = true.roll(1, 2).long()
    predicted[0, :4] = 2
    true[:, 5:7, 5:9] = VOID

    def boundary(labels: Tensor, k: int) -> set[tuple[int, int, int]]:
        n, height, width = labels.shape
        cells = {(i, y, x) for i in range(n) for y in range(height) for x in range(width) if labels[i, y, x] == k}
        around = [(0, 1), (0, -1), (1, 0), (-1, 0)]
        return {
            (i, y, x)
            for i, y, x in cells
            for dy, dx in around
            if 0 <= y + dy < height and 0 <= x + dx < width and labels[i, y + dy, x + dx] not in (k, VOID)
        }

    valid = torch.where(true == VOID, VOID, predicted)
    for k in range(3):
        own, other = boundary(valid, k), boundary(true, k)
        near = [
            sum(any(i == j and abs(y - v) <= 1 and abs(x - u) <= 1 for j, v, u in b) for i, y, x in a)
            for a, b in ((own, other), (other, own))
        ]
        assert boundary_counts(true, predicted, 3)[:, k].tolist() == [len(own), near[0], len(other), near[1]]
    many = boundary_counts(true, predicted, 200)[:, :3]
    assert many.equal(boundary_counts(true, predicted, 3))
    assert boundary_counts(true + 100, predicted + 100, 200)[:, 100:103].sum() > 0


@pytest.mark.parametrize("side", [40, 200])
def test_boundary_f1_by_scipys_distances(side: int) -> None:
    from scipy import ndimage

    generator = torch.Generator().manual_seed(side)
    coarse = torch.randn(2, 3, 4, 8, 8, generator=generator)
    true, predicted = (fitted(maps, torch.Size((side, side))).argmax(1) for maps in (coarse[0], coarse.mean(0)))
    true[torch.rand(true.shape, generator=generator) < 0.02] = VOID
    measure = task(4).measure(CPU)
    measure.add(F.one_hot(predicted, 4).permute(0, 3, 1, 2).float(), true.byte())
    figures = [row["boundary_f1"] for row in measure.result("test", ALONE).document()["per_class"]]
    reach = max(1, round(0.0075 * math.hypot(side, side)))
    cross = ndimage.generate_binary_structure(2, 1)
    for k, figure in enumerate(figures):
        parts = []
        for labels in (predicted, true):
            valid = (true != VOID).numpy()
            other = valid & (labels != k).numpy()
            parts.append(
                [
                    v & (m == k).numpy() & ndimage.binary_dilation(o, cross)
                    for m, v, o in zip(labels, valid, other, strict=True)
                ]
            )
        shares = []
        for own, against in (parts, parts[::-1]):
            far = [ndimage.distance_transform_cdt(~edge, "chessboard") for edge in against]
            hits = sum(int((distance[edge] <= reach).sum()) for edge, distance in zip(own, far, strict=True))
            shares.append(hits / sum(int(edge.sum()) for edge in own))
        precision, recall = shares
        assert figure == pytest.approx(2 * precision * recall / (precision + recall)) and 0.1 < figure < 1


def test_a_perfect_prediction_and_a_result_read_back() -> None:
    masks = make_shapes(4, 5).masks
    perfect = F.one_hot(masks.long(), 7).permute(0, 3, 1, 2).float()
    measure = task(7).measure(CPU)
    measure.add(perfect, masks)
    result = measure.result("test", ALONE)
    d = result.document()
    assert d["miou"] == d["accuracy"] == d["mean_image_miou"] == d["dice"] == d["boundary_f1"] == 1
    from cnn_cli.tasks.selection import read_result

    assert isinstance(again := read_result(json.loads(json.dumps(d))), SegmentationResult)
    assert again.document() == d and again.text() == result.text()


# --- The loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross-entropy", "focal", "dice", "cross-entropy+dice", "focal+dice"])
@pytest.mark.parametrize("weights", [None, "sqrt", "balanced", (1.0, 0.0, 2.0)])
def test_parts_of_a_batch_add_up_to_its_loss(loss: str, weights: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (4, 8, 8), generator=generator).byte()
    targets[0, :, 3:], targets[2] = VOID, VOID
    scores = torch.randn(4, 3, 4, 4, generator=generator, requires_grad=True)
    values = {"loss": loss, "class_weights": weights, "label_smoothing": 0, "mixup": 0, "cutmix": 0}
    whole = with_objective(task(3), values | {"balanced_sampling": False}, targets)
    total = whole.weight(targets)
    parts = [whole.objective(scores[i::2], targets[i::2]) * whole.weight(targets[i::2]) / total for i in (0, 1)]
    assert torch.isclose(whole.objective(scores, targets), parts[0] + parts[1], rtol=1e-5)
    nothing = whole.objective(scores, torch.full_like(targets, VOID))
    nothing.backward()
    assert nothing.item() == 0 and scores.grad is not None and not scores.grad.any()


def test_cross_entropy_is_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (2, 8, 8), generator=generator).byte()
    targets[0, 2] = VOID
    scores = torch.randn(2, 3, 8, 8, generator=generator)
    weights = torch.tensor([0.5, 1, 3])
    plain = F.cross_entropy(scores, targets.long(), ignore_index=VOID)
    assert torch.isclose(task(3).objective(scores, targets), plain)
    weighted = F.cross_entropy(scores, targets.long(), weights, ignore_index=VOID)
    assert torch.isclose(task(3, class_weights=weights).objective(scores, targets), weighted)


def test_the_quick_argmax_is_torchs() -> None:
    scores = torch.randn(3, 9, 20, 20, generator=torch.Generator().manual_seed(0)).bfloat16()  # with ties
    assert highest(scores).equal(scores.argmax(1))


# --- Augmentation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [1.0, 0.3])
def test_ten_thousand_draws_invent_no_label_and_move_the_mask_with_its_image(crop: float) -> None:
    n, size = 10_000, (12, 17)
    labels = torch.tensor([3, 90, 200])[torch.randint(0, 3, (n, 4, 5), generator=torch.Generator().manual_seed(0))]
    masks = labels.repeat_interleave(3, 1).repeat_interleave(4, 2)[:, :, : size[1]].byte()
    masks = F.pad(masks, (0, size[1] - masks.shape[2]), value=3)
    augmentation = Augmentation(flip="random", shift=3, crop=crop, cutout=4)
    draws = draw_augmentations(n, 1, 1, augmentation, size)
    moved = augment_masks(masks, draws, augmentation)
    assert set(moved.unique().tolist()) == {3, 90, 200, VOID}
    images = augment(masks.unsqueeze(1), draws, augmentation).squeeze(1)
    black = moved == VOID
    assert not images[black].any() and black.any()
    same = (images == moved)[~black].float().mean()
    assert same == 1 if crop == 1 else same > 0.7  # interpolated pixels at the edges of labels differ


# --- The data set -----------------------------------------------------------------------------------------------------


def test_shapes_are_the_same_bytes_everywhere() -> None:
    shapes = make_shapes(50, 20_261_127)
    digest = hashlib.sha256(shapes.images.numpy().tobytes() + shapes.masks.numpy().tobytes()).hexdigest()
    assert digest[:16] == "68857fc49137b6aa"


def test_boxes_are_those_of_the_visible_shapes() -> None:
    shapes = make_shapes(60, 3)
    assert len(shapes.boxes) == len(shapes.labels) == len(shapes.owners) > 60
    for i in range(60):
        own = shapes.owners == i
        covered = np.zeros((64, 64), bool)
        for (x0, y0, x1, y1), label in zip(shapes.boxes[own].tolist(), shapes.labels[own].tolist(), strict=True):
            part = shapes.masks[i, y0:y1, x0:x1] == label
            assert part.sum() >= 30 and part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
            covered[y0:y1, x0:x1] = True
        assert not shapes.masks[i][torch.from_numpy(~covered)].any()


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_masks_measured(few: Path) -> None:
    run = small.begin(few, spec=SPEC, flip="random", shift=2, loss="cross-entropy+dice", class_weights="sqrt")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(0 < row["train_miou"] < 1 and 0 < row["val_miou"] < 1 for row in rows)
    document = json.loads((run / "eval.json").read_text())
    assert document["task"] == "segmentation" and document["n"] == 10 and len(document["per_class"]) == 7
    assert document["pixels"] == 10 * 16 * 16


def test_a_resumed_run_is_the_same_to_the_bit(few: Path) -> None:
    options = {"flip": "random", "shift": 2, "crop": 0.5, "tta": "flip"}
    whole = small.begin(few, "whole", spec=SPEC, **options)
    with small.at_step(5, small.interrupt), pytest.raises(Exception, match="stopped"):
        small.begin(few, "parts", spec=SPEC, **options)
    parts = small.resume(few, "parts", spec=SPEC)
    assert small.same(small.without_times(small.last(whole)), small.without_times(small.last(parts)))


def test_a_killed_run_ends_with_the_same_bits(few: Path) -> None:
    """SIGKILL in the middle of the second epoch, after a save there."""
    options = {"flip": "random", "shift": 2, "class_weights": "sqrt", "loss": "cross-entropy+dice"}
    whole = small.begin(few, "whole", spec=SPEC, **options)
    if (child := os.fork()) == 0:
        with small.at_step(5, lambda: os.kill(os.getpid(), signal.SIGKILL)), pytest.MonkeyPatch.context() as patch:
            patch.setattr("cnn_cli.training.loop.SAVE_EVERY", 0)
            small.begin(few, "parts", spec=SPEC, **options)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert small.last(few / "parts")["step"] == 4 and len((few / "parts/metrics.jsonl").read_text().splitlines()) == 1
    parts = small.resume(few, "parts", spec=SPEC)
    assert small.same(small.without_times(small.last(whole)), small.without_times(small.last(parts)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": 0.2}, "mixup is for classification"),
        ({"cutmix": 0.2}, "cutmix is for classification"),
        ({"balanced_sampling": True}, "balanced_sampling is for classification"),
        ({"class_weights": [1, 2]}, "class_weights has 2 values, but there are 7 classes"),
        ({"loss": "focal", "label_smoothing": 0.1}, "label_smoothing requires cross-entropy"),
        ({"data": "digits"}, "outputs 10x16x16, but classification needs one score per class"),
    ],
)
def test_settings_that_make_no_sense_are_refused(few: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small.begin(few, spec=SPEC, **options)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[{Conv2d: {out_channels: 5, kernel_size: 1}}]", "scores for 5 classes, but the masks have 7"),
        ("[{Conv2d: {out_channels: 7, kernel_size: 5}}]", "neither their size nor an integer fraction"),
        ("[{AdaptiveAvgPool2d: 1}, {Conv2d: {out_channels: 7, kernel_size: 1}}]", "at a single position"),
        ("[{AdaptiveAvgPool2d: 1}, Flatten, {Linear: 7}]", "needs scores for each pixel, KxHxW"),
    ],
)
def test_networks_whose_output_does_not_suit(tmp_path: Path, layers: str, message: str) -> None:
    (tmp_path / "n.yaml").write_text(f"n: {{input: [3, 16, 16], layers: {layers}}}")
    with pytest.raises(UsageError, match=message):
        segmentation_task(find(str(tmp_path / "n.yaml")), CLASSES)
