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
    """Context manager with a dictionary of the layers' outputs (N, …), filled when the network runs inside it.

    Outputs are detached copies; with `grad` they are part of the graph and retain their gradients. The next layer gets
    a copy, so that in-place layers do not change the captured outputs.
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
    """The output of each layer, part of the graph of `x`; the forward pass stops after the last of these layers.

    So images of any size work that the layers up to there accept.
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
    """Context manager: evaluation mode, without gradients of the parameters. On exit the network's state is restored.

    That is training mode, requires_grad and buffers. Gradients with respect to the pixels are still computed.
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
    """The names of layers with feature maps (C, H, W), in order of computation.

    Layers of auxiliary outputs are left out: they do not run in evaluation.
    """
    modules = dict(network.named_modules())
    return [a.name for a in plan.layers if a.name in modules and len(a.output_shape) == 3 and runs(plan, a.name)]


def runs(plan: Plan, layer: str) -> bool:
    """Whether a layer runs in evaluation; layers of auxiliary outputs run only in training."""
    return layer.partition(".")[0] not in plan.only_in_training


def trunk(plan: Plan) -> list[Layer]:
    """The layers with spatial feature maps that every path from input to output passes through, in order.

    They are the dominators of the last layer in the plan's graph, so no shortcuts or branches.
    """
    dominators: dict[str, frozenset[str]] = {"input": frozenset()}
    for layer in plan.layers:
        before = [dominators[_source(name, dominators)] for name in layer.reads if _source(name, dominators)]
        if before:  # a bare parameter has no input, so no path from the image passes through it
            dominators[layer.name] = frozenset.intersection(*before) | {layer.name}
    through = dominators.get(plan.last.name, frozenset()) if plan.last else frozenset()
    return [a for a in plan.layers if a.name in through and len(a.output_shape) == 3 and max(a.output_shape[1:]) > 1]


def _source(name: str, known: Container[str]) -> str:
    """The row that computes a value: for a piece `chunk.1` that is `chunk`; None for a bare parameter."""
    return next((n for n in (name, name.rpartition(".")[0]) if n in known), "")


def choose_layer(loaded: LoadedNetwork, network: nn.Module, name: str | None = None) -> str:
    """The layer `name`; by default the last spatial feature map of the trunk, which is the one before global pooling or
    flattening or, in a dense network, before the scores. UsageError suggests the nearest name and lists the layers.
    """
    names, plan = layer_names(network, loaded.plan), loaded.plan
    if name is None:
        before = [a for a in trunk(plan) if a.name in names]
        while before and len(plan.output) == 3 and before[-1].output_shape[0] == plan.output[0]:
            before.pop()  # the scores of each pixel, which are explained
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
