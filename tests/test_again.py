"""Layers and groups that are used once more with the same weights, against PyTorch modules that call them twice."""

import copy
from pathlib import Path

import pytest
import torch
from test_values_by_path import Live, planned
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from torch.utils.flop_counter import FlopCounterMode

from cnn_cli.analysis.comparison import compare
from cnn_cli.analysis.diagnostics import diagnose
from cnn_cli.analysis.explanation import explain
from cnn_cli.analysis.memory import breakdown_and_peak, inference
from cnn_cli.analysis.receptive_field import field, sights
from cnn_cli.analysis.rows import auxiliary, layer_rows
from cnn_cli.analysis.summary import setup
from cnn_cli.analysis.verification import verify
from cnn_cli.errors import UsageError
from cnn_cli.interpret.activations import captured
from cnn_cli.interpret.filters import choose_convolution
from cnn_cli.language.freezing import frozen_tensors
from cnn_cli.language.registry import plan_document
from cnn_cli.network.builder import build_plan

PYRAMID = """
n:
  input: [3, 16, 16]
  outputs: [p3, p4, p5, scores]
  layers:
    body:
      stem: {Conv2d: {out_channels: 8, kernel_size: 3, padding: 1}}
      relu: ReLU
      down: {MaxPool2d: 2}
    conv: {Conv2d: {out_channels: 8, kernel_size: 3, padding: 1}}
    norm: BatchNorm2d
    more: {Again: conv}
    more-norm: {Again: norm}
    small: {MaxPool2d: 2}
    p3:
      from: [more-norm, body.relu]
      layers:
        skip: {from: input.1, Upsample: {size: input.0}}
        cat: {Concat: [input.0, skip]}
        scale: {Parameter: {shape: [16, 1, 1], init: 0.5}}
        scaled: {Multiply: [cat, scale]}
        tower: [{Conv2d: {out_channels: 4, kernel_size: 1}}, ReLU]
        large: {Upsample: {size: input.1}}
    p4: {from: [small, body.down], Again: p3}
    p5: {from: [small, small], Again: p4}
    tower: {from: p3, layers: [{Conv2d: {out_channels: 4, kernel_size: 1}}]}
    "more-tower{1}": {repeat: 2, Again: tower}
    gate: {from: p3.cat, Again: p3.tower}
    wide: {Upsample: {size: more-tower2}}
    scores: {Add: [more-tower2, wide]}
"""


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((16, 1, 1), 0.5))
        self.tower = nn.Sequential(nn.Conv2d(16, 4, 1), nn.ReLU())

    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        cat = torch.cat([x, interpolate(other, x.shape[2:])], 1)
        return cat, interpolate(self.tower(cat * self.scale), other.shape[2:])


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.p3 = Head()
        self.tower = nn.Sequential(nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stem = self.body.stem(x).relu()
        down = max_pool2d(stem, 2)
        main = self.norm(self.conv(self.norm(self.conv(down))))
        small = max_pool2d(main, 2)
        cat, p3 = self.p3(main, stem)
        scores = self.tower(self.tower(self.tower(p3)))
        wide = interpolate(self.p3.tower(cat), scores.shape[2:])
        return {"p3": p3, "p4": self.p3(small, down)[1], "p5": self.p3(small, small)[1], "scores": scores + wide}


def loss(network: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([value.square().mean() for value in network(x).values()]).sum()


def test_equal_to_pytorch() -> None:
    """Weights drawn, outputs, gradients, running statistics, parameters and MACs."""
    plan = planned(PYRAMID)
    torch.manual_seed(0)
    ours = build_plan(plan)
    torch.manual_seed(0)
    theirs = Pyramid()
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict()) == sorted(plan.tensors)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name])
    x = torch.rand(2, 3, 16, 16)
    outputs = ours(x), theirs(x)
    assert all(torch.equal(value, outputs[1][name]) for name, value in outputs[0].items())
    loss(ours, x).backward()
    loss(theirs, x).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name])
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)
    assert ours.get_buffer("norm.num_batches_tracked") == 4
    with FlopCounterMode(display=False) as counter:
        theirs(x[:1])
    assert plan.macs == counter.get_total_flops() // 2
    assert plan.params == sum(p.numel() for p in theirs.parameters())
    assert verify(plan).disagreements == ()


def test_a_copy_is_whole() -> None:
    """The copy that an average of the weights begins with uses its own weights throughout."""
    network = build_plan(planned(PYRAMID)).eval()
    average = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.zero_()
    assert not any(value.any() for value in average(torch.rand(1, 3, 16, 16)).values())
    assert all(value.any() for value in network(torch.rand(1, 3, 16, 16)).values())


def test_each_use_has_its_feature_map() -> None:
    network = build_plan(planned(PYRAMID)).eval()
    with torch.no_grad(), captured(network, ["conv", "norm", "more", "p3.tower.0", "p4.tower.0"]) as maps:
        network(torch.rand(1, 3, 16, 16))
        assert torch.equal(maps["more"], network.conv(maps["norm"]))  # type: ignore[operator]
    assert [maps[name].shape[-1] for name in ("p3.tower.0", "p4.tower.0")] == [8, 4]


def test_what_is_told_of_them() -> None:
    plan = planned(PYRAMID)
    rows = {row.name: row for row in layer_rows(plan)}
    assert (rows["conv"].params, rows["more"].params, rows["more-norm"].buffers) == (584, 0, 0)
    assert rows["conv"].macs == rows["more"].macs > 0
    assert rows["more"].text == "Conv2d 8, 3x3, padding 1, shared with conv"
    assert rows["p5.tower.0"].text == "Conv2d 4, 1x1, shared with p3.tower.0"
    assert rows["p5.tower.1"].text == "ReLU"
    assert (rows["p5.tower.0"].document()["shared_with"], rows["p5.tower.0"].takes) == ("p3.tower.0", ("p5.scaled",))
    assert "shared_with" not in rows["p3.tower.0"].document()
    folded = {row.name: row for row in layer_rows(plan, depth=1)}
    assert folded["p4"].text.endswith(", shared with p3")
    assert (folded["p4"].shared_with, folded["p3"].shared_with) == ("p3", None)
    (one,) = explain(plan, "more")
    assert one.parts["parameters"] == ("shared with conv, counted there",)
    fields = [field(sights(plan)[name], (16, 16)) for name in ("conv", "more")]
    assert [one and one.size for one in fields] == [(8, 8), (12, 12)]


def test_memory_is_what_pytorch_holds() -> None:
    plan = planned(PYRAMID)
    network = build_plan(plan).eval()
    with torch.no_grad(), Live() as live:
        network(torch.rand(1, *plan.input))
    image = 4 * 3 * 16 * 16
    assert inference(plan, 1).activations + image == live.peak


def test_gradients_of_shared_weights_are_held_once() -> None:
    plan = planned(PYRAMID)
    kept, peak = breakdown_and_peak(plan, 1, "sgd", "float32", frozenset())
    assert kept.gradients == 4 * plan.params >= peak.gradients
    frozen = frozenset({"body.stem", "conv", "norm"})
    once = breakdown_and_peak(plan, 1, "sgd", "float32", frozen)[0]
    alone = planned(PYRAMID.replace("    more: {Again: conv}\n    more-norm: {Again: norm}", "    more-norm: ReLU"))
    assert once.activations == breakdown_and_peak(alone, 1, "sgd", "float32", frozen)[0].activations


def test_freezing_names_the_first_use() -> None:
    plan = planned(PYRAMID)
    assert frozen_tensors(plan, ["p3.tower"]) == {"p3.tower.0.weight", "p3.tower.0.bias"}
    with pytest.raises(UsageError, match="p5 shares its weights with p3; freeze those"):
        frozen_tensors(plan, ["p5"])
    with pytest.raises(UsageError, match="more shares the weights of another layer"):
        choose_convolution(build_plan(plan), "more")


def test_a_difference() -> None:
    own = planned(PYRAMID.replace("{Again: conv}", "{Conv2d: {out_channels: 8, kernel_size: 3, padding: 1}}"))
    shared = planned(PYRAMID)
    (pair,) = [pair for pair in compare(own, shared, setup(own)).pairs if pair.change != "same"]
    assert (pair.differences(), pair.params, pair.macs) == (["shared with conv"], -584, 0)


def test_a_document_is_the_same_network() -> None:
    plan = planned(PYRAMID)
    again = plan_document(plan.document(), "again")
    assert [(a.name, a.shared_with, a.takes) for a in again.layers] == [
        (a.name, a.shared_with, a.takes) for a in plan.layers
    ]


HEADS = """
n:
  input: [3, 8, 8]
  outputs: {main: 1.0, aux: 0.3}
  layers:
    stem: {Conv2d: {out_channels: 4, kernel_size: 3}}
    aux: [{AdaptiveAvgPool2d: 1}, Flatten, {Linear: 2}]
    deep: {from: stem, Conv2d: {out_channels: 4, kernel_size: 3}}
    main: {Again: aux}
part:
  input: [3, 8, 8]
  layers: [{Network: n}]
"""


def test_auxiliary_outputs_that_share() -> None:
    """What has the weights of the main output is built and counted in evaluation too, and in a network that has this
    one as a part."""
    plan = planned(HEADS)
    assert (plan.only_in_training, auxiliary(plan)) == (frozenset(), {})
    part = planned(HEADS.replace("\nn:", "\nm:").replace("part:", "n:").replace("Network: n", "Network: m"))
    assert (part.params, part.macs) == (plan.params, plan.macs)
    network = build_plan(plan).eval()
    assert network(torch.rand(1, 3, 8, 8)).shape == (1, 2)


def test_used_many_times_it_ends(tmp_path: Path) -> None:
    """Uses within uses double the number of layers at each level."""
    inner = "{Conv2d: {out_channels: 3, kernel_size: 1}}"
    for _ in range(20):
        inner = f"{{a: {inner}, b: {{Again: a}}}}"
    file = tmp_path / "m.yaml"
    file.write_text(f"n:\n  input: [3, 8, 8]\n  layers: {inner}\n")
    (problem,) = diagnose([str(file)], (), {}, None).problems
    assert "more than 20,000 parts" in problem.message
