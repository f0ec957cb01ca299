"""Joins of shapes that differ: what is broadcast, and what a message says where nothing can be."""

from typing import Any

import pytest
import torch

from cnn_cli.analysis.shapes import arithmetic
from cnn_cli.analysis.summary import setup, summarize
from cnn_cli.errors import SpecError
from cnn_cli.language.registry import plan_document
from cnn_cli.network.build import build_plan


def squeeze_and_excitation(gate: list[Any], join: str = "Multiply") -> dict[str, Any]:
    body = {"squeeze": {"AdaptiveAvgPool2d": 1}, "gate": gate, "scale": {join: ["input", "gate"]}}
    block = {"args": {"channels": "$in_channels"}, "layers": body}
    layers = [{"Conv2d": {"out_channels": 16, "kernel_size": 3}}, "SE", "Flatten", {"Linear": 2}]
    return {"n": {"input": [1, 8, 8], "layers": layers}, "blocks": {"SE": block}}


CONV: dict[str, Any] = {"Conv2d": {"out_channels": 4, "kernel_size": 1}}
BACK: dict[str, Any] = {"Conv2d": {"out_channels": "$channels", "kernel_size": 1}}


@pytest.mark.parametrize("join", ["Multiply", "Add"])
def test_a_gate_of_one_value_per_channel_is_broadcast(join: str) -> None:
    """Squeeze-and-excitation written by hand, against the same in PyTorch."""
    plan = plan_document(squeeze_and_excitation([CONV, "ReLU", BACK, "Sigmoid"], join), "n")
    assert arithmetic(plan.layers[-3]) == ["16x1x1 is broadcast to 16x6x6"]
    assert f"{join} 0, gate.3; 16x1x1 is broadcast" in summarize(plan, setup(plan)).text()
    network = build_plan(plan).eval()
    x = network[0](torch.rand(2, 1, 8, 8))
    gate = network[1].gate(x.mean((2, 3), keepdim=True))
    assert torch.equal(network[1](x), x * gate if join == "Multiply" else x + gate)


def test_what_cannot_be_broadcast_is_told_why() -> None:
    wrong = {"Conv2d": {"out_channels": "$in_channels", "kernel_size": 1}}
    with pytest.raises(SpecError) as error:
        plan_document(squeeze_and_excitation([CONV, wrong]), "n")
    fix = "a Conv2d of kernel_size 1 on one way gives it the 16 channels of the other. Inside a block, $in_channels is "
    assert fix in str(error.value)
    assert "padding" not in str(error.value)
    unflatten = r"\{Unflatten: \{dim: 1, unflattened_size: \[16, 1, 1\]\}\} on the way of 16 lets it"
    with pytest.raises(SpecError, match=unflatten):
        plan_document(squeeze_and_excitation(["Flatten", {"Linear": "$channels"}]), "n")
