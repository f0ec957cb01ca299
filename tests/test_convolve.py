"""`cnn convolve`: a classifier as a fully convolutional network, against explicit windows in plain PyTorch."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import cnn, make_run, opened_run, pixels_of, save_image
from torch import Tensor, nn

import cnn_cli
from cnn_cli.analysis.fully_convolutional import convert
from cnn_cli.analysis.sliding_window import window
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, shipped
from cnn_cli.network.builder import build_plan

PADDED = """
padded:
  input: [3, 16, 16]
  args: {classes: 4}
  layers:
    conv: {Conv2d: {out_channels: 6, kernel_size: 3, padding: 1}}
    norm: BatchNorm2d
    act: ReLU
    down: {MaxPool2d: 2}
    pool: {AdaptiveAvgPool2d: 4}
    flat: Flatten
    hidden: {Linear: 9}
    norm1: BatchNorm1d
    norm2: LayerNorm: 9
    act2: ReLU
    drop: Dropout
    skip: {Linear: 9}
    add: {Add: [drop, skip]}
    fc: {Linear: $classes}
""".replace("norm2: LayerNorm: 9", "norm2: {LayerNorm: 9}")


def unpadded() -> list[str]:
    """The built-in networks that can be converted, do not pad, and are small."""
    names = []
    for name in shipped().networks:
        plan = find(name)
        padded = any(layer.settings.get("padding", (0, 0)) != (0, 0) for layer in plan.layers)
        if plan.params < 5_000_000 and not padded:
            assert window(convert(plan).after).exact
            names.append(name)
    return names


def noise(folder: Path, size: tuple[int, ...], name: str = "noise.png", seed: int = 0) -> tuple[Path, Tensor]:
    """An image file of random bytes, and its pixels as (1, C, H, W) in [0, 1]."""
    values = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    pixels = torch.from_numpy(values).float() / 255
    pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.unsqueeze(0)
    return save_image(folder / name, values), pixels.unsqueeze(0)


@torch.no_grad()
def windows(network: nn.Module, pixels: Tensor, size: tuple[int, int], step: int) -> Tensor:
    """(K, h, w): the scores of all explicit windows."""
    columns = pixels.unfold(2, size[0], step).unfold(3, size[1], step)[0]  # C, h, w, H, W
    rows, across = columns.shape[1:3]
    crops = columns.permute(1, 2, 0, 3, 4).flatten(0, 1)
    return torch.cat([network(crop[None]) for crop in crops]).T.view(-1, rows, across)


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cnn("convolve", *arguments, "--json") == 0
    return dict(json.loads(capsys.readouterr().out))


def test_small_networks_without_padding_are_known() -> None:
    assert set(unpadded()) == {"fashion-convnet", "mnist-net", "tiny-cnn", "large-net", "lenet-5"}


@pytest.mark.parametrize("name", ["fashion-convnet", "mnist-net", "tiny-cnn", "large-net", "lenet-5"])
def test_map_equals_explicit_windows(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = find(name)
    classes = tuple("0123456789"[: max(2, plan.output[0])])
    network = make_run(tmp_path / "run", name, classes=classes)
    path, pixels = noise(tmp_path, (61, 70) if plan.input[0] == 1 else (61, 70, 3))
    facts = document(capsys, str(tmp_path / "run"), str(path))
    converted = cnn_cli.load(facts["files"][1])
    with torch.no_grad():
        scores = converted(pixels)[0]
    explicit = windows(network, pixels, plan.input[1:], 4)  # type: ignore[arg-type]
    assert facts["step"] == [4, 4]
    assert (explicit - scores[:, : explicit.shape[1], : explicit.shape[2]]).abs().max() <= 1e-5
    assert facts["images"][0]["agreement"]["largest_difference"] <= 1e-5
    assert facts["images"][0]["agreement"]["same_class"] == facts["images"][0]["agreement"]["windows"]
    assert cnn("convolve", str(tmp_path / "run"), str(path), "--csv", "--force") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [[int(row[key]) for key in ("x0", "y0", "x1", "y1")] for row in rows] == [
        w["box"] for w in facts["images"][0]["windows"]
    ]


AUXILIARY = """
two: {input: [3, 16, 16], args: {classes: 4}, outputs: {fc: 1.0, aux: 0.3}, layers: {
  stem: [{Conv2d: {out_channels: 6, kernel_size: 3, stride: 2}}, BatchNorm2d, ReLU],
  side: {from: stem, layers: [{AdaptiveAvgPool2d: 1}, Flatten]},
  aux: {from: side, layers: {Linear: $classes}},
  body: {from: stem, layers: [{Conv2d: {out_channels: 8, kernel_size: 3}}, ReLU, Flatten]},
  fc: {Linear: $classes}}}
"""


def test_auxiliary_outputs_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(AUXILIARY)
    network = make_run(tmp_path / "run", "two.yaml", classes=tuple("abcd"))
    path, pixels = noise(tmp_path, (23, 26, 3))
    facts = document(capsys, str(tmp_path / "run"), str(path))
    converted = cnn_cli.load(facts["files"][1])
    assert not [name for name in converted.state_dict() if name.startswith(("aux", "side"))]
    with torch.no_grad():
        scores = converted(pixels)[0]
    explicit = windows(network.eval(), pixels, (16, 16), 2)
    assert explicit.shape == (4, 4, 6)
    assert (explicit - scores[:, :4, :6]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inception_networks_are_converted(name: str) -> None:
    """At the size of the input the map has a single cell, which has the scores of the network."""
    plan = find(name, args={"classes": 5})
    conversion = convert(plan)
    torch.manual_seed(0)
    network, converted = build_plan(plan).eval(), build_plan(conversion.after).eval()
    tensors = network.state_dict()
    converted.load_state_dict({new: tensors[old].reshape(shape) for old, (new, shape) in conversion.renamed().items()})
    image = torch.rand(1, *plan.input)
    with torch.no_grad():
        torch.testing.assert_close(converted(image)[:, :, 0, 0], network(image), rtol=1e-4, atol=1e-4)


def receptive(network: nn.Module, input: tuple[int, ...], cell: tuple[int, int]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the pixels on which a cell of the map depends, by gradients."""
    pixels = torch.rand(1, *input, dtype=torch.float64, requires_grad=True)
    network.double()(pixels)[0, :, cell[0], cell[1]].sum().backward()
    assert pixels.grad is not None
    seen = pixels.grad[0].abs().sum(0)
    ys, xs = (seen.sum(dim).nonzero().flatten().tolist() for dim in (1, 0))
    return xs[0], ys[0], xs[-1] + 1, ys[-1] + 1


@pytest.mark.parametrize("name", ["fashion-convnet", "tiny-cnn", "lenet-5"])
def test_window_is_what_a_cell_depends_on(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With average pooling in place of the maximum, of which a gradient sees one pixel alone."""
    plan = find(name)
    make_run(tmp_path / "run", name)
    facts = document(capsys, str(tmp_path / "run"), "-o", str(tmp_path / "out"))
    network = cnn_cli.load(facts["files"][1])
    for children in network.modules():
        for key, child in children.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(children, key, nn.AvgPool2d(2))
            if isinstance(child, nn.ReLU):
                setattr(children, key, nn.Softplus())
    size = (plan.input[0], 60, 60)
    corner = receptive(network, size, (0, 0))
    assert corner == (0, 0, facts["window"][1], facts["window"][0])
    other = receptive(network, size, (3, 5))
    assert other == tuple(a + b for a, b in zip(corner, (20, 12, 20, 12), strict=True))


def test_padding_is_told_and_windows_are_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, network = opened_run(tmp_path, PADDED, classes=tuple("abcd"))  # type: ignore[arg-type]
    path, pixels = noise(tmp_path, (30, 37, 3))
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    facts = document(capsys, run, str(path), "-o", out)
    explicit = windows(network, pixels, (16, 16), 4)
    with torch.no_grad():
        scores = cnn_cli.load(facts["files"][1])(pixels)[0]
    assert facts["padded_layers"] == ["conv"] and facts["images"][0]["map"] == list(scores.shape[1:]) == [4, 6]
    difference = (explicit - scores).abs().max()
    assert facts["images"][0]["agreement"]["largest_difference"] == pytest.approx(float(difference), rel=0.5)
    assert difference > 1e-3
    exact = document(capsys, run, str(path), "-o", out, "--windows", "--force")["images"][0]
    assert exact["agreement"] is None and exact["map"] == [4, 6]
    best = exact["windows"][0]
    assert best["score"] == pytest.approx(float(explicit.max()), abs=1e-5)
    row, column = best["cell"]
    assert explicit[:, row, column].argmax() == "abcd".index(best["class"])
    assert best["box"] == [column * 4, row * 4, column * 4 + 16, row * 4 + 16]
    assert cnn("convolve", run, str(path), "-o", out, "--force") == 0
    text = capsys.readouterr().out
    assert "1 layer pads" in text and "--windows classifies every window separately" in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 80


def test_same_scores_at_the_size_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pooling to a fixed size, BatchNorm1d and LayerNorm after the first Linear, Dropout and joins."""
    _, network = opened_run(tmp_path, PADDED, classes=tuple("abcd"))  # type: ignore[arg-type]
    facts = document(capsys, str(tmp_path / "run"))
    after = {change["layer"]: change["after"] for change in facts["layers"]}
    assert after["pool"].startswith("AvgPool2d 2x2") and after["flat"] == "removed"
    assert after["hidden"].startswith("Conv2d 9, 4x4") and after["skip"].startswith("Conv2d 9, 1x1")
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        converted = cnn_cli.load(facts["files"][1])(pixels)
        assert converted.shape == (2, 4, 1, 1)
        assert (converted[:, :, 0, 0] - network(pixels)).abs().max() <= 1e-5
    text = Path(facts["files"][0]).read_text()
    assert "out_channels: $classes" in text and "BatchNorm2d" in text and "train" not in text
    assert cnn("check", facts["files"][0]) == 0
    assert cnn("summary", facts["files"][0], "--input", "3x40x40") == 0


def layers(text: str, size: str = "1, 12, 12", more: str = "") -> str:
    return f"net: {{input: [{size}], layers: [{text}]{more}}}"


CONV = "{Conv2d: {out_channels: 2, kernel_size: 3}}"
REFUSED = [
    (layers(CONV), "scores at every position already"),
    (layers(f"{CONV}, Flatten, BatchNorm1d, {{Linear: 3}}"), "2 (BatchNorm1d) treats each of the 2·10·10 flattened"),
    (layers(f"{CONV}, {{AdaptiveAvgPool2d: 3}}, Flatten, {{Linear: 3}}"), "1 (AdaptiveAvgPool2d) pools 10x10 to 3x3"),
    (layers(f"{{LayerNorm: [12, 12]}}, {CONV}, Flatten, {{Linear: 3}}"), "does not accept larger images: layers.0"),
    (layers(f"{CONV}, Flatten"), "outputs 200 that no Linear layer computed"),
    (layers(f"{CONV}, {{Flatten: 2}}, {{Flatten: 1}}, {{Linear: 3}}"), "turns 2x10x10 into 2x100, which is not a map"),
    (layers(f"{CONV}, Flatten, {{Linear: 4}}, {{Unflatten: [1, [2, 2]]}}, Flatten, {{Linear: 3}}"), "no equivalent"),
    (layers("Flatten, {repeat: 2, layers: [{Linear: 144}]}, {Linear: 3}", "1, 12, 13"), "repeated with different"),
    ("net: {input: [1, 8, 8], layers: {a: {layers: [Flatten, {Linear: 3}]}, b: {from: input, layers: [Flatten, "
     "{Linear: 3}]}}, outputs: [a, b]}", "several outputs (a, b)"),
]  # fmt: skip


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in REFUSED:
        file = tmp_path / "net.yaml"
        file.write_text(text.replace("Unflatten: [1, [2, 2]]", "Unflatten: {dim: 1, unflattened_size: [2, 2]}"))
        assert cnn("convolve", str(file), "-o", str(tmp_path / "out")) == 2, text
        assert message in capsys.readouterr().err, text
    assert not (tmp_path / "out").exists()


def test_images_and_files_are_checked_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run", "lenet-5")
    path, _ = noise(tmp_path, (20, 40))
    run = str(tmp_path / "run")
    assert cnn("convolve", run, str(path)) == 2
    assert "fewer than a window of 32x32; enlarge it with --size" in capsys.readouterr().err
    assert not (tmp_path / "run" / "convolved").exists()
    assert cnn("convolve", run, "--windows") == 2
    assert cnn("convolve", run, str(path), "--size", "80") == 0
    assert "a map of 3x13 cells" in capsys.readouterr().out
    assert pixels_of(tmp_path / "run" / "convolved" / "scores-noise.png").shape[0] > 300
    assert cnn("convolve", run, str(path), "--size", "80") == 0  # overwritten, as all pictures in the run folder
    out = str(tmp_path / "out")
    assert cnn("convolve", run, str(path), "--size", "80", "-o", out) == 0
    assert cnn("convolve", run, str(path), "--size", "80", "-o", out) == 2
    assert f"{out}/lenet-5-convolved.yaml exists already" in capsys.readouterr().err


def test_network_without_a_run_is_written_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cnn("convolve", "resnet18", "--set", "classes=7") == 0
    assert "no checkpoint is written" in capsys.readouterr().err
    plan: Plan = find("resnet18-convolved/resnet18-convolved.yaml", input=(3, 256, 320))
    assert plan.output == (7, 2, 4) and sorted(p.name for p in tmp_path.rglob("*.*")) == ["resnet18-convolved.yaml"]
