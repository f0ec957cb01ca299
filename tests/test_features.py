"""Feature maps: the same as a forward pass by hand, read back from the picture; what they say about channels."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import Array, cnn, make_run, opened_run, pixels_of, save_image, values_of
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import save_weights
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret import feature_maps, features
from cnn_cli.interpret.inputs import ImageSelection, load_inputs
from cnn_cli.interpret.pictured import Target
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find
from cnn_cli.pictures import image

CHAIN = """
chain:
  input: [1, 12, 12]
  layers:
    conv1: {Conv2d: {out_channels: 5, kernel_size: 3}}
    relu1: ReLU
    pool: {MaxPool2d: 2}
    conv2: {Conv2d: {out_channels: 4, kernel_size: 3}}
    act2: Sigmoid
    flat: Flatten
    fc: {Linear: 10}
"""


def image_of(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(network: nn.Module, x: Tensor) -> dict[str, Array]:
    """Every layer's output, (C, H, W), called one after the other."""
    found, x = {}, x.unsqueeze(0)
    for name, layer in network.named_children():
        x = layer(x)
        found[name] = x[0].detach().numpy()
    return found


def test_maps_are_those_of_a_forward_pass_by_hand(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, CHAIN)
    x = image_of(0, 1, 12, 12)
    wanted = by_hand(network, x)
    found = feature_maps.maps_of(network, loaded.plan, x, ["act2", "conv1", "pool"])
    assert [m.layer for m in found] == ["conv1", "pool", "act2"]  # in the order of computation
    assert [m.type for m in found] == ["Conv2d", "MaxPool2d", "Sigmoid"]
    for m in found:
        np.testing.assert_array_equal(m.values, wanted[m.layer])


def test_the_strongest_channels_come_first_and_keep_their_columns(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, CHAIN)
    nn.init.constant_(network.conv1.bias[2:3].detach(), -99)
    x = image_of(0, 1, 12, 12)
    conv, relu, pool, conv2 = feature_maps.maps_of(network, loaded.plan, x, ["conv1", "relu1", "pool", "conv2"])
    strength = np.abs(pool.values).mean((1, 2))
    assert list(pool.order) == [i for i in np.argsort(-strength) if strength[i]]
    assert conv.order == relu.order == pool.order and 2 not in pool.order
    assert list(conv2.order) == np.argsort(-np.abs(conv2.values).mean((1, 2))).tolist()


def test_silent_flat_and_saturated_channels_are_found(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, CHAIN)
    with torch.no_grad():
        network.conv1.bias[:] = 1.0
        network.conv1.bias[1] = -99.0
        network.conv2.weight[3] = 0.0
        network.conv2.bias[0], network.conv2.bias[3] = 99.0, 0.5
    conv1, relu, conv2, act = feature_maps.maps_of(
        network, loaded.plan, image_of(0, 1, 12, 12), ["conv1", "relu1", "conv2", "act2"]
    )
    assert (conv1.zero, relu.zero) == ((), (1,))
    assert (conv2.constant, act.constant, act.saturated) == ((3,), (0, 3), (0,))
    assert features.heading(relu, 3, 0.5) == "relu1 (ReLU): 5 maps of 10x10, the 3 strongest; scale 0.5; " + (
        "1 zero everywhere"
    )


@pytest.mark.parametrize("per_channel", [False, True])
def test_maps_can_be_read_back(per_channel: bool, tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, CHAIN)
    x = image_of(0, 1, 12, 12)
    found = feature_maps.maps_of(network, loaded.plan, x, ["conv1", "relu1", "pool", "conv2"])
    drawing = features.draw_maps(found, x, "title", ["words"], per_channel=per_channel)
    image.save(drawing.page.image, tmp_path / "f.png")
    pixels = pixels_of(tmp_path / "f.png")
    places = drawing.page.origins[-len(found) :]
    for m, grid, scale, shown, (left, top) in zip(
        found, drawing.grids, drawing.scales, drawing.shown, places, strict=True
    ):
        assert shown == len(m.order) and scale == np.abs(m.values[list(m.order)]).max()
        size = m.values.shape[1] * grid.zoom, m.values.shape[2] * grid.zoom
        for i, channel in enumerate(m.order):
            x0, y0 = (a + b for a, b in zip(grid.corner(i, m.values.shape[1:]), (left, top), strict=True))
            squares = pixels[y0 : y0 + size[0] : grid.zoom, x0 : x0 + size[1] : grid.zoom]
            own = float(np.abs(m.values[channel]).max()) if per_channel else scale
            np.testing.assert_allclose(values_of(squares, own), m.values[channel], atol=own / 254 * 1.001)
    left, top = drawing.page.origins[0]
    zoom = 280 // 12
    shot = pixels[top : top + 12 * zoom : zoom, left : left + 12 * zoom : zoom, 0]
    np.testing.assert_array_equal(shot, (x[0] * 255).round().byte().numpy())


def fake(shape: tuple[int, int, int], name: str = "layer") -> feature_maps.Maps:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return feature_maps.Maps(name, "Conv2d", values, tuple(range(shape[0])), (), (), ())


@pytest.mark.parametrize(
    "shapes",
    [
        [(2048, 7, 7)],
        [(1, 1, 1)],
        [(3000, 1, 1)],
        [(2, 1500, 3)],
        [(2, 3, 1500)],
        [(8, 700, 900)],
        [(16, 224, 224)] * 8,
        [(1, 300, 2)] * 12,
        [(9, 1, 1)] * 3,
    ],
    ids=str,
)
def test_a_picture_has_bounded_size(shapes: list[tuple[int, int, int]]) -> None:
    name = "a.very.long.name." * 30
    found = [fake(shape, name) for shape in shapes]
    drawing = features.draw_maps(found, image_of(0, 3, 1200, 50), name, ["many words " * 50])
    assert max(drawing.page.image.size) <= image.LIMIT
    assert all(0 < shown <= shape[0] for shown, shape in zip(drawing.shown, shapes, strict=True))


def test_large_maps_are_means_of_whole_squares() -> None:
    values = np.arange(2 * 7 * 5, dtype=np.float32).reshape(2, 7, 5)
    small, n = image.reduced(values, 3)
    assert (n, small.shape) == (3, (2, 2, 1))
    assert small[1, 1, 0] == values[1, 3:6, 0:3].mean()
    assert image.reduced(values, 7) == (values, 1)


def layers_shown(name: str) -> tuple[list[str], Plan]:
    plan = find(name)
    names = nn.Module()
    for layer in plan.layers:  # no weights are needed to choose layers
        names.get_submodule("").add_module(layer.name.replace(".", "/"), nn.Identity())
    shell = nn.Module()
    shell.named_modules = lambda: ((n.replace("/", "."), m) for n, m in names.named_modules())  # type: ignore[assignment, method-assign]
    return feature_maps.default_layers(shell, plan), plan


def test_a_short_network_is_shown_as_a_whole() -> None:
    assert layers_shown("fashion-convnet")[0] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("name", ["block-cnn", "vgg16", "resnet50", "googlenet"])
def test_of_a_deep_network_six_layers_are_shown(name: str) -> None:
    shown, plan = layers_shown(name)
    kinds = {layer.name: layer.type for layer in plan.layers}
    assert len(set(shown)) == 6 and shown == sorted(shown, key=list(kinds).index)
    assert {kinds[n] for n in shown} <= {"Conv2d", "ReLU", "Concat"}
    assert not any("downsample" in n or ".branch" in n for n in shown)


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, CHAIN)
    nn.init.constant_(network.conv2.weight, math.nan)
    with pytest.raises(CnnError, match="layer conv2: 36 of 36 values are not finite numbers"):
        feature_maps.maps_of(network, loaded.plan, image_of(0, 1, 12, 12), ["conv1", "conv2"])
    assert sum(len(m._forward_hooks) for m in network.modules()) == 0


def test_pictures_never_have_the_same_name(tmp_path: Path) -> None:
    loaded, _ = opened_run(tmp_path, CHAIN)
    names = [
        "a.png",
        "b/a.png",
        "2-a.png",
        "A.jpg",
        "x/photo",
        "my.data test 3",
        "n" * 300 + "1.png",
        "n" * 300 + "2.png",
    ]
    found = [p.name for p in Target().paths(loaded, "features", names)]
    assert found[:6] == [
        "features-a.png",
        "features-2-a.png",
        "features-2-2-a.png",
        "features-3-A.png",
        "features-photo.png",
        "features-my.data-test-3.png",
    ]
    assert len({n.lower() for n in found}) == len(names) and max(map(len, found)) < 255


def test_outputs_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, CHAIN)
    nn.init.constant_(network.fc.weight, math.nan)
    save_weights(tmp_path / "run" / "best.safetensors", network, loaded.metadata)
    with pytest.raises(CnnError, match="the network's outputs are not finite numbers"):
        features.show_features(loaded, load_inputs(loaded, ImageSelection(index=[0])), (), Target(tmp_path / "f.png"))
    assert not (tmp_path / "f.png").exists()


def test_a_page_takes_twelve_layers(tmp_path: Path) -> None:
    layers = "".join(f"    c{i}: {{Conv2d: {{out_channels: 1, kernel_size: 1}}}}\n" for i in range(13))
    loaded, _ = opened_run(tmp_path, f"long:\n  input: [1, 8, 8]\n  layers:\n{layers}    flat: Flatten\n")
    inputs = load_inputs(loaded, ImageSelection(index=[3]))
    with pytest.raises(UsageError, match="13 layers, but one picture holds 12; name fewer"):
        features.show_features(loaded, inputs, [f"c{i}" for i in range(13)], Target())
    shown = features.show_features(loaded, inputs, [f"c{i}" for i in range(12)] * 2, Target(tmp_path / "f.png"))
    assert len(shown.document()["layers"]) == 12


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, CHAIN)
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    feature_maps.maps_of(network, loaded.plan, image_of(0, 1, 12, 12), ["conv1", "act2"])
    assert network.training and all(p.requires_grad and p.grad is None for p in network.parameters())
    assert sum(len(m._forward_hooks) for m in network.modules()) == 0
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_what_the_network_says_stands_under_the_image(tmp_path: Path) -> None:
    loaded, _ = opened_run(tmp_path, CHAIN)
    inputs = load_inputs(loaded, ImageSelection(index=[3]))
    shown = features.show_features(loaded, inputs, (), Target(tmp_path / "f.png")).document()
    assert len(shown["pictures"]) == 1 and shown["pictures"][0]["picture"] == str(tmp_path / "f.png")
    assert shown["origin"].startswith("trained on digits, epoch 3")


def test_each_image_has_its_picture(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(workspace / "runs" / "tiny-cnn-1", "tiny-cnn")
    for name in ("one/a.png", "two/a.png"):
        save_image(workspace / name, np.full((28, 28), 90, np.uint8))
    assert cnn("visualize-features", "tiny-cnn", "one", "two/a.png", "--index", "7", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    names = ["features-a.png", "features-2-a.png", "features-digits-test-7.png"]
    assert [p["picture"] for p in out["pictures"]] == [f"runs/tiny-cnn-1/{name}" for name in names]
    assert all((workspace / p["picture"]).stat().st_size for p in out["pictures"])
    assert [a["layer"] for a in out["pictures"][0]["layers"]] == [str(i) for i in range(6)]
    assert set(out["layers"][1]) == {"layer", "zero_on_all_images"}
    assert cnn("visualize-features", "tiny-cnn", "one", "--index", "0", "-o", "new", "--layer", "4") == 0
    assert sorted(p.name for p in (workspace / "new").iterdir()) == ["features-a.png", "features-digits-test-0.png"]
    assert cnn("visualize-features", "tiny-cnn", "--index", "7", "--layer", "4") == 0  # beside that of all layers
    assert (workspace / "runs/tiny-cnn-1/features-4-digits-test-7.png").is_file()
    assert capsys.readouterr().out.startswith("new/features-a.png\nnew/features-digits-test-0.png\ntrained on digits")


def test_any_input_size_that_the_network_takes(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = "free: {input: [3, 32, 32], layers: [Conv2d: {out_channels: 4, kernel_size: 3}, AdaptiveAvgPool2d: 1, "
    (workspace / "free.yaml").write_text(spec + "Flatten, Linear: 10]}")
    save_image(workspace / "a.png", np.zeros((40, 70, 3), np.uint8))
    make_run(workspace / "run", "free.yaml")
    assert cnn("visualize-features", "run", "a.png", "--input", "3x40x70", "--json", "-o", "f.png") == 0
    layers = json.loads(capsys.readouterr().out)["pictures"][0]["layers"]
    assert [a["shape"] for a in layers] == [[4, 38, 68], [4, 1, 1]]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("run", 2, "no images; name files or folders, or choose images of the data set with --index 0"),
        ("run --index 0 --layer 9", 2, "no layer '9'. Layers with feature maps: 0, 1, 2, 3, 4, 5"),
        (
            "run --index 0 --layer 7",
            2,
            "layer 7 outputs 10, not feature maps. Layers with feature maps: 0, 1, 2, 3, {five}",
        ),
        ("run --index 0 --index 1 -o f.png", 2, "-o f.png names one picture, but there are 2 images; {folder}"),
        ("run --index 0 -o f.gif", 2, "f.gif: the picture is written as .png; choose such a name with -o"),
        ("run --index 0 -o old.png", 2, "old.png exists already; --force overwrites it, -o writes elsewhere"),
        ("run old.png", 1, "old.png is not an image (PNG, JPEG, BMP, GIF, WebP, TIFF or PPM); leave it out"),
        (
            "linear.yaml --untrained --index 0 --data digits",
            2,
            "linear has no spatial feature map {nothing}",
        ),
        ("run --index 0 --seed 1", 2, "--seed is for random initial weights; add --untrained"),
        (
            "tiny-cnn --index 0",
            2,
            "no trained weights for tiny-cnn in {workspace}/runs; train it: cnn train tiny-cnn\n"
            "or load weights: --weights torchvision, a file or a run; or use initial weights: --untrained",
        ),
    ],
)
def test_errors_say_what_to_do(
    arguments: str, code: int, message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(workspace / "run", "tiny-cnn")
    (workspace / "linear.yaml").write_text("linear: {input: [1, 2, 2], layers: [Flatten, Linear: 10]}")
    (workspace / "old.png").write_text("mine")
    assert cnn("visualize-features", *arguments.split()) == code
    ends = {
        "five": "4, 5",
        "nothing": "that every path passes through, so there is nothing to show",
        "folder": "name a folder with -o",
    }
    assert capsys.readouterr() == ("", f"error: {message.format(workspace=workspace, **ends)}\n")
    assert sorted(p.name for p in workspace.iterdir()) == ["linear.yaml", "old.png", "run"]
    assert (workspace / "old.png").read_text() == "mine"
