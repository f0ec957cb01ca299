"""Segmentation: one score per class for each pixel; the class with the highest score is predicted.

Masks have a class per pixel; 255 is void, which is ignored. Scores are resized bilinearly to the size of the mask. The
training loss is a mean over valid pixels, weighted by class if class weights are set; the Dice loss of an image is
weighted by its valid pixels, so that any part of a batch can be computed by itself.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.data.augmentation import Augmentation, augment_masks
from cnn_cli.data.masks import VOID, pixel_counts
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.tasks.base import Measure, Outputs, class_weight_values, last_type, log_of, sum_type
from cnn_cli.tasks.calibration import both_bins
from cnn_cli.tasks.segmentation_result import SegmentationMeasure, mean_iou, pixel_confusion

FOCUS = 2.0  # the exponent of the focal loss (Lin et al. 2017)
_SMOOTH = 1.0  # pixels added to numerator and denominator of the Dice coefficient, which define it without pixels


@dataclass(frozen=True)
class Segmentation:
    """The task of a network with these outputs: the main one first, each with its kind and its weight in the loss.

    `pixel_loss` and `dice` are the terms of the training loss; class weights (K,) and label smoothing apply in training
    only. `temperature`: that of calibrated probabilities, which evaluation measures in addition.
    """

    classes: tuple[str, ...]
    heads: Mapping[str, tuple[Callable[[Tensor], Tensor], float]]
    pixel_loss: str = "cross-entropy"
    dice: bool = False
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    temperature: float | None = None

    name = "segmentation"
    metric = "miou"

    @property
    def has_plain_loss(self) -> bool:
        """Whether the training loss differs from the cross-entropy of the main output."""
        plain = self.pixel_loss == "cross-entropy" and not self.dice and not self.label_smoothing
        return not plain or self.class_weights is not None or len(self.heads) > 1

    @property
    def criterion(self) -> str:
        parts = [self.pixel_loss] * bool(self.pixel_loss) + ["Dice"] * self.dice
        extras = [f"label smoothing {self.label_smoothing:g}"] * bool(self.label_smoothing)
        extras += ["class weights"] * (self.class_weights is not None)
        return ", ".join([f"{' + '.join(parts)} over pixels", *extras])

    def scores(self, outputs: Tensor, size: torch.Size, head: str | None = None) -> Tensor:
        """The output of a head, the main one by default → (N, K, H, W) float32 scores; their softmax is a distribution.

        size: of the masks, (…, H, W).
        """
        convert, _ = self.heads[next(iter(self.heads)) if head is None else head]
        return fitted(convert(outputs.float()), size)

    def objective(self, outputs: Outputs, targets: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            return self._training_loss(self.scores(outputs, targets.shape), targets)
        terms = [
            weight * self._training_loss(self.scores(outputs[name], targets.shape, name), targets)
            for name, (_, weight) in self.heads.items()
        ]
        return sum(terms[1:], terms[0])

    def _training_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        weights, labels = self._pixel_weights(targets), targets.long()
        total = weights.sum().clamp_min(1e-6)  # a batch without a valid pixel has the loss 0
        terms = []
        if self.pixel_loss:
            terms.append((self._pixel_losses(scores, labels) * weights).sum() / total)
        if self.dice:
            terms.append((_dice_losses(scores, labels) * weights.sum((1, 2))).sum() / total)
        return sum(terms[1:], terms[0])

    def _pixel_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """(N, H, W), 0 for void pixels."""
        losses = F.cross_entropy(
            scores, labels, ignore_index=VOID, reduction="none", label_smoothing=self.label_smoothing
        )
        return losses if self.pixel_loss == "cross-entropy" else (1 - torch.exp(-losses)) ** FOCUS * losses

    def _pixel_weights(self, targets: Tensor) -> Tensor:
        """(N, H, W) float32: 1 or the weight of the class, 0 for void pixels."""
        if self.class_weights is None:
            return (targets != VOID).float()
        table = torch.cat([self.class_weights, self.class_weights.new_zeros(256 - len(self.class_weights))])
        return table.to(targets.device)[targets.long()]

    def weight(self, targets: Tensor) -> float:
        return self._pixel_weights(targets).sum(dtype=torch.float64).item()

    def move(self, targets: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
        return augment_masks(targets, draws, augmentation)

    def totals(self, device: torch.device) -> dict[str, Tensor]:
        names = ["loss", "weight"] + ["plain"] * self.has_plain_loss
        sums = {name: torch.zeros((), dtype=sum_type(device), device=device) for name in names}
        k = len(self.classes)
        return sums | {"confusion": torch.zeros(k + 1, k, dtype=torch.int64, device=device)}

    def add(self, totals: Mapping[str, Tensor], loss: Tensor, outputs: Outputs, targets: Tensor) -> None:
        main = outputs if isinstance(outputs, Tensor) else outputs[next(iter(self.heads))]
        weight = self._pixel_weights(targets).sum().to(totals["weight"].dtype)
        totals["loss"].add_(loss.detach().to(totals["loss"].dtype) * weight)
        totals["weight"].add_(weight)
        scores = self.scores(main.detach(), targets.shape)
        if "plain" in totals:
            totals["plain"].add_(F.cross_entropy(scores, targets.long(), ignore_index=VOID, reduction="sum"))
        predicted = highest(scores)
        totals["confusion"].add_(pixel_confusion(targets, predicted, len(self.classes)).sum(0))

    def training_figures(self, totals: Mapping[str, Tensor], seen: int) -> tuple[float, float]:
        loss = totals["loss"].item() / max(totals["weight"].item(), 1e-6)
        return loss, mean_iou(totals["confusion"][:-1].tolist())

    def plain_loss(self, totals: Mapping[str, Tensor], seen: int) -> float | None:
        if "plain" not in totals:
            return None
        return totals["plain"].item() / max(1, int(totals["confusion"][:-1].sum()))

    def measure(self, device: torch.device) -> Measure:
        return SegmentationMeasure(self.classes, self.labelled, device, self.temperature)

    def measure_of_scores(self) -> SegmentationMeasure:
        """A measure, on the CPU, of the results of scores()."""
        return SegmentationMeasure(self.classes, self.labelled_scores, torch.device("cpu"), self.temperature)

    def labelled(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For the metrics: the predicted classes, (N, H, W), the sum of the cross-entropies of valid pixels, and their
        confidences in bins, as both_bins()."""
        return self.labelled_scores(self.scores(outputs, targets.shape), targets)

    def labelled_scores(self, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        predicted, shares = highest(scores), scores.log_softmax(1)
        loss = F.nll_loss(shares, targets.long(), ignore_index=VOID, reduction="sum")
        return predicted, loss, both_bins(shares, predicted == targets, self.temperature, targets != VOID)


def fitted(scores: Tensor, size: torch.Size) -> Tensor:
    """(N, K, h, w) → (N, K, H, W), bilinearly. size: (…, H, W)."""
    if scores.shape[-2:] == size[-2:]:
        return scores
    return F.interpolate(scores, size=size[-2:], mode="bilinear", align_corners=False)


def highest(scores: Tensor) -> Tensor:
    """(N, K, H, W) → (N, H, W) int64, as argmax(1), which takes many times as long on a CPU as this loop."""
    if scores.device.type != "cpu" or scores.shape[1] > 64:
        return scores.argmax(1)
    best, index = scores[:, 0], torch.zeros(scores[:, 0].shape, dtype=torch.uint8)
    for k in range(1, scores.shape[1]):  # k is higher than any index before, so that maximum() is where()
        higher = (scores[:, k] > best).view(torch.uint8)
        index, best = torch.maximum(index, higher.mul_(k)), torch.maximum(best, scores[:, k])
    return index.long()


def segmentation_task(plan: Plan, classes: tuple[str, ...]) -> Segmentation:
    """The task of a network for these classes; UsageError if its output is not a map of scores for each class."""
    weights = plan.outputs or {"": 1.0}
    shape = "x".join(map(str, plan.output))
    if len(plan.output) != 3:
        raise UsageError(
            f"{plan.network} outputs {shape}, but segmentation needs scores for each pixel, KxHxW;\n"
            "end it with a Conv2d of one output channel per class, no Flatten and no Linear, or train another network"
        )
    if len(classes) < 2:
        raise UsageError(f"segmentation needs at least two classes, and the masks have {len(classes)}")
    count = plan.output[0]
    if count != len(classes) and (count, len(classes)) != (1, 2):
        fix = (
            f"add --set classes={len(classes)}"
            if "classes" in plan.args
            else f"give its last layer {len(classes)} output channels"
        )
        raise UsageError(f"{plan.network} outputs scores for {count} classes, but the masks have {len(classes)}; {fix}")
    if math.prod(plan.output[1:]) == 1 < math.prod(plan.input[1:]):
        raise UsageError(
            f"{plan.network} outputs {shape}, scores at a single position, for images of "
            f"{plan.input[1]}x{plan.input[2]}; choose a larger --input, or end it with Flatten to classify images"
        )
    if not _covers(plan.output[1:], plan.input[1:]):
        raise UsageError(
            f"{plan.network} outputs {shape} for images of {plan.input[1]}x{plan.input[2]}: neither their size nor "
            "an integer fraction of it,\nso scores and pixels do not align; pad its convolutions, or choose "
            "another --input"
        )
    return Segmentation(classes, {name: (_conversion(last_type(plan, name), count), w) for name, w in weights.items()})


def with_objective(task: Segmentation, settings: Mapping[str, Any], masks: Tensor) -> Segmentation:
    """The task with the settings of its loss. masks: (n, H, W) of the training images.

    `balanced` weights are total / (classes · pixels of the class), `sqrt` their square roots. UsageError for settings
    that do not apply to masks.
    """
    for name, reason in (
        ("mixup", "a blend of two images has two classes in each pixel"),
        ("cutmix", "it pastes a box of one image into another, with a single label each"),
        ("balanced_sampling", "an image has pixels of several classes; use --class-weights sqrt"),
    ):
        if settings[name]:
            raise UsageError(f"{name} is for classification, not for segmentation: {reason}")
    pixel, _, dice = (settings.get("loss") or "cross-entropy").partition("+")
    chosen, smoothing = settings["class_weights"], settings["label_smoothing"]
    if smoothing and pixel != "cross-entropy":
        raise UsageError(f"label_smoothing requires cross-entropy, not loss {settings['loss']}; leave it out")
    weights = None if chosen is None else _class_weights(chosen, masks, len(task.classes))
    pixel_loss = "" if pixel == "dice" else pixel
    return replace(
        task,
        pixel_loss=pixel_loss,
        dice=bool(dice) or pixel == "dice",
        label_smoothing=smoothing,
        class_weights=weights,
    )


def _covers(output: tuple[int, ...], input: tuple[int, ...]) -> bool:
    """Whether maps of this size lie evenly on the image: one score per pixel, or per square of n x n pixels."""
    steps = range(1, max(input) + 1)
    reduced = any(all(abs(side - whole / n) < 1 for side, whole in zip(output, input, strict=True)) for n in steps)
    return reduced or all(side % whole == 0 for side, whole in zip(output, input, strict=True))


def _conversion(last: str, count: int) -> Callable[[Tensor], Tensor]:
    """The function from the output of a network that ends in this layer to scores."""
    if count == 1:
        return _from_probability if last == "Sigmoid" else _from_logit
    return log_of if last in ("Softmax", "Softmax2d") else _unchanged


def _unchanged(outputs: Tensor) -> Tensor:
    return outputs


def _from_logit(outputs: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(outputs), outputs], 1)


def _from_probability(outputs: Tensor) -> Tensor:
    return torch.cat([log_of(1 - outputs), log_of(outputs)], 1)


def _dice_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """(N,): 1 − the mean over the classes of 2·|A∩B| / (|A| + |B|) in each image, by probabilities of valid pixels."""
    valid = (labels != VOID).unsqueeze(1)
    probabilities = scores.softmax(1) * valid
    true = torch.zeros_like(probabilities).scatter_(1, labels.unsqueeze(1).clamp_max(scores.shape[1] - 1), 1.0) * valid
    common, sizes = (probabilities * true).sum((2, 3)), (probabilities + true).sum((2, 3))
    return 1 - ((2 * common + _SMOOTH) / (sizes + _SMOOTH)).mean(1)


def _class_weights(chosen: str | tuple[float, ...], masks: Tensor, classes: int) -> Tensor:
    if isinstance(chosen, str):
        counts = pixel_counts(masks).sum(0)[:classes].double()
        weights = counts.sum() / (classes * counts.clamp_min(1))
        weights = torch.where(counts > 0, weights, 1.0)
        return (weights.sqrt() if chosen == "sqrt" else weights).float().to(masks.device)
    return class_weight_values(chosen, classes, masks.device)
