"""What layers put out: caught by hooks that live inside a `with`, so that none is left behind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError, closest, listed
from cnn_cli.language.plan import Plan

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@contextmanager
def captured(network: nn.Module, layers: Sequence[str], grad: bool = False) -> Iterator[dict[str, Tensor]]:
    """A dictionary that fills with each layer's output (N, …) as the network runs inside the `with`.

    Outputs are detached copies; with `grad` they are the graph's own tensors, and keep their gradient after a backward
    pass. What comes after a layer works on a copy, so that a layer in place does not change what was caught.
    """
    caught: dict[str, Tensor] = {}
    modules, handles = dict(network.named_modules()), []

    def catch(name: str) -> Any:
        def hook(_: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
            if not grad:
                caught[name] = output.detach().clone()
                return None
            if output.requires_grad and not output.is_leaf:
                output.retain_grad()
            caught[name] = output
            return output.clone()

        return hook

    try:
        for name in layers:
            handles.append(modules[name].register_forward_hook(catch(name)))
        yield caught
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Evaluation inside the `with`, without gradients of the parameters; afterwards the network is as it was.

    Training mode, requires_grad and buffers come back. Gradients with respect to the pixels work all the same.
    """
    modes = [(m, m.training) for m in network.modules()]
    parameters = [(p, p.requires_grad) for p in network.parameters()]
    buffers = [(b, b.detach().clone()) for b in network.buffers()]
    try:
        network.eval().requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, required in parameters:
            parameter.requires_grad_(required)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def layer_names(network: nn.Module, plan: Plan) -> list[str]:
    """The layers that put out maps (C, H, W), by their paths, in the order of computation."""
    modules = dict(network.named_modules())
    return [layer.name for layer in plan.layers if layer.name in modules and len(layer.output_shape) == 3]


def choose_layer(loaded: LoadedNetwork, network: nn.Module, name: str | None = None) -> str:
    """The layer that is meant: `name`, or the last convolution. UsageError names the nearest and those there are."""
    modules, names = dict(network.named_modules()), layer_names(network, loaded.plan)
    if name is None:
        if found := [n for n in names if isinstance(modules[n], _CONVOLUTIONS)]:
            return found[-1]
        raise UsageError(
            f"{loaded.plan.network} has no convolution; name another layer with --layer: {listed(names)}"
            if names
            else f"{loaded.plan.network} has no layer that puts out maps, so there is nothing to show"
        )
    if name in names:
        return name
    shape = next((layer.output_shape for layer in loaded.plan.layers if layer.name == name), None)
    if shape is not None:
        what = f"layer {name} puts out {'x'.join(map(str, shape)) or 'one number'}, no maps"
    else:
        what = f"no layer {name!r}"
    raise UsageError(f"{what}.{closest(name, names)} Its layers with maps: {listed(names)}")
