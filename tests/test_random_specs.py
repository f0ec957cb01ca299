"""Random specs of the whole language against an independent interpreter in plain PyTorch; see random_specs.py."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from random_specs import random_spec
from spec_differences import LIMITS, Difference, compare
from torch_values import CLASSES, JOINS, SPLITS

import cnn_cli
from cnn_cli.analysis.memory import training
from cnn_cli.errors import SpecError
from cnn_cli.language.registry import plan_document, plan_spec
from cnn_cli.language.spec import parse
from cnn_cli.layers import JOINS as OUR_JOINS
from cnn_cli.layers import LAYERS
from cnn_cli.network.builder import build_plan

SPECS = 150


def test_every_layer_type_is_drawn() -> None:
    assert set(CLASSES) == set(LAYERS)
    assert {*JOINS, *SPLITS, "Parameter"} == set(OUR_JOINS)


def test_the_guide_names_every_limit() -> None:
    guide = (Path(cnn_cli.__file__).parent / "guide/language.md").read_text(encoding="utf-8")
    assert [limit for limit in LIMITS.values() if limit not in guide.partition("## Stricter than PyTorch")[2]] == []


def test_random_specs() -> None:
    outcomes, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for seed in range(SPECS):
            text = random_spec(seed)
            result = compare(text, seed)
            if isinstance(result, Difference):
                pytest.fail(f"seed {seed}: {result.message}\n{text}")
            outcomes.append(result.outcome)
    torch.set_num_threads(threads)
    assert outcomes.count("equal") > SPECS // 2
    assert outcomes.count("refused") > SPECS // 10


# --- What they found -----------------------------------------------------------------------------------------------


def network(layers: Any, **more: Any) -> dict[str, Any]:
    return {"n": {"input": [4, 8, 8], "layers": layers, **more}}


def outputs(document: dict[str, Any]) -> list[str]:
    """`name shape` of each layer."""
    plan = plan_document(document, "test")
    training(plan, 4, "adam")
    return [f"{layer.name} {'x'.join(map(str, layer.output_shape))}" for layer in plan.layers]


def mistake(document: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        plan_document(document, "test")
    return str(caught.value)


ONE = {"Conv2d": {"out_channels": 2, "kernel_size": 1}}


def test_the_number_of_copies_may_follow_from_what_enters_the_first() -> None:
    assert outputs(network([ONE, {"ReLU": None, "repeat": "$in_channels"}])) == ["0 2x8x8", "1 2x8x8", "2 2x8x8"]
    copies = {"a": ONE, "b{1}": {"from": "input", "repeat": "$in_channels", "ReLU": None}}
    assert len(outputs(network(copies))) == 1 + 4
    copies = {"a": ONE, "b{1}": {"from": "input", "repeat": "$a.out_channels", "ReLU": None}}
    assert len(outputs(network(copies))) == 1 + 2


def test_a_piece_may_be_an_output_with_a_weight() -> None:
    split = {"s": {"Split": 2}, "a": {"from": "s.1", "ReLU": None}}
    assert outputs(network(split, outputs={"s.0": 1.0, "a": 0.3})) == ["s 2x8x8", "a 2x8x8"]


def test_a_wrong_weight_of_an_output_is_no_traceback() -> None:
    assert "the loss weight of 'b' must be" in mistake(network({"a": "ReLU", "b": "Tanh"}, outputs={"a": 1, "b": -1}))


def test_a_part_ends_at_a_layer_and_not_at_a_piece() -> None:
    part = {"input": [4, 8, 8], "layers": {"s": {"Split": [1, 3]}, "r": {"from": "s.1", **ONE}}}
    assert "'s.0' of p is a piece" in mistake({**network([{"Network": "p", "until": "s.0"}]), "p": part})


def test_a_part_with_an_unknown_output_has_mistakes() -> None:
    part = {"input": [4, 8, 8], "outputs": {"x": 1.0}, "layers": {"s": "ReLU"}}
    assert "the network p has mistakes" in mistake({**network([{"Network": "p"}]), "p": part})


def test_what_arrives_at_a_part_need_not_fit_its_auxiliary_outputs() -> None:
    wide = {"Conv2d": {"out_channels": 2, "kernel_size": 20}}
    ends = {"aux": [wide, {"AdaptiveAvgPool2d": 1}], "main": {"from": "s", "layers": [ONE, {"AdaptiveAvgPool2d": 1}]}}
    part = {"input": [4, 64, 64], "outputs": {"main": 1.0, "aux": 0.3}, "layers": {"s": "ReLU", **ends}}
    assert outputs({**network([{"Network": "p"}]), "p": part}) == ["0.s 4x8x8", "0.main.0 2x8x8", "0.main.1 2x1x1"]


def test_a_part_keeps_the_siblings_that_are_joined_by_number() -> None:
    layers = {"0": "ReLU", "a": {"from": "input", "Tanh": None}, "b": {"Add": ["a", 0]}}
    part = {"input": [4, 8, 8], "outputs": {"b": 1.0, "0": 0.3}, "layers": layers}
    assert outputs({**network([{"Network": "p"}]), "p": part}) == ["0.0 4x8x8", "0.a 4x8x8", "0.b 4x8x8"]


def test_circular_padding_copies_only_what_a_negative_padding_leaves() -> None:
    assert outputs(network([{"CircularPad2d": [0, 0, 7, -1]}])) == ["0 4x14x8"]
    assert "needs sides of at least 9" in mistake(network([{"CircularPad2d": [0, 0, 8, -1]}]))


def test_the_initial_value_of_a_parameter_may_be_an_integer() -> None:
    layers = {"p": {"Parameter": {"shape": [4, 1, 1], "init": 2}}, "a": {"Add": ["input", "p"]}}
    assert torch.equal(build_plan(plan_document(network(layers), "test")).p, torch.full((4, 1, 1), 2.0))


def test_pieces_of_what_has_a_mistake_are_no_further_mistakes() -> None:
    layers = {"a": {"BatchNorm2d": False}, "s": {"Split": 1}, "b": {"Add": ["s.0", "s.3"]}}
    assert mistake(network(layers)).count("n, layers") == 1


def test_a_warning_hides_no_mistake_at_its_place() -> None:
    block = {"B": {"layers": [{"b": {"Linear": 2}, "c": {"B": None}}]}}
    text = yaml.safe_dump(network({"d": {"B": None}}, blocks=block), default_flow_style=False)
    plan = plan_spec(parse(text, "test").networks["n"], None, None)
    assert "nested more than 64 levels deep" in str(plan.errors)
