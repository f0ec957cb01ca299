"""Folders of images with boxes: VOC, COCO and YOLO are read alike, and every fault is found with its file and line."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import box_folders as folders
import pytest
import small_networks
import torch
from box_folders import BOXES, FORMATS, NAMES, write
from PIL import Image

from cnn_cli.data.annotations import FaultyBoxesError
from cnn_cli.data.boxes import CROWD, DIFFICULT, BoxFiles
from cnn_cli.data.dataset import Dataset
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


# --- Formats ----------------------------------------------------------------------------------------------------------


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
            CnnError, match=r"1.xml:3: written for 30x40 pixels, but 1.png has 40x30, turned upright as"
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


# --- Faults -----------------------------------------------------------------------------------------------------------


def replaced(path: Path, before: str, after: str, count: int = 1) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, count))


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=1))


VOC: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a degenerate box": (
        lambda r: replaced(r / "Annotations/1.xml", "<xmax>20<", "<xmax>11<"),
        r"Annotations/1.xml:7: a degenerate box, 11 11 11 20: it has no area; correct or remove this object",
    ),
    "a box outside": (
        lambda r: replaced(r / "Annotations/1.xml", "<xmax>20<", "<xmax>44<"),
        r"1.xml:10: a box outside of the image, 10 10 44 20, which has 40x30 pixels; correct",
    ),
    "another size": (
        lambda r: write(r / "Annotations/1.xml", folders.xml(BOXES[1], 80, 60)),
        r"1.xml:3: written for 80x60 pixels, but 1.png has 40x30; put back",
    ),
    "a duplicate box": (
        lambda r: write(r / "Annotations/1.xml", folders.xml(BOXES[1] * 2)),
        r"1.xml:20: the same box of class red fox as in line 10; remove one",
    ),
    "malformed XML": (
        lambda r: replaced(r / "Annotations/1.xml", "</object>", ""),
        r"1.xml:17: not well-formed XML \(mismatched tag\)",
    ),
    "an empty file": (lambda r: write(r / "Annotations/1.xml", ""), r"1.xml:1: the file is empty"),
    "another document": (lambda r: write(r / "Annotations/1.xml", "<html/>"), r"1.xml:1: <html>, where VOC has"),
    "an entity": (
        lambda r: replaced(r / "Annotations/1.xml", "<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]>\n<annotation>'),
        r"1.xml:1: declares an entity",
    ),
    "corners that are not numbers": (
        lambda r: replaced(r / "Annotations/1.xml", "<xmax>20<", "<xmax>2O<"),
        r"1.xml:7: a <bndbox> needs the numbers xmin, ymin, xmax, ymax",
    ),
    "a missing corner": (
        lambda r: replaced(r / "Annotations/1.xml", "<xmax>20</xmax>", ""),
        r"1.xml:7: a <bndbox> needs the numbers",
    ),
    "no name": (
        lambda r: replaced(r / "Annotations/1.xml", "<name>red fox</name>", ""),
        r"1.xml:7: an object without a <name>",
    ),
    "a missing image": (
        lambda r: (r / "JPEGImages/1.png").unlink(),
        r"train.txt:2: there is no image 1; add it, or remove the line",
    ),
    "a missing file": (lambda r: (r / "Annotations/1.xml").unlink(), r"1.png has no annotations; add 1.xml, or remove"),
    "a name in another case": (
        lambda r: (
            replaced(r / "ImageSets/Main/train.txt", "1", "A")
            or (r / "JPEGImages/1.png").rename(r / "JPEGImages/a.png")
        ),
        r"train.txt:2: there is no image A \(.*a.png differs in case\)",
    ),
    "a name listed twice": (
        lambda r: write(r / "ImageSets/Main/train.txt", "0\n1\n0\n2\n3\n"),
        r"train.txt:3: 0 is listed a second time, first in line 1",
    ),
    "an image in two splits": (
        lambda r: write(r / "ImageSets/Main/val.txt", "4\n1\n5\n"),
        r"JPEGImages/1.png is in train and in val; remove it from one",
    ),
    "the same image twice": (
        lambda r: (r / "JPEGImages/4.png").write_bytes((r / "JPEGImages/1.png").read_bytes()),
        r"4.png is the same image as .*1.png \(train and val\); remove one",
    ),
    "an unreadable image": (lambda r: write(r / "JPEGImages/1.png", "none"), r"1.png is not an image"),
    "an unknown class": (
        lambda r: write(r / "classes.txt", "cat\ndog\nfox\n"),
        r"1.xml:10: class 'red fox' is not in classes.txt",
    ),
}


def third(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Changes the third annotation; None removes a key."""
    return lambda document: changed(document["annotations"][2], changes)


def second(key: str, **changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: changed(document[key][1], changes)


def changed(item: dict[str, Any], changes: dict[str, Any]) -> None:
    item.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del item[key]


def again(document: dict[str, Any]) -> None:
    document["annotations"].append({**document["annotations"][2], "id": 9})


COCO: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a degenerate box": (third(bbox=[3, 3, 0, 5]), r":53: annotation 3: a degenerate box, 3 3 3 8"),
    "a negative width": (third(bbox=[3, 3, -2, 5]), r"annotation 3: a degenerate box, 3 3 1 8"),
    "a box outside": (third(bbox=[3, 3, 9, 50]), r"annotation 3: a box outside of the image"),
    "a box beside": (third(bbox=[40, 3, 1, 5]), r"annotation 3: a box outside of the image"),
    "another size": (second("images", width=41), r":9: written for 41x30 pixels, but 1.png has 40x30"),
    "three numbers": (third(bbox=[3, 3, 4]), r":53: annotation 3 has a `bbox` that is not four"),
    "words": (third(bbox=[3, 3, 4, "5"]), r":53: annotation 3 has a `bbox` that is not four"),
    "no bbox": (third(bbox=None, iscrowd=None), r":53: annotation 3 has no `bbox`"),
    "an unknown image": (third(image_id=5), r":53: annotation 3 is of image 5, which is not in"),
    "an unknown category": (third(category_id=4), r":53: annotation 3 is of category 4, which"),
    "an id twice": (third(id=1), r":53: annotation 1 has the id of another one"),
    "a duplicate box": (again, r":\d+: annotation 9: the same box of class red fox as in annotation 3"),
    "an image's id twice": (second("images", id=100), r":9: a second image with id 100"),
    "a file twice": (second("images", file_name="0.png"), r":9: a second image with the file 0.png"),
    "a missing image": (second("images", file_name="no.png"), r":9: there is no image no.png in .*; add it, or"),
    "another ending": (second("images", file_name="1.jpg"), r":9: there is no image 1.jpg .* 1.png differs in case or"),
    "an image without id": (second("images", id=None), r":9: an image needs a whole number `id`"),
    "a category's id twice": (second("categories", id=3), r":\d+: categories 'cat' and 'dog' have the same id 3"),
    "a category's name twice": (second("categories", name="cat"), r":\d+: two categories are named 'cat'"),
    "a category without name": (second("categories", name=None), r":\d+: a category needs a whole number `id`"),
    "no categories": (lambda d: d.pop("categories"), r":1: has no list of objects `categories`"),
    "no images": (lambda d: d["images"].clear(), r":1: lists no images"),
}

LINES = {
    "four columns": ("0 .5 .5 .2 .2\n1 .5 .5 .2\n", r"0.txt:2: 4 columns, but a box has 5"),
    "a polygon": ("0 .1 .1 .1 .2 .3 .3", r"0.txt:1: 7 columns, .* export boxes"),
    "words": ("\n\ncat .5 .5 .2 .2", r"0.txt:3: 'cat .5 .5 .2 .2' is not five numbers"),
    "not a number": ("0 nan .5 .2 .2", r"0.txt:1: '0 nan .5 .2 .2' is not five numbers"),
    "pixels": ("0 20 15 8 8", r"0.txt:1: '20 15 8 8' has values outside 0 to 1; divide"),
    "an unknown class": ("3 .5 .5 .2 .2", r"0.txt:1: class 3, but the classes that have names are 0 to 2"),
    "a fraction of a class": ("1.5 .5 .5 .2 .2", r"0.txt:1: class 1.5 is not a whole"),
    "a negative class": ("-1 .5 .5 .2 .2", r"0.txt:1: class -1 is not a whole"),
    "a degenerate box": ("1 .5 .5 0 .2", r"0.txt:1: a degenerate box, 20 12 20 18"),
    "a box outside": ("1 .9 .5 .5 .2", r"0.txt:1: a box outside of the image, 26 12 46 18"),
    "a duplicate box": ("1 .5 .5 .2 .2\n" * 2, r"0.txt:2: the same box of class dog as in line 1"),
}


def in_data_yaml(before: str, after: str) -> Callable[[Path], Any]:
    return lambda root: replaced(root / "data.yaml", before, after)


def renamed(*pairs: tuple[str, str]) -> Callable[[Path], Any]:
    return lambda root: [(root / before).rename(root / after) for before, after in pairs]


YOLO: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bytes": (lambda r: (r / "labels/train/0.txt").write_bytes(b"\xff\xfe\x00"), r"0.txt:1: not a text file"),
    "a missing file": (
        lambda r: (r / "labels/train/0.txt").unlink(),
        r"0.png has no annotations; add 0.txt to .*labels/train, empty if",
    ),
    "a missing image": (
        lambda r: (r / "images/train/0.png").unlink(),
        r"labels/train/0.txt:1: there is no image 0; add the image",
    ),
    "another case": (
        renamed(("images/train/0.png", "images/train/a.png"), ("labels/train/0.txt", "labels/train/A.txt")),
        r"images/train/a.png has no annotations; .*A.txt differs in case; rename one",
    ),
    "two images of a name": (
        lambda r: folders.picture(r / "images/train/0.jpg", 9),
        r"0.png and .*0.jpg have the same name, so both",
    ),
    "another number of classes": (in_data_yaml("nc: 3", "nc: 4"), r"data.yaml:3: `nc` is 4, but `names` has 3"),
    "a name twice": (in_data_yaml("'dog'", "'cat'"), r"data.yaml:4: two classes are named 'cat'"),
    "a gap in the names": (in_data_yaml(str(list(NAMES)), "{0: a, 1: b, 3: c}"), r"data.yaml:4: the numbers of `na"),
    "malformed YAML": (in_data_yaml("]", ""), r"data.yaml:4: not valid YAML"),
    "a missing folder": (in_data_yaml("images/val", "images/dev"), r"data.yaml:2: `val: images/dev` is no folder"),
    "one folder twice": (
        in_data_yaml("images/val", "images/train"),
        r"data.yaml:2: `val` is the same folder as `train`",
    ),
}


def in_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    return lambda root: edited(root / "annotations/instances_train2017.json", change)


def in_labels(text: str) -> Callable[[Path], Any]:
    return lambda root: write(root / "labels/train/0.txt", text)


PLANTED = {
    **{f"voc: {name}": row for name, row in VOC.items()},
    **{f"coco: {name}": (in_json(change), text) for name, (change, text) in COCO.items()},
    **{f"yolo: {name}": (in_labels(line), text) for name, (line, text) in LINES.items()},
    **{f"yolo: {name}": row for name, row in YOLO.items()},
}


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_fault_is_found_with_file_line_and_fix(tmp_path: Path, name: str) -> None:
    plant, text = PLANTED[name]
    FORMATS[name.partition(":")[0]](tmp_path)
    plant(tmp_path)
    with pytest.raises(CnnError) as caught:
        read(tmp_path)
    assert re.search(text, str(caught.value)), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    if isinstance(caught.value, FaultyBoxesError):
        dataset = read(tmp_path, skip=True)
        bad = {fault.image for fault in caught.value.faults if fault.image}
        images = [path for split in dataset.splits.values() for path in split.images]  # type: ignore[union-attr]
        assert not bad & set(images) and len(images) >= len(BOXES) - 2
        assert re.search(
            r"\d images? with faults skipped|\d annotations? without an image skipped", "\n".join(dataset.notes)
        )


def test_damaged_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = folders.coco(tmp_path) / "annotations/instances_train2017.json"
    for text, message in (
        (path.read_text()[:300], r":\d+: not valid JSON"),
        ("", ":1: the file is empty"),
        ("[]", ":1: a list,"),
    ):
        path.write_text(text)
        with pytest.raises(CnnError, match=f"instances_train2017.json{message}"):
            read(tmp_path)


def test_classes_that_differ_in_case_are_refused(tmp_path: Path) -> None:
    replaced(folders.voc(tmp_path) / "Annotations/3.xml", ">cat<", ">Cat<")
    with pytest.raises(UsageError, match=r"3.xml:30: class 'Cat' and 'cat' differ in case only"):
        read(tmp_path)


def test_folders_without_boxes_or_of_empty_splits_are_refused(tmp_path: Path) -> None:
    folders.yolo(tmp_path, [()] * 6)
    with pytest.raises(UsageError, match="has no boxes in train; detection needs some"):
        read(tmp_path)
    folders.yolo(tmp_path)
    for path in (tmp_path / "labels/val").iterdir():
        path.write_text("none\n")
    with pytest.raises(UsageError, match="no images without faults in val"):
        read(tmp_path, skip=True)


def test_the_message_counts_all_faults_and_names_the_ways_out(tmp_path: Path) -> None:
    folders.yolo(tmp_path)
    for i in (0, 1):
        write(tmp_path / f"labels/train/{i}.txt", "0 2 3\n1 2 3\n")
    with pytest.raises(
        FaultyBoxesError, match=r"lists all 4 faults; --skip-unreadable trains without 2 images$"
    ) as caught:
        read(tmp_path)
    assert len(caught.value.faults) == 4


def test_cnn_data_lists_all_faults_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders.yolo(tmp_path)
    write(tmp_path / "labels/train/0.txt", "0 2 3\n1 2 3\n")
    (tmp_path / "labels/train/1.txt").unlink()
    assert small_networks.cnn("data", str(tmp_path)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1] == "3 faults; --skip-unreadable goes without 2 images"
    assert small_networks.cnn("data", str(tmp_path), "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert [Path(row["image"]).name for row in document["faults"]] == ["1.png", "0.png", "0.png"]
    assert small_networks.cnn("data", str(tmp_path), "--skip-unreadable", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["task"] == "detection" and document["splits"] == {"train": 2, "val": 2}
    assert document["boxes"] == {"train": 3, "val": 3} and document["images_without_boxes"] == {"train": 1, "val": 0}


def test_cnn_data_describes_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders.coco(tmp_path)
    assert small_networks.cnn("data", str(tmp_path), "--task", "detection") == 0
    text = capsys.readouterr().out
    for line in (
        "detection, read as COCO JSON",
        "images: 4 in train, 2 in val; 3x30x40",
        "boxes: 6 in train, 3 in val; at most 3 in an image",
        "box sizes: from 2x2 to 40x30 pixels, median 10x10",
        "images without boxes: 1 in train, 0 in val",
        "0 difficult, 2 crowds: neither learned nor counted",
    ):
        assert line in text, text
    assert small_networks.cnn("data", str(tmp_path), "--json") == 0
    rows = {row.pop("class"): row for row in json.loads(capsys.readouterr().out)["classes"]}
    assert rows["dog"] == {"images": 3, "boxes": 4, "train_boxes": 3, "val_boxes": 1}
    assert small_networks.cnn("data", str(tmp_path), "--task", "detect") == 2


@pytest.mark.skipif(not (REAL / "bccd.tar").exists(), reason="needs BCCD in ../shared/data")
def test_bccd_has_two_degenerate_boxes_and_no_other_fault(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(REAL / "bccd.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(FaultyBoxesError) as caught:
        read(tmp_path / "bccd")
    assert [Path(str(f).partition(":")[0]).name for f in caught.value.faults] == [
        "BloodImage_00343.xml",
        "BloodImage_00338.xml",
    ]
    assert all("degenerate" in str(fault) for fault in caught.value.faults)


HOSTILE = {
    "a number too large": ("coco", "annotations/instances_train2017.json", '"bbox": [', '"bbox": [1e400, '),
    "a number of 5,000 digits": (
        "coco",
        "annotations/instances_train2017.json",
        '"width": 40',
        f'"width": {"9" * 5000}',
    ),
    "a long file name": ("coco", "annotations/instances_train2017.json", "1.png", f"{'x' * 300}.png"),
    "nested lists": ("coco", "annotations/instances_train2017.json", '"images": [', f'"images": {"[" * 100_000}'),
    "a class of 30 digits": ("yolo", "labels/train/0.txt", "0", "1" + "0" * 30),
    "an object of Python": ("yolo", "data.yaml", "images/val", "!!python/object:os.system"),
    "an impossible date": ("yolo", "data.yaml", "images/val", "2020-99-99"),
    "an encoding of several bytes": (
        "voc",
        "Annotations/1.xml",
        "<annotation>",
        "<?xml version='1.0' encoding='utf-7'?>",
    ),
    "an unknown encoding": ("voc", "Annotations/1.xml", "<annotation>", "<?xml version='1.0' encoding='x-y'?>"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_end_in_one_error(tmp_path: Path, kind: str) -> None:
    name, file, before, after = HOSTILE[kind]
    path = FORMATS[name](tmp_path) / file
    replaced(path, before, after)
    with pytest.raises(CnnError, match=re.escape(path.name)):
        read(tmp_path)


def test_the_format_chosen_for_training_is_that_of_evaluation(tmp_path: Path) -> None:
    folders.voc(tmp_path)
    folders.yolo(tmp_path)
    root = str(tmp_path)
    for kind, layout in (("voc", "VOC XML"), ("yolo", "YOLO")):
        assert load_for_evaluation(root, {"annotations": kind}, None, None, "detection").layout == layout
