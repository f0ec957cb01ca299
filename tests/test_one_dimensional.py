"""Networks of one-dimensional inputs, (channels, length): their sizes, receptive fields and messages."""

import random
from pathlib import Path

import pytest
import torch
from pictures import cnn
from safetensors.torch import save_file
from test_receptive_field import books, linear

from cnn_cli.analysis.explanation import explain, never_used
from cnn_cli.analysis.input_sizes import find_input_sizes, parse_sides
from cnn_cli.analysis.receptive_field import field, sights, unused
from cnn_cli.analysis.verification import verify
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document, plan_spec
from cnn_cli.language.spec import parse
from cnn_cli.network.builder import build_plan

WAVE = {
    "stem": [{"Conv1d": {"out_channels": 8, "kernel_size": 9, "stride": 4}}, "BatchNorm1d", "ReLU"],
    "conv": {"Conv1d": {"out_channels": 8, "kernel_size": 3, "padding": 1}},
    "add": {"Add": ["conv", "stem"]},
    "pool": {"AvgPool1d": 2},
    "up": {"ConvTranspose1d": {"out_channels": 8, "kernel_size": 2, "stride": 2}},
    "deep": {"Conv1d": {"out_channels": 4, "kernel_size": 3, "dilation": 2, "groups": 2}},
    "mean": {"AdaptiveAvgPool1d": 1},
    "flat": "Flatten",
    "fc": {"Linear": 5},
}


def planned(layers: object, *size: int) -> Plan:
    return plan_document({"n": {"input": list(size), "layers": layers}}, "n")


def test_as_pytorch_has_it() -> None:
    plan = planned(WAVE, 2, 203)
    assert verify(plan).disagreements == ()
    assert build_plan(plan)(torch.rand(3, 2, 203)).shape == (3, 5)
    assert plan.layers[0].output_shape == (8, 49)


def test_receptive_fields() -> None:
    """Where gradients arrive, and what the books say."""
    plan = planned(WAVE, 2, 203)
    x = (torch.rand(1, 2, 203, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    values: dict[str, torch.Tensor] = {}
    network = linear(build_plan(plan)).double().eval()
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: values.__setitem__(name, o))
    network(x)
    found, rng = sights(plan), random.Random(0)
    for layer in plan.layers[:8]:
        (side,) = found[layer.name].sides
        for _ in range(4):
            place = rng.randrange(layer.output_shape[-1])
            value = values[layer.name][0, ..., place if len(layer.output_shape) > 1 else slice(None)]
            seen = reached_values(value, x)
            assert seen == side.seen[place if len(side.seen) > 1 else 0], layer.name
    assert books(plan) > 100
    one = field(found["deep"], plan.input[1:])
    assert one is not None and (one.size, one.stride, one.offset) == ((37,), (4,), (-4,))
    assert unused(plan, found) == ([201, 202],)


def reached_values(value: torch.Tensor, x: torch.Tensor) -> int:
    (grad,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    return sum(1 << i for i, on in enumerate((grad[0].abs().sum(0) != 0).tolist()) if on)


def test_height_of_one_is_the_same() -> None:
    """`[2, 203]`, and `[2, 1, 203]` before Flatten: 2."""
    flat, image = planned(WAVE, 2, 203), planned({"flatten": {"Flatten": 2}, **WAVE}, 2, 1, 203)
    for layer in flat.layers:
        one, two = (field(sights(plan)[layer.name], plan.input[1:]) for plan in (flat, image))
        assert one and two and (one.size, one.offset) == (two.size[1:], two.offset[1:])
        assert not one.whole or two.whole


def test_explanations() -> None:
    plan = planned(WAVE, 2, 203)
    (conv,) = explain(plan, "conv")
    assert conv.parts["receptive field"] == (
        "r + (w − 1)·j",
        "r = 9, window w = 3, jump j = 4",
        "9 + (3 − 1)·4 = 17",
        "17 values, stride (jump) 4, offset −4",
    )
    assert never_used(plan)[0] == "The last 2 values of the 203 input reach no output."


@pytest.mark.parametrize("size", [(2, 203), (2, 1, 203)])
def test_valid_lengths(size: tuple[int, ...]) -> None:
    layers = WAVE if len(size) == 2 else {"flatten": {"Flatten": 2}, **WAVE}
    sizes = find_input_sizes(planned(layers, *size))
    taken = []  # what PyTorch accepts
    for length in range(1, 60):
        network = build_plan(planned(WAVE, 2, 203)).eval()
        try:
            network(torch.rand(1, 2, length))
            taken.append(length)
        except RuntimeError:
            pass
    assert [n for n in sizes.fitting if n < 60] == taken
    assert "smallest      " in sizes.text() and f"from {'1' if len(size) == 2 else '1x1'} to" in sizes.text()


def test_sizes_to_show() -> None:
    plan = planned(WAVE, 2, 203)
    assert parse_sides("100,300", plan) == [(2, 100), (2, 300)]
    with pytest.raises(UsageError, match="lengths, such as 1000,8000, not '3x3'"):
        parse_sides("3x3", plan)


FILE = """
n:
  input: [1, 800]
  layers: [{Conv1d: {out_channels: 4, kernel_size: 9}}, {AdaptiveAvgPool1d: 1}, Flatten, {Linear: 10}]
  train: {data: digits, epochs: 1}
odd:
  input: [1, 30]
  layers:
    down: [{AvgPool1d: 2}, {AvgPool1d: 2}]
    up: {ConvTranspose1d: {out_channels: 1, kernel_size: 4, stride: 4}}
    add: {Add: [up, input]}
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "train n.yaml:n",
            "error: n takes 1x800 (channels x length), but images are needed; write its input as [1, 1, 800], and "
            "{Flatten: 2} as its first layer\n",
        ),
        ("visualize-saliency n.yaml:n --weights w.safetensors --index 0", "images are needed"),
        ("shapes n.yaml:n --input 1x5", "or a larger input (the smallest that fits is 1x9)\n"),
        ("shapes n.yaml:n --input 800", "--input takes CHANNELSxHEIGHTxWIDTH, such as 3x224x224, or CHANNELSxLENGTH"),
        ("check n.yaml:odd", "write an input whose length is a multiple of 4, such as 1x32\n"),
    ],
)
def test_messages(words: str, message: str, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("n.yaml").write_text(FILE)
    network = build_plan(plan_spec(parse(FILE, "n").networks["n"], None, None))
    save_file(network.state_dict(), "w.safetensors")
    assert cnn(*words.split()) == 2
    assert message in "".join(capsys.readouterr())
