"""Folders of images with boxes: VOC, COCO and YOLO are read alike, in their usual layouts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import rmtree

import box_folders as folders
import pytest
import small_runs as small
import torch
from box_folders import BOXES, FORMATS, NAMES, write
from pictures import cnn
from PIL import Image

from cnn_cli.data.boxes import CROWD, DIFFICULT, BoxFiles
from cnn_cli.data.dataset import SEGMENTATION, Dataset
from cnn_cli.data.loading import load_dataset, load_for_evaluation, split_dataset
from cnn_cli.errors import CnnError, UsageError

REAL = Path(__file__).parents[2] / "shared" / "data"


def read(root: Path, skip: bool = False, task: str | None = None, annotations: str | None = None) -> Dataset:
    return load_dataset(str(root), root, skip, task, annotations)


def rows(dataset: Dataset) -> dict[str, list[tuple[float, ...]]]:
    """The boxes of each image by its name: x0, y0, x1, y1, class."""
    result = {}
    for split in dataset.splits.values():
        assert isinstance(split.targets, BoxFiles) and isinstance(split.images, tuple)
        for path, boxes in zip(split.images, split.targets.boxes.tolist(), strict=True):
            result[path.stem] = [tuple(row[:5]) for row in boxes if row[4] >= 0]
    return result


def near(boxes: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> bool:
    return len(boxes) == len(expected) and all(
        pytest.approx(b, abs=1e-4) == a for a, b in zip(boxes, expected, strict=True)
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_boxes(tmp_path: Path, kind: str) -> None:
    dataset = read(FORMATS[kind](tmp_path / "data/nested"))
    assert dataset.task == "detection" and dataset.classes == NAMES
    assert {n: len(s) for n, s in dataset.splits.items()} == {"train": 4, "val": 2}
    for i, expected in enumerate(BOXES):
        assert near(rows(dataset)[str(i)], expected)
    targets = dataset.splits["train"].targets
    assert isinstance(targets, BoxFiles) and torch.equal(targets.sizes, torch.tensor([[30, 40]] * 4))
    flags = {int(f) for row in targets.boxes.flatten(0, 1) if row[4] == 2 for f in [row[5]]}
    assert flags == {{"voc": DIFFICULT, "coco": CROWD, "yolo": 0}[kind]}


def moved(root: Path, target: str, *patterns: str) -> None:
    """Move the files that match into one folder."""
    (root / target).mkdir(parents=True, exist_ok=True)
    for path in [p for pattern in patterns for p in root.glob(pattern)]:
        path.rename(root / target / path.name)


def roboflow_coco(root: Path) -> None:
    FORMATS["coco"](root)
    for split, short in (("train", "train"), ("val", "valid")):
        moved(root, short, f"{split}2017/*.png")
        path = root / f"annotations/instances_{split}2017.json"
        document = json.loads(path.read_text())
        document["categories"] = [
            {"id": 0, "name": "animals"},
            *({**c, "supercategory": "animals"} for c in document["categories"]),
        ]
        write(root / short / "_annotations.coco.json", json.dumps(document))
        path.unlink()
    (root / "annotations/captions_train2017.json").unlink()


def roboflow_yolo(root: Path) -> None:
    FORMATS["yolo"](root)
    for split, short in (("train", "train"), ("val", "valid")):
        moved(root, f"{short}/images", f"images/{split}/*.png")
        moved(root, f"{short}/labels", f"labels/{split}/*.txt")
    write(root / "data.yaml", f"train: ../train/images\nval: ../valid/images\n\nnc: 3\nnames: {list(NAMES)}\n")


def flat_voc(root: Path) -> None:
    FORMATS["voc"](root)
    rmtree(root / "ImageSets")
    moved(root, ".", "JPEGImages/*", "Annotations/*")


def split_voc(root: Path) -> None:
    FORMATS["voc"](root)
    for split, numbers in (("train", "0123"), ("test", "45")):
        for number in numbers:
            moved(root, split, f"JPEGImages/{number}.png", f"Annotations/{number}.xml")


def voc_without_lists(root: Path) -> None:
    FORMATS["voc"](root)
    rmtree(root / "ImageSets")
    (root / "JPEGImages").rename(root / "images")
    (root / "Annotations").rename(root / "annotations")


def plain_yolo(root: Path) -> None:
    FORMATS["yolo"](root)
    moved(root, "images", "images/*/*.png")
    moved(root, "labels", "labels/*/*.txt")
    for folder in (*root.glob("images/*/"), *root.glob("labels/*/")):
        folder.rmdir()
    (root / "data.yaml").unlink()
    write(root / "labels/classes.txt", "\n".join(NAMES))


def named_yolo(root: Path) -> None:
    FORMATS["yolo"](root)
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES))
    write(root / "data.yaml", f"path: somewhere/else\ntrain: images/train\nval: images/val\nnames:\n{names}")


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "Roboflow COCO": (roboflow_coco, "train 4, val 2"),
    "Roboflow YOLO": (roboflow_yolo, "train 4, val 2"),
    "YOLO with numbered names": (named_yolo, "train 4, val 2"),
    "YOLO without data.yaml": (plain_yolo, "all 6"),
    "XML beside images": (flat_voc, "all 6"),
    "XML beside images in splits": (split_voc, "train 4, test 2"),
    "VOC without lists": (voc_without_lists, "all 6"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_usual_layouts_are_read(tmp_path: Path, kind: str) -> None:
    arrange, splits = LAYOUTS[kind]
    arrange(tmp_path)
    dataset = read(tmp_path)
    assert ", ".join(f"{name} {len(split)}" for name, split in dataset.splits.items()) == splits
    assert dataset.classes == NAMES and all(near(rows(dataset)[str(i)], expected) for i, expected in enumerate(BOXES))


def test_trainval_is_the_training_split_where_it_is_alone(tmp_path: Path) -> None:
    lists = folders.voc(tmp_path) / "ImageSets/Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    write(lists / "cat_trainval.txt", "0 1\n1 -1\n")
    assert {name: len(split) for name, split in read(tmp_path).splits.items()} == {"train": 4, "test": 2}


def test_two_formats_in_one_folder_are_refused_with_the_option_that_chooses(tmp_path: Path) -> None:
    folders.voc(tmp_path)
    folders.yolo(tmp_path)
    with pytest.raises(
        UsageError, match=r"several formats.*\n  VOC XML: --annotations voc\n  YOLO: --annotations yolo"
    ):
        read(tmp_path)
    assert [read(tmp_path, annotations=kind).layout for kind in ("voc", "yolo")] == ["VOC XML", "YOLO"]
    with pytest.raises(UsageError, match="has no boxes in the format of --annotations coco"):
        read(tmp_path, annotations="coco")


def test_annotations_that_cannot_apply_are_refused(tmp_path: Path) -> None:
    folders.voc(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="voc is a format of boxes, for detection, not for segmentation"):
        read(tmp_path, task=SEGMENTATION, annotations="voc")
    with pytest.raises(UsageError, match="--annotations voc is for folders, but digits is a named data set"):
        load_dataset("digits", tmp_path, annotations="voc")
    spec = small.SPEC.replace("train: {", "train: {annotations: masks, ")  # of the spec's own folder
    small.begin(tmp_path, spec=spec, epochs=0.1)
    small.resume(tmp_path, spec=spec, epochs=0.2)


def test_boxes_and_masks_in_one_folder_are_chosen_by_the_task(tmp_path: Path) -> None:
    folders.voc(tmp_path)
    for i in range(6):
        path = tmp_path / f"SegmentationClass/{i}.png"
        path.parent.mkdir(exist_ok=True)
        mask = Image.new("L", (folders.WIDTH, folders.HEIGHT))
        mask.paste(1, (0, 0, 9, 9))
        mask.save(path)
    assert read(tmp_path, task="detection").task == "detection"
    assert read(tmp_path, task="segmentation").task == "segmentation"
    dataset = read(tmp_path)
    assert dataset.task == "segmentation" and "--task detection" in dataset.notes[-1]
    assert "; a fifth of the images (1 image) is held out" in split_dataset(dataset).notes[-1]


def test_images_turned_by_exif_have_the_boxes_of_the_upright_image(tmp_path: Path) -> None:
    folders.voc(tmp_path)
    for kind, size in (("upright", (40, 30)), ("stored", (30, 40))):
        exif = Image.Exif()
        exif[274] = 6
        Image.new("RGB", (30, 40), "red").save(tmp_path / "JPEGImages/1.png", exif=exif)
        write(tmp_path / "Annotations/1.xml", folders.xml(BOXES[1], *size))
        if kind == "upright":
            assert rows(read(tmp_path))["1"] == [(10, 10, 20, 20, 2)]
            continue
        with pytest.raises(
            CnnError, match=r"1.xml:3: annotated at 30x40 pixels, but 1.png has 40x30, rotated by its EXIF tag"
        ):
            read(tmp_path)


def test_a_folder_without_splits_is_held_out_by_the_rarest_class(tmp_path: Path) -> None:
    folders.voc(tmp_path, [BOXES[0], BOXES[1]] * 5)
    (tmp_path / "ImageSets/Main/train.txt").rename(tmp_path / "lists")
    (tmp_path / "ImageSets/Main/val.txt").unlink()
    for i, path in enumerate(sorted((tmp_path / "JPEGImages").iterdir())):
        folders.picture(path, 50 + i)
    parts = split_dataset(read(tmp_path)).splits
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "test": 2}
    test = parts["test"].targets
    assert isinstance(test, BoxFiles) and {int(k) for k in test.boxes[..., 4].flatten().tolist()} == {-1, 0, 1, 2}


def test_cnn_data_describes_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders.coco(tmp_path)
    assert cnn("data", str(tmp_path), "--task", "detection") == 0
    text = capsys.readouterr().out
    for line in (
        "detection, read as COCO JSON",
        "images: 4 in train, 2 in val; 3x30x40",
        "boxes: 6 in train, 3 in val; at most 3 in an image",
        "box sizes: from 2x2 to 40x30 pixels, median 10x10",
        "images without boxes: 1 in train, 0 in val",
        "0 difficult, 2 crowds: ignored in training and evaluation",
    ):
        assert line in text, text
    assert cnn("data", str(tmp_path), "--json") == 0
    rows = {row.pop("class"): row for row in json.loads(capsys.readouterr().out)["classes"]}
    assert rows["dog"] == {"images": 3, "boxes": 4, "train_boxes": 3, "val_boxes": 1}
    assert cnn("data", str(tmp_path), "--task", "detect") == 2
    assert cnn("data", str(tmp_path), "--task", "segmentation") == 2
    assert "--task segmentation: " in (said := capsys.readouterr().err) and "is for detection; leave out --task" in said


def test_the_format_chosen_for_training_is_that_of_evaluation(tmp_path: Path) -> None:
    folders.voc(tmp_path)
    folders.yolo(tmp_path)
    root = str(tmp_path)
    for kind, layout in (("voc", "VOC XML"), ("yolo", "YOLO")):
        assert load_for_evaluation(root, {"annotations": kind}, None, None, "detection").layout == layout
