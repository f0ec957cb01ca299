"""The spec language: what each construct means, and what is said of each mistake, word for word (mistakes.txt)."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from cnn_cli.analysis.diagnostics import diagnose
from cnn_cli.errors import SpecError, UsageError
from cnn_cli.language.children import TAKEN
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document, plan_spec, shipped
from cnn_cli.language.spec import parse
from cnn_cli.language.yaml_nodes import read_yaml
from cnn_cli.network.builder import build_plan
from cnn_cli.network.modules import Graph

MISTAKES = Path(__file__).with_name("mistakes.txt").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, tuple[str, list[str]]]:
    """Title → the spec and the lines of the answer."""
    found = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        lines = body.rstrip("\n").split("\n") if body.strip() else []
        spec = [line for line in lines if not line.startswith("-> ")]
        found[title] = "\n".join(spec), [line[3:] for line in lines if line.startswith("-> ")]
    return found


@pytest.mark.parametrize(("spec", "answer"), sections(MISTAKES).values(), ids=sections(MISTAKES))
def test_mistakes(spec: str, answer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text(spec)
    result = diagnose(["m.yaml"], (), {}, None)
    assert [str(p).removeprefix("m.yaml:") for p in result.problems] == answer
    for problem in result.problems:
        assert 1 <= problem.line <= spec.count("\n") + 1
        assert problem.column >= 1


def made(layers: str, head: str = "", input: str = "[4, 8, 8]") -> Plan:
    """The plan of a network whose `layers:` are this YAML."""
    indented = "".join(f"    {line}\n" for line in layers.strip("\n").split("\n"))
    file = parse(f"n:\n  input: {input}\n{head}  layers:\n{indented}", "test")
    return plan_spec(file.networks["n"], None, None).checked()


def rows(plan: Plan) -> list[str]:
    """`name type shape`, and what it takes where that is not the row before."""
    found, before = [], "input"
    for layer in plan.layers:
        takes = "" if layer.takes == (before,) else " ← " + ", ".join(layer.takes)
        found.append(f"{layer.name} {layer.type} {'x'.join(str(n) for n in layer.output_shape)}{takes}")
        before = layer.name
    return found


# --- Lists, mappings, names -----------------------------------------------------------------------------------------


def test_a_list_is_numbered() -> None:
    plan = made("- ReLU\n- MaxPool2d: 2\n- [Tanh, {Conv2d: {out_channels: 2, kernel_size: 3}}]\n- Flatten")
    assert rows(plan) == ["0 ReLU 4x8x8", "1 MaxPool2d 4x4x4", "2.0 Tanh 4x4x4", "2.1 Conv2d 2x2x2", "3 Flatten 8"]


def test_a_mapping_gives_names() -> None:
    plan = made("conv1: {Conv2d: {out_channels: 2, kernel_size: 3}}\nMixed_5b:\n  a: ReLU\n  b-1: Tanh\nfc: [Flatten]")
    assert rows(plan) == ["conv1 Conv2d 2x6x6", "Mixed_5b.a ReLU 2x6x6", "Mixed_5b.b-1 Tanh 2x6x6", "fc.0 Flatten 72"]


def test_one_layer_is_a_network() -> None:
    file = parse("n:\n  input: [1, 2, 2]\n  layers: Flatten\n", "test")
    plan = plan_spec(file.networks["n"], None, None).checked()
    assert rows(plan) == [" Flatten 4"]
    assert isinstance(build_plan(plan), nn.Flatten)


def test_nothing_is_the_identity() -> None:
    plan = made("a: []\nb: {from: input, layers: []}\nc: {Add: [a, b]}")
    assert rows(plan) == ["c Add 4x8x8 ← input, input"]


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ("MaxPool2d: 2", {"kernel_size": (2, 2)}),
        ("MaxPool2d: [2, 3]", {"kernel_size": (2, 3)}),
        ("MaxPool2d: {kernel_size: 2, stride: [1, 2]}", {"kernel_size": (2, 2), "stride": (1, 2)}),
        ("AdaptiveAvgPool2d: [6, 6]", {"output_size": (6, 6)}),
        ("Conv2d: {out_channels: 2, kernel_size: 3, bias: False}", {"in_channels": 4, "bias": False}),
        ("Dropout: 1e-1", {"p": 0.1}),
        ("Flatten: 2", {"start_dim": 2}),
        ("LayerNorm: 8", {"normalized_shape": (8,)}),
        ("Upsample: {scale_factor: 2, align_corners: null}", {"scale_factor": (2, 2), "align_corners": None}),
    ],
)
def test_settings_are_pytorchs(written: str, settings: dict[str, object]) -> None:
    layer = made(f"- {written}").layers[0]
    assert {name: layer.settings[name] for name in settings} == settings


def test_sizes_that_follow_are_inferred_and_may_be_written() -> None:
    plain = made("- Conv2d: {out_channels: 6, kernel_size: 3}\n- BatchNorm2d\n- Flatten\n- Linear: 10")
    full = made(
        "- Conv2d: {in_channels: 4, out_channels: 6, kernel_size: 3}\n- BatchNorm2d: {num_features: 6}\n- Flatten\n"
        "- Linear: {in_features: 216, out_features: 10}"
    )
    assert [layer.settings for layer in plain.layers] == [layer.settings for layer in full.layers]
    assert plain.output == (10,)


# --- from, joins, Chunk, Parameter ----------------------------------------------------------------------------------


def test_from_takes_a_sibling_or_what_enters() -> None:
    plan = made(
        "a: ReLU\nb: {Tanh: , from: input}\nc:\n  from: a\n  layers:\n    d: {ELU: , from: input}\ne: {Add: [b, c]}"
    )
    assert rows(plan) == ["a ReLU 4x8x8", "b Tanh 4x8x8 ← input", "c.d ELU 4x8x8 ← a", "e Add 4x8x8 ← b, c.d"]


def test_layers_alone_is_a_childs_name() -> None:
    assert rows(made("a: {layers: ReLU}\nb: {from: a, layers: Tanh}")) == ["a.layers ReLU 4x8x8", "b Tanh 4x8x8"]


def test_joins() -> None:
    plan = made("a: {Conv2d: {out_channels: 6, kernel_size: 1}}\nb: {AdaptiveAvgPool2d: 1}\nc: {Multiply: [a, b]}\n"
                "d: {Concat: [a, c, input]}\ne: {Add: [a, c, a]}\nf: {Concat: [d, e]}")  # fmt: skip
    shapes = {layer.name: layer.output_shape for layer in plan.layers}
    assert shapes == {"a": (6, 8, 8), "b": (6, 1, 1), "c": (6, 8, 8), "d": (16, 8, 8), "e": (6, 8, 8), "f": (22, 8, 8)}


def test_chunk_and_parameter() -> None:
    plan = made("c: {Chunk: 2}\na: {ReLU: , from: c.1}\np: {Parameter: {shape: [2, 1, 1], init: 0.5}}\n"
                "m: {Multiply: [a, p]}\nd: {Concat: [c.0, m]}")  # fmt: skip
    assert rows(plan) == [
        "c Chunk 2x8x8",
        "a ReLU 2x8x8 ← c.1",
        "p Parameter 2x1x1 ← ",
        "m Multiply 2x8x8 ← a, p",
        "d Concat 4x8x8 ← c.0, m",
    ]
    assert plan.params == 2


def test_the_layer_after_a_parameter_takes_what_came_before_it() -> None:
    assert rows(made("a: ReLU\np: {Parameter: {shape: [4, 1, 1]}}\nb: Tanh\nm: {Add: [b, p]}"))[2] == "b Tanh 4x8x8 ← a"


# --- repeat ---------------------------------------------------------------------------------------------------------


def test_repeat_in_a_list_is_spliced_in() -> None:
    group = "- {repeat: 2, layers: [Tanh, {repeat: 2, layers: [ELU]}]}\n"
    plan = made("- ReLU\n" + group + "- {SELU: , repeat: 2}\n- {CELU: , repeat: 0}")
    assert [row.split()[1] for row in rows(plan)] == ["ReLU", *["Tanh", "ELU", "ELU"] * 2, "SELU", "SELU"]
    assert [row.split()[0] for row in rows(plan)] == [str(n) for n in range(9)]


def test_repeat_of_an_argument_is_spliced_in_like_the_list_that_it_is() -> None:
    plan = made(
        "Twice: {stage: [Tanh, ELU]}",
        "  blocks:\n    Twice: {args: {stage: }, layers: [{repeat: 2, layers: $stage}]}\n",
    )
    assert [f"{layer.name} {layer.type}" for layer in plan.layers] == ["0 Tanh", "1 ELU", "2 Tanh", "3 ELU"]


def test_behind_a_wrong_repeat_nothing_has_a_shape() -> None:
    file = parse("n: {input: [4, 8, 8], layers: [ReLU, {Tanh: , repeat: 1000000}, Flatten, {Linear: 10}]}", "test")
    plan = plan_spec(file.networks["n"], None, None)
    assert [layer.type for layer in plan.layers] == ["ReLU"]
    assert len(plan.errors) == 1


def test_a_repeat_that_is_no_number() -> None:
    with pytest.raises(SpecError, match=r"repeat must be an integer from 0 to 1000, not \[1, 2\]"):
        made("- {ReLU: , repeat: [1, 2]}")


def test_repeat_in_a_mapping_counts_in_the_name() -> None:
    plan = made('"layer{1}": {ReLU: , repeat: 2}\n"b{0}-x": {repeat: 2, layers: [Tanh]}\n"c{7}": {ELU: , repeat: 0}')
    assert [row.split()[0] for row in rows(plan)] == ["layer1", "layer2", "b0-x.0", "b1-x.0"]


def test_from_beside_repeat_is_where_the_first_copy_begins() -> None:
    plan = made('a: ReLU\n"b{1}": {Tanh: , repeat: 2, from: input}\nc: {Add: [a, b2]}')
    assert rows(plan)[1:3] == ["b1 Tanh 4x8x8 ← input", "b2 Tanh 4x8x8"]


def test_copies_are_counted_and_named() -> None:
    """DenseNet's shape: the n-th copy joins all before it, and $index makes it wider."""
    plan = made("- {Linear: '${4 + 2 * index}', repeat: $depth}", "  args: {depth: 3}\n", "[1, 1, 5]")
    assert [layer.output_shape for layer in plan.layers] == [(1, 1, 4), (1, 1, 6), (1, 1, 8)]


# --- blocks, arguments, arithmetic ----------------------------------------------------------------------------------

UNITS = """blocks:
  Unit:
    args: {width: , kernel: 3, act: ReLU, shortcut: []}
    layers:
      conv: {Conv2d: {out_channels: $width, kernel_size: $kernel, padding: "${kernel // 2}"}}
      act: $act
      short: {from: input, layers: $shortcut}
      add: {Add: [act, short]}
  Wide:
    args: {by: 2, width: "${by * 3}"}
    layers: {Conv2d: {out_channels: "${by * in_channels}", kernel_size: 1}}
n:
  input: [4, 8, 8]
  args: {width: 4, classes: 10, rate: 0.25}
  layers:
"""


def units(layers: str) -> list[str]:
    file = parse(UNITS + "".join(f"    {line}\n" for line in layers.split("\n")), "test")
    plan = plan_spec(file.networks["n"], None, None)
    assert not plan.errors, plan.errors
    return rows(plan)


def test_a_block_adds_no_level() -> None:
    assert units("- Unit: 4")[0] == "0.conv Conv2d 4x8x8"
    assert units("a: Wide") == ["a Conv2d 8x8x8"]


def test_a_bare_value_is_the_first_argument() -> None:
    assert units("- Wide: 3") == units("- Wide: {by: 3}") == ["0 Conv2d 12x8x8"]


def test_arguments_hold_layers_with_the_scope_they_were_written_in() -> None:
    found = units("- Unit: {width: '${2 * width}', act: [ReLU, {Dropout: $rate}], shortcut: {Wide: 2}}")
    assert found == [
        "0.conv Conv2d 8x8x8",
        "0.act.0 ReLU 8x8x8",
        "0.act.1 Dropout 8x8x8",
        "0.short Conv2d 8x8x8 ← input",
        "0.add Add 8x8x8 ← 0.act.1, 0.short",
    ]


def test_in_channels_is_what_arrives() -> None:
    assert units("- Wide\n- Wide\n- Linear: $in_channels") == ["0 Conv2d 8x8x8", "1 Conv2d 16x8x8", "2 Linear 16x8x16"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("${4 * width}", 16), ("${-width + 9}", 5), ("${(width + 1) * 2 // 3}", 3), ("${width % 3 + classes - 1}", 10),
     ("${2 * (3 + (width))}", 14), ("$width", 4), ("${ width }", 4), ("${7}", 7)],
)  # fmt: skip
def test_arithmetic(text: str, value: int) -> None:
    assert units(f"- Flatten\n- Linear: '{text}'")[1] == f"1 Linear {value}"


def test_a_networks_own_block_goes_before_the_files() -> None:
    text = "blocks: {Unit: {layers: ReLU}}\na: {input: [1, 2, 2], layers: [Unit]}\n"
    text += "b: {input: [1, 2, 2], blocks: {Unit: {layers: Tanh}}, layers: [Unit]}\n"
    networks = parse(text, "test").networks
    assert [plan_spec(networks[n], None, None).layers[0].type for n in "ab"] == ["ReLU", "Tanh"]


def test_arguments_of_a_network_can_be_set() -> None:
    spec = parse(
        "n: {input: [1, 4, 4], args: {classes: 10, act: ReLU}, layers: [$act, Flatten, {Linear: $classes}]}", "t"
    )
    set_ = plan_spec(spec.networks["n"], {"classes": "5", "act": "[Tanh, ELU]"}, (2, 6, 6))
    assert rows(set_) == ["0.0 Tanh 2x6x6", "0.1 ELU 2x6x6", "1 Flatten 72", "2 Linear 5"]
    assert plan_spec(spec.networks["n"], {"classes": 7}, None).output == (7,)
    assert set_.args == {"classes": 5, "act": ["Tanh", "ELU"]}
    with pytest.raises(UsageError, match=r"n has no argument 'clases'\. Did you mean 'classes'"):
        plan_spec(spec.networks["n"], {"clases": 5}, None)


# --- outputs, documents, values -------------------------------------------------------------------------------------


def test_outputs() -> None:
    head = "  outputs: {fc: 1.0, aux: 0.3}\n"
    plan = made("a: Flatten\naux: {Linear: 5}\nfc: {Linear: 5, from: a}\n", head)
    assert (plan.outputs, plan.output) == ({"fc": 1.0, "aux": 0.3}, (5,))
    with pytest.raises(SpecError) as error:
        made("a: Flatten\naux: {Linear: 3}\nfc: {Linear: 5, from: a}\n", head)
    assert str(error.value).endswith(
        "all outputs with weights must have the same shape, but 'aux' is 3 and 'fc' is 5; make them equal, or name "
        "outputs without weights, [fc, aux]"
    )


@pytest.mark.parametrize(
    "name", ["fashion-convnet", "block-cnn", "resnet50", "densenet121", "googlenet", "convnext_tiny"]
)
def test_documents_make_the_same_plan(name: str) -> None:
    """What a checkpoint keeps stands on its own: also with other arguments and another input."""
    classes = {"classes": 7} if "classes" in shipped().networks[name].args else {}
    plan = find(name, args=classes)
    assert "blocks" not in plan.document()[name]  # those that it uses stand beside it
    again = plan_document(plan.document(), "checkpoint")
    assert [(x.name, x.settings, x.takes, x.output_shape) for x in plan.layers] == [
        (x.name, x.settings, x.takes, x.output_shape) for x in again.layers
    ]
    assert (again.outputs, again.train, again.args) == (plan.outputs, plan.train, plan.args)
    assert again.document() == plan.document()
    assert plan_document(plan.document(), "checkpoint", {"classes": 3}).output == (3,) or not classes


def test_names_of_modules_are_taken() -> None:
    """A child may not hide an attribute of a module: the list is nn.Module's and ours, whole."""
    assert {name for name in dir(Graph({}, {}, "input")) if not name.startswith("__")} == TAKEN
    for name in ["forward", "_takes", "__init__", "input", "a.b", "", "a b", "ä", "x" * 65]:
        with pytest.raises(SpecError, match="choose another name"):
            made(f"{name!r}: ReLU")
    assert made("_conv_stem: ReLU").layers[0].name == "_conv_stem"  # as EfficientNet's first implementation has it
    assert made("layers: ReLU\n0: Tanh\nA-b_3: ELU").layers[1].name == "0"


VALUES = {
    "1e-3": 0.001, "1E3": 1000.0, "-.5": -0.5, "3.": 3.0, "0": 0, "-7": -7, "+7": 7,
    "true": True, "True": True, "FALSE": False, "null": None, "~": None, "": None, "Null": None,
    "no": "no", "yes": "yes", "on": "on", "010": "010", "0x10": "0x10", "0o7": "0o7", "3:30": "3:30", "1_000": "1_000",
    "2001-01-01": "2001-01-01", ".nan": ".nan", ".inf": ".inf", "'1'": "1", '"true"': "true", "$width": "$width",
}  # fmt: skip


@pytest.mark.parametrize("text", VALUES)
def test_yaml_values(text: str) -> None:
    found = read_yaml(f"a: {text}\n", "test").plain["a"]
    assert (found, type(found)) == (VALUES[text], type(VALUES[text]))


def test_every_problem_of_a_file_has_the_file_in_front(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("n: {input: [1, 2, 2], layers: [relu]}\n")
    with pytest.raises(SpecError) as caught:
        find(f"{path}:n")
    assert re.match(
        re.escape(f"{path}:1:32: n, layers.0: unknown layer 'relu'. Did you mean 'ReLU'?"), str(caught.value)
    )


# --- The command ----------------------------------------------------------------------------------------------------

TWO = "a: {input: [1, 4, 4], args: {k: 3}, layers: [{MaxPool2d: $k}]}\nb: {input: [1, 4, 4], layers: [relu]}\n"


def cnn(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cnn_cli", *arguments], capture_output=True, text=True, timeout=60)


def test_check_tells_all_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    message = "b, layers.0: unknown layer 'relu'. Did you mean 'ReLU'?"
    result = cnn("check", str(path))
    assert (result.returncode, result.stdout) == (2, f"{path}:2:32: {message}\n")
    assert result.stderr == "2 networks checked: 1 mistake\n"
    document = json.loads(cnn("check", str(path), "--json").stdout)
    assert document["networks"] == 2
    where, text = message.split(": ", 1)
    place = {"file": str(path), "line": 2, "column": 32, "where": where}
    assert document["problems"] == [{**place, "message": text, "warning": False}]


def test_check_without_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(TWO.split("\n")[0])
    result = cnn("check", str(path), "lenet-5", f"{path}:a")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "3 networks checked: no mistakes\n")


def test_check_obeys_set_and_input(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO.replace("relu", "ReLU"))
    assert "a 5x5 window needs at least 5x5, but got 1x4x4" in cnn("check", str(path), "--set", "k=5").stdout
    assert "a 3x3 window needs at least 3x3, but got 1x2x2" in cnn("check", str(path), "--input", "1x2x2").stdout
    wrong = cnn("check", str(path), "--set", "kk=5")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == f"error: no network of {path} has an argument 'kk'; remove --set kk\n"


@pytest.mark.parametrize("command", ["summary", "shapes"])
def test_rows_up_to_a_mistake_are_shown(command: str, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("n: {input: [1, 4, 4], layers: [ReLU, {MaxPool2d: 2}, {MaxPool2d: 4}, Flatten]}\n")
    result = cnn(command, str(path))
    assert result.returncode == 2
    assert "1x2x2" in result.stdout
    message = (
        "a 4x4 window needs at least 4x4, but got 1x2x2 from layers.1; write a smaller kernel_size, a padding, or a"
    )
    fix = "larger input (the smallest that fits is 1x8x8)"
    assert result.stderr == f"error: {path}:1:55: n, layers.2 (MaxPool2d): {message} {fix}\n"
    alone = cnn(command, str(path), "--json")
    assert (alone.returncode, alone.stdout, alone.stderr) == (2, "", result.stderr)
