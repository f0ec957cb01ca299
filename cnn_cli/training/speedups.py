"""Speedups that do not change what a step computes. Each has a name in the setting `fast`.

keep-memory       glibc keeps the memory of freed activations (device.keep_freed_memory). The same bits.
pool-before-relu  max-pooling before the ReLU that it follows: equal values and gradients, a fourth of the work. The
                  same bits.
crop-unused       rows and columns of the image on which no output depends are left out. Equal but for rounding.
channels-last     images and convolutions with the channels innermost, for which the kernels are faster. Equal but for
                  rounding.
fused-optimizer   one kernel for the whole optimizer step; Muon in float32 on CPUs that are slow at bfloat16. Equal but
                  for rounding.
cuda-graph        a step is recorded and replayed, so that a GPU does not wait for the host (cuda_graph.py). The same
                  bits as without it. Not with streamed images, several processes, mixup or CutMix.
max-pool-kernel   max-pooling without overlap by a kernel of its own (network/max_pooling.py). The same bits.
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

# Layers through which a crop at the lower right moves on: every value depends on its own window alone.
_WINDOWS = {"Conv2d", "MaxPool2d", "AvgPool2d"}


def chosen(fast: str | tuple[str, ...], device: torch.device) -> tuple[str, ...]:
    """The speedups that `auto` stands for on this device: those that pay off there. Others as they are.

    UsageError for a speedup of another device, or one that needs Triton, which PyTorch brings along for GPUs.
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
    """fp32 or bf16: what `auto` stands for on this device."""
    return precision if precision != "auto" else "bf16" if fast_bf16(device) else "fp32"


def computing(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of forward passes: PyTorch's automatic mixed precision for bf16."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def prepare(network: nn.Module, fast: tuple[str, ...]) -> nn.Module:
    """The module itself, its state_dict() unchanged, with the layout and the order of layers that `fast` names."""
    if "pool-before-relu" in fast:
        for module in network.modules():
            _pool_first(module)
    if "max-pool-kernel" in fast and importlib.util.find_spec("triton"):  # evaluation may be on another machine
        from cnn_cli.network.max_pooling import use_kernels

        use_kernels(network)
    return network.to(memory_format=torch.channels_last) if "channels-last" in fast else network


def _pool_first(module: nn.Module) -> None:
    """Let ReLU and the MaxPool2d right after it change places; neither has parameters, so that no name changes."""
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
    """The memory format of images, and the part of them that the network uses: all of it where the output is a map."""
    used = used_size(plan) if "crop-unused" in fast and len(plan.output) == 1 else plan.input[1:]
    return InputLayout(None if used == plan.input[1:] else (used[0], used[1]), "channels-last" in fast)


def used_size(plan: Plan) -> tuple[int, int]:
    """(height, width): the upper left part of the image on which alone the outputs depend.

    Told from the chain of windows without padding that the network begins with; of what comes out of it, everything
    counts as used.
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
    """Whether nothing else takes what this layer takes: a branch may look at what the chain leaves out."""
    return sum(layer.takes[0] in other.takes for other in plan.layers) == 1


def _is_window(layer: Layer) -> bool:
    s = layer.settings
    return layer.type in _WINDOWS and _pair(s["padding"]) == (0, 0) and not s.get("ceil_mode", False)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, tuple | list) else (-1, -1)
