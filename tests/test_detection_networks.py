"""The built-in detectors: torchvision's, key for key, and our own."""

import pytest
import torch
import torchvision
from torch import Tensor

from cnn_cli.data.boxes import box_table
from cnn_cli.language.detection_scales import infer_scales
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
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
    theirs = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None).eval()
    ours = build_plan(find(name, input=(3, 64, 96))).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, outputs = theirs.head(list(theirs.backbone(image).values())), list(ours(image).values())
    assert list(expected) == list(HEADS[name]) and len(outputs) == 5 * len(HEADS[name])
    for n, (key, values) in enumerate(HEADS[name].items()):
        assert torch.equal(torch.cat([rows(o, values) for o in outputs[5 * n : 5 * n + 5]], 1), expected[key])


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
