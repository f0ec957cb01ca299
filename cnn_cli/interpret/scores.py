"""Class scores (logits): numbers whose softmax are the network's probabilities, whatever its last layer is.

A final Softmax, LogSoftmax or Sigmoid is left off, since its gradient vanishes where it is saturated. One output z of a
two-class network becomes −z/2 and z/2, whose softmax is the sigmoid of z.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, restore
from cnn_cli.errors import CnnError, UsageError, closest, listed
from cnn_cli.language.plan import Plan
from cnn_cli.tables import percent


class Scores(nn.Module):
    """(N, C, H, W) pixels in [0, 1] → (N, K) scores of the classes. Wraps a network without changing it.

    UsageError for a network whose output is no list of numbers.
    """

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        super().__init__()
        if len(plan.output) != 1 or plan.named_outputs:
            fix = "choose a classifier"
            raise UsageError(f"{plan.network} outputs {plan.output_sizes}, but this needs one score per class; {fix}")
        self.network, self.plan = network, plan
        self.final = _final(plan)

    def forward(self, x: Tensor) -> Tensor:
        # A forward hook that gives a value puts it in place of the layer's own output.
        last = self.network.get_submodule(self.final) if self.final is not None else None
        with last.register_forward_hook(_what_enters) if last is not None else nullcontext():
            z: Tensor = self.network(x)
        return torch.cat((-z / 2, z / 2), 1) if z.shape[1] == 1 else z


def scores_of(loaded: LoadedNetwork) -> Scores:
    """The scores of an opened network, in evaluation mode on the CPU; CnnError where a weight is not finite."""
    network = restore(loaded)
    for name, values in network.state_dict().items():
        if values.is_floating_point() and (bad := int((~values.isfinite()).sum())):
            raise CnnError(
                f"{name}: {bad} of {values.numel()} values are not finite numbers, so the outputs are meaningless; "
                "the training diverged: train again with a smaller --lr"
            )
    return Scores(network, loaded.plan).eval()


def class_names(loaded: LoadedNetwork) -> tuple[str, ...]:
    """The names of the classes that the scores are for; their numbers where a network has none."""
    return loaded.classes or tuple(str(i) for i in range(max(2, loaded.plan.output[0])))


def class_index(text: str, classes: tuple[str, ...]) -> int:
    """A class by its name or else its number; UsageError gives the nearest name and those there are."""
    if text in classes:
        return classes.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(classes):
        return int(text)
    known = f"{listed(classes, 20)}; or 0 to {len(classes) - 1}"
    raise UsageError(f"no class {text!r}.{closest(text, classes)} Classes: {known}")


@torch.no_grad()
def probabilities(scores: Scores, pixels: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] → (N, K), each row summing to 1. CnnError where the outputs are not finite numbers."""
    shares: Tensor = scores(pixels).softmax(1)
    if not shares.isfinite().all():
        raise CnnError("the network's outputs are not finite numbers; train it again with a smaller --lr")
    return shares


@dataclass(frozen=True)
class Prediction:
    """The most probable class of an image and its probability."""

    name: str
    confidence: float

    def __str__(self) -> str:
        return f"{self.name} {percent(self.confidence)}"

    def document(self) -> dict[str, Any]:
        return {"class": self.name, "confidence": self.confidence}


def predicted(scores: Tensor, classes: tuple[str, ...]) -> Prediction:
    """(K,) scores of one image → the class with the highest one."""
    confidence, index = scores.softmax(0).max(0)
    return Prediction(classes[int(index)], float(confidence))


def _final(plan: Plan) -> str | None:
    """The name of the layer to leave off, or None. Sigmoids of several outputs count as scores, as in training."""
    kinds = ("Softmax", "LogSoftmax") if plan.output[0] > 1 else ("Sigmoid",)
    return plan.last.name if plan.last and plan.last.type in kinds else None


def _what_enters(_: nn.Module, inputs: tuple[Any, ...], output: object) -> Any:
    return inputs[0]
