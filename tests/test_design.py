"""`cnn check` warns of designs that are legal but hard to train, and of no network that ships with the tool."""

from typing import Any

import pytest

from cnn_cli.analysis.design import design_warnings
from cnn_cli.analysis.diagnostics import diagnose
from cnn_cli.language.registry import plan_document

CONV = {"Conv2d": {"out_channels": 8, "kernel_size": 3, "padding": 1}}
WIDER = {"Conv2d": {"out_channels": 16, "kernel_size": 3, "padding": 1}}
DEPTHWISE = {"Conv2d": {"out_channels": 8, "kernel_size": 3, "padding": 1, "groups": 8}}
POINT = {"Conv2d": {"out_channels": 16, "kernel_size": 1}}
HEAD: list[Any] = ["Flatten", {"Linear": 10}]
PAIR = [CONV, "ReLU"]


@pytest.mark.parametrize(
    ("layers", "place", "message"),
    [
        ([*HEAD, "ReLU"], "2 (ReLU)", "is the last layer before the loss: scores below 0 become 0"),
        ([*HEAD, "Softmax", "Identity"], "2 (Softmax)", "is the last layer before the loss: the loss includes"),
        ([*HEAD, "Sigmoid"], "2 (Sigmoid)", "is the last layer before the loss: the loss includes a softmax"),
        ([CONV, WIDER, "ReLU", *HEAD], "1 (Conv2d)", "no activation before it: layers.0 (Conv2d) and this layer"),
        (["Flatten", {"Linear": 64}, "Dropout", {"Linear": 10}], "3 (Linear)", "no activation before it: layers.1"),
        ([CONV, "BatchNorm2d", {"AvgPool2d": 2}, *HEAD], "4 (Linear)", "no activation before it: layers.0 (Conv2d)"),
        ([*PAIR * 21, *HEAD], "40 (Conv2d)", "more than 20 convolutions and Linear layers without normalization"),
    ],
)  # fmt: skip
def test_a_design_that_is_hard_to_train_is_warned_of(layers: list[Any], place: str, message: str) -> None:
    plan = plan_document({"n": {"input": [1, 8, 8], "layers": layers}}, "n.yaml")
    (problem,) = design_warnings(plan)
    assert problem.warning and problem.where == f"n, layers.{place}" and problem.message.startswith(message)


def test_one_layer_can_have_two_warnings() -> None:
    layers = [CONV, {"repeat": 21, "layers": PAIR}, *HEAD]
    plan = plan_document({"n": {"input": [1, 8, 8], "layers": layers}}, "n.yaml")
    assert [problem.message.split(" ")[0] for problem in design_warnings(plan)] == ["no", "more"]


@pytest.mark.parametrize(
    "layers",
    [
        [*HEAD, "LogSoftmax"],
        ["Flatten", {"Linear": 1}, "Sigmoid"],
        [CONV, "ReLU"],
        [*PAIR, DEPTHWISE, POINT, "ReLU", *HEAD],
        ["Flatten", {"Linear": 4}, {"Linear": 10}],
        [*PAIR * 20, *HEAD[:1], {"Linear": 10}][:-2],
        [*[*PAIR[:1], "BatchNorm2d", "ReLU"] * 25, *HEAD],
    ],
    ids=["log-probabilities", "probability", "map", "separable", "low rank", "20 layers", "normalized"],
)
def test_usual_designs_are_not(layers: list[Any]) -> None:
    assert design_warnings(plan_document({"n": {"input": [1, 8, 8], "layers": layers}}, "n.yaml")) == []


def test_no_network_of_the_registry_is_warned_of() -> None:
    assert diagnose([], (), {}, None).problems == ()
