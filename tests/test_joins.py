"""Joins of shapes that differ: what is broadcast, and what a message says where nothing can be."""

from typing import Any

import pytest
import torch

from cnn_cli.analysis.explanation import explain
from cnn_cli.analysis.shapes import arithmetic
from cnn_cli.analysis.summary import setup, summarize
from cnn_cli.analysis.verification import verify
from cnn_cli.errors import SpecError
from cnn_cli.language.registry import plan_document
from cnn_cli.network.builder import build_plan


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
    fix = "to the branch with fewer channels. Inside a block, $in_channels is "
    assert fix in str(error.value)
    assert "padding" not in str(error.value)
    unflatten = r"add \{Unflatten: \{dim: 1, unflattened_size: \[16, 1, 1\]\}\} after 16, so that it"
    with pytest.raises(SpecError, match=unflatten):
        plan_document(squeeze_and_excitation(["Flatten", {"Linear": "$channels"}]), "n")


A, B, GATE = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6), torch.randn(2, 4, 1, 1)
OPERATIONS: list[tuple[Any, Any]] = [  # what stands behind the child's name, and the same in PyTorch
    ({"Multiply": ["a", 0.17]}, lambda a, b, g: a * 0.17),
    ({"Multiply": ["a", "$scale"]}, lambda a, b, g: a * 0.25),
    ({"Multiply": ["a", "g", "b"]}, lambda a, b, g: a * g * b),
    ({"Add": ["a", 1]}, lambda a, b, g: a + 1),
    ({"Add": ["a", 0]}, lambda a, b, g: a + b),  # the child called 0
    ({"Add": ["a", 0.0]}, lambda a, b, g: a),
    ({"Add": ["a", "$which"]}, lambda a, b, g: a + g),
    ({"Subtract": [1.0, "g"]}, lambda a, b, g: 1 - g),
    ({"Subtract": ["a", "g", "b"]}, lambda a, b, g: a - g - b),
    ({"Divide": ["a", "b"]}, lambda a, b, g: a / b),
    ({"Divide": [2, "b"]}, lambda a, b, g: 2 / b),
    ({"Maximum": ["a", "b", "g"]}, lambda a, b, g: torch.stack([a, b, g.expand_as(a)]).amax(0)),
    ({"Minimum": ["a", "g"]}, lambda a, b, g: torch.stack([a, g.expand_as(a)]).amin(0)),
    ({"Maximum": [0.1, "a"]}, lambda a, b, g: torch.where(a < 0.1, 0.1, a)),
    ({"Minimum": ["a", 0.1]}, lambda a, b, g: torch.where(a > 0.1, 0.1, a)),
    ({"Mean": ["a", "b", "g"]}, lambda a, b, g: (a + b + g) / 3),
    ({"Divide": 4, "from": "b"}, lambda a, b, g: b / 4),
    ([{"Subtract": 0.5}, {"Divide": "$scale"}], lambda a, b, g: (g - 0.5) / 0.25),
]


@pytest.mark.parametrize(("child", "expected"), OPERATIONS, ids=[str(child) for child, _ in OPERATIONS])
def test_operations_are_those_of_pytorch(child: Any, expected: Any) -> None:
    """Values, gradients and every number of the table."""
    a, b = ({"from": f"two.{n}", "layers": []} for n in (0, 1))
    body = {"two": {"Chunk": 2}, "a": a, "b": b, "0": b, "g": {"AdaptiveAvgPool2d": 1}, "out": child}
    spec = {"n": {"input": [8, 6, 6], "args": {"scale": 0.25, "which": "g"}, "layers": body}}
    plan = plan_document(spec, "n")
    assert verify(plan).disagreements == ()
    x, y = torch.cat((A, B), 1).requires_grad_(), torch.cat((A, B), 1).requires_grad_()
    ours = build_plan(plan)(x)
    first, second = y.chunk(2, 1)
    theirs = expected(first, second, second.mean((2, 3), keepdim=True))
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6) and ours.shape[1:] == plan.output
    for output in (ours, theirs):
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    assert x.grad is not None and y.grad is not None and torch.allclose(x.grad, y.grad, rtol=1e-5, atol=1e-6)


def test_numbers_are_shown_where_they_stand() -> None:
    body = {"a": {"Multiply": ["input", 0.17]}, "b": {"Subtract": [1.0, "a"]}, "c": {"Maximum": ["a", "b", 0]}}
    plan = plan_document({"n": {"input": [1, 8, 8], "layers": body}}, "n")
    text = summarize(plan, setup(plan)).text()
    assert all(line in text for line in ("Multiply 0.17 ", "Subtract 1.0, a ", "Maximum a, b, 0 "))
    assert summarize(plan, setup(plan)).document()["layers"][0]["settings"] == {"numbers": (None, 0.17)}
    whats = [explanation.what for explanation in explain(plan)]
    assert [what.rpartition(": ")[2] for what in whats] == ["a · 0.17.", "1.0 − a.", "max(a, b, 0)."]


def test_a_parameter_has_the_channels_that_arrive() -> None:
    body = {
        "conv": {"Conv2d": {"out_channels": 16, "kernel_size": 3}},
        "scale": {"Parameter": {"shape": ["$in_channels", 1, 1], "init": 0.5}},
        "out": {"Multiply": ["conv", "scale"]},
    }
    plan = plan_document({"n": {"input": [1, 8, 8], "layers": body}}, "n")
    assert plan.layers[1].output_shape == (16, 1, 1) and arithmetic(plan.layers[2]) == ["16x1x1 is broadcast to 16x6x6"]
    network, x = build_plan(plan), torch.rand(2, 1, 8, 8)
    assert torch.equal(network(x), network.conv(x) * 0.5)
