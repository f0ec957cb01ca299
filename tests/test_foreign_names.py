"""Classes of torch.nn and torchvision.ops that are not layers here: what is said of each."""

import re

import pytest
import torchvision
from torch import nn

from cnn_cli.errors import SpecError
from cnn_cli.language.registry import plan_document
from cnn_cli.layers import JOINS, LAYERS


def classes(module: object) -> set[str]:
    """The modules of a package that are not in the layer table."""
    found = {n for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, nn.Module)}
    return found - set(LAYERS) - set(JOINS)


def message(layer: str) -> str:
    with pytest.raises(SpecError) as caught:
        plan_document({"n": {"input": [4, 8, 8], "layers": [layer]}}, "test")
    return str(caught.value).partition("n, layers.0: ")[2]


@pytest.mark.parametrize(("module", "name"), [("torch.nn", nn), ("torchvision.ops", torchvision.ops)])
def test_every_other_class_has_its_reason(module: str, name: object) -> None:
    for layer in sorted(classes(name)):
        text = message(layer)
        known = text.startswith((f"{layer} of {module} is not supported: it ", f"{layer} is a loss"))
        assert known or re.match(r"Lazy\w+ (is not needed|of torch)|\w+3d of torch.nn is not supported", text), text
        advice = text.partition("; ")[2]
        assert re.search(r"\b(write|remove)\b", advice), text
        named = set(re.findall(r"[A-Z]\w{2,}", advice)) - {"GPU"}
        assert named <= {*LAYERS, *JOINS}, text


@pytest.mark.parametrize("name", ["StdConv2d", "ScaledStdConv2d", "StdConv2dSame", "WSConv2d", "WeightStandardization"])
def test_weight_standardization(name: str) -> None:
    assert message(name).startswith(f"weight standardization ({name}) is not supported; write Conv2d")


def test_a_block_may_have_such_a_name() -> None:
    document = {"n": {"input": [4, 8, 8], "layers": ["Conv3d"], "blocks": {"Conv3d": {"layers": ["ReLU"]}}}}
    assert [layer.type for layer in plan_document(document, "test").layers] == ["ReLU"]
