"""Which pixels a class score hangs on: six methods, computed by captum, on the scores before any softmax.

Every map is (N, H, W), signed: above 0 where the image speaks for the class (for the gradients: where a brighter pixel
would raise its score), below 0 where against it. Channels are added up.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.errors import UsageError, closest
from cnn_cli.interpret.capture import captured, untouched
from cnn_cli.interpret.scores import Scores

NOISE, SAMPLES = 0.15, 32  # SmoothGrad: deviation in units of pixels, as in its paper; images averaged
STEPS = 50  # of the path of integrated gradients
_CHUNK = 64  # images at a time inside captum


@dataclass(frozen=True)
class Question:
    """What is asked: `pixels` (N, C, H, W) in [0, 1], the class (N,) of each, Grad-CAM's layer, SmoothGrad's seed."""

    pixels: Tensor
    classes: Tensor
    layer: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """A way to make a map: its title, what to say about it, and the function.

    `shares`: a map divides the score among the pixels, so its largest values matter most; else it is a sensitivity,
    and its largest absolute values do.
    """

    title: str
    about: str
    of: Callable[[Scores, Question], Tensor]
    shares: bool = True

    def importance(self, map: Tensor) -> Tensor:
        """The map as an order of the pixels: those first that matter most."""
        return map if self.shares else map.abs()


def attribute(scores: Scores, method: str, asked: Question) -> Tensor:
    """The map of a method, (N, H, W); the network is left as it was.

    UsageError where captum is missing, for an unknown method, for guided backpropagation without ReLU layers, and for
    Grad-CAM without a layer.
    """
    check_method(method)
    need_captum()
    clone = Question(asked.pixels.detach().clone(), asked.classes, asked.layer, asked.seed)
    with untouched(scores), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")  # on hooks, which it removes
        return METHODS[method].of(scores, clone).detach()


def check_method(method: str) -> None:
    """UsageError for a method that does not exist."""
    if method not in METHODS:
        raise UsageError(f"no method {method!r}.{closest(method, METHODS)} There are {', '.join(METHODS)}")


def need_captum() -> None:
    """UsageError with the line that installs captum where it is missing."""
    try:
        import captum.attr  # noqa: F401
    except ImportError:
        raise UsageError("this needs captum, which is not installed: pip install 'cnn-cli[explain]'") from None


def refusal(scores: nn.Module, method: str, layer: str | None) -> str:
    """Why a method would not do for this network, or nothing."""
    if method == "guided-backprop" and not _relus(scores):
        return "guided backpropagation changes how ReLU layers pass gradients, and the network has none"
    if method == "grad-cam" and layer is None:
        return "Grad-CAM needs a layer with maps, and the network has no convolution; name one with --layer"
    return ""


def remark(scores: nn.Module, method: str) -> str:
    """What a reader must know about a method on this network, or nothing."""
    if method != "guided-backprop":
        return ""
    others = {type(m).__name__ for m in scores.modules() if isinstance(m, _UNGUIDED) and not isinstance(m, nn.ReLU)}
    return (
        f"guided backpropagation guides ReLU only; plain gradients pass {', '.join(sorted(others))}" if others else ""
    )


_UNGUIDED = (nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.Mish)


def _relus(scores: nn.Module) -> bool:
    return any(isinstance(m, nn.ReLU) for m in scores.modules())


def _gradient(scores: Scores, asked: Question) -> Tensor:
    from captum.attr import Saliency

    return _flat(Saliency(scores).attribute(asked.pixels, asked.classes, abs=False))


def _smoothgrad(scores: Scores, asked: Question) -> Tensor:
    """The mean gradient over noisy copies. captum draws the noise from the global generator, which is put back."""
    from captum.attr import NoiseTunnel, Saliency

    with torch.random.fork_rng():
        torch.manual_seed(asked.seed)
        return _flat(
            NoiseTunnel(Saliency(scores)).attribute(
                asked.pixels,
                nt_type="smoothgrad",
                nt_samples=SAMPLES,
                nt_samples_batch_size=max(1, _CHUNK // len(asked.pixels)),
                stdevs=NOISE,
                target=asked.classes,
                abs=False,
            )
        )


def _integrated(scores: Scores, asked: Question) -> Tensor:
    from captum.attr import IntegratedGradients

    found = IntegratedGradients(scores).attribute(
        asked.pixels,
        baselines=0,
        target=asked.classes,
        n_steps=STEPS,
        internal_batch_size=max(_CHUNK, len(asked.pixels)),
    )
    return _flat(found)


def _guided(scores: Scores, asked: Question) -> Tensor:
    """captum only changes ReLU modules; without any it would give the plain gradient and say nothing."""
    from captum.attr import GuidedBackprop

    if not _relus(scores):
        raise UsageError(refusal(scores, "guided-backprop", None))
    return _flat(GuidedBackprop(scores).attribute(asked.pixels, asked.classes))


def _grad_cam(scores: Scores, asked: Question) -> Tensor:
    """The layer's maps, weighted by their mean gradients; what is below 0 is cut off, as in the paper."""
    from captum.attr import LayerGradCam

    if asked.layer is None:
        raise UsageError(refusal(scores, "grad-cam", None))
    layer = scores.network.get_submodule(asked.layer)
    small = LayerGradCam(scores, layer).attribute(asked.pixels, asked.classes, relu_attributions=True)
    size = list(asked.pixels.shape[-2:])
    large: Tensor = nn.functional.interpolate(small, size=size, mode="bilinear", align_corners=False)
    return large.squeeze(1)


def _occlusion(scores: Scores, asked: Question) -> Tensor:
    """How far the score falls when a square of a seventh of the side has the image's mean colour, by half squares."""
    from captum.attr import Occlusion

    channels, height, width = asked.pixels.shape[1:]
    square = (max(1, -(-height // 7)), max(1, -(-width // 7)))
    found = Occlusion(scores).attribute(
        asked.pixels,
        sliding_window_shapes=(channels, *square),
        strides=(channels, max(1, square[0] // 2), max(1, square[1] // 2)),
        baselines=asked.pixels.mean((2, 3), keepdim=True).expand_as(asked.pixels),
        target=asked.classes,
        perturbations_per_eval=max(1, _CHUNK // len(asked.pixels)),
    )
    mean: Tensor = found.mean(1)  # it is the same in every channel
    return mean


def _flat(attributions: Any) -> Tensor:
    """(N, C, H, W) → (N, H, W)."""
    total: Tensor = attributions.sum(1)
    return total


METHODS: dict[str, Method] = {
    "gradient": Method("gradient", "of the score with respect to the pixels", _gradient, False),
    "smoothgrad": Method(
        "SmoothGrad", f"mean gradient over {SAMPLES} copies with noise of {NOISE}", _smoothgrad, False
    ),
    "integrated-gradients": Method("integrated gradients", f"from black, {STEPS} steps", _integrated),
    "guided-backprop": Method("guided backprop", "gradient that only passes ReLUs upward", _guided, False),
    "grad-cam": Method("Grad-CAM", "where the maps that speak for the class are on", _grad_cam),
    "occlusion": Method("occlusion", "fall of the score when a square is covered", _occlusion),
}


_ENDS = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Hardsigmoid": (0.0, 1.0), "Hardtanh": (-1.0, 1.0)}
_SILENT = ("ReLU", "ReLU6", "Conv2d", "ConvTranspose2d", "Linear")


def why_flat(scores: Scores, method: str, asked: Question, index: int) -> str:
    """Why the map of image `index` is 0 everywhere: the first layer that says nothing, or what else is known."""
    kinds = {n: type(m).__name__ for n, m in scores.network.named_modules()}
    names = [n for n, kind in kinds.items() if kind in _ENDS or kind in _SILENT]
    with untouched(scores), torch.no_grad(), captured(scores.network, names) as outputs:
        scores(asked.pixels[index : index + 1])
    for name, output in outputs.items():  # in the order of computation
        if not output.any():
            return f"layer {name} ({kinds[name]}) is dead: it puts out only zeros for this image"
        if ends := _ENDS.get(kinds[name]):
            near = torch.stack([(output - end).abs() < 1e-6 for end in ends])
            if near.any(0).all():
                return f"layer {name} ({kinds[name]}) is saturated for this image, so no gradient passes"
    if method == "grad-cam":
        return f"no map of layer {asked.layer} speaks for the class, and Grad-CAM leaves out what speaks against it"
    return "the score of the class does not change with the image, as far as this method can tell"
