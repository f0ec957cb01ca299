"""Folders of images with masks: every layout read, every mistake found before training, with its file and pixel."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs as small
import torch
from pictures import cnn
from PIL import Image

from cnn_cli.data import preparation
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.loading import load_dataset, match_classes, split_dataset
from cnn_cli.data.masks import VOID, MaskFiles
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import CnnError, UsageError

REAL = Path(__file__).parents[2] / "shared" / "data"
PALETTE = [0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200] + [9, 9, 9] * 252


def labels(seed: int = 0, k: int = 3) -> Any:
    """(8, 12) labels 0 … k − 1, all of them there."""
    grid = np.random.default_rng(seed).integers(0, k, (4, 6), np.uint8).repeat(2, 0).repeat(2, 1)
    grid[0, :k] = range(k)
    return grid


def mask(path: Path, values: Any, colored: bool = False, palette: bool = False, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(PALETTE, np.uint8).reshape(256, 3)[values] if colored else values)
    if palette:
        image = Image.fromarray(values, "L")
        image.putpalette(PALETTE)
    image.save(path, **options)
    return path


def pair(image: Path, target: Path, seed: int = 0, **options: Any) -> None:
    small.picture(image, 12, 8, seed=seed)
    mask(target, labels(seed), **options)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """images/ and masks/ of five photos with three classes; and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for i in range(5):
        pair(tmp_path / "photos/images" / f"{i}.jpg", tmp_path / "photos/masks" / f"{i}.png", i)
    return tmp_path / "photos"


def read(root: Path, annotations: str | None = None) -> Dataset:
    return load_dataset(str(root), root, annotations=annotations)


def values(dataset: Dataset, split: str, number: int = 0) -> Any:
    targets = dataset.splits[split].targets
    assert isinstance(targets, MaskFiles)
    return targets.read(number).numpy()


# --- Layouts ----------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "VOC"),
    "camvid": ("train/{}.png", "trainannot/{}.png", "train/ with trainannot/"),
    "suffixed": ("train_images/{}.png", "train_labels/{}_L.png", "train/ with trainannot/"),
    "one folder": ("images/{}.jpg", "masks/{}.png", "images/ with masks/"),
    "nested": ("data/set/Images/{}.jpg", "data/set/annotations/{}_mask.png", "images/ with masks/"),
    "photos": ("photos/{}.jpg", "labels/{}.png", "images/ with masks/"),
    "split inside": ("img/train/{}.jpg", "labels/train/{}.png", "images/ with masks/"),
    "split outside": ("train/images/{}.jpg", "train/masks/{}.png", "train/images/ with train/masks/"),
    "together": ("train/{}.jpg", "train/{}_mask.png", "NAME with NAME_mask"),
    "flat": ("{}.png", "{}_L.png", "NAME with NAME_mask"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_pairs_images_with_their_masks(tmp_path: Path, kind: str) -> None:
    image, target, name = LAYOUTS[kind]
    for i in range(3):
        pair(tmp_path / image.format(f"p{i}"), tmp_path / target.format(f"p{i}"), i, palette=True)
    dataset = read(tmp_path)
    split = "train" if "train" in image else "all"
    assert (dataset.task, dataset.layout, list(dataset.splits)) == ("segmentation", name, [split])
    assert dataset.classes == ("0", "1", "2")
    assert all((values(dataset, split, i) == labels(i)).all() for i in range(3))
    assert [p.stem for p in dataset.splits[split].images] == ["p0", "p1", "p2"]  # type: ignore[union-attr]


def test_the_lists_of_voc_make_the_splits(tmp_path: Path) -> None:
    for i in range(4):
        pair(tmp_path / "VOC2012/JPEGImages" / f"{i}.jpg", tmp_path / "VOC2012/SegmentationClass" / f"{i}.png", i)
    small.picture(tmp_path / "VOC2012/JPEGImages/9.jpg")  # of another task
    for split, names in (("train", "0\n1\n2\n"), ("val", "3\n")):
        path = tmp_path / "VOC2012/ImageSets/Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(names)
    assert {name: len(split) for name, split in read(tmp_path).splits.items()} == {"train": 3, "val": 1}


def test_two_layouts_in_one_folder_are_refused(photos: Path) -> None:
    pair(photos / "train" / "a.png", photos / "trainannot" / "a.png")
    with pytest.raises(UsageError, match=r"several ways.*\n.*trainannot.*\n.*images in images/, masks in masks/"):
        read(photos)
    assert len(read(photos, annotations="trainannot").splits["train"]) == 1
    assert "all" in read(photos, annotations="masks").splits


def test_masks_in_two_folders_are_refused_with_the_options_that_choose(photos: Path) -> None:
    for i in range(5):
        mask(photos / "labels" / f"{i}.png", labels(i))
    with pytest.raises(UsageError, match="choose one: --annotations masks or --annotations labels"):
        read(photos)
    for folder in ("masks", "labels"):
        targets = read(photos, annotations=folder).splits["all"].targets
        assert isinstance(targets, MaskFiles)
        assert {path.parent.name for path in targets.files} == {folder}
    with pytest.raises(UsageError, match=r"--annotations nowhere: .* has no such folder of masks"):
        read(photos, annotations="nowhere")


def test_a_folder_of_classes_stays_one(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            small.picture(tmp_path / name / f"{i}.png")
    assert read(tmp_path).task == "classification"


# --- What pixels mean -------------------------------------------------------------------------------------------------


def test_black_and_white_are_two_classes(photos: Path) -> None:
    for path in (photos / "masks").iterdir():
        mask(path, (labels(k=2) * 255).astype(np.uint8))
    dataset = read(photos)
    assert dataset.classes == ("background", "foreground") and (values(dataset, "all") == labels(k=2)).all()


def test_the_value_255_is_void(photos: Path) -> None:
    mask(photos / "masks/0.png", np.where(labels() == 1, 255, labels()).astype(np.uint8))
    dataset = read(photos)
    assert dataset.classes == ("0", "1", "2")
    assert (values(dataset, "all") == np.where(labels() == 1, VOID, labels())).all()


def test_names_in_classes_txt_and_their_void(photos: Path) -> None:
    (photos / "classes.txt").write_text("sky\nvoid\ntraffic light # red\n")
    dataset = read(photos)
    assert dataset.classes == ("sky", "traffic light")
    assert (values(dataset, "all") == np.array([0, VOID, 1])[labels()]).all()
    other = match_classes(dataset, ("traffic light", "road", "sky"))
    assert (values(other, "all") == np.array([2, VOID, 0])[labels()]).all()
    targets = other.splits["all"].targets
    assert isinstance(targets, MaskFiles)
    assert targets.counts[0, 2] == (labels() == 0).sum() and targets.counts[0, VOID] == (labels() == 1).sum()


@pytest.mark.parametrize("kind", ["colored", "palette"])
def test_colors_need_names(photos: Path, kind: str) -> None:
    for i in range(5):
        mask(photos / "masks" / f"{i}.png", labels(i), **{kind: True})
    if kind == "colored":
        with pytest.raises(UsageError, match=r"has colors \(3 in all masks\); .*photos/classes.txt must") as raised:
            read(photos)
        proposal = str(raised.value).partition("rename the classes:\n")[2]
        (photos / "classes.txt").write_text(proposal)
        assert len(read(photos).classes) == 3
    (photos / "classes.txt").write_text("200 0 0 red\n0 0 0 void\n0 200 0 green\n")
    assert read(photos).classes == ("red", "green")
    assert (values(read(photos), "all") == np.array([VOID, 0, 1])[labels()]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_opaque_alpha_channel_says_nothing(photos: Path, mode: str) -> None:
    for i in range(5):
        Image.fromarray(labels(i) * np.uint8(40)).convert(mode).save(photos / "masks" / f"{i}.png")
    (photos / "classes.txt").write_text("0 a\n40 b\n80 c\n" if mode == "LA" else "0 0 0 a\n40 40 40 b\n80 80 80 c\n")
    assert all((values(read(photos), "all", i) == labels(i)).all() for i in range(5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", "classes.txt:3: duplicate class 'a'"),
        ("0 a\nb\n", "classes.txt:2: this line has names, but the first one has values"),
        ("0 a\n0 b\n", "classes.txt:2: duplicate value or color"),
        ("0 a\n256 b\n", "classes.txt:2: 256 is not a mask value"),
        ("# nothing\n", "classes.txt is empty"),
        ("a\nvoid\n", "classes.txt has 1 classes"),
    ],
)
def test_mistakes_in_classes_txt(photos: Path, text: str, message: str) -> None:
    (photos / "classes.txt").write_text(text)
    with pytest.raises(UsageError) as raised:
        read(photos)
    assert message in str(raised.value)


# --- Mistakes --------------------------------------------------------------------------------------------------------

Spoil = Callable[[Path], object]


def gray_levels(folder: Path) -> None:
    for i in range(5):
        mask(folder / "masks" / f"{i}.png", labels(i) * np.uint8(80))


def smoothed(folder: Path) -> None:
    for i in range(5):
        mask(folder / "masks" / f"{i}.png", labels(i, 2) * np.uint8(255))
    path = folder / "masks/3.png"
    values = np.array(Image.open(path))
    values[4, 7] = 131
    mask(path, values)


def turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    small.picture(folder / "images/2.jpg", 12, 8, exif=exif)


def untrained(folder: Path) -> None:
    for split, seed in (("train", 0), ("test", 1)):
        pair(folder / split / "images/a.jpg", folder / split / "masks/a.png", seed)
    mask(folder / "train/masks/a.png", labels(0, 2))
    for name in ("images", "masks"):
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()


MISTAKES: dict[str, tuple[Spoil, str]] = {
    "missing mask": (lambda f: (f / "masks/2.png").unlink(), "images/2.jpg has no mask in .*masks; add 2.png"),
    "orphan mask": (lambda f: (f / "images/2.jpg").unlink(), "masks/2.png has no image; add the image"),
    "two masks": (lambda f: mask(f / "masks/2_mask.png", labels()), "images/2.jpg has several masks"),
    "other size": (
        lambda f: mask(f / "masks/2.png", labels()[:6]),
        "2.png is 12x6 pixels, but its image 2.jpg is 12x8",
    ),
    "turned by EXIF": (turned, "2.png is 12x8 pixels, but its image 2.jpg is 8x12, rotated by its EXIF"),
    "beyond the classes": (lambda f: (f / "classes.txt").write_text("a\nb\n"), "value 2 at pixel x 2, y 0, which is"),
    "gray levels": (gray_levels, r"0.png has the gray level 80 at pixel x 1, y 0: gray levels, not class indices"),
    "smooth edges": (smoothed, r"3.png has the gray level 131 at pixel x 7, y 4, and 2 values in all: these are"),
    "JPEG": (
        lambda f: mask(f / "masks/2.jpg", labels()) and (f / "masks/2.png").unlink(),
        "masks/2.jpg is a JPEG, whose compression changes labels",
    ),
    "alpha": (
        lambda f: Image.new("RGBA", (12, 8)).save(f / "masks/2.png"),
        "masks/2.png has transparent pixels",
    ),
    "16 bits": (
        lambda f: Image.fromarray(labels().astype(np.uint16)).save(f / "masks/2.png"),
        "masks/2.png has 16-bit or other pixels",
    ),
    "a photo": (
        lambda f: small.picture(f / "masks/2.png", 30, 30) and small.picture(f / "images/2.jpg", 30, 30),
        "masks/2.png has more than 256 colors",
    ),
    "all void": (
        lambda f: mask(f / "masks/2.png", np.full((8, 12), 255, np.uint8)),
        "masks/2.png has only void pixels",
    ),
    "not trained": (untrained, "no training mask shows 2, but masks of test do"),
    "one class": (
        lambda f: [mask(f / "masks" / f"{i}.png", np.zeros((8, 12), np.uint8)) for i in range(5)],
        "have a single value",
    ),
    "damaged": (lambda f: (f / "masks/2.png").write_bytes(b"\x89PNG\r\n"), "masks/2.png"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_training(photos: Path, mistake: str) -> None:
    spoil, message = MISTAKES[mistake]
    spoil(photos)
    with pytest.raises(CnnError, match=message):
        read(photos)


# --- From there on ----------------------------------------------------------------------------------------------------


def test_held_out_images_keep_their_masks(photos: Path) -> None:
    dataset = split_dataset(read(photos), 0.25, 1)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 3, "val": 1, "test": 1}
    for name, split in dataset.splits.items():
        for i, path in enumerate(split.images):
            assert (values(dataset, name, i) == labels(int(path.stem))).all()  # type: ignore[union-attr]


SPEC = """
dense:
  input: [3, 8, 8]
  args: {classes: 3}
  layers:
    - {Conv2d: {out_channels: 4, kernel_size: 3, padding: 1}}
    - ReLU
    - {Conv2d: {out_channels: $classes, kernel_size: 1}}
"""


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_folder_trains(photos: Path, quick: Path, resize: str) -> None:
    run = small.begin(quick, spec=SPEC, data=str(photos), epochs=1, resize=resize, batch_size=2)
    document = json.loads((run / "eval.json").read_text())
    assert document["n"] == 1 and document["pixels"] + document["void_pixels"] == 64
    assert (document["void_pixels"] > 0) == (resize == "pad")


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_masks_too_many_for_memory_are_in_a_file(photos: Path, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"spec": SPEC, "data": str(photos), "epochs": 2, "batch_size": 2, "flip": "random", "workers": 0}
    whole = small.begin(quick, "whole", **options)
    monkeypatch.setattr(preparation, "free_memory", lambda *_: 0)
    split = preparation.prepare(read(photos), Preprocessing((3, 8, 8)), torch.device("cpu"), 0).splits["all"]
    assert isinstance(split.images, preparation.ImageStream)
    monkeypatch.setattr("cnn_cli.training.preparation.free_memory", lambda *_: 10**9)
    streamed = small.begin(quick, "streamed", **options)
    assert small.same(small.last(whole)["network"], small.last(streamed)["network"])
    monkeypatch.setattr("os.posix_fallocate", full_disk)
    with pytest.raises(CnnError, match=r"no space for 0\.0 GB for masks in .*; free some, or set TMPDIR"):
        small.begin(quick, "full", **options)


def test_cnn_data_says_how_a_folder_is_read(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("data", str(photos)) == 0
    text = capsys.readouterr().out
    assert "photos: segmentation, read as images/ with masks/" in text and "images: 5; 3x8x12" in text
    assert "no splits: training holds out a fifth of the images for testing" in text
    assert cnn("data", str(photos), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["splits"] == {"all": 5} and [row["images"] for row in document["classes"]] == [5, 5, 5]
    assert cnn("data", "digits") == 0
    assert "digits: classification" in capsys.readouterr().out


@pytest.mark.skipif(not (REAL / "camvid.tar").is_file(), reason="the real CamVid is not there")
def test_real_street_scenes_have_no_mistakes(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(REAL / "camvid.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    dataset = read(tmp_path / "camvid")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 367, "val": 101, "test": 233}
    assert len(dataset.classes) == 11 and len(dataset.notes) == 1
