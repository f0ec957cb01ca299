"""Networks with `detects`: what they give, and what is told of their cells."""

import json
from pathlib import Path

import torch
from typer.testing import CliRunner

from cnn_cli.cli.app import app
from cnn_cli.language.detection_scales import Scale, infer_scales, stride
from cnn_cli.language.expansion import expand
from cnn_cli.language.spec import parse
from cnn_cli.network.builder import build_plan

SPEC = """
two-scales:
  input: [3, 32, 48]
  args: {classes: 5}
  detects: [{scores: heads.cls, boxes: heads.box}, {scores: cls2, boxes: box2}]
  layers:
    c1: {Conv2d: {out_channels: 6, kernel_size: 3, stride: 4, padding: 1}}
    heads:
      cls: {Conv2d: {out_channels: $classes, kernel_size: 1}}
      box: {from: input, layers: [{Conv2d: {out_channels: 4, kernel_size: 1}}, Softplus]}
    c2: {from: c1, layers: {Conv2d: {out_channels: 6, kernel_size: 3, stride: 2, padding: 1}}}
    cls2: {Conv2d: {out_channels: $classes, kernel_size: 1}}
    box2: {from: c2, layers: {Conv2d: {out_channels: 4, kernel_size: 1}}}
"""


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_outputs_and_their_cells() -> None:
    plan = expand(parse(SPEC, "spec").networks["two-scales"]).checked()
    assert infer_scales(plan) == (
        Scale("heads.cls", "heads.box", 5, (8, 12), 4),
        Scale("cls2", "box2", 5, (4, 6), 8),
    )
    outputs = build_plan(plan)(torch.rand(2, 3, 32, 48))
    assert {name: tuple(value.shape[1:]) for name, value in outputs.items()} == plan.named_outputs
    assert list(outputs) == ["heads.cls", "heads.box", "cls2", "box2"]


def test_the_document_stands_on_its_own(tmp_path: Path) -> None:
    plan = expand(parse(SPEC, "spec").networks["two-scales"]).checked()
    again = expand(parse(json.dumps(plan.document()), "again").networks["two-scales"]).checked()
    assert infer_scales(again) == infer_scales(plan) and not again.problems


def test_summary_and_explanation(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(SPEC)
    assert "detects 5 classes in 4x6 cells, 8 pixels apart: scores cls2, boxes box2" in invoke("summary", str(file))
    first = json.loads(invoke("summary", str(file), "--json"))["detects"][0]
    assert first == {"scores": "heads.cls", "boxes": "heads.box", "classes": 5, "size": [8, 12], "stride": 4}
    text = " ".join(invoke("shapes", str(file), "--explain").split())
    assert "8x12, 4 pixels apart; the center of a cell is pixel (4·column + 2, 4·row + 2)" in text
    assert "to the left, upper, right and lower edge of the box, in units of 8 pixels" in text
    assert text.count(" cells ") == 4


def test_the_stride_follows_from_the_sizes() -> None:
    assert stride((3, 64, 64), (16, 16)) == 4
    assert stride((3, 63, 61), (16, 16)) == 4  # the last cells lie partly outside
    assert stride((3, 800, 1333), (25, 42)) == 32
    assert stride((3, 64, 64), (1, 1)) == 64
    assert stride((3, 96, 160), (1, 2)) == 128  # also 64 fits, without padding
    assert stride((3, 64, 96), (1, 1)) == 128
    assert stride((3, 100, 100), (4, 4)) == 32
    assert stride((3, 84, 84), (28, 28)) == 3
    assert stride((3, 64, 64), (16, 32)) == 0
    assert stride((3, 64, 64), (15, 15)) == 0
    assert stride((3, 8, 8), (16, 16)) == 0
