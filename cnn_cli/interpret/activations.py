"""Activations of layers, captured by forward hooks inside a `with`; and the choice of a layer."""

from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError, closest, listed
from cnn_cli.language.plan import Layer, Plan


@contextmanager
def captured(network: nn.Module, layers: Sequence[str], grad: bool = False) -> Iterator[dict[str, Tensor]]:
    """A dictionary of each layer's output (N, …), filled when the network runs inside the `with`.

    Outputs are detached copies; with `grad` they are the graph's own tensors, and keep their gradient after a backward
    pass. The next layer gets a copy, so that an in-place layer does not change what was captured.
    """
    caught: dict[str, Tensor] = {}

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

    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(network.get_submodule(name).register_forward_hook(catch(name)))
        yield caught


class Reached(Exception):
    """Raised by a hook to end the forward pass at a layer."""


def feature_maps_until(network: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """The output of each layer, part of the graph of `x`; the forward pass ends where the last of them is computed.

    So images of other sizes than the network's work, as far as the layers before accept them.
    """
    waiting = set(layers)

    def stop(name: str) -> Any:
        def hook(*_: object) -> None:
            waiting.discard(name)
            if not waiting:
                raise Reached

        return hook

    with captured(network, layers, grad=True) as caught, ExitStack() as hooks, suppress(Reached):
        for name in layers:
            hooks.enter_context(network.get_submodule(name).register_forward_hook(stop(name)))
        network(x)
    return caught


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
    """The layers with feature maps (C, H, W), by their paths, in the order of computation.

    Layers of auxiliary outputs are left out: they do not run in evaluation.
    """
    modules = dict(network.named_modules())
    return [a.name for a in plan.layers if a.name in modules and len(a.output_shape) == 3 and runs(plan, a.name)]


def runs(plan: Plan, layer: str) -> bool:
    """Whether a layer runs in evaluation; those of auxiliary outputs run in training only."""
    return layer.partition(".")[0] not in plan.only_in_training


def trunk(plan: Plan) -> list[Layer]:
    """The layers with spatial feature maps that every path from the input to the output passes through, in order.

    They are the dominators of the last layer in the graph of the plan: a shortcut or a branch is none of them.
    """
    dominators: dict[str, frozenset[str]] = {"input": frozenset()}
    for layer in plan.layers:
        before = [dominators[_source(name, dominators)] for name in layer.reads if _source(name, dominators)]
        if before:  # a bare parameter takes nothing, and no path of the image leads through it
            dominators[layer.name] = frozenset.intersection(*before) | {layer.name}
    through = dominators.get(plan.last.name, frozenset()) if plan.last else frozenset()
    return [a for a in plan.layers if a.name in through and len(a.output_shape) == 3 and max(a.output_shape[1:]) > 1]


def _source(name: str, known: Container[str]) -> str:
    """The row that makes a value: of a piece `chunk.1` that is `chunk`; nothing for a bare parameter."""
    return next((n for n in (name, name.rpartition(".")[0]) if n in known), "")


def choose_layer(loaded: LoadedNetwork, network: nn.Module, name: str | None = None) -> str:
    """The chosen layer: `name`, or the last spatial feature map of the trunk, which is the one before global pooling or
    flattening or, of a dense network, before its scores. UsageError suggests the nearest name and lists the layers.
    """
    names, plan = layer_names(network, loaded.plan), loaded.plan
    if name is None:
        before = [a for a in trunk(plan) if a.name in names]
        while before and len(plan.output) == 3 and before[-1].output_shape[0] == plan.output[0]:
            before.pop()  # scores of each pixel, which are what is explained
        if before:
            return before[-1].name
        hint = f"; choose another with --layer: {listed(names)}" if names else ", so there is nothing to show"
        raise UsageError(f"{plan.network} has no spatial feature map that every path passes through{hint}")
    if name in names:
        return name
    shape = next((layer.output_shape for layer in plan.layers if layer.name == name), None)
    if shape is None:
        reason = f"no layer {name!r}"
    elif not runs(plan, name):
        reason = f"layer {name} belongs to an auxiliary output, which runs in training only"
    else:
        reason = f"layer {name} outputs {'x'.join(map(str, shape)) or 'one number'}, not feature maps"
    raise UsageError(f"{reason}.{closest(name, names)} Layers with feature maps: {listed(names)}")
