"""Boxes: they follow their images through resizing, crops, padding and augmentation, pixel by pixel."""

import hashlib
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cnn_cli.data import digit_scenes
from cnn_cli.data.augmentation import Augmentation, augment, augment_boxes, draw_augmentations
from cnn_cli.data.boxes import BoxFiles, are_boxes, box_table, class_counts, fit_boxes
from cnn_cli.data.dataset import DETECTION, Dataset, Split
from cnn_cli.data.fingerprint import compute_fingerprint
from cnn_cli.data.loading import load_dataset, match_classes, split_dataset
from cnn_cli.data.masks import are_masks
from cnn_cli.data.preparation import prepare
from cnn_cli.data.preprocessing import Preprocessing, preprocess, preprocess_masks
from cnn_cli.data.shapes import make_shapes

CPU = torch.device("cpu")


def drawn(box: Tensor, height: int, width: int) -> Tensor:
    """(height, width) bytes: 255 within the box, whose corners are whole numbers."""
    x0, y0, x1, y1 = (int(v) for v in box[:4])
    image = torch.zeros(height, width, dtype=torch.uint8)
    image[y0:y1, x0:x1] = 255
    return image


def around(image: Tensor) -> Tensor:
    """(4,) the box around the pixels of a drawn rectangle."""
    rows, columns = ((image > 127).any(d).nonzero().flatten() for d in (1, 0))
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


def random_box(random: Random, height: int, width: int, least: int = 1) -> tuple[int, int, int, int, int, int]:
    x0, y0 = random.randint(0, width - least), random.randint(0, height - least)
    return x0, y0, random.randint(x0 + least, width), random.randint(y0 + least, height), random.randrange(3), 0


def test_boxes_follow_their_images_into_the_input() -> None:
    random, kept = Random(3), 0
    for _ in range(1000):
        h, w = random.choice([(random.randint(8, 60),) * 2, (random.randint(8, 60), random.randint(8, 60)), (6, 90)])
        H, W = random.randint(8, 40), random.randint(8, 40)
        resize = random.choice(["stretch", "crop", "pad"])
        size = max(H, W) + random.randint(0, 9) if resize == "crop" and random.random() < 0.4 else None
        preprocessing = Preprocessing((3, H, W), resize, resize_size=size)
        table = box_table([[random_box(random, h, w, 3)]])
        fitted = fit_boxes(table, torch.tensor([[h, w]]), preprocessing)[0, 0]
        image = preprocess(drawn(table[0, 0], h, w).expand(1, 3, h, w), preprocessing)[0, 0]
        sides = fitted[2:4] - fitted[:2]
        if fitted[4] < 0 or sides.min() < 3:
            continue
        kept += 1
        assert (around(image) - fitted[:4]).abs().max() <= 1, (h, w, preprocessing)
        assert fitted[:2].min() >= 0 and fitted[2] <= W and fitted[3] <= H
        # As many pixels of the original: the sum of the image is the box's area, cut and resized.
        area = image.double().sum() / 255
        assert abs(area - sides.prod()) <= 0.05 * area + 2 * (sides.sum() < 12), (h, w, preprocessing)
    assert kept > 400


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_box_around_the_whole_image_is_around_its_pixels(resize: str) -> None:
    preprocessing = Preprocessing((3, 20, 30), resize)
    for h, w in ((20, 30), (40, 60), (40, 33), (13, 37), (29, 13), (1000, 999)):
        image = preprocess_masks(torch.zeros(1, h, w, dtype=torch.uint8), preprocessing)[0]
        fitted = fit_boxes(box_table([[(0, 0, w, h, 1, 0)]]), torch.tensor([[h, w]]), preprocessing)[0, 0]
        assert torch.equal(fitted[:4], around(torch.where(image == 0, 255, 0)))
        assert fitted[6] * fitted[2:4].sub(fitted[:2]).prod() <= h * w + 1


def test_boxes_that_are_mostly_cut_away_become_padding_at_the_end() -> None:
    rows = [[(0, 0, 10, 10, 0, 0), (0, 0, 20, 20, 1, 2), (15, 5, 25, 15, 2, 1)], []]
    boxes = fit_boxes(box_table(rows), torch.tensor([[40, 60]] * 2), Preprocessing((3, 20, 20), "crop"))
    # The middle 40 x 40 remain, at half the size: of the first box nothing, of the second half.
    assert boxes[0].tolist() == [[0, 0, 5, 10, 1, 2, 4], [2.5, 2.5, 7.5, 7.5, 2, 1, 4], [0, 0, 0, 0, -1, 0, 4]]
    assert boxes[1].tolist() == [[0, 0, 0, 0, -1, 0, 4]] * 3


AUGMENTATIONS = {
    "shift": Augmentation(shift=6),
    "flip": Augmentation(flip="random"),
    "shift and flip": Augmentation(flip="alternating", shift=5),
    "cutout": Augmentation(cutout=9),
    "crop": Augmentation(crop=0.3),
    "all": Augmentation(flip="random", shift=4, crop=0.3, cutout=7),
}


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_boxes_follow_ten_thousand_augmented_images(kind: str) -> None:
    augmentation, random, n, (H, W) = AUGMENTATIONS[kind], Random(kind), 10_000, (24, 32)
    boxes = box_table([[random_box(random, H, W, 3)] for _ in range(n)])
    x, y = torch.arange(W), torch.arange(H)
    columns = (x >= boxes[:, 0, :1]) & (x < boxes[:, 0, 2:3])
    rows = (y >= boxes[:, 0, 1:2]) & (y < boxes[:, 0, 3:4])
    images = (rows[:, :, None] & columns[:, None]).mul(255).byte()[:, None]
    draws = draw_augmentations(n, 7, 1, augmentation, (H, W))
    moved = augment_boxes(boxes, draws, augmentation, (H, W))[:, 0]
    after = augment(images, draws, augmentation)[:, 0] / 255
    bare = augment(images, draws, replace(augmentation, cutout=0))[:, 0] > 127
    scale = H * W / (draws[:, 5] * draws[:, 6]).float() if augmentation.crop < 1 else torch.ones(n)
    share = after.sum((1, 2)) / (rows.sum(1) * columns.sum(1) * scale)
    kept, exact = moved[:, 4] >= 0, augmentation.crop == 1
    sure = (share - 0.25).abs() > (0 if exact else 0.1)
    assert torch.equal(kept[sure], share[sure] >= 0.25) and kept.float().mean() > 0.5
    for seen, corners in ((bare.any(1), moved[:, 0:4:2]), (bare.any(2), moved[:, 1:4:2])):
        edges = torch.stack([seen.byte().argmax(1), seen.shape[1] - seen.flip(1).byte().argmax(1)], 1)
        assert (edges - corners)[kept].abs().max() <= (0 if exact else 1)
    assert torch.allclose(moved[:, 6], 1 / scale)
    assert torch.equal(moved[kept][:, 4], boxes[kept][:, 0, 4])
    assert (moved[~kept][:, :6] == torch.tensor([0, 0, 0, 0, -1, 0])).all()


def test_reflected_borders_move_boxes_as_black_ones_do() -> None:
    augmentation = Augmentation(flip="random", shift=6)
    boxes, draws = box_table([[(2, 3, 9, 20, 0, 0)]] * 50), draw_augmentations(50, 7, 1, augmentation, (24, 32))
    moved = [
        augment_boxes(boxes, draws, replace(augmentation, padding_mode=m), (24, 32)) for m in ("constant", "reflect")
    ]
    assert torch.equal(*moved)


def test_shapes_are_a_data_set_of_boxes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn_cli.data.shapes.read_shapes", lambda _: make_shapes(200, 1))
    monkeypatch.setattr("cnn_cli.data.shapes.TRAIN", 150)
    masks, boxes = (load_dataset("shapes", tmp_path, False, task) for task in (None, DETECTION))
    assert masks.task == "segmentation" and boxes.task == DETECTION and boxes.classes == masks.classes[1:]
    for name, split in boxes.splits.items():
        targets, pixels = split.targets, masks.splits[name].targets
        assert isinstance(targets, Tensor) and isinstance(pixels, Tensor)
        assert are_boxes(targets) and not are_masks(targets) and not are_boxes(pixels) and are_masks(pixels)
        assert torch.equal(split.images[:9], masks.splits[name].images[:9])  # type: ignore[index]
        counts = class_counts(targets, 6)
        shown = torch.stack([(pixels == k).flatten(1).any(1) for k in range(1, 7)], 1)
        assert torch.equal(counts > 0, shown)
        only = ((counts == 1) & (counts.sum(1, keepdim=True) == 1)).nonzero()[:50]  # one shape: its box is its pixels'
        for image, k in only.tolist():
            assert torch.equal(around((pixels[image] == k + 1) * 255), targets[image, 0, :4])


def files(n: int = 40) -> Dataset:
    random = Random(1)
    rows = [[random_box(random, 30, 40) for _ in range(random.randrange(4))] for _ in range(n)]
    targets = BoxFiles(box_table(rows), torch.tensor([[30, 40]] * n))
    return Dataset(
        "cells", ("a", "b", "c"), {"all": Split(tuple(Path(f"{i}.png") for i in range(n)), targets)}, task=DETECTION
    )


def test_boxes_are_split_by_their_rarest_class_and_images_without_boxes_alike() -> None:
    parts = split_dataset(files(), 0.25).splits
    assert {name: len(part) for name, part in parts.items()} == {"train": 24, "val": 8, "test": 8}
    for part in parts.values():
        assert are_boxes(part.targets) and (class_counts(part.targets, 3).sum(1) == 0).any()
    assert torch.equal(split_dataset(files()).splits["test"].targets.boxes, parts["test"].targets.boxes)  # type: ignore[union-attr]


def test_classes_are_matched_by_name() -> None:
    dataset = files()
    other = match_classes(dataset, ("c", "d", "a", "b"))
    counts, expected = (class_counts(d.splits["all"].targets, 4) for d in (other, dataset))  # type: ignore[arg-type]
    assert torch.equal(counts[:, [2, 3, 0]], expected[:, :3]) and not counts[:, 1].any()
    assert compute_fingerprint(other) != compute_fingerprint(dataset) == compute_fingerprint(files())


def test_boxes_are_fitted_with_their_images(tmp_path: Path) -> None:
    random, images = Random(2), torch.zeros(5, 3, 20, 30, dtype=torch.uint8)
    table = box_table([[random_box(random, 20, 30)] for _ in images])
    for image, rows in zip(images, table, strict=True):
        image[:] = drawn(rows[0], 20, 30)
    dataset = Dataset("d", ("a", "b", "c"), {"train": Split(images, table)}, task=DETECTION)
    part = prepare(dataset, Preprocessing((3, 40, 60)), CPU).splits["train"]
    assert isinstance(part.images, Tensor) and part.targets.shape == (5, 1, 7)
    for image, rows in zip(part.images, part.targets, strict=True):
        assert (around((image[0] > 127) * 255) - rows[0, :4]).abs().max() == 0 and rows[0, 6] == 0.25


def test_digit_scenes_are_the_same_bytes_on_every_machine() -> None:
    scenes = digit_scenes.make_digit_scenes(40, 20, 20_261_128)
    digest = hashlib.sha256(scenes.images.numpy().tobytes() + scenes.boxes.numpy().tobytes()).hexdigest()
    assert digest[:16] == "2bed1ffb4ba3f548"
    fewer = digit_scenes.make_digit_scenes(7, 0, 20_261_128)  # each depends on its own number alone
    assert torch.equal(fewer.images, scenes.images[:7]) and torch.equal(fewer.boxes, scenes.boxes[scenes.owners < 7])
    assert scenes.boxes.min() >= 0 and scenes.boxes.max() <= 64 and 0 < 60 - len(scenes.owners.unique()) < 10
    assert (scenes.boxes[:, 2:] - scenes.boxes[:, :2]).min() >= 4


def test_digits_are_enlarged_bilinearly() -> None:
    digit = torch.randint(0, 257, (8, 8), generator=torch.Generator().manual_seed(0))
    for size in (8, 14, 23, 30):
        expected = functional.interpolate(digit[None, None].double(), (size, size), mode="bilinear")[0, 0]
        assert (torch.from_numpy(digit_scenes.enlarged(digit.numpy(), size)) - expected).abs().max() <= 1


def test_digit_scenes_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TRAIN", 12), ("TEST", 5)):
        monkeypatch.setattr(digit_scenes, name, value)
    dataset = load_dataset("digit-scenes", tmp_path)
    assert dataset.task == DETECTION and {n: len(s) for n, s in dataset.splits.items()} == {"train": 12, "test": 5}
    monkeypatch.setattr(digit_scenes, "make_digit_scenes", lambda *_: pytest.fail("made a second time"))
    assert compute_fingerprint(load_dataset("digit-scenes", tmp_path)) == compute_fingerprint(dataset)
    next((tmp_path / "digit-scenes").iterdir()).write_bytes(b"damaged")
    monkeypatch.undo()
    monkeypatch.setattr(digit_scenes, "TRAIN", 3)
    monkeypatch.setattr(digit_scenes, "TEST", 1)
    assert len(load_dataset("digit-scenes", tmp_path).splits["test"]) == 1
