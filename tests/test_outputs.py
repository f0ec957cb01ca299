"""Networks with several outputs of any shapes, against the same written in PyTorch."""

from pathlib import Path

import pytest
import torch
from small_runs import begin
from test_values_by_path import Live, planned
from torch import Tensor, nn

import cnn_cli
from cnn_cli.analysis.explanation import never_used
from cnn_cli.analysis.memory import inference
from cnn_cli.analysis.rows import layer_rows, network_document
from cnn_cli.analysis.summary import setup, summarize
from cnn_cli.analysis.verification import verify
from cnn_cli.errors import UsageError
from cnn_cli.graph.boxes import collect_boxes
from cnn_cli.interpret.scores import Scores
from cnn_cli.language.registry import plan_document
from cnn_cli.network.builder import build_plan

PYRAMID = """
n:
  input: [3, 32, 32]
  outputs: [p3, p4, p5, body.c4.0]
  blocks:
    Stage:
      args: {width: }
      layers: [{Conv2d: {out_channels: $width, kernel_size: 3, stride: 2, padding: 1}}, ReLU]
    Merge:
      layers:
        lateral: {from: input.1, Conv2d: {out_channels: 4, kernel_size: 1}}
        up: {from: input.0, Upsample: {scale_factor: 2}}
        add: {Add: [lateral, up]}
  layers:
    body: {c3: {Stage: 4}, c4: {Stage: 6}, c5: {Stage: 8}}
    p5: {Conv2d: {out_channels: 4, kernel_size: 1}}
    p4: {from: [p5, body.c4], Merge: }
    p3: {from: [p4, body.c3], Merge: }
"""


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = {"c3": (3, 4), "c4": (4, 6), "c5": (6, 8)}
        self.body = nn.ModuleDict({name: nn.Sequential(nn.Conv2d(a, b, 3, 2, 1)) for name, (a, b) in widths.items()})
        self.p5 = nn.Conv2d(8, 4, 1)
        self.p4 = nn.ModuleDict({"lateral": nn.Conv2d(6, 4, 1)})
        self.p3 = nn.ModuleDict({"lateral": nn.Conv2d(4, 4, 1)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c3 = self.body["c3"](x).relu()
        raw = self.body["c4"](c3)
        c4 = raw.relu()
        p5 = self.p5(self.body["c5"](c4).relu())
        p4 = self.p4["lateral"](c4) + nn.functional.interpolate(p5, scale_factor=2)
        p3 = self.p3["lateral"](c3) + nn.functional.interpolate(p4, scale_factor=2)
        return {"p3": p3, "p4": p4, "p5": p5, "body.c4.0": raw}


def test_equal_to_pytorch() -> None:
    plan, theirs = planned(PYRAMID), Pyramid()
    ours = build_plan(plan)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 32, 32)
    for training in (True, False):
        outputs, expected = ours.train(training)(x), theirs(x)
        assert list(outputs) == list(expected) == list(plan.named_outputs)
        for name, value in outputs.items():
            assert torch.equal(value, expected[name])
            assert value.shape[1:] == plan.named_outputs[name]
    assert verify(plan).disagreements == ()
    again = plan_document(plan.document(), "again")
    assert again.shapes == plan.shapes


def test_what_is_told_of_them() -> None:
    plan = planned(PYRAMID)
    line = "outputs p3 4x16x16, p4 4x8x8, p5 4x4x4, body.c4.0 6x8x8"
    assert line in summarize(plan, setup(plan)).text()
    assert network_document(plan, layer_rows(plan))["outputs"] == {
        "p3": [4, 16, 16], "p4": [4, 8, 8], "p5": [4, 4, 4], "body.c4.0": [6, 8, 8]
    }  # fmt: skip
    boxes, arrows = collect_boxes(plan, None)
    ends = {boxes[a.end].title: (boxes[a.start].name, a.shape) for a in arrows if boxes[a.end].name == "output"}
    assert ends == {
        "output p3": ("p3.add", "4x16x16"), "output p4": ("p4.add", "4x8x8"), "output p5": ("p5", "4x4x4"),
        "output body.c4.0": ("body.c4.0", "6x8x8"),
    }  # fmt: skip
    folded, arrows = collect_boxes(plan, 1)
    assert {folded[a.start].name for a in arrows if folded[a.end].name == "output"} == {"p3", "p4", "p5", "body"}
    assert never_used(plan) == []
    with torch.no_grad():
        network, image = build_plan(plan), torch.rand(1, *plan.input)
        with Live() as live:
            outputs = network(image)
    assert inference(plan, 1).activations == live.peak
    assert len(outputs) == 4


def test_a_value_in_the_middle_is_an_output_too() -> None:
    """Rows that only the last layers drop are used where an earlier layer's output leaves the network."""
    text = "n:\n  input: [1, 7, 7]\n  outputs: {}\n  layers:\n    a: {{MaxPool2d: 1}}\n    b: {{MaxPool2d: 2}}\n"
    assert never_used(planned(text.format("[b]"))) != []
    assert never_used(planned(text.format("[b, a]"))) == []
    plan = planned("n:\n  input: [1, 7, 7]\n  outputs: ['2', '0']\n  layers: [Tanh, ReLU, Flatten]\n")
    outputs = build_plan(plan)(torch.rand(2, 1, 7, 7))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {"2": (2, 49), "0": (2, 1, 7, 7)}


def test_they_are_not_trained(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("n:\n  input: [1, 8, 8]\n  outputs: [b, a]\n  layers: {a: Flatten, b: {Linear: 10}}\n")
    assert set(cnn_cli.build(str(file))(torch.rand(1, 1, 8, 8))) == {"a", "b"}
    with pytest.raises(UsageError, match=r"n has several outputs \(b, a\), but training needs one; name one, or write"):
        begin(tmp_path, spec=file.read_text(), data="digits")
    plan = planned(file.read_text())
    with pytest.raises(UsageError, match="n outputs b 10, a 64, but this needs one score per class"):
        Scores(build_plan(plan), plan)
