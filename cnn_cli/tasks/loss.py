"""The loss follows what the network puts out: logits, probabilities or log-probabilities, one or several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Plan

Outputs = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """`of` is (N, K) or (N, 1) outputs and (N,) labels → the mean loss; `predict` is outputs → (N,) labels.

    `weights` are those of auxiliary outputs, the main one first; empty where there is one output. `class_weights` (K,)
    weigh the classes, as in PyTorch's CrossEntropyLoss.
    """

    name: str
    of: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    weights: Mapping[str, float]
    classes: int = 2
    class_weights: Tensor | None = None

    def total_weight(self, labels: Tensor) -> float:
        """What the mean over a batch divides by: the number of its images, or the sum of their classes' weights."""
        return float(len(labels)) if self.class_weights is None else self.class_weights[labels].sum().item()

    def __call__(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """The mean over the batch; auxiliary outputs in a weighted sum."""
        if isinstance(outputs, Tensor):
            return self.of(outputs.float(), labels)
        terms = [weight * self.of(outputs[name].float(), labels) for name, weight in self.weights.items()]
        return sum(terms[1:], terms[0])

    def predictions(self, outputs: Outputs) -> Tensor:
        """(N,) int64, from the main output."""
        return self.predict(outputs if isinstance(outputs, Tensor) else outputs[next(iter(self.weights))])


def loss_for(plan: Plan, classes: int) -> Loss:
    """The loss for a network that tells `classes` classes apart; UsageError where its outputs are not as many."""
    count = plan.output[0] if len(plan.output) == 1 else 0
    if not count:
        shape = "x".join(map(str, plan.output))
        raise UsageError(
            f"{plan.network} puts out {shape}, and classes take a list of numbers; end it with Flatten and Linear"
        )
    last = plan.last.type if plan.last else ""
    if count == 1 and classes == 2:
        if last == "Sigmoid":
            return Loss("binary cross-entropy of probabilities", _binary_of_probabilities, _above(0.5), plan.outputs)
        return Loss("binary cross-entropy", _binary, _above(0.0), plan.outputs)
    if count != classes:
        way = f"add --set classes={classes}" if "classes" in plan.args else f"let its last layer put out {classes}"
        numbers = f"{count} numbers" if count > 1 else "1 number"
        raise UsageError(f"{plan.network} puts out {numbers} and the data has {classes} classes; {way}")
    if last == "LogSoftmax":
        return Loss("negative log-likelihood", F.nll_loss, _largest, plan.outputs, classes)
    if last == "Softmax":
        return Loss("cross-entropy of probabilities", _nll_of_probabilities, _largest, plan.outputs, classes)
    return Loss("cross-entropy", F.cross_entropy, _largest, plan.outputs, classes)


def objective(loss: Loss, settings: Mapping[str, Any], labels: Tensor) -> Loss:
    """What training minimises: the loss with label_smoothing and class_weights, as PyTorch's CrossEntropyLoss has them.

    labels: (n,) of the training images, from which `balanced` weights follow as scikit-learn's: n / (classes · count).
    UsageError where the network's outputs do not allow them.
    """
    smoothing, wanted = settings["label_smoothing"], settings["class_weights"]
    if not smoothing and wanted is None:
        return loss
    if loss.of not in (F.cross_entropy, F.nll_loss):
        what = "label_smoothing" if smoothing else "class_weights"
        raise UsageError(f"{what} is for a network that ends in Linear or LogSoftmax, a number a class; leave it out")
    weights = None if wanted is None else _class_weights(wanted, labels, loss.classes)
    # Of log-probabilities cross_entropy takes the log-softmax once more, which changes nothing: their sum is 1 already.
    of = partial(F.cross_entropy, weight=weights, label_smoothing=smoothing)
    parts = [f"label smoothing {smoothing:g}"] * bool(smoothing) + ["class weights"] * (weights is not None)
    return replace(loss, name=f"{loss.name}, {', '.join(parts)}", of=of, class_weights=weights)


def _class_weights(wanted: str | tuple[float, ...], labels: Tensor, classes: int) -> Tensor:
    if wanted == "balanced":
        counts = torch.bincount(labels, minlength=classes)
        return len(labels) / (classes * counts.clamp_min(1)).float()
    if len(wanted) != classes:
        raise UsageError(f"class_weights has {len(wanted)} numbers, and there are {classes} classes; give one a class")
    if not any(wanted):
        raise UsageError("class_weights are all 0, and nothing would be learnt; give one above 0")
    return torch.tensor(wanted, dtype=torch.float32, device=labels.device)


def _binary(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), labels.to(outputs.dtype))


def _binary_of_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy(outputs.squeeze(1), labels.to(outputs.dtype))


def _nll_of_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    """A probability that rounds to 0 would have an infinite loss; the smallest normal number stands for it."""
    return F.nll_loss(outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log(), labels)


def _above(threshold: float) -> Callable[[Tensor], Tensor]:
    return lambda outputs: (outputs.squeeze(1) > threshold).long()


def _largest(outputs: Tensor) -> Tensor:
    return outputs.argmax(1)
