"""cnn predict on detectors: boxes in pixels of the original images, drawn, as JSON, CSV and YOLO files."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import bright_cells
from typer.testing import CliRunner

from cnn_cli.checkpoints.checkpoint import Metadata, save_weights
from cnn_cli.cli.app import app
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import UsageError
from cnn_cli.interpret.box_prediction import _placed
from cnn_cli.pictures.box_drawing import DrawnBox, class_color, with_boxes


def bright(folder: Path, resize: str = "stretch") -> Path:
    plan, network = bright_cells(folder)
    path = folder / "runs" / "bright-1"
    path.mkdir(parents=True, exist_ok=True)
    metadata = Metadata(plan.document(), ("light", "dark"), Preprocessing((1, 32, 32), resize), {"name": "x"}, {})
    save_weights(path / "best.safetensors", network, metadata)
    return path


def photo(path: Path, height: int, width: int, x: int, y: int, size: tuple[int, int]) -> str:
    """Black but for a white rectangle of size (w, h) with its upper left corner at (x, y)."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[y : y + size[1], x : x + size[0]] = 255
    Image.fromarray(pixels).save(path)
    return str(path)


def predict(run: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["predict", str(run), *words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("resize", "size", "place", "patch", "expected"),
    [
        ("stretch", (32, 32), (8, 12), (4, 4), [6, 10, 14, 18]),
        ("stretch", (64, 96), (24, 24), (12, 8), [18, 20, 42, 36]),
        ("pad", (32, 64), (16, 8), (8, 8), [12, 4, 28, 20]),
        ("crop", (32, 64), (24, 8), (4, 4), [22, 6, 30, 14]),
        ("stretch", (32, 32), (0, 28), (4, 4), [0, 26, 6, 32]),  # cut off at the border
    ],
)
def test_boxes_are_in_pixels_of_the_image(
    workspace: Path,
    resize: str,
    size: tuple[int, int],
    place: tuple[int, int],
    patch: tuple[int, int],
    expected: list[float],
) -> None:
    file = photo(workspace / "a.png", *size, *place, patch)
    document = json.loads(predict(bright(workspace, resize), file, "--json"))
    (shot,) = document["images"]
    assert document["task"] == "detection" and shot["size"] == list(size)
    (box,) = shot["boxes"]
    assert box["class"] == "light" and box["score"] > 0.99
    assert box["box"] == pytest.approx(expected, abs=0.01)


def test_files_and_tables(workspace: Path) -> None:
    run, folder = bright(workspace), workspace / "out"
    files = [photo(workspace / "a.png", 64, 64, 16, 24, (8, 8)), photo(workspace / "b.png", 32, 32, 0, 0, (0, 0))]
    rows = list(csv.DictReader(io.StringIO(predict(run, *files, "-o", str(folder), "--csv"))))
    assert [(row["image"], row["class"], row["x0"], row["y1"]) for row in rows] == [(files[0], "light", "12.0", "36.0")]
    assert {p.name for p in folder.iterdir()} == {
        *("predictions.png", "a-boxes.png", "b-boxes.png"),
        *("a.txt", "b.txt"),
    }
    label, *values = (folder / "a.txt").read_text().split()
    assert label == "0" and [float(v) for v in values[:4]] == [0.3125, 0.4375, 0.25, 0.25]
    assert (folder / "b.txt").read_text() == ""
    with Image.open(folder / "a-boxes.png") as drawing:
        assert drawing.size == (512, 512)  # small images are enlarged
    text = predict(run, *files, "-o", str(folder), "--force")
    assert "1 light" in text and "nothing" in text
    again = CliRunner().invoke(app, ["predict", str(run), *files, "-o", str(folder)])
    assert isinstance(again.exception, UsageError) and "--force" in str(again.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min-score", "1.5"], "--min-score must be from 0 to 1, not 1.5"),
        (["--top", "3"], "--top is for classification; leave it out"),
        (["--tiles"], "--tiles is for segmentation; leave it out"),
    ],
)
def test_options_of_other_tasks_are_refused(workspace: Path, words: list[str], message: str) -> None:
    file = photo(workspace / "a.png", 32, 32, 0, 0, (4, 4))
    result = CliRunner().invoke(app, ["predict", str(bright(workspace)), file, *words])
    assert isinstance(result.exception, UsageError) and message in str(result.exception)


def test_a_narrow_image_stands_in_the_middle_of_its_column() -> None:
    drawn = _placed(torch.zeros(3, 32, 16, dtype=torch.uint8), [], (32, 32), 1.0)
    dark = np.flatnonzero((drawn == 0).all((0, 2)))
    assert dark[0] == drawn.shape[1] // 4 and dark[-1] == 3 * drawn.shape[1] // 4 - 1


def test_words_at_boxes_do_not_cover_each_other() -> None:
    black, crowded = np.zeros((200, 300, 3), np.uint8), [DrawnBox((30, 40, 60, 70), k, "word") for k in range(12)]
    alone = [with_boxes(black, [DrawnBox(b.corners, b.label, "word")]) for b in crowded]
    drawn = with_boxes(black, crowded)

    def area(picture: np.ndarray, label: int) -> int:
        """Pixels in the color of a class."""
        color = tuple(bytes.fromhex(class_color(label)[1:]))
        return int((picture == color).all(2).sum())

    whole = [k for k in range(12) if area(drawn, k) > 0.6 * area(alone[k], k)]
    assert whole == [0, 1, 2, 3]  # above and inside the upper edge, inside and below the lower one
    assert all(area(drawn, k) == 0 for k in range(12) if k not in whole and k != 11)  # 11 is the box drawn last


def test_drawn_boxes_have_the_color_of_their_class() -> None:
    drawn = with_boxes(np.zeros((20, 30, 3), np.uint8), [DrawnBox((5, 4, 15, 12), 1)], 2)
    assert drawn.shape == (40, 60, 3)
    rows, columns = np.nonzero((drawn == (0x56, 0xB4, 0xE9)).all(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 23, 10, 29)
