"""`cnn data preview`: the images that training takes, as it takes them, classes side by side."""

import json
import re
from pathlib import Path
from typing import Any

import box_folders as folders
import numpy as np
import pytest
import small_runs as small
from pictures import cnn
from PIL import Image
from torch import Tensor

from cnn_cli.interpret import data_preview
from cnn_cli.pictures import sample_sheet
from cnn_cli.pictures.grid import Cell
from cnn_cli.pictures.sample_sheet import compose_sheet
from cnn_cli.training.job import Job

Columns = list[Any]


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> Columns:
    """The columns of the sheets that are drawn: (class, samples)."""
    drawn: Columns = []

    def keep(given: Any, *rest: Any) -> Any:
        drawn.extend(given)
        return compose_sheet(given, *rest)

    monkeypatch.setattr(data_preview, "compose_sheet", keep)
    return drawn


def preview(*arguments: str) -> int:
    return cnn("data", "preview", *arguments)


def test_the_images_are_those_of_the_first_epoch_of_training(
    tmp_path: Path, columns: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[bytes] = set()
    moved = Job.moved

    def keep(job: Job, images: Tensor, targets: Tensor, draws: Tensor) -> Any:
        result = moved(job, images, targets, draws)
        seen.update(image.numpy().tobytes() for image in result[0])
        return result

    monkeypatch.setattr(Job, "moved", keep)
    small.without_pictures(monkeypatch)
    settings = {"flip": "random", "shift": 2, "crop": 0.6, "seed": 3}
    small.begin(tmp_path, data="digits", epochs=1, **settings)
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    assert preview("digits", str(tmp_path / "small.yaml"), *options, "-n", "3", "-o", str(tmp_path / "a.png")) == 0
    assert [name for name, _ in columns] == [str(i) for i in range(10)]
    pictures = [sample.pixels[..., 0] for _, samples in columns for sample in samples]
    assert len(pictures) == 30 and all(pixels.tobytes() in seen for pixels in pictures)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width > 500


def test_images_mixed_in_pairs_are_not_shown_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mixed = small.SPEC.replace("train: {", "train: {mixup: 0.2, cutmix: 1, ")
    assert mixed != small.SPEC
    folders.write(tmp_path / "mixed.yaml", mixed)
    assert preview("digits", "mixed.yaml", "-n", "1", "-o", "a.png") == 0
    assert "mixup and CutMix not shown: images are mixed in pairs during training" in capsys.readouterr().err
    assert preview("digits", "mixed.yaml", "-n", "1", "-o", "b.png", "--split", "test") == 0
    assert "mixup" not in capsys.readouterr().err


def test_boxes_are_shown_for_each_class_and_images_without_them(
    tmp_path: Path, columns: Columns, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[tuple[str, ...]] = []
    grid = sample_sheet.captioned_grid

    def keep(rows: list[list[Cell]]) -> Any:
        captions.extend(cell.words for row in rows for cell in row)
        return grid(rows)

    monkeypatch.setattr(sample_sheet, "captioned_grid", keep)
    folders.coco(tmp_path / "cells")
    out = str(tmp_path / "b.png")
    assert preview(str(tmp_path / "cells"), "--input", "3x60x80", "-o", out, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    shown = {row["class"]: sorted(row["images"]) for row in document["classes"]}
    assert shown == {
        "cat": ["0.png", "3.png"],
        "dog": ["0.png", "3.png"],
        "red fox": ["1.png"],
        "no objects": ["2.png"],
    }
    assert document["task"] == "detection" and document["images"] == "stretch to 60x80; pixels in [0, 1]; not augmented"
    assert {words for words in captions if words} == {(f"{i}.png",) for i in range(4)}  # the boxes name the classes
    assert [name for name, _ in columns] == [""] * 4  # each image once, although two show both a cat and a dog
    (fox,) = next(samples for _, samples in columns if samples[0].name == "1.png")
    assert fox.pixels.shape == (60, 80, 3) and [(tuple(b.corners), b.words) for b in fox.boxes] == [
        ((20, 20, 40, 40), "red fox")
    ]


def test_images_of_one_name_in_several_classes_count_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "pets/train" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets/train" / label / "1.png")
    assert preview(str(tmp_path / "pets"), "-o", str(tmp_path / "a.png")) == 0
    assert "2 images of 2 classes" in capsys.readouterr().out


def test_masks_are_shown_with_what_augmentation_makes_void(tmp_path: Path, columns: Columns) -> None:
    for i in range(4):
        folders.picture(tmp_path / f"photos/images/{i}.png", i)
        mask = np.zeros((folders.HEIGHT, folders.WIDTH), np.uint8)
        mask[5 * i : 5 * i + 9, 3:20] = 1
        (tmp_path / "photos/masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"photos/masks/{i}.png")
    out = str(tmp_path / "c.png")
    assert preview(str(tmp_path / "photos"), "--cutout", "8", "-o", out) == 0
    assert [(name, len(samples)) for name, samples in columns] == [("", 1)] * 3
    labels = np.stack([sample.labels for _, samples in columns for sample in samples])
    assert set(np.unique(labels)) == {0, 1, 255}
    columns.clear()
    assert preview(str(tmp_path / "photos"), "--cutout", "8", "--split", "test", "-o", out, "--force") == 0
    assert {int(v) for _, samples in columns for sample in samples for v in np.unique(sample.labels)} <= {0, 1}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("cells", "--split", "dev"), 2, "has no dev split; it has train, val"),
        (("cells", "net.yaml"), 2, "is for classification, but .*cells is a data set for detection"),
        (("cells", "--set", "classes=3"), 2, "--set and --recipe need a network"),
        (("cells", "-o", "there.png"), 2, "there.png exists"),
        (("cells", "--task", "boxes"), 2, "--task must be"),
        (("nothing",), 2, "error: data nothing: no such data set or folder"),
        (("invalid",), 1, "0.txt:1: 3 columns"),
    ],
)
def test_what_cannot_be_shown_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Any,
    code: int,
    message: str,
) -> None:
    folders.coco(tmp_path / "cells")
    folders.write(folders.yolo(tmp_path / "invalid") / "labels/train/0.txt", "0 1 1")
    folders.write(tmp_path / "there.png", "")
    folders.write(tmp_path / "net.yaml", small.SPEC)
    monkeypatch.chdir(tmp_path)
    assert preview(*arguments) == code
    error = capsys.readouterr().err
    assert re.search(message, error), error
