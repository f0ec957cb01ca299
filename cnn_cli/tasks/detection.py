"""Detection: a score per class and a box for each cell of a map, as in FCOS (Tian et al. 2019), or for each anchor.

The scores are trained with the quality focal loss (Li et al. 2020): the target of a cell is the IoU of its predicted
box with its object, or 0 without an object. The boxes are trained with the generalized IoU loss. Both losses are sums
over cells, divided by the number of objects, at least 1 for each image, so that any part of a batch can be computed by
itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.data.augmentation import Augmentation, augment_boxes
from cnn_cli.errors import UsageError
from cnn_cli.language.detection_scales import Scale, infer_scales
from cnn_cli.language.plan import Plan
from cnn_cli.tasks.base import Measure, Outputs, last_type, sum_type
from cnn_cli.tasks.cells import Cells, assign, cells_of, centerness, flattened, generalized_iou
from cnn_cli.tasks.detection_result import DetectionMeasure
from cnn_cli.tasks.suppression import OVERLAP, ImageDetections, detections_of

_NOT_NEGATIVE = ("ReLU", "ReLU6", "Softplus", "Sigmoid", "Hardsigmoid")
_ANCHOR_OVERLAP = 0.5  # IoU for non-maximum suppression as in RetinaNet, in place of OVERLAP
_PROBABILITIES = ("Sigmoid", "Softmax", "Softmax2d", "LogSoftmax", "Hardsigmoid")


@dataclass(frozen=True)
class Detection:
    """The task of a network with these scales. `positive`: functions that make the distances of boxes positive, by the
    name of the output."""

    classes: tuple[str, ...]
    scales: tuple[Scale, ...]
    size: tuple[int, int]  # height and width of the network's input
    positive: Mapping[str, Callable[[Tensor], Tensor]]

    name = "detection"
    metric = "ap"

    @property
    def criterion(self) -> str:
        more = " + cross-entropy of centerness" if self.scales[0].centerness else ""
        return f"quality focal loss of scores + generalized IoU loss of boxes{more}, per object"

    def cells(self, device: torch.device) -> Cells:
        return cells_of(self.scales, device)

    def predictions(self, outputs: Mapping[str, Tensor], cells: Cells) -> tuple[Tensor, Tensor]:
        """Scores as logits, (N, K, P), and boxes x0, y0, x1, y1 in pixels of the input, (N, P, 4)."""
        outputs = {name: self.positive[name](x.float()) if name in self.positive else x for name, x in outputs.items()}
        scores, distances = flattened(outputs, self.scales)
        return scores, cells.boxes(distances)

    def objective(self, outputs: Outputs, targets: Tensor) -> Tensor:
        return self._losses(outputs, targets).sum() / _objects(targets).sum()

    def _losses(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """(N,): the sum of both losses over the cells of each image."""
        assert isinstance(outputs, Mapping)
        cells = self.cells(targets.device)
        scores, boxes = self.predictions(outputs, cells)
        row, excused = assign(cells, targets)
        learned = row >= 0
        true = targets.gather(1, row.clamp(min=0)[..., None].expand(-1, -1, targets.shape[2]))
        iou, generalized = generalized_iou(boxes, true[..., :4])
        quality = iou.detach().clamp(0, 1) * learned
        label = true[..., 4].long().clamp(min=0)
        wanted = torch.zeros_like(scores).scatter_(1, label.unsqueeze(1), quality.unsqueeze(1))
        focus = (wanted - scores.sigmoid()).square()
        focal = focus * F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        losses = (focal * ~excused.unsqueeze(1)).sum((1, 2)) + ((1 - generalized) * learned).sum(1)
        if (centers := self._centerness(outputs)) is not None:
            close = centerness(cells, true[..., :4])
            losses += (F.binary_cross_entropy_with_logits(centers, close, reduction="none") * learned).sum(1)
        return losses

    def _centerness(self, outputs: Mapping[str, Tensor]) -> Tensor | None:
        """(N, P) logits; None if the network has none."""
        names = [scale.centerness for scale in self.scales if scale.centerness]
        return torch.cat([outputs[name].flatten(1) for name in names], 1).float() if names else None

    def weight(self, targets: Tensor) -> float:
        return float(_objects(targets).sum())

    def move(self, targets: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
        return augment_boxes(targets, draws, augmentation, self.size)

    def totals(self, device: torch.device) -> dict[str, Tensor]:
        return {name: torch.zeros((), dtype=sum_type(device), device=device) for name in ("loss", "objects")}

    def add(self, totals: Mapping[str, Tensor], loss: Tensor, outputs: Outputs, targets: Tensor) -> None:
        objects = _objects(targets).sum().to(totals["loss"].dtype)
        totals["loss"].add_(loss.detach().to(totals["loss"].dtype) * objects)
        totals["objects"].add_(objects)

    def training_figures(self, totals: Mapping[str, Tensor], seen: int) -> tuple[float, None]:
        """The mean loss per object. AP is not a sum over steps, and is not computed in training."""
        return totals["loss"].item() / max(1.0, totals["objects"].item()), None

    def plain_loss(self, totals: Mapping[str, Tensor], seen: int) -> float | None:
        return None

    def measure(self, device: torch.device) -> Measure:
        return DetectionMeasure(self.classes, self.measured)

    def measured(self, outputs: Outputs, targets: Tensor) -> tuple[list[ImageDetections], Tensor, Tensor]:
        """For the metrics: the detections of each image, and (N,) its summed loss and the divisor of that."""
        assert isinstance(outputs, Mapping)
        return self.detections(outputs, targets.device), self._losses(outputs, targets), _objects(targets)

    def detections(self, outputs: Mapping[str, Tensor], device: torch.device) -> list[ImageDetections]:
        """The detections of each image, in pixels of the network's input, the highest score first."""
        scores, boxes = self.predictions(outputs, self.cells(device))
        probabilities = scores.sigmoid()
        if (centers := self._centerness(outputs)) is not None:
            probabilities = (probabilities * centers.sigmoid().unsqueeze(1)).sqrt()
        overlap = _ANCHOR_OVERLAP if self.scales[0].anchors else OVERLAP
        return detections_of(probabilities, boxes, self.size, [s.predictions for s in self.scales], overlap)


def _objects(targets: Tensor) -> Tensor:
    """(N,): the number of objects in each image that are not ignored, at least 1."""
    return ((targets[..., 4] >= 0) & (targets[..., 5] == 0)).sum(1).clamp(min=1)


def detection_task(plan: Plan, classes: tuple[str, ...]) -> Detection:
    """The task of a network for these classes; UsageError if it is not a detector with a score for each."""
    if not plan.detects:
        raise UsageError(
            f"{plan.network} outputs {plan.output_sizes}, but the images have boxes, which need a detector: a network "
            "with score and box outputs,\n`detects: {scores: cls, boxes: box}` next to `layers` (cnn guide "
            "detection); `detector` is a small one"
        )
    scales = infer_scales(plan)
    count = scales[0].classes
    if count != len(classes):
        fix = f"add --set classes={len(classes)}" if "classes" in plan.args else f"give it {len(classes)} channels"
        raise UsageError(f"{plan.network} outputs scores for {count} classes, but the data has {len(classes)}; {fix}")
    for scale in scales:
        if (last := _last(plan, scale.scores)) in _PROBABILITIES:
            raise UsageError(
                f"{plan.network}: the scores {scale.scores} end in {last}, but the focal loss takes logits; remove it"
            )
    distances = [s.boxes for s in scales if not s.anchors]
    positive = {name: torch.exp for name in distances if _last(plan, name) not in _NOT_NEGATIVE}
    return Detection(classes, scales, (plan.input[1], plan.input[2]), positive)


def _last(plan: Plan, output: str) -> str:
    """The type of the layer that computes an output."""
    row = plan.ends[list(plan.named_outputs).index(output)]
    return next((layer.type for layer in plan.layers if layer.name == row), "") or last_type(plan, output)


def with_objective(task: Detection, settings: Mapping[str, Any]) -> Detection:
    """The task itself; UsageError for settings that do not apply to boxes."""
    for name, reason in (
        ("mixup", "a blend of two images has no boxes of its own"),
        ("cutmix", "it mixes class labels, but the targets are boxes"),
        ("balanced_sampling", "an image has objects of several classes"),
        ("label_smoothing", "score targets are already soft: the IoU of the box"),
        ("class_weights", "each class is scored independently"),
        ("loss", "detection has one loss, the quality focal loss with the generalized IoU loss"),
    ):
        if settings.get(name):
            raise UsageError(f"{name} does not apply to detection: {reason}; leave it out")
    if settings["tta"] != "none":
        raise UsageError("tta averages scores, but boxes from different views cannot be averaged; leave it out")
    return task
