"""Class scores (logits): the numbers whose softmax gives the network's probabilities, whatever its last layer is.

A final Softmax, LogSoftmax or Sigmoid is omitted, since its gradient vanishes where it saturates. The single output z
of a two-class network becomes −z/2 and z/2, whose softmax is the sigmoid of z.

A segmentation network has such scores for each pixel; the score of a class is then their mean over a region.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, restore
from cnn_cli.errors import CnnError, UsageError, closest, listed
from cnn_cli.language.detection_scales import infer_scales
from cnn_cli.language.plan import Plan
from cnn_cli.tables import percent
from cnn_cli.tasks.segmentation import fitted


class Scores(nn.Module):
    """(N, C, H, W) pixels in [0, 1] → (N, K) scores of the classes. Wraps a network without changing it.

    UsageError for a network that has neither one score per class nor a map of scores per class.
    """

    temperature = 1.0  # of calibrated probabilities
    region: Tensor | None = None  # (H, W) bool: the pixels over which the scores are averaged; None: all

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        super().__init__()
        if len(plan.output) not in (1, 3) or plan.named_outputs:
            fix = "or scores of each pixel; choose a network for classification or segmentation"
            raise UsageError(f"{plan.network} outputs {plan.output_sizes}, but this needs one score per class {fix}")
        self.network, self.plan = network, plan
        self.final = _final(plan)

    @property
    def dense(self) -> bool:
        """Whether the network outputs scores for each pixel."""
        return len(self.plan.output) == 3

    @contextmanager
    def over(self, region: Tensor | None) -> Iterator[None]:
        """Context manager: scores are averaged over this region."""
        before, self.region = self.region, region
        try:
            yield
        finally:
            self.region = before

    def forward(self, x: Tensor) -> Tensor:
        z = self.logits(x)
        if self.dense:
            z = z.mean((2, 3)) if self.region is None else z[:, :, self.region].mean(2)
        return z

    def logits(self, x: Tensor) -> Tensor:
        """(N, K), or for a dense network (N, K, H, W) at the size of the images."""
        z = self.map(x)
        return fitted(z, x.shape) if self.dense else z

    def map(self, x: Tensor) -> Tensor:
        """(N, K), or for a dense network (N, K, h, w) at the resolution of its output."""
        # A value returned by a forward hook replaces the layer's output.
        last = self.network.get_submodule(self.final) if self.final is not None else None
        with last.register_forward_hook(_what_enters) if last is not None else nullcontext():
            z: Tensor = self.network(x)
        return torch.cat((-z / 2, z / 2), 1) if z.shape[1] == 1 else z


def scores_of(loaded: LoadedNetwork) -> Scores:
    """The scores of a loaded network, in evaluation mode on the CPU; CnnError if a weight is not finite."""
    return scores_by(finite_network(loaded), loaded).eval()


def scores_by(network: nn.Module, loaded: LoadedNetwork) -> Scores:
    """The scores that a network made of `loaded` computes."""
    scores = Scores(network, loaded.plan)
    if loaded.metadata and loaded.metadata.temperature is not None:
        scores.temperature = loaded.metadata.temperature
    return scores


def finite_network(loaded: LoadedNetwork) -> nn.Module:
    """The network; CnnError if a weight is not finite."""
    network = restore(loaded)
    for name, values in network.state_dict().items():
        if values.is_floating_point() and (bad := int((~values.isfinite()).sum())):
            raise CnnError(
                f"{name}: {bad} of {values.numel()} values are not finite numbers, so the outputs are meaningless; "
                "the training diverged: train again with a smaller --lr"
            )
    return network


def class_names(loaded: LoadedNetwork) -> tuple[str, ...]:
    """The names of the classes, in the order of the scores; their indices if a network has no names."""
    scales = infer_scales(loaded.plan)
    count = scales[0].classes if scales else max(2, loaded.plan.output[0])
    return loaded.classes or tuple(str(i) for i in range(count))


def class_index(text: str, classes: tuple[str, ...]) -> int:
    """The index of a class, by its name or else its number; UsageError suggests the nearest name."""
    if text in classes:
        return classes.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(classes):
        return int(text)
    known = f"{listed(classes, 20)}; or 0 to {len(classes) - 1}"
    raise UsageError(f"no class {text!r}.{closest(text, classes)} Classes: {known}")


@torch.no_grad()
def probabilities(scores: Scores, pixels: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] → (N, K), each row summing to 1, calibrated if the checkpoint has a temperature.

    CnnError if the outputs are not finite.
    """
    shares: Tensor = (scores(pixels) / scores.temperature).softmax(1)
    check_finite(shares)
    return shares


def check_finite(*outputs: Tensor) -> None:
    """CnnError if a value is not finite."""
    if not all(bool(values.isfinite().all()) for values in outputs):
        raise CnnError("the network's outputs are not finite numbers; train it again with a smaller --lr")


def main_class(logits: Tensor, classes: tuple[str, ...]) -> int:
    """(K, H, W) scores of one image → the class predicted for most of its pixels, background classes apart."""
    counts = logits.argmax(0).flatten().bincount(minlength=len(logits))
    others = [k for k in counts.argsort(descending=True).tolist() if counts[k] and classes[k] != "background"]
    return others[0] if others else int(counts.argmax())


def region_of(logits: Tensor, label: int, box: tuple[int, int, int, int] | None) -> Tensor:
    """(K, H, W) → (H, W) bool: the box (x0, y0, x1, y1), or the pixels predicted as the class, else all pixels."""
    if box is None:
        region = logits.argmax(0) == label
        return region if region.any() else torch.ones_like(region)
    region = torch.zeros(logits.shape[1:], dtype=torch.bool, device=logits.device)
    region[box[1] : box[3], box[0] : box[2]] = True
    return region


def parse_region(text: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """`8,8,24,20` → x0, y0, x1, y1 in an image of this height and width; UsageError for other texts."""
    numbers = [int(part) if part.strip().isdigit() else -1 for part in text.split(",")]
    if len(numbers) == 4 and -1 not in numbers:
        x0, y0, x1, y1 = numbers
        if x0 < x1 <= size[1] and y0 < y1 <= size[0]:
            return x0, y0, x1, y1
    raise UsageError(
        f"--region must be x0,y0,x1,y1 in pixels, within {size[1]},{size[0]} and not empty, not {text!r}; try "
        f"0,0,{size[1]},{size[0]}"
    )


@dataclass(frozen=True)
class Prediction:
    """The most probable class of an image and its probability."""

    name: str
    confidence: float

    def __str__(self) -> str:
        return f"{self.name} {percent(self.confidence)}"

    def document(self) -> dict[str, Any]:
        return {"class": self.name, "confidence": self.confidence}


def predicted(scores: Tensor, classes: tuple[str, ...], temperature: float = 1.0) -> Prediction:
    """(K,) scores of one image → the class with the highest score; for (K, H, W) the main class and its mean
    probability in the region where it is predicted.

    temperature: of calibrated probabilities.
    """
    scores = scores / temperature
    if scores.ndim == 3:
        label = main_class(scores, classes)
        return Prediction(classes[label], float(scores.softmax(0)[label, region_of(scores, label, None)].mean()))
    confidence, index = scores.softmax(0).max(0)
    return Prediction(classes[int(index)], float(confidence))


def _final(plan: Plan) -> str | None:
    """The name of the layer to omit, or None. Sigmoids of several outputs are kept as scores, as in training."""
    kinds = ("Softmax", "LogSoftmax", "Softmax2d") if plan.output[0] > 1 else ("Sigmoid",)
    return plan.last.name if plan.last and plan.last.type in kinds else None


def _what_enters(_: nn.Module, inputs: tuple[Any, ...], output: object) -> Any:
    return inputs[0]
