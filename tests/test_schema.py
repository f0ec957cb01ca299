"""`cnn schema`: what an editor accepts and underlines while one types, held against what `cnn check` says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from test_language import MISTAKES, UNITS, sections

from cnn_cli.language.schema import spec_schema
from cnn_cli.language.yaml_nodes import read_yaml
from cnn_cli.layers import LAYERS
from cnn_cli.settings import SETTINGS

VALIDATOR = Draft7Validator(spec_schema())

# What a schema cannot see: names that refer to something, sizes that must fit, and YAML itself.
BEYOND = {
    "boxes for fewer anchors", "scores that anchors do not divide", "centerness of several channels",
    "anchors and centerness", "scales with other numbers of anchors",
    "an unknown layer", "brackets", "an unknown output", "no Flatten", "an unused output", "an unused block",
    "two branches too small",
    "an unused argument", "a wrong in_channels", "a wrong in_features", "no Flatten, in_features written",
    "a convolution after Flatten", "an input too small", "channels that differ at a join", "impossible sizes",
    "a stride that differs at a join", "a padding that differs at a join", "halves that do not meet",
    "a join after Flatten", "activations without end", "from something later", "from something unknown", "from itself",
    "from in a list", "a join of nothing known", "a join in a list", "a join with from", "a taken name",
    "pieces in a list", "pieces at the end", "pieces taken whole", "pieces that do not divide",
    "a parameter taken whole", "a parameter that does not fit", "an outputs child in pieces", "repeat without a number",
    "a number without repeat", "index outside", "an unknown argument", "a block's missing argument",
    "a block without arguments", "a block that uses itself", "arithmetic on layers",
    "a division", "a division by zero", "a power", "an open expression", "groups that do not divide", "an unknown axis",
    "an argument without value", "a network that cannot be trained", "layers without dashes", "repeat at the top",
    "repeat and from beside what is neither an item of a list nor a named child",
    "the size of what is split",
    "an argument that fits no setting", "no Flatten after Permute is meant", "a block named like a layer",
    "a reserved argument name", "nothing but blocks", "channels last",
    "classes of torch.nn that are not in the table", "an argument that is not declared",
    "a rejected child, and its uses", "values inside of groups", "a reserved file name",
    "children joined by number", "sizes and parts that do not fit", "numbers in joins that have no place there",
    "several outputs", "a layer used again that does not fit", "input without channels",
    "several outputs that cannot be trained", "outputs of two shapes",
    "a detector with an unknown output", "a detector that names an output twice", "boxes with other channels",
    "boxes of other cells", "cells that do not lie on the image", "boxes that are not a map",
}  # fmt: skip
NOT_YAML = {
    "a tab", "indentation", "an open bracket", "a second colon", "a special character", "an alias", "a merge key",
    "a tag", "a key twice", "a line without a colon", "a list for a key",
    "a bracket too many", "a line without a colon before one with a colon",
    "two documents", "a huge number", "infinity", "an empty file",
}  # fmt: skip
SPECS = {title: spec for title, (spec, _) in sections(MISTAKES).items() if title not in NOT_YAML}


def plain(text: str) -> Any:
    return read_yaml(text, "test").plain


def errors(document: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(document)]


def test_it_is_a_schema() -> None:
    Draft7Validator.check_schema(spec_schema())


def test_the_command_prints_it() -> None:
    result = subprocess.run([sys.executable, "-m", "cnn_cli", "schema"], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == json.loads(json.dumps(spec_schema()))


def test_what_ships_is_valid() -> None:
    assert errors(plain((Path(__file__).parents[1] / "models.yaml").read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("title", [t for t in SPECS if t not in BEYOND])
def test_mistakes_are_underlined(title: str) -> None:
    assert errors(plain(SPECS[title])) != []


@pytest.mark.parametrize("title", [t for t in SPECS if t in BEYOND - {"nothing but blocks"}])
def test_what_may_be_meant_is_not(title: str) -> None:
    """A false underline is worse than none: all of these are mistakes only because of what stands elsewhere."""
    found = errors(plain(SPECS[title]))
    assert not found or title in {"an unknown layer", "brackets"}, found


GOOD = [
    "ReLU", "[]", "[[], [ReLU, [Tanh]]]", "{a: ReLU, b: []}", "[{MaxPool2d: 2}, {MaxPool2d: [2, 3]}, {Dropout: 1e-1}]",
    "[{ReLU: }, {ReLU: {}}, {Softmax: -1}, Flatten, {Flatten: {start_dim: 2}}]", "[{Linear: $classes}]",
    "[{Conv2d: {out_channels: '${2 * width}', kernel_size: [3, $k], padding: same, bias: $bias}}]", "$act",
    "[{Unit: 64}, {Unit: {width: 64, act: [ReLU, {Dropout: 0.5}]}}, Unit, {Unit: {width: 3}, repeat: 3}]",
    "{Mixed_5b: [ReLU], 'layer{1}': {ReLU: , repeat: $n}, c: {from: Mixed_5b, layers: {d: ReLU}}}",
    "{a: ReLU, b: {Add: [a, input]}, c: {Multiply: [a, b]}, d: {Concat: [a, c]}, e: {Chunk: 2}, g: {ELU: , from: e.1}}",
    "{p: {Parameter: {shape: [4, 1, 1], init: 1e-6}}, q: {Parameter: {shape: [$in_channels], init: normal}}}",
    "[{repeat: 3, layers: [ReLU]}, {ReLU: , repeat: 0}]", "[{AdaptiveAvgPool2d: [null, 3]}, {AdaptiveAvgPool2d: 1}]",
    "[{LayerNorm: [28, 28]}, {LayerNorm: 28}, {Permute: [0, 2, 3, 1]}, {Upsample: {size: [4, 4], mode: bilinear}}]",
]  # fmt: skip


@pytest.mark.parametrize("layers", GOOD)
def test_constructs_are_valid(layers: str) -> None:
    assert errors(plain(f"n: {{input: [3, 8, 8], args: {{n: 3, act: [ReLU]}}, layers: {layers}}}")) == []


def test_a_file_with_blocks_is_valid() -> None:
    assert errors(plain(UNITS + "    - Unit: {width: 4, shortcut: {Wide: 2}}\n")) == []


BAD = [
    "relu", "[relu]", "Relu", "[Conv2D]", "[{Conv2d: 8}]", "[{Conv2d: {out_channels: 8}}]", "[3]", "[null]",
    "[{Conv2d: {out_channels: 8, kernel_size: 3, strides: 2}}]", "[{Conv2d: {out_channels: 8, kernel_size: 0}}]",
    "[{Conv2d: {out_channels: '8', kernel_size: 3}}]", "[{Conv2d: {out_channels: 8, kernel_size: [3, 3, 3]}}]",
    "[{Conv2d: {out_channels: 8, kernel_size: 3, bias: no}}]", "[{MaxPool2d: 2, stride: 2}]", "[{Dropout: 2}]",
    "[{ReLU: {inplace: true}}]", "[{ReLU: 3}]", "[{ReLU: , repeat: -1}]", "[{ReLU: , repeat: 2.5}]", "[Linear]",
    "{a: {Add: a}}", "{a: {Add: [b]}}", "{a: {Chunk: 0}}", "{a: {Parameter: {init: 1}}}", "{a: {ReLU: , from: 3}}",
    "{a: 3}", "[{Linear: classes}]", "[{MaxPool2d: }]",
]  # fmt: skip


@pytest.mark.parametrize("layers", BAD)
def test_typical_mistakes_are_underlined(layers: str) -> None:
    assert errors(plain(f"n: {{input: [3, 8, 8], layers: {layers}}}")) != []


def test_every_layer_and_training_setting_is_offered() -> None:
    """What an editor completes is what the tables hold."""
    found = spec_schema()
    mapping = found["definitions"]["part"]["anyOf"][-1]["properties"]
    for name, layer in LAYERS.items():
        named = mapping[name]["anyOf"][0]["properties"]
        assert list(named) == list(layer.settings)
    train = found["definitions"]["network"]["properties"]["train"]["anyOf"][0]
    assert set(train["properties"]) == set(SETTINGS)
