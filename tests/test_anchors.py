"""Detectors with anchors, as RetinaNet, and with centerness, as FCOS, against torchvision and plain loops."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_detection import random_boxes, random_outputs, task
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.errors import UsageError
from cnn_cli.interpret.scores import class_names
from cnn_cli.language.detection_scales import Scale
from cnn_cli.page.document import page_path
from cnn_cli.tasks.cells import assign
from cnn_cli.tasks.detection import Detection

ONE = """
one:
  input: [3, 32, 32]
  detects: {scores: cls, boxes: box, anchors: {sizes: [8], ratios: [1]}}
  layers:
    cls: {Conv2d: {out_channels: 6, kernel_size: 3, padding: 1, stride: 4}}
    box: {from: input, layers: {Conv2d: {out_channels: 4, kernel_size: 3, padding: 1, stride: 4}}}
"""
SIZES = {1: (8, 12), 2: (4, 6)}
ANCHORS = ((8.0, 8.0), (11.0, 6.0), (6.0, 11.0))


def anchor_task() -> Detection:
    scales = [
        Scale(f"s{n}", f"b{n}", 3, size, 8 * n, corner=(8 * n, 8 * n), anchors=ANCHORS) for n, size in SIZES.items()
    ]
    return Detection(("a", "b", "c"), tuple(scales), (64, 96), {})


def test_anchors_are_matched_as_in_torchvision() -> None:
    detection, boxes = anchor_task(), random_boxes(4, 1)
    cells = detection.cells(torch.device("cpu"))
    assert cells.anchors is not None
    generator = AnchorGenerator(((16,),), ((1.0,),))
    generator.cell_anchors = [torch.tensor([(-x, -y, x, y) for x, y in ANCHORS])] * 2
    maps = [torch.zeros(1, 1, *size) for size in SIZES.values()]
    (expected,) = generator(ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), maps)
    assert torch.equal(cells.anchors, expected)
    rows, excused = assign(cells, boxes)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for image, own in enumerate(boxes):
        learned = ((own[:, 4] >= 0) & (own[:, 5] == 0)).nonzero().flatten()
        if not len(learned):
            assert (rows[image] == -1).all()
            continue
        matched = matcher(box_iou(own[learned, :4], cells.anchors))
        assert torch.equal(rows[image] >= 0, matched >= 0)
        assert torch.equal(rows[image][matched >= 0], learned[matched[matched >= 0]])
        assert excused[image][matched == -2].all()
        if not (own[:, 5] > 0).any():
            assert torch.equal(excused[image], matched == -2)


def test_scores_of_anchors_are_not_classes() -> None:
    loaded = load_network("retinanet_resnet50_fpn", input=(3, 64, 96), trained=False)
    assert loaded.plan.output[0] == 9 * 91 and len(class_names(loaded)) == 91


def test_a_page_refuses_what_it_cannot_decode(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    loaded = load_network(str(tmp_path / "one.yaml"), trained=False)
    with pytest.raises(UsageError, match="a page cannot draw boxes with centerness, anchors"):
        page_path(loaded, None, False)


def test_boxes_of_anchors_are_those_of_torchvision() -> None:
    detection = anchor_task()
    cells = detection.cells(torch.device("cpu"))
    torch.manual_seed(4)
    outputs = {
        f"{kind}{n}": torch.randn(2, 3 * c, *size) for n, size in SIZES.items() for kind, c in (("s", 3), ("b", 4))
    }
    scores, boxes = detection.predictions(outputs, cells)
    for n, kind in (("s", scores.transpose(1, 2)), ("b", None)):
        parts = [
            outputs[f"{n}{k}"].view(2, 3, -1, *size).permute(0, 3, 4, 1, 2).flatten(1, 3) for k, size in SIZES.items()
        ]
        rows = torch.cat(parts, 1)
        if kind is not None:
            assert torch.equal(kind, rows)
        else:
            for image in range(2):
                decoded = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(rows[image], cells.anchors)
                torch.testing.assert_close(boxes[image], decoded)
    loss = detection.objective({k: v.requires_grad_() for k, v in outputs.items()}, random_boxes(2, 1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite() and all(v.grad is not None and v.grad.abs().sum() > 0 for v in outputs.values())


def test_centerness_multiplies_the_scores_and_is_learned() -> None:
    scales = [replace(scale, centerness=f"c{n}") for n, scale in zip(SIZES, task().scales, strict=True)]
    detection = replace(task(), scales=tuple(scales))
    boxes, outputs = random_boxes(4, 1), random_outputs(4)
    centers = {f"c{n}": torch.randn(4, 1, *size, requires_grad=True) for n, size in SIZES.items()}
    cells = detection.cells(torch.device("cpu"))
    rows, _ = assign(cells, boxes)
    added = torch.zeros(())
    logits = torch.cat([c.flatten(1) for c in centers.values()], 1)
    for image, cell in (rows >= 0).nonzero().tolist():
        x0, y0, x1, y1 = boxes[image, int(rows[image, cell]), :4].tolist()
        x, y = cells.centers[cell].tolist()
        left, top, right, bottom = (max(v, 0.0) for v in (x - x0, y - y0, x1 - x, y1 - y))
        close = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
        p = logits[image, cell].sigmoid()
        added = added - (close**0.5 * p.log() + (1 - close**0.5) * (1 - p).log())
    plain = task().objective(outputs, boxes)
    torch.testing.assert_close(detection.objective(outputs | centers, boxes), plain + added / detection.weight(boxes))
    certain = {name: torch.full_like(c, 20.0) for name, c in centers.items()}
    device = torch.device("cpu")
    for one, other in zip(
        detection.detections(outputs | certain, device), task().detections(outputs, device), strict=True
    ):
        count = min(len(one.scores), len(other.scores), 5)
        torch.testing.assert_close(one.scores[:count] ** 2, other.scores[:count])
