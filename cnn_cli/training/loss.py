"""The loss follows what the network puts out: logits, probabilities or log-probabilities, one or several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.errors import UsageError
from cnn_cli.spec.plan import Plan

Outputs = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """`of` is (N, K) or (N, 1) outputs and (N,) labels → the mean loss; `predict` is outputs → (N,) labels.

    `weights` are those of auxiliary outputs, the main one first; empty where there is one output.
    """

    name: str
    of: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    weights: Mapping[str, float]

    def __call__(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """The mean over the batch; auxiliary outputs in a weighted sum."""
        if isinstance(outputs, Tensor):
            return self.of(outputs, labels)
        terms = [weight * self.of(outputs[name], labels) for name, weight in self.weights.items()]
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
        return Loss("negative log-likelihood", F.nll_loss, _largest, plan.outputs)
    if last == "Softmax":
        return Loss("cross-entropy of probabilities", _nll_of_probabilities, _largest, plan.outputs)
    return Loss("cross-entropy", F.cross_entropy, _largest, plan.outputs)


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
