"""Feature visualization by gradient ascent: inputs that maximize a class score or a channel.

One loop combines an objective, a parametrization of the image (pixels or Fourier coefficients), and random transforms
that the objective must be robust to, as in Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017. Without
transforms and penalties the result is high-frequency noise, similar to an adversarial example.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError, closest, listed
from cnn_cli.interpret.activations import Reached, runs, untouched
from cnn_cli.interpret.scores import Scores
from cnn_cli.language.plan import Layer
from cnn_cli.tables import counted
from cnn_cli.values import parse_numbers

TRANSFORMS, PARAMETRIZATIONS = ("jitter", "scale", "rotate", "blur"), ("fourier", "pixels")

Objective = Callable[[Tensor], Tensor]  # (N, C, H, W) pixels → (N, K): the value of every unit for every image

_RATE = 0.05  # learning rate of Adam, whose steps do not depend on the scale of the objective
_SMOOTH, _PLAIN = 1.5, 1.0  # penalty weights, relative to the objective: chosen by eye on MNIST
_SHIFT, _ZOOM, _TURN, _BLUR = (
    0.07,
    0.1,
    10.0,
    1.0,
)  # at most: fraction of the side, factor, degrees, px (standard deviation)
_BATCH_PIXELS = 1 << 18

# The square root of the RGB covariance of ImageNet (from lucid, Apache-2.0), with a largest column norm of 1:
# steps of equal length then change natural colors equally.
_COLORS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


@dataclass(frozen=True)
class Ascent:
    """Settings of the ascent. UsageError for invalid ones."""

    parametrization: str = "fourier"
    transforms: tuple[str, ...] = TRANSFORMS
    steps: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.parametrization not in PARAMETRIZATIONS:
            known = " or ".join(PARAMETRIZATIONS)
            raise UsageError(f"--parametrization must be {known}, not {self.parametrization!r}")
        for name in self.transforms:
            if name not in TRANSFORMS:
                known = f"{', '.join(TRANSFORMS)}; or none"
                raise UsageError(f"--transforms: no {name!r}.{closest(name, TRANSFORMS)} Transforms: {known}")
        if self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")

    @property
    def title(self) -> str:
        """`256 steps of gradient ascent, Fourier parametrization; transforms jitter, blur; seed 0`."""
        kind = {"fourier": "Fourier", "pixels": "pixel"}[self.parametrization]
        robust = f"transforms {', '.join(self.transforms)}" if self.transforms else "no transforms"
        return f"{counted(self.steps, 'step')} of gradient ascent, {kind} parametrization; {robust}; seed {self.seed}"


def transforms_of(text: str) -> tuple[str, ...]:
    """`jitter,blur` → the names of the transforms; `none` → ()."""
    return () if text.strip() == "none" else tuple(dict.fromkeys(name.strip() for name in text.split(",")))


@dataclass(frozen=True)
class Canvas:
    """The `shape` (C, H, W) of the images, and the color `background` that penalties pull them towards."""

    shape: tuple[int, int, int]
    background: tuple[float, ...]
    device: torch.device


@dataclass(frozen=True)
class Maximized:
    """(N, C, H, W) pixels in [0, 1], the final value of each unit, and whether its gradient was always zero."""

    pixels: Tensor
    values: tuple[float, ...]
    dead: tuple[bool, ...]


def ascend(
    objective: Objective,
    units: Sequence[int],
    canvas: Canvas,
    ascent: Ascent,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Maximized:
    """Find an image for each unit that maximizes it.

    All units start from the same noise and use the same transforms, both drawn from the seed, so an image does not
    depend on the others. Penalties favor smoothness and the background color. `watch` wraps the steps.
    """
    generator = torch.Generator().manual_seed(ascent.seed)
    parameters, image_of = _parametrized(ascent.parametrization, len(units), canvas, generator)
    optimizer = torch.optim.Adam([parameters], _RATE)
    index = torch.tensor(units, device=canvas.device).unsqueeze(1)
    background = torch.tensor(canvas.background, device=canvas.device).view(1, -1, 1, 1)
    alive = torch.zeros(len(units), dtype=torch.bool, device=canvas.device)
    for _ in watch(range(ascent.steps)):
        x = image_of()
        leaf = x.detach().requires_grad_()
        values = objective(transformed(leaf, ascent.transforms, generator)).gather(1, index).squeeze(1)
        (uphill,) = torch.autograd.grad(values.sum(), leaf)
        penalty = _SMOOTH * variation(leaf) + _PLAIN * (leaf - background).abs().mean((1, 2, 3))
        (downhill,) = torch.autograd.grad((values.detach().abs() * penalty).sum(), leaf)
        alive |= (uphill != 0).flatten(1).any(1)
        optimizer.zero_grad()
        torch.autograd.backward(x, downhill - uphill)
        optimizer.step()
    with torch.no_grad():
        x = image_of()
        values = objective(x).gather(1, index).squeeze(1)
    return Maximized(x, tuple(values.tolist()), tuple((~alive).tolist()))


def maximize(
    scores: Scores,
    objective: Objective,
    units: Sequence[int],
    canvas: Canvas,
    ascent: Ascent,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Maximized:
    """As `ascend`, in batches that need little memory; the network (in `scores`) is not changed."""
    size = max(1, _BATCH_PIXELS // (canvas.shape[1] * canvas.shape[2]))
    with untouched(scores):
        parts = [ascend(objective, units[i : i + size], canvas, ascent, watch) for i in range(0, len(units), size)]
    values, dead = (tuple(v for p in parts for v in getattr(p, name)) for name in ("values", "dead"))
    return Maximized(torch.cat([p.pixels for p in parts]), values, dead)


def channels_of(scores: Scores, layer: Layer) -> Objective:
    """The objective of a layer's channels: the spatial mean of each; for Linear layers the units themselves.

    For a ReLU its input is maximized, which also has a gradient where the output is 0; the optimum is the same. The
    forward pass stops at the layer, so images of any size work that the layers up to there accept.
    """
    module = scores.network.get_submodule(layer.name)

    def objective(x: Tensor) -> Tensor:
        outputs: list[Tensor] = []

        def stop(_: nn.Module, inputs: tuple[Tensor, ...], *output: Tensor) -> None:
            outputs.append(output[0] if output else inputs[0])
            raise Reached

        before = isinstance(module, nn.ReLU | nn.ReLU6)
        hook = module.register_forward_pre_hook if before else module.register_forward_hook
        with hook(stop), suppress(Reached):
            scores.network(x)
        return outputs[0].flatten(2).mean(2) if outputs[0].ndim > 2 else outputs[0]

    return objective


def choose_units(loaded: LoadedNetwork, name: str) -> Layer:
    """The layer with this name, if it has channels or units and runs in evaluation; else UsageError."""
    plan = loaded.plan
    usable = (a for a in plan.layers if len(a.output_shape) in (1, 3) and a.type != "Parameter")
    layers = {a.name: a for a in usable if runs(plan, a.name)}
    if name in layers:
        return layers[name]
    other = next((a for a in plan.layers if a.name == name), None)
    if other and not runs(plan, name):
        reason = f"layer {name} belongs to an auxiliary output, which runs in training only"
    else:
        reason = f"layer {name} ({other.type}) has no channels" if other else f"no layer {name!r}"
    raise UsageError(f"{reason}.{closest(name, layers)} Layers: {listed(list(layers))}")


def channel_numbers(text: str, count: int) -> tuple[int, ...]:
    """`0-3,7` → (0, 1, 2, 3, 7); UsageError for other texts and numbers from `count` up."""
    try:
        chosen = parse_numbers(text)
    except ValueError as error:
        raise UsageError(f"--channels {error}") from None
    if not chosen or max(chosen) >= count:
        raise UsageError(f"--channels {text}: the channels are 0 to {count - 1}")
    return chosen


def variation(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N,): the mean absolute difference of neighbors (total variation per pixel)."""
    vertical, horizontal = (x[..., 1:, :] - x[..., :-1, :]).abs(), (x[..., 1:] - x[..., :-1]).abs()
    return sum((d.mean((1, 2, 3)) for d in (vertical, horizontal) if d.numel()), x.new_zeros(len(x)))


def _parametrized(
    kind: str, count: int, canvas: Canvas, generator: torch.Generator
) -> tuple[Tensor, Callable[[], Tensor]]:
    """The parameters of `count` images that start as the same faint noise, and the function from them to pixels."""
    (channels, height, width), device = canvas.shape, canvas.device
    across = width if kind == "pixels" else width // 2 + 1
    size = (1, channels, height, across) if kind == "pixels" else (1, channels, height, across, 2)
    noise = torch.randn(size, generator=generator) * 0.01
    parameters = noise.to(device).repeat(count, *[1] * (len(size) - 1)).requires_grad_()
    y, x = torch.fft.fftfreq(height).unsqueeze(1), torch.fft.rfftfreq(width)
    # Natural images have amplitude spectra of about 1/f: scaled so, coarse shapes form as fast as fine texture.
    scale = (1 / (x.square() + y.square()).sqrt().clamp_min(1 / max(height, width)) / 4).to(device)
    mix = torch.tensor(_COLORS, device=device)

    def pixels() -> Tensor:
        free = parameters
        if kind == "fourier":
            free = torch.fft.irfft2(torch.view_as_complex(parameters) * scale, s=(height, width), norm="ortho")
        if channels == 3:
            free = torch.einsum("oc,nchw->nohw", mix / mix.norm(dim=0).max(), free)
        return torch.sigmoid(free)

    return parameters, pixels


def transformed(x: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply one small random shift, scale, rotation and blur to all images."""

    def draw(name: str, most: float) -> float:
        return (2 * float(torch.rand((), generator=generator)) - 1) * most if name in names else 0.0

    down, right = 2 * draw("jitter", _SHIFT), 2 * draw("jitter", _SHIFT)  # coordinates of grid_sample go from -1 to 1
    zoom, turn = 1 + draw("scale", _ZOOM), math.radians(draw("rotate", _TURN))
    if {"jitter", "scale", "rotate"} & set(names):
        sine, cosine = zoom * math.sin(turn), zoom * math.cos(turn)
        matrix = torch.tensor([[cosine, -sine, right], [sine, cosine, down]], device=x.device).expand(len(x), 2, 3)
        grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return blurred(x, abs(draw("blur", _BLUR))) if "blur" in names else x


def blurred(x: Tensor, deviation: float) -> Tensor:
    """(N, C, H, W) blurred by a Gaussian of this standard deviation in pixels, with replicate padding."""
    reach = max(1, math.ceil(3 * deviation))
    weights = torch.exp(-torch.arange(-reach, reach + 1, device=x.device).square() / (2 * max(deviation, 1e-3) ** 2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, -1)
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = F.conv2d(x, weights.unsqueeze(2), groups=x.shape[1])
    return F.conv2d(x, weights.unsqueeze(3), groups=x.shape[1])
