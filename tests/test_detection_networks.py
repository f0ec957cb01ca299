"""The built-in detectors: torchvision's, key for key, and our own."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from pictures import cnn
from pretrained_files import entry_of, photograph, publish
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from cnn_cli.data.boxes import box_table
from cnn_cli.data.decoding import decode_image
from cnn_cli.language.detection_scales import infer_scales
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
from cnn_cli.tasks.cells import cells_of
from cnn_cli.tasks.detection import detection_task

HEADS = {
    "fcos_resnet50_fpn": {"cls_logits": 91, "bbox_regression": 4, "bbox_ctrness": 1},
    "retinanet_resnet50_fpn": {"cls_logits": 91, "bbox_regression": 4},
}


def rows(maps: Tensor, values: int) -> Tensor:
    """(N, anchors · values, h, w) → (N, h · w · anchors, values), as torchvision orders them."""
    n, _, height, width = maps.shape
    return maps.view(n, -1, values, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, values)


@pytest.mark.parametrize("name", HEADS)
def test_keys_and_raw_outputs_are_those_of_torchvision(name: str) -> None:
    size = (96, 160)  # the fourth scale has 3 columns, 160 // 3 = 53 pixels apart, not 64
    theirs = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None).eval()
    plan = find(name, input=(3, *size))
    ours = build_plan(plan).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        maps = list(theirs.backbone(image).values())
        expected, outputs = theirs.head(maps), list(ours(image).values())
    kinds = HEADS[name]
    assert list(expected) == list(kinds) and len(outputs) == 5 * len(kinds)
    for n, (key, values) in enumerate(kinds.items()):
        assert torch.equal(torch.cat([rows(o, values) for o in outputs[n :: len(kinds)]], 1), expected[key])
    (anchors,) = theirs.anchor_generator(ImageList(image, [size]), maps)
    cells = cells_of(infer_scales(plan), torch.device("cpu"))
    if cells.anchors is None:
        half = cells.strides[:, None] / 2
        assert torch.equal(torch.cat([cells.centers - half, cells.centers + half], 1), anchors)
    else:
        assert torch.equal(cells.anchors, anchors)


def confident(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Heads whose scores and boxes vary."""
    fcos = "head.regression_head.bbox_ctrness.bias" in state
    for key, value in state.items():
        if key.startswith("head.") and value.dim() == 4:
            value.mul_(2 if fcos else 0.7)
    if fcos:
        state["head.regression_head.bbox_reg.bias"].fill_(2)
    state["head.classification_head.cls_logits.bias"].fill_(-2)
    return state


@pytest.mark.parametrize(("name", "least"), [("fcos_resnet50_fpn", 0.2), ("retinanet_resnet50_fpn", 0.05)])
def test_detections_are_those_of_torchvision(
    name: str,
    least: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Boxes, classes and scores of `cnn predict`, with torchvision's own preprocessing, decoding and suppression."""
    monkeypatch.chdir(tmp_path)
    height, width = 96, 160  # two rows of cells are 96 // 2 = 48 pixels apart, not 64
    path = publish(monkeypatch, tmp_path, name, confident)
    theirs = getattr(torchvision.models.detection, name)(
        weights=None, weights_backbone=None, min_size=height, max_size=width
    )
    theirs.load_state_dict(torch.load(path))
    picture = photograph(tmp_path / "photo.png", width, height)
    with torch.no_grad():
        (expected,) = theirs.eval()([decode_image(picture, 3).float() / 255])
    arguments = ("--input", f"3x{height}x{width}", "--min-score", str(least), "-o", "drawn", "--json")
    assert cnn("predict", name, str(picture), "--weights", "torchvision", *arguments) == 0
    found = json.loads(capsys.readouterr().out)["images"][0]["boxes"]
    count = min(100, len(expected["scores"]))
    assert len(found) == count > 20
    names = entry_of(name).meta["categories"]
    assert [box["class"] for box in found] == [names[k] for k in expected["labels"][:count].tolist()]
    assert [box["score"] for box in found] == pytest.approx(expected["scores"][:count].tolist(), abs=1e-5)
    boxes = torch.tensor([box["box"] for box in found])
    torch.testing.assert_close(boxes, expected["boxes"][:count], atol=0.01, rtol=0)


@pytest.mark.parametrize(("written", "cells"), [(1, 2), (2, 4), (3, 6), (4, 8)])
def test_the_stride_of_the_detector_sets_its_cells(written: int, cells: int) -> None:
    plan = find("detector", input=(3, 240, 320), args={"stride": written})
    assert [s.stride for s in infer_scales(plan)] == [cells] and plan.params < 300_000 and not plan.problems


@pytest.mark.parametrize(
    ("name", "size", "params", "strides"),
    [("detector", (3, 64, 64), 300_000, [4]), ("fcos-resnet18", (3, 128, 128), 14_000_000, [8, 16, 32, 64, 128])],
)
def test_our_detectors_learn_from_objects_of_any_size(
    name: str, size: tuple[int, int, int], params: int, strides: list[int]
) -> None:
    plan = find(name, input=size, args={"classes": 2})
    assert plan.params <= params and not plan.problems and [s.stride for s in infer_scales(plan)] == strides
    torch.manual_seed(0)
    network, task = build_plan(plan), detection_task(plan, ("a", "b"))
    side = float(size[1])
    boxes = box_table([[(10.0, 10.0, 22.0, 26.0, 0, 0), (2.0, 2.0, side - 2, side - 2, 1, 0)], []])
    loss = task.objective(network(torch.rand(2, *size)), boxes)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite() and all(p.grad is not None for p in network.parameters())
