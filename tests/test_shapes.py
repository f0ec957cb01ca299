"""Every line of arithmetic is evaluated and must give what it says; sizes that fit are tried one by one."""

import json
import random
import re
from math import ceil, floor
from pathlib import Path
from typing import Any

import pytest
from pictures import cnn as command
from test_receptive_field import GLOBAL, MENU, branching, chain, planned
from test_summary import cnn

from cnn_cli.analysis.explanation import Explanation, explain, never_used, table, text
from cnn_cli.analysis.input_sizes import describe_sides, find_input_sizes, parse_sides, replan
from cnn_cli.analysis.receptive_field import never_read, sights, unused
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document
from cnn_cli.tables import render

MORE: list[Any] = [
    {"Conv2d": {"out_channels": 8, "kernel_size": 5, "stride": 3, "padding": 2, "groups": 4, "bias": False}},
    {"Conv2d": {"out_channels": 4, "kernel_size": [3, 5], "stride": [1, 2], "dilation": 2, "groups": 4}},
    {"ConvTranspose2d": {"out_channels": 4, "kernel_size": [2, 3], "stride": [3, 2], "output_padding": 1, "groups": 2}},
    {"MaxPool2d": {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}},
    {"AvgPool2d": {"kernel_size": 4, "stride": 5, "padding": 2, "ceil_mode": True}},
    {"Linear": 7},
    {"Linear": {"out_features": 7, "bias": False}},
    {"AdaptiveAvgPool2d": 1},
    {"GroupNorm": 2},
    {"InstanceNorm2d": {"affine": True}},
    {"LayerNorm": [16]},
    {"RMSNorm": 16},
    {"PReLU": 4},
    {"PixelShuffle": 2},
    {"Unfold": 3},
    {"SqueezeExcitation": 2},
    "Flatten",
    {"Flatten": 2},
    {"ChannelShuffle": 2},
]


def value(expression: str) -> float:
    """A text of arithmetic as it stands on a slide: · − ⌊ ⌋ ⌈ ⌉ and thousands with commas."""
    code = re.sub(r"(?<=\d),(?=\d{3})", "", expression)
    for sign, word in (("·", "*"), ("−", "-"), ("⌊", "floor("), ("⌋", ")"), ("⌈", "ceil("), ("⌉", ")")):
        code = code.replace(sign, word)
    assert re.fullmatch(r"[\d+\-*/(). ]|(floor|ceil|[\d+\-*/(). ])+", code), expression
    return float(eval(code, {"__builtins__": {}, "floor": floor, "ceil": ceil}))


def equations(lines: tuple[str, ...]) -> list[tuple[float, float]]:
    """Both sides of every line with numbers only, names of axes and units apart."""
    names = r"^((height|width|length|channels|windows|values per window|and) )+|( values, .*)$"
    sides = (re.sub(names, "", line).rpartition(" = ") for line in lines)
    return [(value(a), value(b)) for a, equals, b in sides if equals and not re.search(r"[a-zA-Z→:]", a + b)]


def check(explanation: Explanation) -> int:
    """Every equation holds, and sizes, parameters and MACs are those of the layer."""
    layer, parts = explanation.layer, explanation.parts
    for heading, lines in parts.items():
        for left, right in equations(lines):
            assert left == right, (layer.name, layer.type, heading, lines)
    sides = {right for _, right in equations(parts.get("size", ()))}
    assert sides <= {float(n) for n in layer.output_shape} | {float(layer.output_shape[0])}, (layer.type, parts["size"])
    if layer.params:
        assert re.findall(r"[\d,]+", parts["parameters"][-1])[-1] == f"{layer.params:,}"
    if layer.macs:
        assert equations(parts["MACs"])[0][1] == layer.macs
    assert ("MACs" in parts) == (layer.macs > 0)
    return sum(len(equations(lines)) for lines in parts.values())


@pytest.mark.parametrize("spec", [*MENU, *GLOBAL, *MORE], ids=str)
@pytest.mark.parametrize("size", [(16, 16), (17, 13)], ids=str)
def test_arithmetic_of_each_layer(spec: Any, size: tuple[int, int]) -> None:
    plan = planned([spec], size) or planned([spec], (16, 16))
    assert plan is not None
    (explanation,) = explain(plan)
    found = check(explanation)
    layer = plan.layers[0]
    told = layer.type in ("Permute", "Upsample", "UpsamplingBilinear2d") or layer.type.startswith("Adaptive")
    assert found or layer.input_shape == layer.output_shape or (told and "size" in explanation.parts)
    assert explanation.what.endswith(".") and "{" not in explanation.what


def test_arithmetic_of_random_networks() -> None:
    rng, equations_seen = random.Random(0), 0
    for make in (chain, branching):
        for _ in range(60):
            if (plan := planned(make(rng), (rng.randint(9, 30), rng.randint(9, 30)))) is not None:
                equations_seen += sum(check(e) for e in explain(plan))
    assert equations_seen > 400


@pytest.mark.parametrize(
    "name", ["googlenet", "mobilenet_v3_large", "convnext_tiny", "shufflenet_v2_x1_0", "regnet_y_400mf"]
)
def test_arithmetic_of_whole_networks(name: str) -> None:
    plan = find(name)
    assert sum(check(e) for e in explain(plan)) > 200


def test_the_example_of_the_textbook() -> None:
    plan = planned([{"Conv2d": {"out_channels": 8, "kernel_size": 3, "stride": 2, "padding": 1}}], (28, 28))
    assert plan is not None
    parts = explain(plan)[0].parts
    assert parts["size"] == (
        "⌊(n + 2·p − k)/s⌋ + 1",
        "n = 28, kernel k = 3, stride s = 2, padding p = 1",
        "⌊(28 + 2·1 − 3)/2⌋ + 1 = 14",
    )
    assert parts["parameters"] == ("weight + bias", "8·4·3·3 + 8 = 296")
    assert parts["MACs"] == ("positions · weight", "14·14 · 8·4·3·3 = 56,448")
    assert parts["padding"] == ("other paddings would give: valid (0) 13x13, same (1) 14x14, full (2) 15x15",)
    assert parts["receptive field"] == (
        "r + (w − 1)·j",
        "r = 1, window w = 3, jump j = 1",
        "1 + (3 − 1)·1 = 3",
        "3x3 pixels, stride (jump) 2, offset −1",
    )


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_schemes_are_what_these_paddings_give(kernel: int, stride: int, dilation: int) -> None:
    settings = {"out_channels": 1, "kernel_size": kernel, "stride": stride, "dilation": dilation}
    plan = planned([{"Conv2d": settings}], (15, 15))
    assert plan is not None
    shown = dict(re.findall(r"(\w+) \([\d.]+\) (\d+)x", explain(plan)[0].parts["padding"][0]))
    full = dilation * (kernel - 1)
    for scheme, pads in (("valid", [0] * 4), ("same", [full // 2, full - full // 2] * 2), ("full", [full] * 4)):
        padded = planned([{"ZeroPad2d": pads}, {"Conv2d": settings}], (15, 15))
        assert padded is not None and str(padded.output[1]) == shown[scheme]


def test_what_is_never_used() -> None:
    assert never_used(find("fashion-convnet")) == [
        "The last 2 rows and the last 2 columns of the 28x28 image reach no output.",
        "5 (MaxPool2d 2x2) gets 11x11 and leaves out the last row and the last column; no other layer does.",
        "26x26 and 30x30 would use all of it; `cnn shapes fashion-convnet --valid-inputs` shows more.",
    ]
    assert never_used(find("resnet18")) == []


def test_one_channel_is_not_a_plural() -> None:
    """A sentence that counts says `the one channel`, never `each of the 1 channels`."""
    layers = [
        {"Conv2d": {"out_channels": 1, "kernel_size": 4}},
        {"GroupNorm": 1},
        {"ChannelShuffle": 1},
        "Flatten",
        {"Linear": 1},
        {"Linear": 1},
    ]
    plan = plan_document({"n": {"input": [1, 5, 5], "layers": layers}}, "test")
    what = text(explain(plan))
    assert not re.search(r"\b1 (output|input|group|channel|value|position)s\b", what), what
    assert "The one output channel is a weighted sum over a 4x4 window of the one channel" in " ".join(what.split())


def test_a_part_of_a_network_is_explained_by_its_name() -> None:
    plan = find("resnet18")
    assert [e.layer.name for e in explain(plan, "layer1.0.conv1")] == ["layer1.0.conv1"]
    assert len(explain(plan, "layer1.0")) == 7 and len(explain(plan, "layer1")) == 14
    with pytest.raises(
        UsageError, match=r"resnet18 has no layer 'layer1\.0\.con1'\. Did you mean 'layer1\.0\.conv1'\?"
    ):
        explain(plan, "layer1.0.con1")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_explanations_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("fashion-convnet", "googlenet"):
        assert max(len(line) for line in text(explain(find(name))).split("\n")) <= max(width, 80)
    lines = render(table(explain(find("fashion-convnet"))), "csv").split("\n")
    assert lines[0].startswith("name,layer,shapes,what,size,parameters,MACs")


def unet(plus: int = 0) -> Plan:
    """Halves twice and doubles twice, with shortcuts: sides must be multiples of four."""
    conv = {"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1 + plus}}
    layers = {
        "down1": conv,
        "pool1": {"MaxPool2d": 2},
        "down2": conv,
        "pool2": {"MaxPool2d": 2},
        "bottom": conv,
        "up2": {"ConvTranspose2d": {"out_channels": 4, "kernel_size": 2, "stride": 2}},
        "cat2": {"Concat": ["down2", "up2"]},
        "up1": {"ConvTranspose2d": {"out_channels": 4, "kernel_size": 2, "stride": 2}},
        "cat1": {"Concat": ["down1", "up1"]},
    }
    return plan_document({"unet": {"input": [1, 16, 16], "layers": layers}}, "test")


@pytest.mark.parametrize("name", ["fashion-convnet", "alexnet", "lenet-5", "squeezenet1_0", "unet"])
def test_sizes_that_fit_are_those_that_can_be_planned(name: str) -> None:
    plan = unet() if name == "unet" else find(name)
    result = find_input_sizes(plan)
    tried = range(1, 90)
    plans = {size: replan(plan, (plan.input[0], size, size)) for size in tried}
    fitting = [size for size in tried if not plans[size].errors]
    assert [n for n in result.fitting if n in tried] == fitting
    for size in fitting:  # nothing dropped by any layer means that every pixel is used
        if size in result.exact:
            assert unused(plans[size], sights(plans[size])) == ([], [])
        else:
            assert any(never_read(layer) for layer in plans[size].layers)


def test_patterns_of_sizes() -> None:
    assert (
        find_input_sizes(find("fashion-convnet"))
        .text()
        .startswith(
            "fashion-convnet: square inputs from 1x1 to 256x256\n\n"
            "smallest      10x10\nvalid         every size from 10\nwithout loss  10, 14, 18, … (4·k + 2)\n\n"
        )
    )
    assert "\nwithout loss  4, 8, 12, … (multiples of 4)\n" in find_input_sizes(unet()).text()
    assert describe_sides([63, 64, 65, 95, 96, 97, 127, 128, 129], 158) == "63–65, 95–97, 127–129, … (again every 32)"
    assert describe_sides([], 100) == "none up to 100"
    assert describe_sides([28], 100) == "28"


def test_sizes_that_are_asked_for() -> None:
    plan = find("fashion-convnet")
    assert parse_sides("28, 32x48", plan) == [(1, 28, 28), (1, 32, 48)]
    assert parse_sides("28-30,40", plan) == [(1, side, side) for side in (28, 29, 30, 40)]
    with pytest.raises(UsageError, match="at most 200 sizes, not 99,999"):
        parse_sides("1-99999", plan)
    for wrong in ("28x28x28", "0", "a", "", "12,", "-3"):
        with pytest.raises(UsageError, match="--sizes takes sides in pixels"):
            parse_sides(wrong, plan)
    text = render(find_input_sizes(plan, "9,28").table(), width=100)
    assert "1 row, 1 column unused" in render(find_input_sizes(plan, "27").table(), width=100)
    assert "1x9x9" in text and "5 (MaxPool2d): " in text and "2 rows, 2 columns unused" in text


def test_one_dimensional_inputs_change_in_length_only() -> None:
    layers = [{"Conv2d": {"out_channels": 4, "kernel_size": [1, 9], "stride": [1, 4]}}, {"AdaptiveAvgPool2d": 1}]
    plan = plan_document({"audio": {"input": [1, 1, 800], "layers": [*layers, "Flatten", {"Linear": 2}]}}, "test")
    result = find_input_sizes(plan)
    assert result.text().startswith("audio: inputs from 1x1 to 1x1066\n\nsmallest      1x9\nvalid         every size")
    assert result.exact[:3] == (9, 13, 17) and all(p.input[:2] == (1, 1) for p in result.plans)


@pytest.mark.parametrize("sides", ["26", "1"])
def test_a_table_in_which_no_row_or_each_row_has_a_note(sides: str) -> None:
    result = cnn("shapes", "fashion-convnet", "--valid-inputs", "--sizes", sides)
    assert result.returncode == 0 and f"1x{sides}x{sides}" in result.stdout


def test_command_line() -> None:
    one = cnn("shapes", "fashion-convnet", "--explain", "3")
    assert one.returncode == 0 and "64·32·3·3 + 64 = 18,496" in one.stdout and "Linear" not in one.stdout
    everything = cnn("shapes", "fashion-convnet", "--explain")
    assert everything.returncode == 0 and "reach no output" in everything.stdout
    plain = cnn("shapes", "fashion-convnet")
    assert "1x28x28 → 32x26x26" in plain.stdout and "reach no output" not in plain.stdout
    result = json.loads(cnn("shapes", "fashion-convnet", "--valid-inputs", "--json").stdout)
    assert result["smallest"] == 10 and result["exact"][:3] == [10, 14, 18]
    both = cnn("shapes", "fashion-convnet", "--explain", "--valid-inputs")
    assert both.returncode == 2 and "exclude each other" in both.stderr


@pytest.mark.parametrize("options", [(), ("--explain",)])
def test_a_network_without_layers(options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("empty: {input: [3, 8, 8], layers: []}")
    assert command("shapes", str(file), *options) == 0
    assert capsys.readouterr().out.endswith("no layers: the output is the input\n")
    assert command("shapes", str(file), "1", *options) == 2
    assert "empty has no layer '1'" in capsys.readouterr().err
