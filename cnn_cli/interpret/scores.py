"""What a network thinks of each class: numbers whose softmax are its probabilities, whatever its last layer is.

A final Softmax, LogSoftmax or Sigmoid is left off, since where it is saturated its gradient vanishes, however clear
the network's opinion is. One output z of a two-class network becomes −z/2 and z/2, whose softmax is the sigmoid of z.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, restore
from cnn_cli.errors import CnnError, UsageError, closest, listed
from cnn_cli.language.plan import Plan


class Scores(nn.Module):
    """(N, C, H, W) pixels in [0, 1] → (N, K) scores of the classes. Wraps a network without changing it.

    UsageError for a network that puts out no list of numbers.
    """

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        super().__init__()
        if len(plan.output) != 1:
            shape = "x".join(map(str, plan.output))
            raise UsageError(f"{plan.network} puts out {shape} and no list of class scores; take a network that does")
        self.network = network
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
                f"{name}: {bad} of {values.numel()} values are not finite numbers, so the network sees nothing; "
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
    raise UsageError(f"no class {text!r}.{closest(text, classes)} The classes: {known}")


@torch.no_grad()
def probabilities(scores: Scores, pixels: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] → (N, K), each row summing to 1. CnnError where the network puts out no numbers."""
    shares: Tensor = scores(pixels).softmax(1)
    if not shares.isfinite().all():
        raise CnnError("the network's outputs are not finite numbers; train it again with a smaller --lr")
    return shares


def says(scores: Tensor, classes: tuple[str, ...]) -> list[str]:
    """(N, K) scores → what the network says to each image, as `Sneaker 98.3 %`."""
    confidence, predicted = scores.softmax(1).max(1)
    return [f"{classes[k]} {percent(p)}" for k, p in zip(predicted.tolist(), confidence.tolist(), strict=True)]


def percent(share: float) -> str:
    """`98.3 %`; never 100 % for what is less."""
    return f"{min(share, 0.999) if share < 1 else 1:.1%}".replace("%", " %")


def _final(plan: Plan) -> str | None:
    """The name of the layer to leave off, or None. Sigmoids of several outputs count as scores, as in training."""
    kinds = ("Softmax", "LogSoftmax") if plan.output[0] > 1 else ("Sigmoid",)
    return plan.last.name if plan.last and plan.last.type in kinds else None


def _what_enters(_: nn.Module, inputs: tuple[Any, ...], output: object) -> Any:
    return inputs[0]
