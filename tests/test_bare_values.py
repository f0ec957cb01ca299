"""`{MaxPool2d: 2}`: a bare value stands for the first setting, and hides no other that is required."""

from typing import Any

import pytest

from cnn_cli.errors import SpecError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document
from cnn_cli.layers import JOINS, LAYERS, REQUIRED

BARE: tuple[Any, ...] = (1, 2, 0.5, [2], [2, 2], [1, 1, 1, 1], [1, 1, 1, 1, 1, 1], "mean", True)
INPUTS = ([4, 8, 8], [4, 8])


def planned(layers: Any, size: list[int]) -> Plan | str:
    """The plan, or its mistakes."""
    try:
        return plan_document({"n": {"input": size, "layers": layers}}, "n")
    except SpecError as error:
        return str(error)


@pytest.mark.parametrize("name", sorted(name for name, rule in (LAYERS | JOINS).items() if not rule.joins))
def test_a_bare_value_is_the_first_setting(name: str) -> None:
    rule = (LAYERS | JOINS)[name]
    required = [n for n, s in rule.settings.items() if s.default is REQUIRED and not s.inferred and n != rule.first]
    for size in INPUTS:
        for value in BARE:
            bare, named = (
                planned({"layer": {name: argument}, "after": {"from": "input", "ReLU": None}}, size)
                for argument in (value, {rule.first: value})
            )
            if isinstance(bare, str):
                assert isinstance(named, str) or rule.first is None
                continue
            assert not required, f"{name}: {value} hides {required}"
            assert isinstance(named, Plan)
            assert [layer.settings for layer in bare.layers] == [layer.settings for layer in named.layers]
            assert [layer.type for layer in bare.layers] == [name, "ReLU"]
