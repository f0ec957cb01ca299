"""What is built from a spec is what one would write by hand in PyTorch: the same names, weights and numbers."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cnn_cli
from cnn_cli.errors import CnnError, SpecError, UsageError
from cnn_cli.language.registry import find, plan_spec
from cnn_cli.language.spec import parse
from cnn_cli.network.builder import build_plan


def from_text(text: str, name: str = "n") -> nn.Module:
    return build_plan(plan_spec(parse(text, "test").networks[name], None, None))


def equal(built: nn.Module, by_hand: nn.Module, shape: tuple[int, ...]) -> None:
    """Equal keys, weights, outputs in both modes, and gradients of a training step, bit for bit."""
    ours, theirs = built.state_dict(), by_hand.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(built.eval()(x), by_hand.eval()(x))
    for module in (built, by_hand):
        torch.manual_seed(5)
        module.train()(x).square().sum().backward()
    for mine, other in zip(built.parameters(), by_hand.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad)


def fashion_convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class MnistNet(nn.Module):
    """PyTorch's own example of 2017, in its functional style."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(self.conv2_drop(F.max_pool2d(self.conv2(x), 2)))
        x = x.view(-1, 320)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class Residual(nn.Module):
    """A block with a projection on its shortcut, as ResNets have it."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential()
        if stride > 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x))


RESIDUAL = """
blocks:
  Project:
    args: {width: , stride: 1}
    layers: [{Conv2d: {out_channels: $width, kernel_size: 1, stride: $stride, bias: false}}, BatchNorm2d]
  Residual:
    args: {width: , stride: 1, shortcut: []}
    layers:
      conv1: {Conv2d: {out_channels: $width, kernel_size: 3, stride: $stride, padding: 1, bias: false}}
      bn1: BatchNorm2d
      relu1: ReLU
      conv2: {Conv2d: {out_channels: $width, kernel_size: 3, padding: 1, bias: false}}
      bn2: BatchNorm2d
      downsample: {from: input, layers: $shortcut}
      add: {Add: [bn2, downsample]}
      relu2: ReLU
n:
  input: [3, 16, 16]
  args: {classes: 10, width: 8}
  layers:
    stem: {Conv2d: {out_channels: $width, kernel_size: 3, padding: 1}}
    stages:
      - {Residual: $width, repeat: 2}
      - Residual: {width: "${2 * width}", stride: 2, shortcut: {Project: {width: "${2 * width}", stride: 2}}}
    pool: {AdaptiveAvgPool2d: 1}
    flatten: Flatten
    fc: {Linear: $classes}
"""


def residual() -> nn.Module:
    parts: dict[str, nn.Module] = {"stem": nn.Conv2d(3, 8, 3, padding=1)}
    parts["stages"] = nn.Sequential(Residual(8, 8, 1), Residual(8, 8, 1), Residual(8, 16, 2))
    parts |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(16, 10)}
    return nn.Sequential(OrderedDict(parts))


class Branches(nn.Module):
    """All joins, pieces and a bare parameter, in the order of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 6, 3, padding=1)
        self.b = nn.Sequential(nn.Conv2d(4, 2, 1), nn.Dropout(0.5))
        self.scale = nn.Parameter(torch.randn(6, 1, 1))
        self.shift = nn.Parameter(torch.full((1, 8), 0.5))
        self.c = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(8 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        scaled = a * self.scale
        shifted = b + self.shift
        left, right = torch.chunk(torch.cat([scaled, shifted], 1), 2, 1)
        mixed: Tensor = torch.cat([torch.relu(self.c(right)), left], 1)
        out: Tensor = self.fc(mixed.flatten(1))
        return out


BRANCHES = """
n:
  input: [4, 8, 8]
  layers:
    a: {Conv2d: {out_channels: 6, kernel_size: 3, padding: 1}}
    b: {from: input, layers: [{Conv2d: {out_channels: 2, kernel_size: 1}}, Dropout]}
    scale: {Parameter: {shape: [6, 1, 1], init: normal}}
    shift: {Parameter: {shape: [1, 8], init: 0.5}}
    scaled: {Multiply: [a, scale]}
    shifted: {Add: [b, shift]}
    both: {Concat: [scaled, shifted]}
    halves: {Chunk: 2}
    c: {Conv2d: {out_channels: 4, kernel_size: 1}, from: halves.1}
    relu: ReLU
    mixed: {Concat: [relu, halves.0]}
    flatten: Flatten
    fc: {Linear: 3}
"""


def test_list_is_a_sequential() -> None:
    torch.manual_seed(1)
    built = cnn_cli.build("fashion-convnet")
    torch.manual_seed(1)
    assert type(built) is nn.Sequential
    equal(built, fashion_convnet(), (1, 28, 28))


def test_residual_network() -> None:
    torch.manual_seed(1)
    built = from_text(RESIDUAL)
    torch.manual_seed(1)
    equal(built, residual(), (3, 16, 16))


def test_branches_pieces_and_parameters() -> None:
    torch.manual_seed(1)
    built = from_text(BRANCHES)
    torch.manual_seed(1)
    by_hand = Branches()
    renamed = {key: value for key, value in by_hand.state_dict().items() if "." not in key}  # PyTorch lists these first
    assert all(torch.equal(built.state_dict()[key], value) for key, value in renamed.items())
    for mine, other in zip(sorted(built.named_parameters()), sorted(by_hand.named_parameters()), strict=True):
        assert mine[0] == other[0]
        assert torch.equal(mine[1], other[1])
    equal(built, by_hand, (4, 8, 8))


def test_mnist_net_is_pytorchs_example() -> None:
    """The tutorial's functional style and ours, layer for layer, give the same numbers, dropout included."""
    torch.manual_seed(1)
    built = cnn_cli.build("mnist-net")
    torch.manual_seed(1)
    old = MnistNet()
    for mine, theirs in zip(built.parameters(), old.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    x = torch.rand(4, 1, 28, 28)
    assert torch.equal(built.eval()(x), old.eval()(x))
    outputs = []
    for module in (built, old):
        torch.manual_seed(2)
        outputs.append(module.train()(x))
    assert torch.equal(*outputs)


AUXILIARY = """
n:
  input: [1, 4, 4]
  outputs: {fc: 1.0, aux: 0.3}
  layers:
    conv: {Conv2d: {out_channels: 2, kernel_size: 3}}
    aux: [Flatten, {Linear: 3}]
    pool: {AdaptiveAvgPool2d: 1, from: conv}
    flatten: Flatten
    fc: {Linear: 3}
"""


def test_auxiliary_outputs_are_for_training() -> None:
    built = from_text(AUXILIARY)
    x = torch.rand(2, 1, 4, 4)
    given = built.train()(x)
    assert {name: tuple(value.shape) for name, value in given.items()} == {"fc": (2, 3), "aux": (2, 3)}
    ran = []
    built.aux.register_forward_hook(lambda *_: ran.append("aux"))
    assert torch.equal(built.eval()(x), given["fc"])
    assert ran == []


def test_the_output_is_the_first_that_outputs_names() -> None:
    built = from_text(AUXILIARY.replace("{fc: 1.0, aux: 0.3}", "{aux: 1.0, fc: 0.3}")).eval()
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(built(x), built.aux(built.conv(x)))


def test_names_files_and_overlays(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("small: {input: [1, 2, 2], args: {classes: 10}, layers: [Flatten, {Linear: $classes}]}\n")
    two = tmp_path / "two.yml"
    two.write_text(mine.read_text() + "lenet-5: {input: [1, 2, 2], layers: [Flatten, {Linear: 2}]}\n")
    assert cnn_cli.build(str(mine))[1].out_features == 10
    assert cnn_cli.build(str(mine), classes=3)[1].out_features == 3
    assert cnn_cli.build(f"{two}:lenet-5", input=(2, 3, 3))[1].in_features == 18
    assert cnn_cli.build("lenet-5", models=(two,))[1].out_features == 2
    assert cnn_cli.build("resnet50", classes=10).fc.out_features == 10


def test_what_cannot_be_found_is_said(tmp_path: Path) -> None:
    two = tmp_path / "two.yaml"
    two.write_text("a: {input: [1, 2, 2], layers: ReLU}\nb: {input: [1, 2, 2], layers: relu}\n")
    for network, error, text in [
        ("resnet-50", UsageError, "unknown network 'resnet-50'. Did you mean 'resnet50'? `cnn list` shows all"),
        (str(two), UsageError, f"{two} has 2 networks (a, b); write {two}:NAME"),
        (f"{two}:c", UsageError, f"{two} has no network 'c'. It has: a, b"),
        (f"{two}:b", SpecError, f"{two}:2:31: b, layers: unknown layer 'relu'. Did you mean 'ReLU'?"),
        (str(tmp_path / "no.yaml"), CnnError, f"cannot read {tmp_path / 'no.yaml'}: No such file or directory"),
    ]:
        with pytest.raises(error) as caught:
            cnn_cli.build(network)
        assert str(caught.value).startswith(text)
    with pytest.raises(UsageError, match="resnet50 has no argument 'clases'"):
        cnn_cli.build("resnet50", clases=10)
    with pytest.raises(UsageError, match="--input must be"):
        find("resnet50", input=(3, 0, 224))


def test_a_network_that_is_built_draws_nothing_else() -> None:
    """The generator stands where the same layers by hand leave it, so what is drawn next is equal, too."""
    torch.manual_seed(1)
    cnn_cli.build("fashion-convnet")
    after = torch.rand(1)
    torch.manual_seed(1)
    fashion_convnet()
    assert torch.equal(torch.rand(1), after)
