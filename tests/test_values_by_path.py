"""Values inside of groups, and groups that several values enter, against the same networks written in PyTorch."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnn_cli.analysis.diagnostics import diagnose
from cnn_cli.analysis.memory import inference
from cnn_cli.analysis.receptive_field import sights
from cnn_cli.analysis.rows import layer_rows
from cnn_cli.analysis.verification import verify
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document, plan_spec
from cnn_cli.language.spec import parse
from cnn_cli.network.builder import build_plan

UNET = """
n:
  input: [3, 16, 16]
  blocks:
    Up:                    # of two values: what is enlarged, and what it meets
      args: {width: }
      layers:
        up: {from: input.0, Upsample: {scale_factor: 2}}
        cat: {Concat: [up, input.1]}
        conv: {Conv2d: {out_channels: $width, kernel_size: 3, padding: 1}}
  layers:
    encoder:
      conv1: {Conv2d: {out_channels: 4, kernel_size: 3, padding: 1}}
      relu: ReLU
      layer1: [{MaxPool2d: 2}, {Conv2d: {out_channels: 6, kernel_size: 3, padding: 1}}, ReLU]
      side: {from: relu, Conv2d: {out_channels: 3, kernel_size: 1}}
      layer2: {from: layer1, layers: [{MaxPool2d: 2}, {Conv2d: {out_channels: 8, kernel_size: 3, padding: 1}}]}
    decoder1: {from: [encoder, encoder.layer1.1], Up: 5}
    decoder2: {from: [decoder1, encoder.relu], layers: [{Up: 3}, ReLU]}
    add: {Add: [decoder2, encoder.side]}
    head: {Conv2d: {out_channels: 2, kernel_size: 1}}
"""


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        self.side = nn.Conv2d(4, 3, 1)
        self.layer2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1))


class Up(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([nn.functional.interpolate(x, scale_factor=2), skip], 1))  # type: ignore[no-any-return]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder1 = Up(14, 5)
        self.decoder2 = nn.Sequential(Up(9, 3))
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.encoder.conv1(x).relu()
        inner = self.encoder.layer1[1](self.encoder.layer1[0](stem))
        deep = self.encoder.layer2(inner.relu())
        up = self.decoder2[0](self.decoder1(deep, inner), stem).relu()
        return self.head(up + self.encoder.side(stem))  # type: ignore[no-any-return]


class Pieces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Module()
        self.a.conv = nn.Conv2d(4, 4, 1)
        self.a.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))
        self.b = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.a.conv(x).chunk(2, 1)
        a = torch.cat([two, one], 1)
        inner = self.b[0](one)
        outer = self.b[1](inner)
        return torch.cat([outer + two, inner * a[:, :2]], 1) * self.a.scale  # type: ignore[no-any-return]


PIECES = """
n:
  input: [4, 8, 8]
  layers:
    a:
      scale: {Parameter: {shape: [4, 1, 1], init: 0.5}}
      conv: {Conv2d: {out_channels: 4, kernel_size: 1}}
      split: {Chunk: 2}
      swapped: {Concat: [split.1, split.0]}
    b:
      from: a.split.0
      layers: [{Conv2d: {out_channels: 2, kernel_size: 1}}, {Conv2d: {out_channels: 2, kernel_size: 1}}]
    c:
      from: [b, a.split.1, b.0, a]
      layers:
        both: {from: input.3, Chunk: 2}
        sum: {Add: [input.0, input.1]}
        product: {Multiply: [input.2, both.0]}
        cat: {Concat: [sum, product]}
    d: {Multiply: [c, a.scale]}
"""


def planned(text: str) -> Plan:
    return plan_spec(parse(text, "test").networks["n"], None, None).checked()


@pytest.mark.parametrize(("text", "by_hand"), [(UNET, UNet), (PIECES, Pieces)])
def test_equal_to_pytorch(text: str, by_hand: Callable[[], nn.Module]) -> None:
    plan, theirs = planned(text), by_hand()
    ours = build_plan(plan)
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, *plan.input)
    assert torch.equal(ours(x), theirs(x))
    for network in (ours, theirs):
        network(x).square().sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name])
    assert verify(plan).disagreements == ()
    again = plan_document(plan.document(), "again")
    assert [(a.name, a.takes, a.output_shape) for a in again.layers] == [
        (a.name, a.takes, a.output_shape) for a in plan.layers
    ]


def test_what_is_told_of_them() -> None:
    """Tables, receptive fields and memory follow from the rows that are taken, wherever these stand."""
    plan = planned(UNET)
    takes = {row.name: row.takes for row in layer_rows(plan)}
    assert takes["decoder1.up"] == ("encoder.layer2.1",)
    assert takes["decoder1.cat"] == ("decoder1.up", "encoder.layer1.1")
    assert takes["decoder2.0.cat"] == ("decoder2.0.up", "encoder.relu")
    assert takes["add"] == ("decoder2.1", "encoder.side")
    folded = {row.name: row for row in layer_rows(plan, depth=1)}
    assert folded["decoder1"].takes == ("encoder",)
    assert sights(plan)["add"].sides[0].at(8) == sights(plan)["decoder2.0.conv"].sides[0].at(8)


class Live(TorchDispatchMode):
    """The most bytes that are alive at a time of all tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[int, int]] = {}  # tensor → storage, bytes
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            storage = tensor.untyped_storage()
            self.alive[id(tensor)] = storage.data_ptr(), storage.nbytes()
            weakref.finalize(tensor, self.alive.pop, id(tensor), None)
        self.peak = max(self.peak, sum(dict(self.alive.values()).values()))
        return result


@pytest.mark.parametrize("text", [UNET, PIECES])
def test_memory_is_what_pytorch_holds(text: str) -> None:
    plan = planned(text)
    network = build_plan(plan).eval()
    with torch.no_grad():
        image = torch.rand(1, *plan.input)
        with Live() as live:
            network(image)
    assert inference(plan, 1).activations == live.peak


def test_a_group_alone_gives_its_own_output() -> None:
    """Without its parent a group that exports values is a module like any other."""
    network = build_plan(planned(UNET))
    assert network.encoder(torch.rand(1, 3, 16, 16)).shape == (1, 8, 4, 4)  # type: ignore[operator]


def test_unused_outputs_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "used:\n  input: [1, 8, 8]\n  layers:\n    a: {x: ReLU, y: {from: input, layers: Tanh}}\n"
        "    b: {Concat: [a.x, a.y]}\n"
        "beyond:\n  input: [1, 8, 8]\n  layers:\n    a: {x: ReLU, y: Tanh}\n    b: {from: a.x, layers: ReLU}\n"
        "lost:\n  input: [1, 8, 8]\n  layers:\n    a: {x: ReLU, y: {from: input, layers: Tanh}, "
        "z: {Concat: [x, input]}}\n"
    )
    messages = [str(p).removeprefix(f"{file}:") for p in diagnose([str(file)], (), {}, None).problems]
    assert messages == [
        "9:5: warning: beyond, layers.a: its output is unused, only values inside it are used; remove the "
        "layers after them",
        "14:18: warning: lost, layers.a.y: its output is unused; join it, name it in `from:` or `outputs:`, or remove "
        "it",
    ]
