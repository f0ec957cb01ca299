"""Classification: one score per class for each image; the class with the highest score is predicted.

The loss follows from the network's last layer: logits, probabilities or log-probabilities, one per class, or a single
one for two classes. Metrics are in classification_result.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.data.augmentation import Augmentation
from cnn_cli.distributed.world import World
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.tasks.base import Measure, Outputs, TaskResult, class_weight_values, last_type, log_of, sum_type
from cnn_cli.tasks.calibration import both_bins, calibration_of, no_bins
from cnn_cli.tasks.classification_result import ClassificationResult


@dataclass(frozen=True)
class Head:
    """Outputs of one kind, (N, K) or (N, 1): with (N,) labels → their mean loss; alone → (N,) predicted labels, and
    (N, K) log-probabilities."""

    criterion: str
    loss: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    log_probabilities: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Classification:
    """The task of a network with these heads: the main one first, auxiliary ones with their weight in the loss.

    `class_weights` (K,) and `label_smoothing` are those of PyTorch's CrossEntropyLoss; they apply in training only.
    `mixes`: training mixes images; the plain loss is then that of the class with the larger share of an image.
    `temperature`: that of calibrated probabilities, which evaluation measures in addition.
    """

    classes: tuple[str, ...]
    heads: Mapping[str, tuple[Head, float]]
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    mixes: bool = False
    temperature: float | None = None

    name = "classification"
    metric = "accuracy"

    @property
    def main(self) -> Head:
        return next(iter(self.heads.values()))[0]

    @property
    def has_plain_loss(self) -> bool:
        """Whether the training loss differs from the one that evaluation computes."""
        return bool(self.label_smoothing or self.class_weights is not None or self.mixes or len(self.heads) > 1)

    @property
    def criterion(self) -> str:
        extras = [f"label smoothing {self.label_smoothing:g}"] * bool(self.label_smoothing)
        extras += ["class weights"] * (self.class_weights is not None)
        return ", ".join([self.main.criterion, *extras])

    def objective(self, outputs: Outputs, targets: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            return self._training_loss(self.main, outputs, targets)
        terms = [w * self._training_loss(head, outputs[name], targets) for name, (head, w) in self.heads.items()]
        return sum(terms[1:], terms[0])

    def _training_loss(self, head: Head, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self.label_smoothing and self.class_weights is None:
            return head.loss(outputs.float(), targets)
        # For log-probabilities, too: the log-softmax in cross_entropy does not change them.
        return F.cross_entropy(outputs.float(), targets, self.class_weights, label_smoothing=self.label_smoothing)

    def weight(self, targets: Tensor) -> float:
        return float(len(targets)) if self.class_weights is None else self.class_weights[targets].sum().item()

    def move(self, targets: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
        return targets

    def totals(self, device: torch.device) -> dict[str, Tensor]:
        names = ["loss", "plain"] if self.has_plain_loss else ["loss"]
        losses = {name: torch.zeros((), dtype=sum_type(device), device=device) for name in names}
        return losses | {"correct": torch.zeros((), dtype=torch.int64, device=device)}

    def add(self, totals: Mapping[str, Tensor], loss: Tensor, outputs: Outputs, targets: Tensor) -> None:
        main = outputs if isinstance(outputs, Tensor) else outputs[next(iter(self.heads))]
        losses = {"loss": loss}
        if "plain" in totals:
            losses["plain"] = self.main.loss(main.detach().float(), targets)
        for name, mean in losses.items():
            totals[name].add_(mean.detach().to(totals[name].dtype) * len(targets))
        totals["correct"].add_((self.main.predict(main) == targets).sum())

    def training_figures(self, totals: Mapping[str, Tensor], seen: int) -> tuple[float, float]:
        return totals["loss"].item() / seen, totals["correct"].item() / seen

    def plain_loss(self, totals: Mapping[str, Tensor], seen: int) -> float | None:
        return totals["plain"].item() / seen if "plain" in totals else None

    def measure(self, device: torch.device) -> Measure:
        return ClassificationMeasure(self, device)


class ClassificationMeasure:
    """A confusion matrix and a sum of losses, without label smoothing and class weights."""

    def __init__(self, task: Classification, device: torch.device) -> None:
        self.task = task
        self.matrix = torch.zeros(len(task.classes), len(task.classes), dtype=torch.int64, device=device)
        self.loss = torch.zeros((), dtype=sum_type(device), device=device)
        self.bins = no_bins(device)

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        head = self.task.main
        self.loss += head.loss(outputs.float(), targets).to(self.loss.dtype) * len(targets)
        predicted = head.predict(outputs)
        count_pairs(self.matrix, targets, predicted)
        shares, correct = head.log_probabilities(outputs.float()), predicted == targets
        self.bins += both_bins(shares, correct, self.task.temperature)

    def result(self, split: str, world: World) -> TaskResult:
        world.sum(self.matrix, self.loss, self.bins)
        matrix = self.matrix.tolist()
        loss = self.loss.item() / max(1, sum(map(sum, matrix)))
        calibration = calibration_of(self.bins, self.task.temperature)
        return ClassificationResult(split, loss, matrix, self.task.classes, calibration)


def classification_task(plan: Plan, classes: tuple[str, ...]) -> Classification:
    """The task of a network for these classes; UsageError if it does not output one score per class."""
    outputs = plan.output
    if len(outputs) != 1 or not outputs[0]:
        shape = "x".join(map(str, outputs))
        raise UsageError(
            f"{plan.network} outputs {shape}, but classification needs one score per class; "
            "end it with AdaptiveAvgPool2d: 1, Flatten and Linear"
        )
    if len(classes) < 2:
        raise UsageError(f"classification needs at least two classes, and the data has {len(classes)}")
    count = outputs[0]
    if count != len(classes) and (count, len(classes)) != (1, 2):
        fix = f"add --set classes={len(classes)}" if "classes" in plan.args else f"give its last layer {len(classes)}"
        scores = f"{count} scores" if count > 1 else "1 score"
        raise UsageError(f"{plan.network} outputs {scores}, but the data has {len(classes)} classes; {fix}")
    weights = plan.outputs or {"": 1.0}
    return Classification(classes, {name: (_head(last_type(plan, name), count), w) for name, w in weights.items()})


def with_objective(task: Classification, settings: Mapping[str, Any], labels: Tensor) -> Classification:
    """The task with label_smoothing and class_weights. labels: (n,) of the training images.

    `balanced` weights are scikit-learn's, n / (classes · count), `sqrt` their square roots. UsageError if the last
    layer of the network does not allow them.
    """
    if loss := settings.get("loss"):
        raise UsageError(f"loss {loss} is for segmentation; the loss of classification follows from the last layer")
    smoothing, chosen = settings["label_smoothing"], settings["class_weights"]
    task = replace(task, mixes=bool(settings["mixup"] or settings["cutmix"]))
    if not smoothing and chosen is None:
        return task
    if task.main.loss not in (F.cross_entropy, F.nll_loss):
        setting = "label_smoothing" if smoothing else "class_weights"
        raise UsageError(f"{setting} needs a network that ends in Linear or LogSoftmax, with one output per class")
    weights = None if chosen is None else _class_weights(chosen, labels, len(task.classes))
    return replace(task, label_smoothing=smoothing, class_weights=weights)


def count_pairs(matrix: Tensor, labels: Tensor, predictions: Tensor) -> None:
    """Add (n,), (n,) int64 to a confusion matrix (K, K) int64 in place: row = true class, column = predicted."""
    cells = labels * len(matrix) + predictions
    matrix.view(-1).index_add_(0, cells, torch.ones_like(cells))  # bincount would synchronize with a GPU


def _head(last: str, count: int) -> Head:
    """The head of a network, or of an auxiliary output, with this last layer and `count` outputs."""
    if count == 1 and last == "Sigmoid":
        return Head("binary cross-entropy of probabilities", _binary_of_probabilities, _above(0.5), _of_probability)
    if count == 1:
        return Head("binary cross-entropy", _binary, _above(0.0), _of_logit)
    if last == "LogSoftmax":
        return Head("negative log-likelihood", F.nll_loss, _largest, _log_softmax)
    if last == "Softmax":
        return Head("cross-entropy of probabilities", _nll_of_probabilities, _largest, log_of)
    return Head("cross-entropy", F.cross_entropy, _largest, _log_softmax)


def _class_weights(chosen: str | tuple[float, ...], labels: Tensor, classes: int) -> Tensor:
    if isinstance(chosen, str):
        counts = torch.bincount(labels, minlength=classes)
        weights = len(labels) / (classes * counts.clamp_min(1)).float()
        return weights.sqrt() if chosen == "sqrt" else weights
    return class_weight_values(chosen, classes, labels.device)


def _binary(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), labels.to(outputs.dtype))


def _binary_of_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy(outputs.squeeze(1), labels.to(outputs.dtype))


def _nll_of_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(log_of(outputs), labels)


def _log_softmax(outputs: Tensor) -> Tensor:
    """The log-probabilities of logits; log-probabilities do not change."""
    return outputs.log_softmax(1)


def _of_logit(outputs: Tensor) -> Tensor:
    return torch.cat((F.logsigmoid(-outputs), F.logsigmoid(outputs)), 1)


def _of_probability(outputs: Tensor) -> Tensor:
    return log_of(torch.cat((1 - outputs, outputs), 1))


def _above(threshold: float) -> Callable[[Tensor], Tensor]:
    return lambda outputs: (outputs.squeeze(1) > threshold).long()


def _largest(outputs: Tensor) -> Tensor:
    return outputs.argmax(1)
