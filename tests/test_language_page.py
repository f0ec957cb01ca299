"""The guide's language page: an example of every construct, and what it says cannot be written."""

import re

import pytest
from documentation import GUIDE, blocks

from cnn_cli.language.registry import plan_spec, with_registry
from cnn_cli.language.spec import parse
from cnn_cli.layers import JOINS, LAYERS

PAGE = GUIDE / "language.md"
FILES = [block.text for block in blocks(PAGE) if block.language == "yaml" and "mistakes.yaml" not in block.text]
CONSTRUCTS = {
    "a list": r"layers:\n +- |: \[\{",
    "a layer without settings": r"\b(ReLU|Flatten)\b",
    "one argument": r"\{?MaxPool2d: 2",
    "keyword arguments": r"Conv2d: \{out_channels",
    "a mapping": r"conv: \{Conv2d",
    "from": r"\{?from: \w+, ",
    "a path": r"from: \w+\.\w+",
    "several inputs": r"from: \[\w+, [\w.]+\]",
    "a number": r"Multiply: \[branch, 0.17\]|Divide: 2",
    "pieces of equal size": r"Chunk: 2",
    "pieces": r"Split: \[",
    "the size of a sibling": r"Upsample: \{size: \w+",
    "a crop": r"CenterCrop: \w+",
    "a slice": r"Slice: \{dim",
    "padding along channels": r"ZeroPad2d: \[0, 0, 0, 0, ",
    "a parameter": r"Parameter: \{shape",
    "copies in a list": r"repeat: \d, layers|repeat: \d\}",
    "copies in a mapping": r'"\w+\{1\}": \{repeat',
    "a block": r"blocks:",
    "a network as a part": r"Network: ",
    "an argument": r"\$width",
    "arithmetic": r"\$\{.*[*/+]",
    "what arrives": r"\$\{?in_channels.*",
    "height and width": r"in_height.*in_width",
    "the channels of a sibling": r"\$\w+\.out_channels",
    "the number of the copy": r"\$?\{?.*\bindex\b",
    "the same weights": r"Again: \w+",
    "the identity": r"shortcut: \[\]",
    "auxiliary outputs": r"outputs: \{\w+: 1.0",
    "several outputs": r"outputs: \[\w+, ",
    "one-dimensional inputs": r"input: \[\d+, \d+\]\n",
} | {name: rf"\b{name}: " for name in JOINS}


@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_every_construct_has_an_example(construct: str) -> None:
    assert any(re.search(CONSTRUCTS[construct], text) for text in FILES)


@pytest.mark.parametrize("text", FILES, ids=lambda text: text.partition("\n")[0])
def test_the_examples_have_no_mistakes(text: str) -> None:
    for spec in with_registry(parse(text, "guide"), ()).networks.values():
        assert plan_spec(spec, None, None).checked().layers


def test_what_cannot_be_written() -> None:
    """The layers that the page names are refused, each with more than a suggestion of some similar name."""
    section = PAGE.read_text().partition("## What is not supported\n")[2].partition("\n## ")[0]
    names = re.findall(r"`([A-Z]\w+)`", section)
    missing = [name for name in names if name not in LAYERS]
    assert {"MultiheadAttention", "LSTM", "Conv3d", "MaxUnpool2d"} <= set(missing)
    for name in missing:
        (spec,) = parse(f"n: {{input: [1, 8, 8], layers: [{name}]}}", "n").networks.values()
        (problem,) = plan_spec(spec, None, None).errors
        assert problem.message.startswith(f"{name} ") and "; " in problem.message, problem
    for child in re.findall(r"\(`(forward)`, `(train)`, `(half)`\)", section)[0]:
        (spec,) = parse(f"n: {{input: [1, 8, 8], layers: {{{child}: ReLU}}}}", "n").networks.values()
        assert plan_spec(spec, None, None).errors
