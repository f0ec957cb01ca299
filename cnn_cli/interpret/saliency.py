"""Saliency maps: pixels that drive a class score. Six methods, computed by captum on the scores before any softmax.

Every map is (N, H, W), signed: positive where the image raises the class score (for gradients: where a brighter pixel
would), negative where it lowers the score. Channels are summed.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.errors import UsageError, closest, enumerated
from cnn_cli.interpret.activations import captured, runs, untouched
from cnn_cli.interpret.scores import Scores

NOISE, SAMPLES = (
    0.15,
    32,
)  # SmoothGrad: standard deviation of the noise, as in its paper; number of copies
STEPS = 50  # steps of integrated gradients
_CHUNK = 64  # batch size inside captum


@dataclass(frozen=True)
class Query:
    """`pixels` (N, C, H, W) in [0, 1], the class (N,) to explain for each image, Grad-CAM's layer, SmoothGrad's seed.

    `regions` (N, H, W) bool: for a dense network, the pixels whose scores are explained.
    """

    pixels: Tensor
    classes: Tensor
    layer: str | None = None
    seed: int = 0
    regions: Tensor | None = None

    def region(self, index: int) -> Tensor | None:
        return None if self.regions is None else self.regions[index]

    @property
    def parts(self) -> "list[Query]":
        """The batches: all images at once, or one by one if each has its own region."""
        if self.regions is None:
            return [replace(self, pixels=self.pixels.detach().clone())]
        slices = [slice(i, i + 1) for i in range(len(self.pixels))]
        return [
            replace(self, pixels=self.pixels[s].detach().clone(), classes=self.classes[s], regions=self.regions[s])
            for s in slices
        ]


@dataclass(frozen=True)
class Method:
    """A method: its title and the function that computes its maps.

    `attributes`: a map attributes the score to pixels, so its largest values are the most important; else it is a
    sensitivity, and its largest absolute values are.
    """

    title: str
    compute: Callable[[Scores, Query], Tensor]
    attributes: bool = True

    def importance(self, map: Tensor) -> Tensor:
        """The importance of each pixel."""
        return map if self.attributes else map.abs()


def attribute(scores: Scores, method: str, query: Query) -> Tensor:
    """The map of a method, (N, H, W); the network is not changed.

    UsageError if captum is missing, for an unknown method, for guided backpropagation without ReLU layers, and for
    Grad-CAM without a layer.
    """
    check_method(method)
    need_captum()
    maps = []
    with untouched(scores), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")  # about its hooks, which it removes
        for part in query.parts:
            with scores.over(part.region(0)):
                maps.append(METHODS[method].compute(scores, part).detach())
    return torch.cat(maps)


def check_method(method: str) -> None:
    """UsageError for a method that does not exist."""
    if method not in METHODS:
        raise UsageError(f"no method {method!r}.{closest(method, METHODS)} Methods: {', '.join(METHODS)}")


def need_captum() -> None:
    """UsageError with the command that installs captum, if it is missing."""
    try:
        import captum.attr  # noqa: F401
    except ImportError:
        raise UsageError("this needs captum, which is not installed: pip install 'cnn-cli[explain]'") from None


def refusal(scores: nn.Module, method: str, layer: str | None) -> str:
    """Why a method cannot be used with this network; empty if it can."""
    if method == "guided-backprop" and not _relus(scores):
        return "guided backpropagation changes the gradients of ReLU layers, but the network has none"
    if method == "grad-cam" and layer is None:
        return "Grad-CAM needs a layer with spatial feature maps, but the network has none"
    return ""


def remark(scores: Scores, method: str) -> str:
    """A caveat about a method on this network; empty if there is none."""
    if method != "guided-backprop":
        return ""
    rows = [a for a in scores.plan.layers if a.name != scores.final and a.rule.elementwise]
    others = sorted({a.type for a in rows if a.type != "ReLU" and "view" not in a.rule.traits})
    verb = "passes" if len(others) == 1 else "pass"
    return f"guided backpropagation affects ReLU only; {enumerated(others)} {verb} plain gradients" if others else ""


def _relus(scores: nn.Module) -> bool:
    return any(isinstance(m, nn.ReLU) for m in scores.modules())


def _gradient(scores: Scores, query: Query) -> Tensor:
    from captum.attr import Saliency

    return _flat(Saliency(scores).attribute(query.pixels, query.classes, abs=False))


def _smoothgrad(scores: Scores, query: Query) -> Tensor:
    """The mean gradient over noisy copies. captum draws the noise from the global generator, which is restored."""
    from captum.attr import NoiseTunnel, Saliency

    with torch.random.fork_rng():
        torch.manual_seed(query.seed)
        return _flat(
            NoiseTunnel(Saliency(scores)).attribute(
                query.pixels,
                nt_type="smoothgrad",
                nt_samples=SAMPLES,
                nt_samples_batch_size=max(1, _CHUNK // len(query.pixels)),
                stdevs=NOISE,
                target=query.classes,
                abs=False,
            )
        )


def _integrated(scores: Scores, query: Query) -> Tensor:
    from captum.attr import IntegratedGradients

    attributions = IntegratedGradients(scores).attribute(
        query.pixels,
        baselines=0,
        target=query.classes,
        n_steps=STEPS,
        internal_batch_size=max(_CHUNK, len(query.pixels)),
    )
    return _flat(attributions)


def _guided(scores: Scores, query: Query) -> Tensor:
    """Guided backpropagation. captum only changes ReLU modules; without any it would silently return the gradient."""
    from captum.attr import GuidedBackprop

    if not _relus(scores):
        raise UsageError(refusal(scores, "guided-backprop", None))
    return _flat(GuidedBackprop(scores).attribute(query.pixels, query.classes))


def _grad_cam(scores: Scores, query: Query) -> Tensor:
    """Grad-CAM as in the paper: the layer's maps, weighted by their mean gradients, then a ReLU."""
    from captum.attr import LayerGradCam

    if query.layer is None:
        raise UsageError(refusal(scores, "grad-cam", None))
    layer = scores.network.get_submodule(query.layer)
    small = LayerGradCam(scores, layer).attribute(query.pixels, query.classes, relu_attributions=True)
    size = list(query.pixels.shape[-2:])
    large: Tensor = nn.functional.interpolate(small, size=size, mode="bilinear", align_corners=False)
    return large.squeeze(1)


def _occlusion(scores: Scores, query: Query) -> Tensor:
    """Drop of the score when a square, a seventh of the side, gets the image's mean color; stride of half a square."""
    from captum.attr import Occlusion

    channels, height, width = query.pixels.shape[1:]
    square = (max(1, -(-height // 7)), max(1, -(-width // 7)))
    drops = Occlusion(scores).attribute(
        query.pixels,
        sliding_window_shapes=(channels, *square),
        strides=(channels, max(1, square[0] // 2), max(1, square[1] // 2)),
        baselines=query.pixels.mean((2, 3), keepdim=True).expand_as(query.pixels),
        target=query.classes,
        perturbations_per_eval=max(1, _CHUNK // len(query.pixels)),
    )
    mean: Tensor = drops.mean(1)  # equal in all channels
    return mean


def _flat(attributions: Any) -> Tensor:
    """(N, C, H, W) → (N, H, W)."""
    total: Tensor = attributions.sum(1)
    return total


METHODS: dict[str, Method] = {
    "gradient": Method("gradient", _gradient, False),
    "smoothgrad": Method("SmoothGrad", _smoothgrad, False),
    "integrated-gradients": Method("integrated gradients", _integrated),
    "guided-backprop": Method("guided backprop", _guided, False),
    "grad-cam": Method("Grad-CAM", _grad_cam),
    "occlusion": Method("occlusion", _occlusion),
}


def why_flat(scores: Scores, method: str, query: Query, index: int) -> str:
    """Why the map of image `index` is 0 everywhere: the first dead or saturated layer, or another reason."""
    layers = {a.name: a for a in scores.plan.layers if runs(scores.plan, a.name) and (a.rule.elementwise or a.params)}
    names = [name for name, _ in scores.network.named_modules() if name in layers]
    with untouched(scores), torch.no_grad(), captured(scores.network, names) as outputs:
        scores(query.pixels[index : index + 1])
    for name, output in outputs.items():  # in the order of computation
        layer = layers[name]
        if not output.any():
            return f"layer {name} ({layer.type}) is dead: it outputs only zeros for this image"
        if bounds := layer.rule.bounds(layer.settings):
            near = torch.stack([(output - bound).abs() < 1e-6 for bound in bounds])
            if near.any(0).all():
                return f"layer {name} ({layer.type}) is saturated for this image, so no gradient passes"
    if method == "grad-cam":
        return f"no feature map of layer {query.layer} raises the class score, and Grad-CAM omits those that lower it"
    return "the class score does not change with the image, as far as this method can tell"
