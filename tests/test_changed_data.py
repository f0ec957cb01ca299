"""Folders of images that are damaged, moved or changed: what is skipped, what is found again, what is refused."""

import io
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs as small
import torch
from PIL import Image

from cnn_cli import progress
from cnn_cli.checkpoints import checkpoint
from cnn_cli.data.loading import load_dataset, load_for_evaluation
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret.inputs import whole_split
from cnn_cli.training import run as run_module
from cnn_cli.training.eval_report import Evaluation, EvaluationRequest, evaluate_network

CPU = torch.device("cpu")


@pytest.fixture
def pets(quick: Path) -> Path:
    """Two classes, 20 and 10 gray images, not divided."""
    for i in range(30):
        small.picture(quick / "pets" / ("cat" if i < 20 else "dog") / f"{i:02}.png", 8, 8, "L", seed=i)
    return quick / "pets"


def damage(pets: Path) -> None:
    """Of 30 images, one is truncated and one is text."""
    cut = pets / "cat" / "03.png"
    cut.write_bytes(cut.read_bytes()[:70])
    (pets / "dog" / "25.png").write_text("no image")


def evaluated(run: Path, data: Path | None = None) -> Evaluation:
    return evaluate_network(checkpoint.load_trained(str(run)), EvaluationRequest(data=data and str(data)), CPU)


def test_training_refuses_unreadable_images_and_says_how_to_go_without(pets: Path, tmp_path: Path) -> None:
    damage(pets)
    with pytest.raises(CnnError, match=r"03\.png cannot be read .*\nor skip such images: --skip-unreadable"):
        small.begin(tmp_path, data=str(pets))


def test_training_evaluation_and_resuming_go_without_unreadable_images(pets: Path, tmp_path: Path) -> None:
    damage(pets)
    request = small.request(tmp_path, data=str(pets), skip_unreadable="true", val_fraction=0.2, epochs=1)
    run_module.begin(request)
    said: list[str] = request.say.__self__  # type: ignore[attr-defined]
    header = " ".join(" ".join(said).split())
    assert "18 training images, 4 for validation, 6 for testing" in header
    skipped = f"{pets}: 2 unreadable images skipped (03.png, 25.png)"
    assert skipped.replace(" ", "") in header.replace(" ", "")  # a long path is broken over two lines
    run = tmp_path / "run"
    result = evaluated(run)
    assert skipped in result.notes
    assert result.result.n == 6
    assert len(small.last(small.resume(tmp_path, epochs=2))["history"]) == 2
    small.picture(pets / "cat" / "03.png", 8, 8, "L")  # repaired: another number of images
    with pytest.raises(UsageError, match=r"has changed since .* started: its classes or numbers of images differ"):
        small.resume(tmp_path, epochs=3)


def test_a_class_without_a_readable_image_is_refused(pets: Path) -> None:
    for path in (pets / "dog").iterdir():
        path.write_text("no image")
    with pytest.raises(CnnError, match=r"pets: none of the images of dog can be read, such as .*/dog/20\.png"):
        load_dataset(str(pets), pets, skip_unreadable=True)


def test_data_that_moved_is_asked_for_and_split_as_in_training(pets: Path, tmp_path: Path) -> None:
    run = small.begin(tmp_path, data=str(pets), epochs=0.5)
    before = evaluated(run).document()
    moved = pets.rename(tmp_path / "elsewhere")
    where = rf"the network was trained on {pets}, which no longer exists; name its new location: --data FOLDER"
    with pytest.raises(UsageError, match=where):
        evaluated(run)
    with pytest.raises(UsageError, match=where):
        whole_split(checkpoint.load_network(str(run)), "test", None)
    with pytest.raises(UsageError, match=where):
        small.resume(tmp_path, epochs=1)
    with pytest.raises(UsageError, match="trained on a folder named pets/, which no longer exists"):
        evaluated(Path(shutil.copy(run / "best.safetensors", tmp_path)))
    after = evaluated(run, moved).document()
    assert (after["n"], after["loss"]) == (before["n"], before["loss"]) == (6, before["loss"])
    small.resume(tmp_path, epochs=2, data=str(moved))
    assert evaluated(run).document()["n"] == 6  # it knows the new place


def test_data_that_changed_is_evaluated_with_a_warning(pets: Path, tmp_path: Path) -> None:
    run = small.begin(tmp_path, data=str(pets), epochs=0.5)
    (pets / "cat" / "00.png").unlink()
    assert evaluated(run).notes[0] == (
        f"warning: {pets} has changed since training: its classes or numbers of images differ"
    )
    other = load_for_evaluation(str(pets), checkpoint.load_network(str(run)).metadata.data, None, None)  # type: ignore[union-attr]
    assert "test" in other.splits


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_reading_a_folder_shows_its_progress(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    small.begin(tmp_path, data=str(pets), skip_unreadable="true", epochs=0.1)
    evaluated(tmp_path / "run")
    for what in ("listing pets", "checking all images", "reading images"):
        assert what in shown.getvalue()


def test_items_pass_through_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "_REFRESH", 0.0)
    assert list(progress.progress_bar("abc", 3, "reading")) == ["a", "b", "c"]


def test_unreadable_masks_are_refused_or_skipped(quick: Path) -> None:
    root = quick / "street"
    for i in range(6):
        small.picture(root / "images" / f"{i}.png", 8, 8, "RGB", seed=i)
        pixels = Image.new("L", (8, 8), 1)
        pixels.putpixel((i, 0), 0)
        (root / "masks").mkdir(exist_ok=True)
        pixels.save(root / "masks" / f"{i}.png")
    cut = root / "masks" / "1.png"
    cut.write_bytes(cut.read_bytes()[:50])
    (root / "images" / "4.png").write_text("no image")
    (quick / "net.yaml").write_text("net: {input: [3, 8, 8], layers: [Conv2d: {out_channels: 2, kernel_size: 1}]}")
    request = replace(small.request(quick, data=str(root), epochs=0.1), network="net.yaml")
    with pytest.raises(CnnError, match=r"masks/1\.png cannot be read .*\nor skip such images: --skip-unreadable"):
        run_module.begin(request)
    dataset = load_dataset(str(root), root, skip_unreadable=True)
    assert f"{root}: 2 unreadable images skipped (1.png, 4.png)" in dataset.notes
    assert [path.name for path in dataset.splits["all"].images] == ["0.png", "2.png", "3.png", "5.png"]
    for path in (root / "masks").iterdir():
        path.write_text("no image")
    with pytest.raises(CnnError, match=r"street: no image with its mask can be read in all, such as .*masks/5\.png"):
        load_dataset(str(root), root, skip_unreadable=True)
