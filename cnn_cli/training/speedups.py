"""Speedups that do not change what a step computes. Each has a name in the setting `fast`.

keep-memory       glibc keeps the memory of freed activations (device.keep_freed_memory). Bitwise equal.
pool-before-relu  max pooling before the ReLU that it follows, for a quarter of the work. Bitwise equal.
crop-unused       rows and columns of the image on which no output depends are left out. Equal up to rounding.
channels-last     images and convolutions in channels_last, which has faster kernels. Equal up to rounding.
fused-optimizer   one kernel for the whole optimizer step; Muon in float32 on CPUs that are slow at bfloat16. Equal up
                  to rounding.
cuda-graph        a step is recorded and replayed, so that a GPU does not wait for the host (cuda_graph.py). Bitwise
                  equal. Not with streamed images, several processes, mixup or CutMix.
max-pool-kernel   a Triton kernel for max pooling without overlap (network/max_pooling.py). Bitwise equal.
"""

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from cnn_cli.data.batches import InputLayout
from cnn_cli.device import fast_bf16
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.network.modules import Graph, chains
from cnn_cli.setting_kinds import FAST

_ONLY = {"keep-memory": "cpu", "cuda-graph": "cuda", "max-pool-kernel": "cuda"}  # the device that a speedup is for
_PAYS = {device: tuple(n for n in FAST if _ONLY.get(n, device) == device) for device in ("cpu", "cuda")}

# Layers whose input can be cropped at the lower right, since every value depends only on its own window.
_WINDOWS = {"Conv2d", "MaxPool2d", "AvgPool2d"}


def chosen(fast: str | tuple[str, ...], device: torch.device) -> tuple[str, ...]:
    """The given speedups, or for `auto` those that pay off on this device.

    UsageError for a speedup of another device, or one that needs Triton, which comes with PyTorch for GPUs.
    """
    triton = importlib.util.find_spec("triton") is not None
    if fast == "auto":
        return tuple(name for name in _PAYS.get(device.type, ()) if triton or name != "max-pool-kernel")
    if "max-pool-kernel" in fast and not triton:
        raise UsageError("--fast max-pool-kernel needs Triton, which is not installed; leave it out")
    for name in fast:
        if _ONLY.get(name, device.type) != device.type:
            raise UsageError(f"--fast {name} is for {_ONLY[name]} only, but the device is {device.type}; leave it out")
    return tuple(fast)


def chosen_precision(precision: str, device: torch.device) -> str:
    """fp32 or bf16; `auto` is replaced by its value for this device."""
    return precision if precision != "auto" else "bf16" if fast_bf16(device) else "fp32"


def computing(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of forward passes: PyTorch's automatic mixed precision for bf16."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def prepare(network: nn.Module, fast: tuple[str, ...]) -> nn.Module:
    """The module itself, with the speedups in `fast` that change its memory format or layers; state_dict() keeps its
    names."""
    if "pool-before-relu" in fast:
        for module in network.modules():
            _pool_first(module)
    if "max-pool-kernel" in fast and importlib.util.find_spec("triton"):  # evaluation may be on another machine
        from cnn_cli.network.max_pooling import use_kernels

        use_kernels(network)
    return network.to(memory_format=torch.channels_last) if "channels-last" in fast else network


def _pool_first(module: nn.Module) -> None:
    """Swap ReLU and the MaxPool2d right after it; neither has parameters, so that no name in state_dict() changes."""
    if isinstance(module, nn.Sequential):
        pairs = list(zip(module._modules, list(module._modules)[1:], strict=False))
    elif isinstance(module, Graph):
        pairs = chains(module)
    else:
        return
    for first, second in pairs:
        relu, pool = module._modules[first], module._modules[second]
        if type(relu) is nn.ReLU and type(pool) is nn.MaxPool2d:
            module._modules[first], module._modules[second] = pool, relu


def layout(plan: Plan, fast: tuple[str, ...]) -> InputLayout:
    """The memory format of images, and the part of them that the network uses: all of it if the output is a map."""
    used = used_size(plan) if "crop-unused" in fast and len(plan.output) == 1 else plan.input[1:]
    return InputLayout(None if used == plan.input[1:] else (used[0], used[1]), "channels-last" in fast)


def used_size(plan: Plan) -> tuple[int, int]:
    """(height, width): the upper left part of the image on which the outputs depend.

    Computed from the chain of unpadded windows with which the network begins; the output of that chain is assumed to be
    used completely.
    """
    chain: list[Layer] = []
    for layer in plan.layers:
        alone = layer.takes == ((chain[-1].name if chain else "input"),) and _taken_once(plan, layer)
        if not alone or not (layer.rule.elementwise or _is_window(layer)):
            break
        chain.append(layer)
    if not chain:
        return plan.input[1], plan.input[2]
    needed = list(chain[-1].output_shape[1:])
    for layer in reversed(chain):
        if layer.type in _WINDOWS:
            s = layer.settings
            dilation = s.get("dilation", (1, 1))
            needed = [
                (n - 1) * _pair(s["stride"] or s["kernel_size"])[i]
                + _pair(dilation)[i] * (_pair(s["kernel_size"])[i] - 1)
                + 1
                for i, n in enumerate(needed)
            ]
    return needed[0], needed[1]


def _taken_once(plan: Plan, layer: Layer) -> bool:
    """Whether no other layer has the input of this one: a branch may use what the chain leaves out."""
    return sum(layer.takes[0] in other.takes for other in plan.layers) == 1


def _is_window(layer: Layer) -> bool:
    s = layer.settings
    return layer.type in _WINDOWS and _pair(s["padding"]) == (0, 0) and not s.get("ceil_mode", False)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, tuple | list) else (-1, -1)
