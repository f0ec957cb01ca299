"""cnn predict on networks that output maps: masks at the images' own sizes, by any way of fitting, and their sheet."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_networks
import small_runs as small
import torch
from pictures import cnn
from PIL import Image

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, Metadata, load_network, save_weights
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
from cnn_cli.tasks.dense_scores import scores_of_pixels
from cnn_cli.tasks.segmentation import segmentation_task

SPEC = "bright: {input: [1, 16, 16], layers: [{Conv2d: {out_channels: 2, kernel_size: 1}}]}"


@pytest.fixture
def run(workspace: Path) -> Path:
    """A network that calls what is brighter than a half `light`."""
    return bright(workspace, "stretch")


def bright(folder: Path, resize: str) -> Path:
    (folder / "bright.yaml").write_text(SPEC)
    plan = find(str(folder / "bright.yaml"))
    network = build_plan(plan)
    network.load_state_dict(
        {"0.weight": torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1), "0.bias": torch.tensor([1.0, 0.0])}
    )
    path = folder / "runs" / "bright-1"
    path.mkdir(parents=True, exist_ok=True)
    metadata = Metadata(plan.document(), ("background", "light"), Preprocessing((1, 16, 16), resize), {"name": "x"}, {})
    save_weights(path / "best.safetensors", network, metadata)
    return path


def scene(path: Path, height: int, width: int) -> Any:
    """White in the left half, black in the right one."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels > 127


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (40, 96), (96, 40), (6, 10), (35, 16)])
def test_scores_lie_on_the_pixels_of_any_image(
    workspace: Path, resize: str, tiles: bool, size: tuple[int, int]
) -> None:
    loaded = load_network(str(bright(workspace, resize)))
    light = scene(workspace / "a.png", *size)
    pixels = torch.from_numpy(light * np.uint8(255)).unsqueeze(0)
    task = segmentation_task(loaded.plan, loaded.classes)
    network = restored(loaded)
    scores = scores_of_pixels(network, task, loaded.preprocessing, pixels, tiles, torch.device("cpu"))
    assert scores.shape == (2, *size)
    wrong = (scores.argmax(0).numpy() != light)[:, np.abs(np.arange(size[1]) - size[1] / 2 + 0.5) > size[1] / 12]
    assert not wrong.any()


def restored(loaded: LoadedNetwork) -> Any:
    from cnn_cli.interpret.pictured import restored

    return restored(loaded)


def test_masks_overlays_and_a_sheet_are_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    light = scene(Path("photos/a.png"), 30, 50)
    scene(Path("photos/b.png"), 20, 20)
    Path("photos/c.png").write_bytes(b"not an image")
    assert cnn("predict", str(run), "photos", "--json") == 0
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert document["task"] == "segmentation" and len(document["skipped"]) == 1 and "c.png" in output.err
    first = document["images"][0]
    assert Path(first["mask"]).parent == run / "predictions" and Path(document["sheet"]).is_file()
    mask = Image.open(first["mask"])
    assert mask.mode == "P" and mask.size == (50, 30)
    assert (np.asarray(mask) == light).mean() > 0.95
    assert {row["class"]: round(row["share"], 1) for row in first["classes"]} == {"background": 0.5, "light": 0.5}
    overlay = np.asarray(Image.open(first["overlay"]).convert("RGB"))
    assert (overlay[:, 40:] == 0).all() and (overlay[:, :20] == (191, 127, 127)).all()
    assert cnn("predict", str(run), "photos") == 0
    assert "a-mask.png" in capsys.readouterr().out
    assert cnn("predict", str(run), "photos", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["image"] for row in rows] == ["photos/a.png"] * 2 + ["photos/b.png"] * 2
    shares = {row["class"]: float(row["share"]) for row in rows[:2]}
    assert shares == {row["class"]: row["share"] for row in first["classes"]}


def test_options_of_the_other_task_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.picture(Path("a.png"))
    assert cnn("predict", str(run), "a.png", "--top", "3") == 2
    assert "--top is for classification" in capsys.readouterr().err
    small_networks.loaded(Path.cwd(), "gray")
    assert cnn("predict", "runs/gray-1", "a.png", "--tiles") == 2
    assert "--tiles is for segmentation" in capsys.readouterr().err
    for i in range(2):
        small.picture(Path(f"set/{'ab'[i]}/0.png"), 28, 28)
    assert cnn("eval", "runs/gray-1", "--data", "set", "--tiles") == 2
    assert "--tiles is for segmentation" in capsys.readouterr().err


def test_masks_are_measured_at_their_own_sizes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the masks that `predict` writes, counted by scikit-learn."""
    from sklearn.metrics import confusion_matrix

    Path("set/masks").mkdir(parents=True)
    for i, size in enumerate([(30, 50), (16, 16), (70, 21)]):
        light = scene(Path(f"set/images/{i}.png"), *size)
        Image.fromarray(np.roll(light, i, 1) * np.uint8(255)).save(f"set/masks/{i}.png")
    Path("set/classes.txt").write_text("background\nlight\n")
    for option in ([], ["--tiles"]):
        data = ["--data", "set", "--json", *option]
        assert cnn("predict", str(run), *data, "--index", "0-2", "--force") == 0
        shots = json.loads(capsys.readouterr().out)["images"]
        assert cnn("eval", str(run), *data, *([] if option else ["--original-size"])) == 0
        document = json.loads(capsys.readouterr().out)
        pairs = [(Image.open(f"set/masks/{i}.png"), Image.open(shot["mask"])) for i, shot in enumerate(shots)]
        true, predicted = (
            np.concatenate([np.asarray(m).ravel() > 0 for m in side]) for side in zip(*pairs, strict=True)
        )
        assert document["confusion_matrix"] == confusion_matrix(true, predicted * np.True_).tolist()
        assert document["original_size"] and document["pixels"] == 30 * 50 + 16 * 16 + 70 * 21
    assert {p.name for p in run.glob("eval-set*")} == {"eval-set-test-original-size.json", "eval-set-test-tiles.json"}
    assert cnn("eval", str(run), "--data", "set", "--original-size") == 0
    assert "evaluated at the original mask sizes" in capsys.readouterr().out


def test_images_of_a_folder_are_compared_with_their_masks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        light = scene(Path(f"set/images/{i}.png"), 16, 32)
        Path("set/masks").mkdir(exist_ok=True)
        Image.fromarray(light * np.uint8(255)).save(f"set/masks/{i}.png")
    Path("set/classes.txt").write_text("background\nlight\n")
    assert cnn("predict", str(run), "--data", "set", "--index", "0,2", "-o", "out", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["miou"] for row in document["images"]] == [1, 1] and Path("out/predictions.png").is_file()
    assert cnn("eval", str(run), "--data", "set", "--json", "-o", "out") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["miou"] == 1 and document["n"] == 3 and Path("out/confusion_matrix-set-test.png").is_file()
