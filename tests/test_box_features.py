"""`cnn visualize-features --box` on detectors: where the cell of a box lies, and what the maps are there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cnn, pixels_of
from test_box_mistakes import with_two_cells

from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.interpret.box_cell import cell_of
from cnn_cli.interpret.box_scores import BoxScores, ChosenBox
from cnn_cli.network.builder import build_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of bright cells, and an image with a bright cell and a less bright one."""
    return with_two_cells(tmp_path_factory.mktemp("features"))


@pytest.mark.parametrize(("number", "row", "column", "value"), [(0, 4, 5, 240), (1, 1, 2, 180)])
def test_the_cell_of_a_box(
    folder: Path, capsys: pytest.CaptureFixture[str], number: int, row: int, column: int, value: int
) -> None:
    drawn = folder / f"{number}.png"
    command = ("visualize-features", str(folder / "sees"), str(folder / "two.png"), "-o", str(drawn))
    assert cnn(*command, "--box", str(number), "--json") == 0
    (shot,) = json.loads(capsys.readouterr().out)["pictures"]
    cell = shot["box"]["cell"]
    assert (cell["scores"], cell["row"], cell["column"]) == ("cls", row, column)
    square = [4 * column, 4 * row, 4 * column + 4, 4 * row + 4]
    assert cell["corners"] == cell["receptive_field"] == square  # one window of the pooling
    (layer,) = shot["layers"]  # the one before the scores
    assert layer["layer"] == "mean" and layer["cell"] == [row, column] and layer["receptive_field"] == square
    assert layer["values_at_cell"] == pytest.approx([value / 255], abs=1e-6)
    pixels = pixels_of(drawn)
    assert (pixels == np.array((230, 159, 0))).all(2).sum() > 300  # the box, in the color of its class
    assert (pixels == 0).all(2).sum() > 100  # the frame of the cell
    assert cnn(*command, "--box", str(number), "--force") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"cell in row {row}, column {column} of 8x8 (cls)" in text
    assert f"{square[0]} to {square[2]} x {square[1]} to {square[3]} of the network's input" in text
    assert cnn(*command[:3], "--box", str(number)) == 0
    assert f"features-box-{number}-two.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("network", "images", "options", "message"),
    [
        ("sees", ["two.png"], ("--box", "2"), "--box 2: bright detects 2 boxes in "),
        ("sees", ["two.png", "two.png"], ("--box", "0"), "--box chooses a box of one image"),
        ("lenet-5", ["two.png"], ("--box", "0", "--untrained"), "--box is for detectors"),
    ],
)
def test_boxes_that_do_not_exist(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    network: str,
    images: list[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    name = str(folder / network) if network == "sees" else network
    assert cnn("visualize-features", name, *(str(folder / image) for image in images), *options) == 2
    assert message in capsys.readouterr().err


def test_positions_at_other_scales() -> None:
    """The gradient of a layer's value at the position, against its receptive field; and the center of the cell."""
    loaded = load_network("fcos-resnet18", input=(3, 104, 128))
    scores = BoxScores(build_plan(loaded.plan), loaded)
    scale = scores.task.scales[1]
    first = scores.task.scales[0].size[0] * scores.task.scales[0].size[1]
    number = first + 3 * scale.size[1] + 5
    cell = cell_of(scores, ChosenBox(0, 0, "x", 0.5, (0.0, 0.0, 8.0, 8.0), number))
    assert (cell.scale, cell.row, cell.column) == (scale, 3, 5)
    assert cell.square == (80, 48, 96, 64)  # the center is (88, 56)
    assert cell.position((26, 32)) == (14, 22)  # 4 pixels apart
    assert cell.position((13, 16)) == (7, 11)
    assert cell.position((7, 8)) == (3, 5)
    x = torch.zeros(1, 3, 104, 128, requires_grad=True)
    stem = scores.network.get_submodule("body.conv1")(x)
    stem[0, :, 2, 63].sum().backward()
    assert x.grad is not None
    rows, columns = (x.grad[0].abs().sum((0, d)).nonzero().flatten().tolist() for d in (2, 1))
    assert cell.field_at("body.conv1", 2, 63) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
