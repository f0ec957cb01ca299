"""`cnn summary --verify`: build and run the network, and compare every number of its rows with PyTorch's count."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnn_cli.analysis.memory import inference
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import sizes
from cnn_cli.network.builder import build_plan

MOST_BYTES, MOST_MACS = 2 * 10**9, 5 * 10**10  # larger networks run on meta tensors, which have shapes but no values
BATCH = 2


@dataclass(frozen=True)
class Verification:
    """How many numbers were compared, on which tensors, and every disagreement in words."""

    compared: int
    tensors: str
    disagreements: tuple[str, ...]

    def text(self) -> str:
        head = f"verified with PyTorch {torch.__version__} on {self.tensors}"
        if not self.disagreements:
            return f"{head}: {self.compared} numbers compared, all agree (parameters, buffers, shapes, MACs)"
        wrong = "; ".join(self.disagreements[:5])
        return f"{head}: {len(self.disagreements)} of {self.compared} numbers disagree: {wrong}"


def verify(plan: Plan) -> Verification:
    """Parameters against sum(numel), shapes against a forward pass, MACs against FlopCounterMode, for each row and in
    total."""
    memory = inference(plan, BATCH)
    real = memory.total < MOST_BYTES and BATCH * plan.macs < MOST_MACS
    with torch.device("cpu" if real else "meta"):
        network = build_plan(plan)
        images = torch.rand(BATCH, *plan.input)
    network.train(bool(plan.outputs))  # auxiliary outputs exist only in training
    shapes, flops = _run(network, images)
    compared, wrong = 0, []
    for layer in plan.layers:
        for quantity, ours, theirs in _numbers(layer, network, shapes, flops):
            compared += 1
            if ours != theirs:
                wrong.append(f"{layer.name} ({layer.type}): {quantity} {_shown(ours)}, PyTorch has {_shown(theirs)}")
    totals = (
        ("parameters", plan.params, sum(p.numel() for p in network.parameters())),
        ("MACs", plan.macs, flops.get("Global", 0)),
    )
    wrong += [f"total: {name} {ours:,}, PyTorch has {theirs:,}" for name, ours, theirs in totals if ours != theirs]
    tensors = "real tensors" if real else "meta tensors (too large to run)"
    return Verification(compared + len(totals), tensors, tuple(wrong))


def _run(network: nn.Module, images: torch.Tensor) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The output shape and the MACs of one image, by the name of the module."""
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                shapes[name] = tuple(first.shape[1:])

        return hook

    # Gradients stay on: without them, fused kernels would be counted as 0.
    with ExitStack() as hooks, FlopCounterMode(display=False) as counter:
        for name, module in network.named_modules():
            hooks.enter_context(module.register_forward_hook(record(name)))
        network(images)
    root = type(network).__name__
    counts = counter.get_flop_counts()
    return shapes, {
        name.removeprefix(f"{root}.") or root: sum(ops.values()) // (2 * BATCH) for name, ops in counts.items()
    }


def _numbers(
    layer: Layer, network: nn.Module, shapes: dict[str, Any], flops: dict[str, int]
) -> Sequence[tuple[str, Any, Any]]:
    """(quantity, ours, PyTorch's) of one row."""
    if layer.type == "Parameter":
        tensor = network.get_parameter(layer.owner)
        own = 0 if layer.shared_with else tensor.numel()
        return [("parameters", layer.params, own), ("shape", layer.output_shape, tuple(tensor.shape))]
    module = network.get_submodule(layer.name)
    buffers = sum(t.shape.numel() for t in module.buffers())
    ours = sum(torch.Size(t.shape).numel() for t in layer.tensors if t.buffer)
    counted = flops.get(layer.name if layer.name else "Global", 0)
    return [
        ("parameters", layer.params, sum(p.numel() for p in module.parameters())),
        ("buffers", ours, buffers),
        ("output", layer.output_shape, shapes.get(layer.name)),
        ("MACs", layer.macs, counted),
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return sizes(value) if isinstance(value, tuple) else f"{value:,}"
