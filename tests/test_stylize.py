"""Style transfer equals a plain loop in PyTorch, takes the paper's layers, and refuses what it cannot do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cnn
from PIL import Image
from pretrained_files import drawn
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_cli import build
from cnn_cli.interpret.style import (
    StyleLayers,
    StyleTransfer,
    average_pooled,
    style_layers,
    transfer_bytes,
    transfer_style,
)
from cnn_cli.language.registry import find

SPEC = """
tiny: {input: [3, 16, 16], layers: {conv1: {Conv2d: {out_channels: 4, kernel_size: 3, padding: 1}}, relu1: ReLU,
  pool: {MaxPool2d: 2}, conv2: {Conv2d: {out_channels: 6, kernel_size: 3, padding: 1}}, relu2: ReLU,
  gap: {AdaptiveAvgPool2d: 1}, flatten: Flatten, fc: {Linear: 10}}}
"""
LAYERS = StyleLayers("relu2", ("relu1", "relu2"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command."""
    code = cnn(*arguments)
    return code, *capsys.readouterr()


def size_of(picture: str) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


@pytest.fixture
def photos(workspace: Path) -> tuple[str, str]:
    """A content image of 40x24 and a style image of 20x30 pixels."""
    generator = np.random.default_rng(0)
    for name, shape in (("photo.png", (24, 40, 3)), ("paint.png", (30, 20, 3))):
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(workspace / name)
    (workspace / "tiny.yaml").write_text(SPEC)
    return "photo.png", "paint.png"


def tiny(workspace: Path) -> nn.Module:
    (workspace / "tiny.yaml").write_text(SPEC)
    torch.manual_seed(0)
    return average_pooled(build(str(workspace / "tiny.yaml")).eval().requires_grad_(False))


def reference(module: nn.Module, content: Tensor | None, style: Tensor, start: Tensor, weight: float) -> Tensor:
    """Gatys et al. in a plain loop: the tiny network written out, Gram matrices by einsum, one call of L-BFGS."""

    def maps(x: Tensor) -> tuple[Tensor, Tensor]:
        first = F.relu(F.conv2d(x, module.conv1.weight, module.conv1.bias, padding=1))
        pooled = F.avg_pool2d(first, 2)
        return first, F.relu(F.conv2d(pooled, module.conv2.weight, module.conv2.bias, padding=1))

    def grams(x: Tensor) -> list[Tensor]:
        return [torch.einsum("ncij,ndij->cd", m, m) / (m.shape[2] * m.shape[3]) for m in maps(x)]

    wanted, pixels = grams(style), start.clone().requires_grad_()
    scale = [((g - w) ** 2).sum() for g, w in zip(grams(start), wanted, strict=True)]
    optimizer = torch.optim.LBFGS([pixels], max_iter=12, history_size=10, tolerance_grad=0, tolerance_change=0)

    def closure() -> Tensor:
        pixels.data.clamp_(0, 1)
        optimizer.zero_grad()
        losses = [((g - w) ** 2).sum() / s for g, w, s in zip(grams(pixels), wanted, scale, strict=True)]
        loss = weight * sum(losses) / 2
        if content is not None:
            target = maps(content)[1]
            loss = loss + ((maps(pixels)[1] - target) ** 2).mean() / (target**2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return pixels.detach().clamp(0, 1)


@pytest.mark.parametrize("texture", [False, True])
def test_the_pixels_are_those_of_a_plain_loop(workspace: Path, texture: bool) -> None:
    module, generator = tiny(workspace), torch.Generator().manual_seed(1)
    content, style = (torch.rand((1, 3, *size), generator=generator) for size in ((24, 40), (30, 20)))
    transfer = StyleTransfer(LAYERS, 3.0, 12)
    shots = transfer_style(module, transfer, None if texture else content, style, (24, 40))
    noise = torch.rand((1, 3, 24, 40), generator=torch.Generator().manual_seed(0))
    expected = reference(module, None if texture else content, style, noise if texture else content, 3.0)
    torch.testing.assert_close(shots[-1].pixels, expected[0], rtol=0, atol=1e-4)
    assert [s.step for s in shots] == [0, 1, 4, 12]
    assert sum(shots[-1].losses.style) < 0.5 * sum(shots[0].losses.style)


def test_layers_of_a_vgg_are_those_of_the_paper() -> None:
    layers = style_layers(find("vgg19"), (256, 256))
    assert layers.style == tuple(f"features.{i}" for i in (1, 6, 11, 20, 29))  # relu1_1, relu2_1, … relu5_1
    assert layers.content == "features.22"  # relu4_2


def test_average_pooling_replaces_max_pooling_and_leaves_the_weights() -> None:
    before = build("resnet18")
    keys = list(before.state_dict())
    after = average_pooled(before)
    assert not any(isinstance(m, nn.MaxPool2d) for m in after.modules())
    assert list(after.state_dict()) == keys
    x = torch.ones(1, 64, 8, 8)
    assert torch.equal(after.get_submodule("maxpool")(x), torch.ones(1, 64, 4, 4))  # padding does not darken the border


def test_the_memory_estimate_covers_what_autograd_keeps(workspace: Path) -> None:
    """Against the tensors that autograd saves, by their storage."""
    module = tiny(workspace)
    layers = style_layers(find(str(workspace / "tiny.yaml")), (64, 64))
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(torch.rand(1, 3, 64, 64, requires_grad=True))
    estimate = transfer_bytes(find(str(workspace / "tiny.yaml")), layers, (64, 64))
    history = 24 * 4 * 3 * 64 * 64  # of L-BFGS: ten pairs of the pixels' size, and four more
    assert sum(storages.values()) < estimate - history < 3 * sum(storages.values())


def test_the_command_writes_the_image_and_a_page(photos: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--untrained", "--steps", "3", "--size", "40", "--json"]
    code, out, err = run(capsys, "stylize", "tiny.yaml", *photos, *options)
    assert code == 0
    assert "untrained" in err
    facts = json.loads(out)
    assert size_of(facts["picture"]) == (40, 24)
    assert size_of(facts["sheet"])[0] > 400
    assert [(row["layer"], row["loss"]) for row in facts["layers"]] == [
        ("relu1", "content"),
        ("relu1", "style"),
        ("relu2", "style"),
    ]
    code, _, err = run(capsys, "stylize", "tiny.yaml", *photos, *options)
    assert code == 2
    assert "exists already" in err


def test_a_texture_needs_the_style_alone(photos: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--untrained", "--texture", "--steps", "2", "--size", "32", "-o", "texture.png", "--csv"]
    code, out, _ = run(capsys, "stylize", "tiny.yaml", photos[1], *options)
    assert code == 0
    assert out.splitlines()[0] == "layer,loss,start,end"
    assert size_of("texture.png") == (21, 32)


def test_published_weights_in_torchvisions_format(photos: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(drawn("squeezenet1_1").state_dict(), "squeezenet1_1.pth")
    options = ["--weights", "squeezenet1_1.pth", "--steps", "2", "--size", "64", "--json"]
    code, out, err = run(capsys, "stylize", "squeezenet1_1", *photos, *options)
    assert code == 0
    assert "untrained" not in err
    assert all(0 <= row["end"] < 2 for row in json.loads(out)["layers"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["photo.png"], "name two images, CONTENT and STYLE, not 1"),
        (["photo.png", "paint.png", "--texture"], "--texture takes one image, the style, not 2"),
        (["paint.png", "--texture", "--start", "noise"], "--start and --content-layer need a content image"),
        (["photo.png", "paint.png", "--style-layers", "relu1,relu3"], "no layer 'relu3'. Did you mean 'relu2'?"),
        (["photo.png", "paint.png", "--content-layer", "fc"], "layer fc outputs 10, not feature maps"),
        (["photo.png", "paint.png", "--style-weight", "0"], "--style-weight must be a positive number, not 0"),
        (["photo.png", "paint.png", "--start", "style"], "--start must be content or noise, not 'style'"),
        (["photo.png", "missing.png"], "error: missing.png: no such file; looked in /"),
    ],
)
def test_what_cannot_be_done_is_refused(
    photos: tuple[str, str], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, _, err = run(capsys, "stylize", "tiny.yaml", "--untrained", *options)
    assert code in (1, 2)
    assert message in err
