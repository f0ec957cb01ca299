"""Two networks aligned: what was done to the one to get the other is what is found."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import cnn as command
from test_summary import cnn
from torch import nn
from torch.nn import functional

from cnn_cli.analysis.comparison import ADDED, CHANGED, REMOVED, SAME, Comparison, align, compare, signed
from cnn_cli.analysis.dense_equivalent import compare_by_building, count_dense
from cnn_cli.analysis.rows import layer_rows
from cnn_cli.analysis.summary import setup
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document
from cnn_cli.network.builder import build_plan
from cnn_cli.network.dense import dense_layer, dense_network
from cnn_cli.tables import render

BASE: list[Any] = [
    {"Conv2d": {"out_channels": 8, "kernel_size": 3}},
    "ReLU",
    {"MaxPool2d": 2},
    {"Conv2d": {"out_channels": 16, "kernel_size": 3}},
    "ReLU",
    "Flatten",
    {"Linear": 10},
]


def network(layers: Any) -> Plan:
    return plan_document({"net": {"input": [1, 28, 28], "layers": layers}}, "test")


def compared(a: Any, b: Any) -> Comparison:
    return compare(network(a), network(b), setup(network(a)))


def changes(comparison: Comparison) -> list[str]:
    return [pair.change for pair in comparison.pairs]


def test_a_network_is_the_same_as_itself() -> None:
    result = compared(BASE, BASE)
    assert changes(result) == [SAME] * 7
    assert result.verdict() == "all 7 layers are equal" and "equal layers" not in result.text()


@pytest.mark.parametrize("place", range(1, 7))
def test_an_inserted_layer_is_found_though_all_names_move(place: int) -> None:
    longer = [*BASE[:place], "BatchNorm2d" if place < 6 else "Dropout", *BASE[place:]]
    assert changes(compared(BASE, longer)) == [*[SAME] * place, ADDED, *[SAME] * (7 - place)]
    assert changes(compared(longer, BASE)) == [*[SAME] * place, REMOVED, *[SAME] * (7 - place)]


def test_a_changed_layer_and_what_follows_from_it() -> None:
    wider = [{"Conv2d": {"out_channels": 12, "kernel_size": 5}}, *BASE[1:]]
    result = compared(BASE, wider)
    first, fourth = result.pairs[0], result.pairs[3]
    assert first.differences() == ["out_channels 8 → 12", "kernel_size 3x3 → 5x5", "output 8x26x26 → 12x24x24"]
    assert fourth.differences() == ["in_channels 8 → 12", "output 16x11x11 → 16x10x10"]
    assert changes(result) == [CHANGED] * 7 and result.verdict() == "7 changed; 0 equal"


def test_chosen_names_lead() -> None:
    a = {"first": BASE[0], "act": "ReLU", "second": BASE[3], "last": "ReLU"}
    b = {"first": BASE[0], "act": "ReLU", "more": BASE[3], "extra": "ReLU", "second": BASE[3], "last": "ReLU"}
    added = [p.after and p.after.name for p in compared(a, b).pairs if p.change == ADDED]
    assert added == ["more", "extra"]


def test_resnet34_is_resnet18_with_more_blocks() -> None:
    pairs = align(layer_rows(find("resnet18")), layer_rows(find("resnet34")))
    assert {p.change for p in pairs} == {SAME, ADDED}
    added = {p.after.name.rsplit(".", 1)[0] for p in pairs if p.change == ADDED and p.after}
    assert added == {
        f"layer{n}.{m}" for n, blocks in ((1, [2]), (2, [2, 3]), (3, [2, 3, 4, 5]), (4, [2])) for m in blocks
    }


@pytest.mark.parametrize(
    ("a", "b"), [("vgg11", "vgg16_bn"), ("resnet18", "densenet121"), ("fashion-convnet", "lenet-5")]
)
def test_differences_add_up(a: str, b: str) -> None:
    first, second = find(a), find(b)
    comparison = compare(first, second, setup(first))
    assert [p.before.name for p in comparison.pairs if p.before] == [layer.name for layer in first.layers]
    assert [p.after.name for p in comparison.pairs if p.after] == [layer.name for layer in second.layers]
    result = comparison.document()
    for key in ("params", "macs"):
        assert sum(layer[key] for layer in result["layers"]) == result["difference"][key]
        assert result["difference"][key] == result["b"]["total"][key] - result["a"]["total"][key]
    total = comparison.table().total
    assert total is not None
    assert (total["params"], total["macs"]) == (second.params - first.params, second.macs - first.macs)


def test_texts() -> None:
    assert [signed(n) for n in (1234, 0, -5)] == ["+1,234", "0", "−5"]
    a, b = find("vgg11"), find("vgg13")
    lines = render(compare(a, b, setup(a)).totals_table(), width=100)
    assert "A vgg11" in lines and "+184,512" in lines and "×1.49" in lines
    a, b = find("resnet18"), find("resnet34")
    assert "18 equal layers" in render(compare(a, b, setup(a)).table(), width=100)


def test_command_line() -> None:
    result = cnn("diff", "vgg11", "vgg13", "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["difference"]["params"] == 184_512
    assert "4 added; 30 equal" in cnn("diff", "vgg11", "vgg13").stdout
    assert cnn("diff", "vgg11", "vgg13", "--csv").stdout.split("\n")[:2] == [
        "mark,a,b,layer,params,macs",
        ",,,1 equal layer,,",
    ]
    assert cnn("diff", "vgg11", "vgg99").returncode == 2


@pytest.mark.parametrize(
    ("options", "inputs", "outputs"),
    [
        (("--set-b", "classes=7", "--input-b", "1x64x64"), (36, 64), (5, 7)),
        (("--set-a", "classes=7", "--input-a", "1x64x64"), (64, 36), (7, 5)),
    ],
)
def test_each_network_has_arguments_and_an_input_of_its_own(
    options: tuple[str, ...], inputs: tuple[int, int], outputs: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ("--set", "classes=5", "--input", "1x36x36")
    assert command("diff", "lenet-5", "lenet-5", "--json", *shared, *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["a"]["input"][1], result["b"]["input"][1]) == inputs
    assert (*result["a"]["output"], *result["b"]["output"]) == outputs


@pytest.mark.parametrize("option", ["--input", "--input-a", "--input-b", "--set", "--set-a", "--set-b"])
def test_the_option_that_is_wrong_is_named(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("diff", "lenet-5", "lenet-5", option, "") == 2
    assert capsys.readouterr().err.startswith(f"error: {option} takes ")


SMALL = """
small:
  input: [2, 9, 8]
  layers:
    stem: {Conv2d: {out_channels: 4, kernel_size: [3, 2], stride: 2, padding: 1, groups: 2}}
    norm: BatchNorm2d
    act: ReLU
    same: {Conv2d: {out_channels: 4, kernel_size: 3, padding: same, padding_mode: reflect, dilation: 2, bias: false}}
    add: {Add: [same, act]}
    up: {ConvTranspose2d: {out_channels: 2, kernel_size: 2, stride: 2}}
    flat: Flatten
    fc: {Linear: 3}
"""


def test_matrix_of_a_convolution_against_unfold() -> None:
    """A value out is a row of the kernel times the patch at its position; unfold has these of each input value."""
    convolution, shape = nn.Conv2d(2, 3, (3, 2), stride=2, padding=1, dilation=(1, 2)), (2, 6, 7)
    layer = dense_layer(convolution, shape)
    basis = torch.eye(2 * 6 * 7).view(-1, *shape)
    patches = functional.unfold(basis, (3, 2), dilation=(1, 2), padding=1, stride=2)  # (in, C·k·k, positions)
    matrix = torch.einsum("ok,ikp->opi", convolution.weight.flatten(1), patches).flatten(0, 1)
    assert torch.equal(layer.weight, matrix)
    assert convolution.bias is not None
    assert torch.equal(layer.bias, convolution.bias.repeat_interleave(patches.shape[2]))


def test_dense_network_computes_the_same(tmp_path: Path) -> None:
    """Strides, groups, dilation, padding with a reflection, transposed convolutions and joins."""
    (tmp_path / "small.yaml").write_text(SMALL)
    plan = find(str(tmp_path / "small.yaml"))
    module = build_plan(plan).eval()
    dense = dense_network(module, plan).eval()
    images = torch.rand(3, *plan.input)
    with torch.no_grad():
        assert (module(images) - dense(images)).abs().max() < 1e-5
    assert not any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in dense.modules())
    result = compare_by_building(count_dense(plan))
    assert result.difference is not None and result.difference < 1e-5
    count = sum(p.numel() for p in dense.parameters())
    assert result.totals["dense_params"] == count
    assert result.totals["params"] == sum(p.numel() for p in module.parameters())


def test_dense_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("diff", "tiny-cnn", "--dense", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    first = facts["layers"][0]
    assert (first["params"], first["dense_params"]) == (10, 26 * 26 * 28 * 28 + 26 * 26)
    assert first["factor"] == first["dense_params"] / 10 and first["dense_bytes"] == 4 * first["dense_params"]
    assert 0 < facts["largest_difference"] < 1e-5
    assert command("diff", "vgg16", "--dense") == 0
    assert "Not built: the fully connected network needs" in capsys.readouterr().out
    for arguments in (("tiny-cnn",), ("tiny-cnn", "lenet-5", "--dense"), ("tiny-cnn", "--dense", "-b", "4")):
        assert command("diff", *arguments) == 2
    assert "--dense takes one network" in capsys.readouterr().err
