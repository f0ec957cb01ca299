"""`cnn errors` and `cnn compare` on detectors, with a network of known detections: a box around each bright cell."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pictures import cnn, pixels_of
from PIL import Image
from small_networks import bright_cells

from cnn_cli.checkpoints.checkpoint import Metadata, save_weights
from cnn_cli.data.preprocessing import Preprocessing

# Of each image, at twice the input's size, the bright cells (column, row) with their brightness, and the true boxes in
# pixels of the input. A bright cell in column 2 and row 2 is detected as `light`, 6, 6, 14, 14.
IMAGES = {
    "hit": ([(2, 2, 160)], [(0, 6, 6, 14, 14)]),
    "class": ([(2, 2, 240)], [(1, 6, 6, 14, 14)]),
    "place": ([(2, 2, 230)], [(0, 9, 6, 17, 14)]),
    "empty": ([(2, 2, 220)], []),
    "missed": ([], [(0, 6, 6, 14, 14)]),
    "double": ([(2, 2, 160), (3, 2, 160)], [(0, 8, 6, 16, 14)]),
}


def with_two_cells(folder: Path) -> Path:
    """A folder with a detector of bright cells and two.png, with a bright cell and a less bright one."""
    detector(folder, "sees", -10.0)
    pixels = np.zeros((32, 32), np.uint8)
    pixels[16:20, 20:24], pixels[4:8, 8:12] = 240, 180
    Image.fromarray(pixels).save(folder / "two.png")
    return folder


def detector(folder: Path, name: str, bias: float) -> Path:
    plan, network = bright_cells(folder, bias)
    (folder / name).mkdir()
    metadata = Metadata(
        plan.document(), ("light", "dark"), Preprocessing((1, 32, 32)), {"name": str(folder / "set")}, {}
    )
    save_weights(folder / name / "best.safetensors", network, metadata)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors, the second of which sees nothing, and a YOLO folder."""
    root = tmp_path_factory.mktemp("boxes")
    for part in ("images", "labels"):
        (root / "set" / part / "test").mkdir(parents=True)
    (root / "set" / "classes.txt").write_text("light\ndark\n")
    for name, (cells, boxes) in IMAGES.items():
        pixels = np.zeros((64, 64), np.uint8)
        for x, y, bright in cells:
            pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = bright
        Image.fromarray(pixels).save(root / "set" / "images" / "test" / f"{name}.png")
        lines = [
            f"{k} {(x0 + x1) / 64} {(y0 + y1) / 64} {(x1 - x0) / 32} {(y1 - y0) / 32}\n" for k, x0, y0, x1, y1 in boxes
        ]
        (root / "set" / "labels" / "test" / f"{name}.txt").write_text("".join(lines))
    detector(root, "sees", -10.0)
    detector(root, "blind", -30.0)
    return root


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_each_kind_of_error_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("errors", str(folder / "sees"), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    kinds = {Path(row["image"]).stem: row for row in facts["mistakes"]}
    assert {name: row["error"] for name, row in kinds.items()} == {
        "class": "wrong_class", "place": "badly_placed", "empty": "background", "missed": "missed", "double": "doubled"
    }  # fmt: skip
    assert facts["errors"] == {
        "score": pytest.approx(0.74, abs=0.01), "hits": 2, "missed": 1, "doubled": 1, "wrong_class": 1,
        "badly_placed": 1, "background": 1,
    }  # fmt: skip
    assert (kinds["class"]["true"], kinds["class"]["predicted"], kinds["class"]["iou"]) == ("dark", "light", 1)
    assert kinds["class"]["score"] > kinds["place"]["score"] > kinds["empty"]["score"] > kinds["double"]["score"]
    assert kinds["place"]["iou"] == pytest.approx(40 / 88) and kinds["double"]["iou"] == pytest.approx(48 / 80)
    assert kinds["empty"]["true"] is None and kinds["missed"]["score"] is None
    assert kinds["empty"]["box"] == [12, 12, 28, 28] == kinds["missed"]["box"]  # in pixels of the original image
    assert [Path(row["image"]).stem for row in facts["images"]][:4] == ["class", "place", "empty", "double"]
    assert [(p["true"], p["predicted"], p["n"], p["share"]) for p in facts["confused_pairs"]] == [
        ("dark", "light", 1, 1)
    ]
    light, dark = facts["per_class"]
    assert (light["objects"], light["hits"], light["missed"], light["background"]) == (4, 2, 1, 1)
    assert (dark["objects"], dark["hits"], dark["missed"]) == (1, 0, 0)
    assert cnn("eval", str(folder / "sees"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["errors"] == facts["errors"]


def test_text_csv_and_sheet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("errors", str(folder / "sees"), "--force", "-o", str(folder / "sheet.png")) == 0
    text = capsys.readouterr().out
    assert "2 of 5 objects detected at a score threshold of 0.74 (best F1)" in text.replace("\n ", "")
    assert "1 wrong class, 1 missed, 1 localization, 1 duplicate, 1 background" in text
    assert "neither detected nor missed: 2 objects with only detections of another class" in text.replace("\n ", "")
    assert "wrong detections, highest score first" in text and "2 of 4" in text
    pixels = pixels_of(folder / "sheet.png")
    for color in ((0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167), (230, 159, 0), (240, 228, 66)):
        assert (pixels == np.array(color)).all(2).sum() > 1200, color  # more than its field in the legend
    assert cnn("errors", str(folder / "sees"), "--force", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out.split("\n\n")[0])))
    assert [row["error"] for row in rows] == ["wrong_class", "badly_placed", "background", "doubled", "missed"]
    assert rows[-1]["score"] == "" and float(rows[-1]["x1"]) == 28
    assert cnn("errors", str(folder / "blind"), "-o", str(folder / "blind.png")) == 0
    text = capsys.readouterr().out
    assert "none of 5 objects is detected at any score threshold" in text.replace("\n ", "")
    assert " images/ " in text and str(folder / "set") not in text and max(map(len, text.splitlines()[:-1])) <= 80
    assert cnn("eval", str(folder / "blind")) == 0
    text = capsys.readouterr().out
    assert "no detection is correct at any score threshold; 5 of 5 objects missed" in text
    assert max(len(line) for line in text.splitlines() if str(folder) not in line) <= 80


def test_detectors_are_compared_by_their_ap(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("compare", "sees/", "blind/", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert cnn("eval", "sees/", "--json") == 0
    ap = json.loads(capsys.readouterr().out)["ap"]
    (pair,) = facts["comparisons"]
    assert facts["metric"] == "AP" and ap > 0.03
    assert [run["score"] for run in facts["runs"]] == [pytest.approx(ap), 0]
    assert pair["difference"] == pytest.approx(-ap) and pair["interval"][0] < -ap < pair["interval"][1]
    assert pair["test"] == "bootstrap over images" and (pair["only_a"], pair["only_b"]) == (2, 0)
    names = sorted(IMAGES)
    assert ({names[i] for i in pair["indices_a"]}, pair["indices_b"]) == ({"hit", "double"}, [])
    assert (
        "no significant difference between A and B on 6 images: B − A " in pair["verdict"]
    )  # two images make the difference
    pixels = pixels_of(folder / "comparison" / "A-B.png")
    assert (pixels == np.array((0, 158, 115))).all(2).sum() > 1000
    assert cnn("compare", "sees/", "blind/", "-o", "other") == 0
    assert "only A detects 2 objects, only B 0" in capsys.readouterr().out


def test_detectors_are_not_calibrated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("eval", str(folder / "sees"), "--calibrate") == 2
    assert "bright is a detector, whose scores estimate the IoU of a box" in capsys.readouterr().err
