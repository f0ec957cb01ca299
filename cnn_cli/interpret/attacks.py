"""Adversarial examples: small changes of an image that raise the loss.

FGSM (Goodfellow, Shlens, Szegedy 2015) and projected gradient descent (Madry et al. 2018). Epsilon is the radius of a
ball for pixels in [0, 1], before the network's normalization. For a network with scores of each pixel the loss is the
mean over the pixels; labels are then masks, in which 255 (void) is ignored.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.data.masks import VOID
from cnn_cli.errors import UsageError
from cnn_cli.interpret.activations import untouched
from cnn_cli.interpret.scores import Scores
from cnn_cli.tables import counted

METHODS, NORMS = ("pgd", "fgsm"), ("linf", "l2")


@dataclass(frozen=True)
class Attack:
    """Settings of an attack. `step_size` None: 2.5·epsilon/steps, so that PGD can reach any point of the ball (Madry).

    `random_start`: PGD starts at a random point of the ball, drawn from `seed`. `target`: the index of the target
    class; None: untargeted. UsageError for invalid settings.
    """

    method: str = "pgd"
    norm: str = "linf"
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    target: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method, METHODS), ("norm", self.norm, NORMS)):
            if value not in known:
                raise UsageError(f"--{name} must be {' or '.join(known)}, not {value!r}")
        if self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise UsageError(f"--step-size must be above 0, not {self.step_size}")

    @property
    def title(self) -> str:
        """`PGD, 10 steps, L∞`."""
        steps = f"PGD, {counted(self.steps, 'step')}" if self.method == "pgd" else "FGSM"
        return f"{steps}, {'L∞' if self.norm == 'linf' else 'L2'}"

    @property
    def effect(self) -> str:
        """The heading of the column with the attack's success."""
        return "fooled" if self.target is None else "target reached"

    def document(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """The document, with the target class's name; for FGSM without the settings of PGD."""
        fixed = {"steps": 1, "step_size": None, "random_start": False} if self.method == "fgsm" else {}
        return asdict(self) | fixed | {"target": None if self.target is None else classes[self.target]}


def perturb(
    scores: Scores, pixels: Tensor, labels: Tensor, epsilon: float, attack: Attack, generator: torch.Generator
) -> Tensor:
    """(N, C, H, W) pixels in [0, 1] → adversarial pixels, within the epsilon ball and [0, 1].

    They raise the cross-entropy of the class scores with `labels`, (N,) or (N, H, W), or lower that of the target
    class. Epsilon 0 returns equal pixels, bit for bit.
    """
    if epsilon == 0:
        return pixels.clone()
    fast = attack.method == "fgsm"
    size = epsilon if fast else attack.step_size or 2.5 * epsilon / attack.steps
    x = pixels if fast or not attack.random_start else _random_point(pixels, epsilon, attack.norm, generator)
    for _ in range(1 if fast else attack.steps):
        uphill = _direction(gradient(scores, x, labels, attack.target), attack.norm)
        x = _within(pixels, x + (uphill if attack.target is None else -uphill) * size, epsilon, attack.norm)
    return x


def gradient(scores: Scores, pixels: Tensor, labels: Tensor, target: int | None = None) -> Tensor:
    """The gradient of each image's loss with respect to its pixels, (N, C, H, W)."""
    x = pixels.detach().requires_grad_()
    goal = labels if target is None else torch.full_like(labels, target)
    ignored = VOID if scores.dense else -100  # PyTorch's default
    losses = F.cross_entropy(scores.logits(x), goal.long(), ignore_index=ignored, reduction="none")
    return torch.autograd.grad(losses.flatten(1).mean(1).sum() if scores.dense else losses.sum(), x)[0]


def _direction(gradient: Tensor, norm: str) -> Tensor:
    """The step of norm 1 that raises the loss most, to first order; 0 if the gradient is 0."""
    if norm == "linf":
        return gradient.sign()
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    scaled = gradient / largest.where(largest > 0, 1.0)  # squares of tiny gradients would underflow to 0
    return scaled / _length(scaled).clamp_min(torch.finfo(scaled.dtype).tiny)


def _within(pixels: Tensor, x: Tensor, epsilon: float, norm: str) -> Tensor:
    """`x` projected onto the ball around `pixels`, then clipped to [0, 1], which stays in the ball."""
    change = x - pixels
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        change = change * (epsilon / _length(change).clamp_min(epsilon))
    return (pixels + change).clamp(0, 1)


def _random_point(pixels: Tensor, epsilon: float, norm: str, generator: torch.Generator) -> Tensor:
    """A uniformly random point of the ball, clipped to [0, 1]; drawn on the CPU, so equal on all devices."""
    if norm == "linf":
        change = (torch.rand(pixels.shape, generator=generator) * 2 - 1) * epsilon
    else:
        change = torch.randn(pixels.shape, generator=generator)
        radius = torch.rand(len(pixels), 1, 1, 1, generator=generator) ** (1 / pixels[0].numel())
        change = change / _length(change) * radius * epsilon
    return _within(pixels, pixels + change.to(pixels), epsilon, norm)


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return length


@dataclass(frozen=True)
class Attacked:
    """N images attacked with one epsilon: `pixels` (N, C, H, W), `before` and `after` (N, K) or (N, K, H, W) scores.

    `labels`, (N,) or (N, H, W), are the classes in the loss.
    """

    epsilon: float
    pixels: Tensor
    before: Tensor
    after: Tensor
    labels: Tensor

    @property
    def dense(self) -> bool:
        return self.before.ndim == 4

    def hits(self, target: int | None) -> Tensor:
        """(N,) or (N, H, W) bool: predictions changed to the target or, untargeted, to a wrong class."""
        before, after = self.before.argmax(1), self.after.argmax(1)
        if target is None:
            return (before == self.labels) & (after != self.labels)
        return (before != target) & (after == target)

    def changed(self, target: int | None) -> list[float]:
        """The fraction of each image's predictions that changed: 0 or 1, or a fraction of its pixels."""
        return self.hits(target).view(len(self.before), -1).double().mean(1).tolist()

    def succeeded(self, target: int | None) -> list[bool]:
        """Whether the attack changed each image's prediction or, for a dense network, that of most of its pixels."""
        return [share > 0.5 for share in self.changed(target)]


def attack_images(
    scores: Scores, pixels: Tensor, labels: Sequence[int | None], epsilons: Iterable[float], attack: Attack
) -> tuple[Attacked, ...]:
    """Attack each image with each epsilon. An image without a label is attacked as its predicted class."""
    results = []
    with untouched(scores):
        with torch.no_grad():
            before = scores.logits(pixels)
        truth = before.argmax(1)
        for i, label in enumerate(labels):
            truth[i] = truth[i] if label is None else label
        for epsilon in epsilons:
            x = perturb(scores, pixels, truth, epsilon, attack, torch.Generator().manual_seed(attack.seed))
            with torch.no_grad():
                results.append(Attacked(epsilon, x, before, scores.logits(x), truth))
    return tuple(results)


@dataclass(frozen=True)
class Robustness:
    """Accuracy under attack: `rows` of epsilon, accuracy and targeted success rate `taken`, on `n` images.

    `accuracy` counts images, or for a dense network pixels with a class, that are correct before and after the attack.
    `taken` is the fraction of those of other classes that are predicted as the target class; None if untargeted.
    `zero_gradient` counts images whose loss has a zero gradient: the attack cannot start there, which is not
    robustness.
    """

    n: int
    zero_gradient: int
    rows: tuple[dict[str, float | None], ...]


def measure_robustness(
    scores: Scores, batches: Iterable[tuple[Tensor, Tensor]], epsilons: Sequence[float], attack: Attack
) -> Robustness:
    """Attack batches of (pixels, labels) with each epsilon."""
    n = counted = others = zero_gradient = 0
    right, taken = [0] * len(epsilons), [0] * len(epsilons)
    generators = [torch.Generator().manual_seed(attack.seed) for _ in epsilons]
    with untouched(scores):
        for pixels, labels in batches:
            with torch.no_grad():
                correct = scores.logits(pixels).argmax(1) == labels
            valid = labels != VOID if scores.dense else torch.ones_like(correct)
            other = (labels != attack.target) & valid if attack.target is not None else torch.zeros_like(correct)
            zero_gradient += int((gradient(scores, pixels, labels, attack.target) == 0).flatten(1).all(1).sum())
            n, counted, others = n + len(labels), counted + int(valid.sum()), others + int(other.sum())
            for i, epsilon in enumerate(epsilons):
                x = perturb(scores, pixels, labels, epsilon, attack, generators[i])
                with torch.no_grad():
                    after = scores.logits(x).argmax(1)
                right[i] += int((correct & (after == labels)).sum())
                taken[i] += int((other & (after == attack.target)).sum())
    rows = zip(epsilons, right, taken, strict=True)
    share = tuple(
        {"epsilon": e, "accuracy": r / max(counted, 1), "taken": t / others if others else None} for e, r, t in rows
    )
    return Robustness(n, zero_gradient, share)
