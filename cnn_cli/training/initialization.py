"""The setting `init`: the initialization of convolutions, in place of PyTorch's random weights; biases start at 0.

`prior` is for the scores of a detector: the weights are PyTorch's, and the bias is such that every score is 0.01, so
that the many cells without an object do not dominate the first steps (Lin et al., "Focal loss", 2017).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_cli.errors import UsageError
from cnn_cli.language.freezing import is_frozen
from cnn_cli.tasks.base import sum_type

IMAGES = 5000  # training images from whose patches the whitening is computed
_PRIOR = 0.01
_EPS = 5e-4  # added to the variance in each direction, which limits the scaling of those that hardly vary


class _Reached(Exception):
    """The input of a layer is known, and the rest of the forward pass is not needed."""


@torch.no_grad()
def initialize(network: nn.Module, init: Mapping[str, str], batches: Callable[[], Iterable[Tensor]]) -> None:
    """Set the weights of the convolutions whose names match the globs, in place; the first glob that matches counts.

    batches: returns training images (b, C, H, W) in [0, 1], for whitening. UsageError for a glob that matches no
    convolution, and for a convolution to which a method cannot be applied.
    """
    convolutions = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d)}
    chosen = {n: next((glob for glob in init if is_frozen(n, [glob])), None) for n in convolutions}
    for glob in init:
        if glob not in chosen.values():
            names = ", ".join(convolutions)
            raise UsageError(f"init: {glob!r} matches none of the remaining convolutions ({names[:200] or 'none'})")
    for name, layer in convolutions.items():
        if (pattern := chosen[name]) is None:
            continue
        if init[pattern] == "prior":
            if layer.bias is None:
                raise UsageError(f"init: prior needs a convolution with a bias, and layer {name} has none")
            layer.bias.fill_(-math.log(1 / _PRIOR - 1))
            continue
        weight = _whitening(network, name, batches) if init[pattern] == "whitening" else _identity(name, layer)
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.zero_()


def _identity(name: str, layer: nn.Conv1d | nn.Conv2d) -> Tensor:
    """The first outputs are the inputs (torch.nn.init.dirac_); further ones keep PyTorch's weights."""
    if layer.groups > 1:
        raise UsageError(f"init: dirac needs a convolution without groups, but layer {name} has {layer.groups}")
    weight = layer.weight.clone()
    nn.init.dirac_(weight[: layer.in_channels])
    return weight


def _whitening(network: nn.Module, name: str, batches: Callable[[], Iterable[Tensor]]) -> Tensor:
    """The principal components of the layer's input patches, each divided by its standard deviation; and their
    negatives.

    So the outputs are uncorrelated and of equal variance (Page, "How to train your ResNet", 2018), and due to the
    negatives no information is lost in a ReLU.
    """
    layer = network.get_submodule(name)
    if not isinstance(layer, nn.Conv2d) or layer.groups > 1:
        raise UsageError(f"init: whitening needs a Conv2d without groups, but layer {name} is not one")
    half, size = layer.out_channels // 2, layer.weight[0].numel()
    if layer.out_channels % 2 or half > size:
        raise UsageError(
            f"init: whitening needs an even number of at most {2 * size} out_channels (two for each value of a patch), "
            f"but layer {name} has {layer.out_channels}"
        )
    kind = sum_type(layer.weight.device)
    moments, count = torch.zeros(size, size, dtype=kind, device=layer.weight.device), 0
    for x in _inputs(network, layer, batches()):
        patches = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2).flatten(0, 1)
        patches = patches.to(kind)
        moments += patches.T @ patches
        count += len(patches)
    moments = moments.cpu().double() / count
    variances, directions = torch.linalg.eigh(moments)  # in ascending order, a direction in each column
    kernels = (directions / (variances + _EPS).sqrt()).T.flip(0)[:half].reshape(half, *layer.weight.shape[1:])
    return torch.cat([kernels, -kernels])


def _inputs(network: nn.Module, layer: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The input of a layer for each batch."""

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise _Reached(args[0])

    training = network.training
    network.eval()
    hook = layer.register_forward_pre_hook(stop)
    for x in batches:
        try:
            network(x)
        except _Reached as reached:
            yield reached.args[0]
    hook.remove()
    network.train(training)
