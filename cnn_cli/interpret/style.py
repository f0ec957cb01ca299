"""Neural style transfer: pixels whose feature maps match one image and whose Gram matrices match another.

The method of Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, with each
loss divided by a reference value, so that its weights mean the same for any network and any layers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret.activations import feature_maps_until, trunk
from cnn_cli.language.plan import Plan

_HISTORY = 10  # pairs of steps that L-BFGS keeps
_SIDE = 4  # px: Gram matrices of smaller feature maps hardly describe texture


@dataclass(frozen=True)
class StyleLayers:
    """The content layer, whose feature maps are matched, and the style layers, whose Gram matrices are matched."""

    content: str
    style: tuple[str, ...]


def style_layers(plan: Plan, size: tuple[int, int]) -> StyleLayers:
    """The counterparts of the paper's VGG-19 layers in any network, for images of `size` (height, width) px.

    Style: the first activation at each resolution (relu1_1, relu2_1, … of a VGG). Content: the second activation at the
    second to last resolution (relu4_2). UsageError for a network without spatial feature maps.
    """
    maps, stages = trunk(plan), dict[int, list[str]]()
    for layer in [a for a in maps if a.rule.elementwise and "view" not in a.rule.traits] or maps:
        if min(size) * layer.output_shape[1] // plan.input[1] >= _SIDE:
            stages.setdefault(layer.output_shape[1], []).append(layer.name)
    if not stages:
        raise UsageError(f"{plan.network} has no spatial feature maps to compare; choose a convolutional network")
    groups = list(stages.values())
    return StyleLayers(groups[-2:][0][:2][-1], tuple(names[0] for names in groups))


def average_pooled(network: nn.Module) -> nn.Module:
    """The same network, with max pooling replaced by average pooling, which gives smoother images (Gatys et al.)."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            size, stride, padding = module.kernel_size, module.stride, module.padding
            pool = nn.AvgPool2d(size, stride, padding, module.ceil_mode, count_include_pad=False)
            network.set_submodule(name, pool)
    return network


def gram(features: Tensor) -> Tensor:
    """The Gram matrix, (1, C, H, W) → (C, C): the mean over positions of the product of each pair of channels."""
    flat = features.flatten(2)[0]
    return flat @ flat.T / flat.shape[1]


@dataclass(frozen=True)
class StyleTransfer:
    """Settings. `weight` multiplies the mean style loss, which is added to the content loss."""

    layers: StyleLayers
    weight: float = 1.0
    steps: int = 200
    start: str = "content"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start not in ("content", "noise"):
            raise UsageError(f"--start must be content or noise, not {self.start!r}")
        if self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")
        if not 0 < self.weight < float("inf"):
            raise UsageError(f"--style-weight must be a positive number, not {self.weight:g}")


@dataclass(frozen=True)
class Losses:
    """Relative losses: 1 is the content loss of an all-zero feature map, and a layer's style loss at the start."""

    content: float | None
    style: tuple[float, ...]


@dataclass(frozen=True)
class Snapshot:
    """The image (C, H, W) in [0, 1] after `step` steps, and its losses."""

    step: int
    pixels: Tensor
    losses: Losses


class _Loss:
    """Content and style losses of pixels (1, C, H, W), each divided by its reference value."""

    def __init__(self, network: nn.Module, transfer: StyleTransfer, content: Tensor | None, style: Tensor) -> None:
        self.network, self.transfer = network, transfer
        layers = transfer.layers
        self.names = tuple(dict.fromkeys(((layers.content,) if content is not None else ()) + layers.style))
        with torch.no_grad():
            self.content = None if content is None else self.maps(content)[layers.content]
            wanted = self.maps(style)
        self.grams = {name: gram(wanted[name]) for name in layers.style}
        self.references: dict[str, Tensor] = {}

    def maps(self, pixels: Tensor) -> dict[str, Tensor]:
        return feature_maps_until(self.network, self.names, pixels)

    def begin(self, pixels: Tensor) -> None:
        """Use the style losses of these pixels as reference values."""
        with torch.no_grad():
            maps = self.maps(pixels)
        self.references = {name: self.distance(name, maps).clamp_min(1e-30) for name in self.grams}

    def distance(self, name: str, maps: dict[str, Tensor]) -> Tensor:
        return (gram(maps[name]) - self.grams[name]).square().sum()

    def terms(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """The relative content loss, and the relative losses of the style layers."""
        maps = self.maps(pixels)
        style = torch.stack([self.distance(name, maps) / self.references[name] for name in self.grams])
        if self.content is None:
            return None, style
        reference = self.content.square().mean().clamp_min(1e-30)
        return F.mse_loss(maps[self.transfer.layers.content], self.content) / reference, style

    def total(self, pixels: Tensor) -> Tensor:
        content, style = self.terms(pixels)
        weighted = self.transfer.weight * style.mean()
        return weighted if content is None else content + weighted

    @torch.no_grad()
    def losses(self, pixels: Tensor) -> Losses:
        content, style = self.terms(pixels)
        return Losses(None if content is None else float(content), tuple(style.tolist()))


def transfer_style(
    network: nn.Module,
    transfer: StyleTransfer,
    content: Tensor | None,
    style: Tensor,
    size: tuple[int, int],
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[Snapshot]:
    """Snapshots of the image at about 0, 10, 30 and 100 % of the steps; the last one is the result.

    `network` takes pixels in [0, 1], and is in evaluation mode. `content` and `style` are (1, C, h, w) in [0, 1];
    without content (texture synthesis) the start is noise. `size` is the (height, width) of the result. L-BFGS
    minimizes the loss; pixels are clamped to [0, 1] before each evaluation. `watch` wraps the steps. CnnError if the
    loss is not finite.
    """
    if content is not None and transfer.start == "content":
        pixels = content.clone()
    else:
        noise = torch.rand((1, style.shape[1], *size), generator=torch.Generator().manual_seed(transfer.seed))
        pixels = noise.to(style.device)
    loss = _Loss(network, transfer, content, style)
    loss.begin(pixels)
    pixels.requires_grad_()
    optimizer = torch.optim.LBFGS([pixels], max_iter=1, history_size=_HISTORY, tolerance_grad=0, tolerance_change=0)

    def evaluate() -> Tensor:
        with torch.no_grad():
            pixels.clamp_(0, 1)
        optimizer.zero_grad()
        total = loss.total(pixels)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    def snapshot(step: int) -> Snapshot:
        shown = pixels.detach().clamp(0, 1)
        return Snapshot(step, shown[0].clone(), loss.losses(shown))

    taken = [snapshot(0)]
    shown_after = {round(transfer.steps * share) for share in (0.1, 0.3, 1)} - {0}
    for step in watch(range(1, transfer.steps + 1)):
        total = optimizer.step(evaluate)  # type: ignore[no-untyped-call]
        if not torch.isfinite(torch.as_tensor(total)):
            raise CnnError("the loss is no longer finite; choose a smaller --style-weight or other layers")
        if step in shown_after:
            taken.append(snapshot(step))
    return taken


def transfer_bytes(plan: Plan, layers: StyleLayers, size: tuple[int, int]) -> int:
    """Estimated memory of a step at (height, width) px in float32, in bytes.

    Weights, feature maps saved for the backward pass, as much for their gradients, and L-BFGS's history.
    """
    names = [layer.name for layer in plan.layers]
    last = max(names.index(name) for name in (layers.content, *layers.style))
    used = plan.layers[: last + 1]
    kept = {name for layer in used if layer.saved.input for name in layer.takes}
    kept |= {layer.name for layer in used if layer.saved.output} | {layers.content, *layers.style}
    area = size[0] * size[1] / (plan.input[1] * plan.input[2])
    maps = area * sum(prod(layer.output_shape) for layer in used if layer.name in kept)
    pixels = plan.input[0] * size[0] * size[1]
    return int(4 * (sum(layer.params for layer in plan.layers) + 2 * maps + (2 * _HISTORY + 4) * pixels))
