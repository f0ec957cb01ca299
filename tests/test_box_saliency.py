"""`cnn visualize-saliency` on detectors: the score of one box at its cell, against the gradient by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cnn, pixels_of
from PIL import Image
from test_box_mistakes import with_two_cells

from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.errors import UsageError
from cnn_cli.interpret import saliency_maps
from cnn_cli.interpret.box_scores import BoxScores, layer_before
from cnn_cli.interpret.inputs import ImageSelection, load_inputs
from cnn_cli.interpret.pictured import Target
from cnn_cli.interpret.saliency_maps import SaliencyRequest, draw_saliency, show_saliency
from cnn_cli.network.builder import build_plan

pytest.importorskip("captum", reason="captum is not installed: pip install 'cnn-cli[explain]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of bright cells, an image with a bright cell and a less bright one, and one without any."""
    root = with_two_cells(tmp_path_factory.mktemp("saliency"))
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(root / "none.png")
    return root


@pytest.mark.parametrize(("number", "rows", "columns"), [(0, (16, 20), (20, 24)), (1, (4, 8), (8, 12))])
def test_only_the_cell_of_the_box_counts(
    folder: Path, number: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    loaded = load_network(str(folder / "sees"))
    inputs = load_inputs(loaded, ImageSelection([str(folder / "two.png")]))
    request = SaliencyRequest(("gradient", "occlusion"), box=number)
    result = show_saliency(loaded, inputs, request, Target(folder / f"box-{number}.png")).result
    (explanation,) = result.explanations
    expected = np.zeros((32, 32))
    expected[slice(*rows), slice(*columns)] = 20 / 16  # the weight of the scores, over the mean of 4x4 pixels
    assert explanation.maps[0].values == pytest.approx(expected, abs=1e-6)
    assert explanation.box is not None and explanation.box.name == "light"
    center = [(columns[0] + columns[1]) / 2, (rows[0] + rows[1]) / 2]
    assert explanation.box.corners == pytest.approx([center[0] - 4, center[1] - 4, center[0] + 4, center[1] + 4])
    logit = 20 * (240, 180)[number] / 255 - 10
    facts = result.document()["images"][0]
    assert facts["score"] == pytest.approx(logit, abs=1e-4)
    assert facts["confidence"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6) == facts["box"]["score"]
    drawn = pixels_of(folder / f"box-{number}.png")
    assert (drawn == np.array((230, 159, 0))).all(2).sum() > 500  # the box, in the color of its class


def test_the_best_box_of_a_class(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    monkeypatch.setattr(saliency_maps, "draw_saliency", lambda *given: titles.append(given[1]) or draw_saliency(*given))
    command = ("visualize-saliency", str(folder / "sees"), str(folder / "two.png"), "--method", "gradient")
    assert cnn(*command, "--class", "light", "-o", str(folder / "class.png"), "--json") == 0
    (shot,) = json.loads(capsys.readouterr().out)["images"]
    assert (shot["class"], shot["box"]["number"]) == ("light", 0)
    assert shot["box"]["corners"] == [18, 14, 26, 22]
    assert titles == ["bright: saliency maps of box 0 of light, 1.00"]
    for number in "01":
        assert cnn(*command, "--box", number) == 0
        assert f"saliency-gradient-box-{number}-two.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ("two.png", ("--box", "2"), "--box 2: bright detects 2 boxes in "),
        ("two.png", ("--class", "dark"), "bright detects no dark in "),
        ("none.png", (), "bright detects nothing in "),
        ("two.png", ("--region", "0,0,4,4"), "--region does not apply to detectors"),
        ("two.png", ("--sanity",), "--sanity does not apply to detectors"),
        ("*.png", (), "a detector is explained box by box; name one image"),
    ],
)
def test_what_cannot_be_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], image: str, options: tuple[str, ...], message: str
) -> None:
    assert cnn("visualize-saliency", str(folder / "sees"), str(folder / image), *options) == 2
    assert message in capsys.readouterr().err


def test_a_box_needs_a_detector(folder: Path) -> None:
    loaded = load_network("lenet-5")
    inputs = load_inputs(loaded, ImageSelection([str(folder / "two.png")]))
    with pytest.raises(UsageError, match="--box is for detectors"):
        show_saliency(loaded, inputs, SaliencyRequest(box=0), Target(folder / "none-drawn.png"))


def test_grad_cam_is_at_the_scale_of_the_box() -> None:
    """The head runs at every scale, so Grad-CAM takes the map that enters it at the scale of the cell."""
    loaded = load_network("fcos-resnet18", input=(3, 128, 128))
    scores = BoxScores(torch.nn.Module(), loaded)
    scores.network = build_plan(loaded.plan)
    names = [layer_before(scores, cell) for cell in (0, 255, 256, 319, 320, 336)]
    assert names[0] == names[1] and names[2] == names[3] and len(set(names)) == 4, names
    assert all(name and name.startswith("fpn.") for name in names), names
