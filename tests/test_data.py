"""Data sets: every image in its place, the same pixels as the reference readers, mistakes named before training."""

import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs as small
import torch
from PIL import Image

from cnn_cli.data import preparation
from cnn_cli.data.batches import ReadError, epoch_order, iterate_batches
from cnn_cli.data.folder import list_images
from cnn_cli.data.loading import load_dataset, split_dataset
from cnn_cli.data.preparation import ImageStream, PreparedData, PreparedSplit, prepare
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import CnnError, UsageError

CPU = torch.device("cpu")
REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, 10 and 5 images, not divided; and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for i in range(15):
        small.picture(tmp_path / "pets" / ("cat" if i < 10 else "dog") / f"{i:02}.png", seed=i)
    return tmp_path / "pets"


def loaded(folder: Path, input: tuple[int, int, int] = (3, 4, 6), **options: Any) -> PreparedData:
    return prepare(split_dataset(load_dataset(str(folder), folder), **options), Preprocessing(input), CPU, 2)


# --- Folders --------------------------------------------------------------------------------------------------------


def test_a_flat_folder_of_too_few_images_to_test_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        small.picture(tmp_path / "few" / name / "0.png")
    with pytest.raises(UsageError, match="too few images to hold out a test split; add images, at least two"):
        loaded(tmp_path / "few")


def test_a_flat_folder_is_divided_class_by_class(pets: Path) -> None:
    whole = loaded(pets)
    assert whole.classes == ("cat", "dog")
    assert whole.splits["train"].targets.bincount().tolist() == [8, 4]
    assert whole.splits["test"].targets.bincount().tolist() == [2, 1]
    assert whole.notes == (f"{pets}: no splits; a fifth of each class (3 images) is held out for testing",)
    with_val = loaded(pets, val_fraction=0.25, seed=3)
    assert with_val.splits["val"].targets.bincount().tolist() == [2, 1]
    assert with_val.splits["test"].images.equal(whole.splits["test"].images)  # type: ignore[arg-type,union-attr]
    every = torch.cat([s.images for s in with_val.splits.values()])  # type: ignore[misc]
    assert len({t.numpy().tobytes() for t in every}) == 15  # each image in exactly one split
    other = loaded(pets, val_fraction=0.25, seed=4)
    assert not other.splits["val"].images.equal(with_val.splits["val"].images)  # type: ignore[arg-type,union-attr]


def test_a_divided_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    for part, classes in (("train", "abc"), ("val", "ac"), ("test", "cb")):
        for name in classes:
            small.picture(tmp_path / part / name / "deep" / "1.jpg", seed=ord(name))
    result = loaded(tmp_path)
    assert result.classes == ("a", "b", "c")
    assert {n: s.targets.tolist() for n, s in result.splits.items()} == {
        "train": [0, 1, 2],
        "val": [0, 2],
        "test": [1, 2],
    }


def test_pixels_are_pillows(tmp_path: Path, pets: Path) -> None:
    kept = loaded(pets, test_only=True).splits["test"]
    index = torch.tensor([12, 3])
    ((x, y),) = iterate_batches(kept, [index], CPU)
    assert y.tolist() == [1, 0]
    for image, path in zip(x, (pets / "dog" / "12.png", pets / "cat" / "03.png"), strict=True):
        expected = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255
        assert image.equal(expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_too_large_for_memory_is_streamed(pets: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    kept = loaded(pets, test_only=True).splits["test"]
    dataset, how = split_dataset(load_dataset(str(pets), pets), test_only=True), Preprocessing((3, 4, 6))
    monkeypatch.setattr(preparation, "free_memory", lambda *_: 0)
    result = prepare(dataset, how, CPU, workers)
    assert "caching 15 images" in result.notes[0]
    order = epoch_order(15, seed=1, epoch=2)
    torch.manual_seed(5)
    for mine, other in zip(
        iterate_batches(result.splits["test"], order.split(4), CPU),
        iterate_batches(kept, order.split(4), CPU),
        strict=True,
    ):
        assert mine[0].equal(other[0]) and mine[1].equal(other[1])
    assert torch.rand(1).equal(torch.rand(1, generator=torch.Generator().manual_seed(5)))  # nothing was drawn


def test_a_file_that_goes_bad_while_streaming_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "free_memory", lambda *_: 0)
    streamed = prepare(
        split_dataset(load_dataset(str(pets), pets), test_only=True), Preprocessing((3, 4, 6)), CPU, 1
    ).splits["test"]
    (pets / "cat" / "05.png").write_bytes(b"now this")
    with pytest.raises(ReadError) as error:
        list(iterate_batches(streamed, torch.arange(15).split(4), CPU))
    assert str(error.value).startswith(f"{pets}/cat/05.png is not an image") and "Traceback" not in str(error.value)


def test_images_of_the_right_size_are_not_copied(tmp_path: Path) -> None:
    dataset = load_dataset("digits", tmp_path)
    for input, copied in (((1, 8, 8), False), ((3, 8, 8), True), ((1, 9, 8), True)):
        images = prepare(dataset, Preprocessing(input), CPU, 0).splits["train"].images
        before = dataset.splits["train"].images
        assert isinstance(images, torch.Tensor) and isinstance(before, torch.Tensor)
        assert (images.data_ptr() != before.data_ptr()) == copied and tuple(images.shape[1:]) == input


def test_images_in_memory_that_are_enlarged_too_much_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, how = load_dataset("digits", tmp_path), Preprocessing((3, 32, 32))
    kept = prepare(dataset, how, CPU, 0).splits["test"]
    monkeypatch.setattr(preparation, "free_memory", lambda *_: 10_000)
    streamed = prepare(dataset, how, CPU, 0).splits["test"]
    assert isinstance(streamed.images, ImageStream)
    order = torch.tensor([300, 2, 77])
    assert next(iterate_batches(streamed, order.split(3), CPU))[0].equal(
        next(iterate_batches(kept, order.split(3), CPU))[0]
    )


def test_hidden_things_are_ignored_with_one_note(pets: Path) -> None:
    small.picture(pets / ".ipynb_checkpoints" / "1.png")
    small.picture(pets / "__MACOSX" / "cat" / "1.png")
    (pets / "cat" / ".DS_Store").write_text("")
    (pets / "dog" / "notes.txt").write_text("")
    (pets / "dog" / "more.txt").write_text("")
    (pets / "list.csv").write_text("")
    result = loaded(pets, test_only=True)
    assert len(result.splits["test"]) == 15
    files = "1 file outside the class folders (list.csv), 2 files that are not images (more.txt, notes.txt)"
    assert result.notes == (f"{pets}: skipped 3 hidden entries, {files}",)


def test_links_are_followed_but_never_in_circles_and_pipes_are_skipped(pets: Path, tmp_path: Path) -> None:
    outside = small.picture(tmp_path / "elsewhere" / "x.png")
    (pets / "cat" / "link.png").symlink_to(outside)
    (pets / "cat" / "loop").symlink_to(pets)
    (pets / "cat" / "self").symlink_to(pets / "cat")
    (pets / "cat" / "gone.png").symlink_to(tmp_path / "gone.png")
    (pets / "bird").symlink_to(outside.parent)
    os.mkfifo(pets / "dog" / "pipe.png")
    result = loaded(pets, test_only=True)
    assert result.classes == ("bird", "cat", "dog")
    assert result.splits["test"].targets.bincount().tolist() == [1, 11, 5]
    skipped = "1 broken link (gone.png), 2 folders that were already read (loop, self), 1 special file (pipe.png)"
    assert result.notes[0] == f"{pets}: skipped {skipped}"
    assert len(list_images(pets)) == 17


def test_a_folder_of_linked_splits_and_classes(pets: Path, tmp_path: Path) -> None:
    """As it is often made, to use a part of a large data set."""
    (tmp_path / "part").mkdir()
    for name in ("train", "test"):
        (tmp_path / "part" / name).symlink_to(pets)
    result = loaded(tmp_path / "part")
    assert {name: len(split) for name, split in result.splits.items()} == {"train": 15, "test": 15}


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Train", "valid", "testing"), ["train", "val", "test"]),
        (("TRAINING", "Validation"), ["train", "val"]),
        (("test", "val"), ["val", "test"]),
    ],
)
def test_splits_have_their_usual_names_in_any_case(tmp_path: Path, folders: Any, splits: list[str]) -> None:
    for folder in folders:
        for name in ("cat", "dog"):
            small.picture(tmp_path / "pets" / folder / name / "1.png")
    small.picture(tmp_path / "pets" / "extra" / "bird" / "1.png") if "Train" in folders else None
    dataset = load_dataset(str(tmp_path / "pets"), tmp_path)
    assert list(dataset.splits) == splits
    extra = (f"{tmp_path}/pets: skipped 1 other folder (extra)",)
    assert dataset.notes == (extra if "Train" in folders else ())


def two_validation_folders(pets: Path) -> None:
    for folder in ("train", "val", "valid"):
        for name in ("cat", "dog"):
            small.picture(pets / folder / name / "1.png")


def masks(images: str, targets: str) -> Any:
    def make(pets: Path) -> None:
        shutil.rmtree(pets)
        small.picture(pets / images / "1.png")
        (pets / targets).mkdir(parents=True)
        (pets / targets / "1.txt").write_text("0 0.5 0.5 0.1 0.1")

    return make


def remove(*names: str) -> Any:
    return lambda pets: [shutil.rmtree(pets / n) for n in names]


def extra_class(pets: Path) -> None:
    for name in ("cat", "dog"):
        small.picture(pets / "train" / name / "1.png")
        shutil.rmtree(pets / name)
    small.picture(pets / "val" / "bird" / "1.png")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (remove("cat", "dog"), "no images in {0}: it needs one folder per class, {0}/<class>/<image>.jpg"),
        (remove("dog"), "only one class (cat) in {0}; classification needs at least two"),
        (lambda pets: (pets / "ant").mkdir(), "no images in {0}/ant; add some or remove the folder"),
        (two_validation_folders, "{0} has val/ and valid/, both for the val split; keep one"),
        *(
            (
                masks(images, targets),
                f"{{0}} has {images}/ and {targets}/, but neither masks nor boxes in a known format (cnn guide data);\n"
                "for classification, make a folder for each class: {0}/<class>/<image>.jpg",
            )
            for images, targets in (
                ("images", "masks"),
                ("JPEGImages", "SegmentationClass"),
                ("train", "trainannot"),
            )
        ),
        (
            extra_class,
            "{0}/val has classes that train does not have: bird\n"
            "the classes of train are cat, dog; make the names match",
        ),
    ],
    ids=["empty", "one class", "empty class", "two val", "masks", "voc", "camvid", "unknown class"],
)  # fmt: skip
def test_folders_that_cannot_be_learnt_from(pets: Path, spoil: Any, error: str) -> None:
    spoil(pets)
    with pytest.raises(UsageError) as raised:
        load_dataset(str(pets), pets)
    assert str(raised.value) == error.format(pets)


NO_IMAGE = "is not an image (PNG, JPEG, BMP, GIF, WebP, TIFF or PPM); leave it out"


def bomb() -> bytes:
    buffer = BytesIO()
    Image.new("1", (9400, 9400)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", NO_IMAGE),
        (b"<html>404</html>", NO_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", NO_IMAGE),
        ("cut", "cannot be read as an image ("),
        (bomb(), "has 9400 x 9400 pixels, more than the limit of 50 million; make it smaller"),
    ],
    ids=["empty", "html", "eps", "cut short", "bomb"],
)  # fmt: skip
def test_bad_images_are_named_before_training(pets: Path, content: Any, error: str) -> None:
    path = pets / "dog" / "12.png"
    path.write_bytes(path.read_bytes()[:70] if content == "cut" else content)
    with pytest.raises(CnnError) as raised:
        loaded(pets)
    assert raised.value.exit_code == 1
    assert str(raised.value).startswith(f"{path} {error}")


# --- Order ----------------------------------------------------------------------------------------------------------


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    expected = torch.randperm(9, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2))
    assert epoch_order(9, seed=3, epoch=2).equal(expected)
    assert epoch_order(9, 3, 2, shuffle=False).tolist() == list(range(9))
    orders = {tuple(epoch_order(30, s, e).tolist()) for s in range(4) for e in range(1, 5)}
    assert len(orders) == 16


def test_values_are_those_of_totensor(tmp_path: Path) -> None:
    from torchvision.transforms.functional import to_tensor

    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    kept = PreparedSplit("train", bytes_, torch.zeros(1, dtype=torch.int64))
    ((x, _),) = iterate_batches(kept, [torch.tensor([0])], CPU)
    assert x[0].equal(to_tensor(Image.fromarray(bytes_[0, 0].numpy())))
