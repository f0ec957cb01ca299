"""Annotation errors of boxes: each is found before training, with its file, its line and what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import box_folders as folders
import pytest
from box_folders import BOXES, FORMATS, NAMES, write
from pictures import cnn

from cnn_cli.data.annotations import InvalidAnnotationsError
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.loading import load_dataset
from cnn_cli.errors import CnnError, UsageError

REAL = Path(__file__).parents[2] / "shared" / "data"


def read(root: Path, skip: bool = False, task: str | None = None, annotations: str | None = None) -> Dataset:
    return load_dataset(str(root), root, skip, task, annotations)


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
        r"Annotations/1.xml:7: degenerate box 11 11 11 20 has no area; correct or remove this object",
    ),
    "a box outside": (
        lambda r: replaced(r / "Annotations/1.xml", "<xmax>20<", "<xmax>44<"),
        r"1.xml:10: box 10 10 44 20 is outside the image, which has 40x30 pixels; correct",
    ),
    "another size": (
        lambda r: write(r / "Annotations/1.xml", folders.xml(BOXES[1], 80, 60)),
        r"1.xml:3: annotated at 80x60 pixels, but 1.png has 40x30; restore",
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
    "another document": (lambda r: write(r / "Annotations/1.xml", "<html/>"), r"1.xml:1: <html> instead of"),
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
    "a degenerate box": (third(bbox=[3, 3, 0, 5]), r":53: annotation 3: degenerate box 3 3 3 8"),
    "a negative width": (third(bbox=[3, 3, -2, 5]), r"annotation 3: degenerate box 3 3 1 8"),
    "a box outside": (third(bbox=[3, 3, 9, 50]), r"annotation 3: box .* is outside the image"),
    "a box beside": (third(bbox=[40, 3, 1, 5]), r"annotation 3: box .* is outside the image"),
    "another size": (second("images", width=41), r":9: annotated at 41x30 pixels, but 1.png has 40x30"),
    "three numbers": (third(bbox=[3, 3, 4]), r":53: annotation 3 has a `bbox` that is not four"),
    "words": (third(bbox=[3, 3, 4, "5"]), r":53: annotation 3 has a `bbox` that is not four"),
    "no bbox": (third(bbox=None, iscrowd=None), r":53: annotation 3 has no `bbox`"),
    "an unknown image": (third(image_id=5), r":53: annotation 3 refers to image 5, which is not in"),
    "an unknown category": (third(category_id=4), r":53: annotation 3 refers to category 4, which"),
    "an id twice": (third(id=1), r":53: annotation 1 has the same id as another one"),
    "a duplicate box": (again, r":\d+: annotation 9: the same box of class red fox as in annotation 3"),
    "an image's id twice": (second("images", id=100), r":9: a second image with id 100"),
    "a file twice": (second("images", file_name="0.png"), r":9: a second image with the file 0.png"),
    "a missing image": (second("images", file_name="no.png"), r":9: there is no image no.png in .*; add it, or"),
    "another ending": (second("images", file_name="1.jpg"), r":9: there is no image 1.jpg .* 1.png differs in case or"),
    "an image without id": (second("images", id=None), r":9: an image needs an integer `id`"),
    "a category's id twice": (second("categories", id=3), r":\d+: categories 'cat' and 'dog' have the same id 3"),
    "a category's name twice": (second("categories", name="cat"), r":\d+: two categories are named 'cat'"),
    "a category without name": (second("categories", name=None), r":\d+: a category needs an integer `id`"),
    "no categories": (lambda d: d.pop("categories"), r":1: has no list of objects `categories`"),
    "no images": (lambda d: d["images"].clear(), r":1: lists no images"),
}

LINES = {
    "four columns": ("0 .5 .5 .2 .2\n1 .5 .5 .2\n", r"0.txt:2: 4 columns, but a box has 5"),
    "a polygon": ("0 .1 .1 .1 .2 .3 .3", r"0.txt:1: 7 columns, .* export boxes"),
    "words": ("\n\ncat .5 .5 .2 .2", r"0.txt:3: 'cat .5 .5 .2 .2' is not five numbers"),
    "not a number": ("0 nan .5 .2 .2", r"0.txt:1: '0 nan .5 .2 .2' is not five numbers"),
    "pixels": ("0 20 15 8 8", r"0.txt:1: '20 15 8 8' has values outside 0 to 1; divide"),
    "an unknown class": ("3 .5 .5 .2 .2", r"0.txt:1: class 3, but only classes 0 to 2"),
    "a fraction of a class": ("1.5 .5 .5 .2 .2", r"0.txt:1: class 1.5 is not a non-negative"),
    "a negative class": ("-1 .5 .5 .2 .2", r"0.txt:1: class -1 is not a non-negative"),
    "a degenerate box": ("1 .5 .5 0 .2", r"0.txt:1: degenerate box 20 12 20 18"),
    "a box outside": ("1 .9 .5 .5 .2", r"0.txt:1: box 26 12 46 18 is outside the image"),
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
    "a gap in the names": (in_data_yaml(str(list(NAMES)), "{0: a, 1: b, 3: c}"), r"data.yaml:4: the indices of `na"),
    "malformed YAML": (in_data_yaml("]", ""), r"data.yaml:4: not valid YAML"),
    "a missing folder": (in_data_yaml("images/val", "images/dev"), r"data.yaml:2: `val: images/dev` is not a folder"),
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
def test_every_planted_error_is_found_with_file_line_and_fix(tmp_path: Path, name: str) -> None:
    plant, text = PLANTED[name]
    FORMATS[name.partition(":")[0]](tmp_path)
    plant(tmp_path)
    with pytest.raises(CnnError) as caught:
        read(tmp_path)
    assert re.search(text, str(caught.value)), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    if isinstance(caught.value, InvalidAnnotationsError):
        dataset = read(tmp_path, skip=True)
        bad = {error.image for error in caught.value.errors if error.image}
        images = [path for split in dataset.splits.values() for path in split.images]  # type: ignore[union-attr]
        assert not bad & set(images) and len(images) >= len(BOXES) - 2
        assert re.search(
            r"\d images? with annotation errors skipped|\d annotations? without an image skipped",
            "\n".join(dataset.notes),
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
    with pytest.raises(UsageError, match="no images without annotation errors in val"):
        read(tmp_path, skip=True)


def test_the_message_counts_all_errors_and_names_the_ways_out(tmp_path: Path) -> None:
    folders.yolo(tmp_path)
    for i in (0, 1):
        write(tmp_path / f"labels/train/{i}.txt", "0 2 3\n1 2 3\n")
    with pytest.raises(
        InvalidAnnotationsError, match=r"lists all 4 annotation errors; --skip-unreadable skips 2 images$"
    ) as caught:
        read(tmp_path)
    assert len(caught.value.errors) == 4


def test_cnn_data_lists_all_errors_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders.yolo(tmp_path)
    write(tmp_path / "labels/train/0.txt", "0 2 3\n1 2 3\n")
    (tmp_path / "labels/train/1.txt").unlink()
    assert cnn("data", str(tmp_path)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1] == "3 annotation errors; --skip-unreadable skips 2 images"
    assert cnn("data", str(tmp_path), "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert [Path(row["image"]).name for row in document["faults"]] == ["1.png", "0.png", "0.png"]
    write(tmp_path / "labels/train/0.txt", "".join(f"{i % 2} 2 3\n" for i in range(10)) + "1 0.5 0.5 0 0.2\n1 2 3\n")
    with pytest.raises(InvalidAnnotationsError) as caught:
        read(tmp_path)
    numbers = [int(str(error).split(":")[1]) for error in caught.value.errors if "0.txt" in str(error)]
    assert numbers == list(range(1, 13))
    assert cnn("data", str(tmp_path), "--skip-unreadable", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["task"] == "detection" and document["splits"] == {"train": 2, "val": 2}
    assert document["boxes"] == {"train": 3, "val": 3} and document["images_without_boxes"] == {"train": 1, "val": 0}


@pytest.mark.skipif(not (REAL / "bccd.tar").exists(), reason="needs BCCD in ../shared/data")
def test_bccd_has_two_degenerate_boxes_and_no_other_error(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(REAL / "bccd.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(InvalidAnnotationsError) as caught:
        read(tmp_path / "bccd")
    assert [Path(str(f).partition(":")[0]).name for f in caught.value.errors] == [
        "BloodImage_00338.xml",
        "BloodImage_00343.xml",
    ]
    assert all("degenerate" in str(error) for error in caught.value.errors)


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
