"""How settings are read: lists and mappings, values that exclude each other, and what is said of a wrong one."""

import json
from typing import Any

import pytest

from cnn_cli.errors import UsageError
from cnn_cli.settings import SETTINGS, resolve


@pytest.mark.parametrize("text", ['[{"parameters": "5", "lr": 0.006}]', "[{parameters: '5', lr: 6e-3}]"])
def test_lists_and_mappings_are_typed_as_in_a_spec(text: str) -> None:
    assert resolve({"groups": text}, {}, {})["groups"].value == ({"parameters": ("5",), "lr": 0.006},)
    assert resolve({}, {"CNN_FREEZE": "[conv1, layer1]"}, {})["freeze"].value == ("conv1", "layer1")
    assert resolve({"normalize": "{mean: 0.5, std: [0.2]}"}, {}, {})["normalize"].value == {"mean": [0.5], "std": [0.2]}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"warmup": 1, "schedule": "onecycle"}, "schedule onecycle has its own warm-up; leave out warmup"),
        ({"warmup": 1, "schedule": "triangular"}, "schedule triangular has its own warm-up; leave out warmup"),
        ({"padding_mode": "reflect"}, "padding_mode applies only to shifted images; write shift 2, or leave it out"),
        ({"ema": 0.9, "lookahead": 0.9}, "ema and lookahead both average the weights; leave one out"),
        ({"nesterov": True, "optimizer": "sgd", "momentum": 0}, "nesterov needs a momentum above 0"),
        ({"balanced_sampling": True, "shuffle": False}, "balanced_sampling samples images at random"),
        ({"ema": 1}, "with ema 1 the average never changes"),
        ({"warmup": 2, "epochs": 2}, "warmup 2 must be less than epochs 2"),
        ({"optimizer": "muon", "momentum": 1}, "muon with momentum 1 ignores every gradient"),
        ({"ns_steps": 3}, "ns_steps applies only to optimizer muon, not adam"),
        ({"nesterov": True}, "nesterov applies only to optimizer sgd or muon, not adam"),
    ],
)
def test_settings_that_exclude_each_other(given: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        resolve(given, {}, {})


ADAM = {"optimizer": "adam", "lr": 0.003, "weight_decay": 0.1, "epochs": 7}


@pytest.mark.parametrize(
    ("options", "environ", "spec", "recipe", "expected"),
    [
        ({}, {}, ADAM, {}, {"lr": (0.003, "spec"), "weight_decay": (0.1, "spec")}),
        ({"optimizer": "sgd"}, {}, ADAM, {}, {"lr": (0.01, "default"), "weight_decay": (0, "default")}),
        ({}, {"CNN_OPTIMIZER": "sgd"}, ADAM, {}, {"lr": (0.01, "default"), "momentum": (0.9, "default")}),
        ({"optimizer": "sgd"}, {}, {"lr": 0.003}, {}, {"lr": (0.01, "default")}),  # written for the default, adam
        ({"optimizer": "adam"}, {}, ADAM, {}, {"lr": (0.003, "spec")}),
        ({"optimizer": "sgd", "lr": 0.5}, {}, ADAM, {}, {"lr": (0.5, "option"), "weight_decay": (0, "default")}),
        ({}, {}, ADAM, {"optimizer": "muon"}, {"lr": (0.02, "default"), "epochs": (7, "spec")}),
        ({}, {}, ADAM, {"lr": 0.1}, {"lr": (0.1, "recipe"), "weight_decay": (0.1, "spec")}),
        ({"optimizer": "adam"}, {}, ADAM, {"optimizer": "muon", "lr": 0.5}, {"lr": (0.003, "spec")}),
        (
            {"optimizer": "muon"},
            {},
            {"optimizer": "sgd", "momentum": 0.5, "nesterov": True},
            {},
            {"momentum": (0.95, "default"), "nesterov": (True, "default")},
        ),
        (
            {"schedule": "step"},
            {},
            {"schedule": "step", "gamma": 0.5},
            {"schedule": "cosine"},
            {"gamma": (0.5, "spec")},
        ),
        (
            {"optimizer": "adamw"},
            {},
            {"optimizer": "muon", "groups": [{"parameters": "*.bias", "optimizer": "adamw", "lr": 0.01}]},
            {},
            {"groups": ((), "default")},
        ),
        (
            {"optimizer": "sgd"},
            {},
            {"optimizer": "muon", "groups": [{"parameters": "*.bias", "lr": 0.01, "epochs": 2}]},
            {},
            {"groups": (({"parameters": ("*.bias",), "epochs": 2},), "spec")},
        ),
        (
            {},
            {"CNN_OPTIMIZER": "sgd"},
            {"optimizer": "muon"},
            {"optimizer": "muon", "groups": [{"parameters": "*.bias", "lr": 0.01}]},
            {"groups": ((), "default"), "lr": (0.01, "default")},
        ),
    ],
)
def test_a_value_written_for_another_choice_is_not_inherited(
    options: Any, environ: Any, spec: Any, recipe: Any, expected: Any
) -> None:
    settings = resolve(options, environ, spec, recipe)
    assert {name: tuple(settings[name]) for name in expected} == expected


def test_every_setting_reads_what_its_schema_says() -> None:
    import jsonschema

    for name, row in SETTINGS.items():
        if row.default is not None:
            jsonschema.validate(json.loads(json.dumps(row.default)), row.kind.schema()), name


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        (
            "normalize",
            "{mean: 0.5, std: 0}",
            "--normalize must be {mean: [...], std: [...]} with every std above 0, not",
        ),
        ("gamma", "2", "--gamma must be a number above 0 and at most 1, not 2"),
        ("workers", "-1", "--workers must be an integer from 0 to 256, not -1"),
        ("loss", "mse", "--loss must be cross-entropy, focal,"),
        ("lr", "inf", "--lr must be a finite number above 0, not 'inf'"),
        ("lr", "-1000000000.0", "--lr must be a number above 0, not -1e+09"),
        ("init", "{a: zero}", "--init must be dirac, whitening or prior for 'a', not 'zero'"),
        ("class_weights", "heavy", "--class-weights must be balanced, sqrt or a list of 2 to 100,000 values, not"),
        (
            "loss",
            "focall",
            "--loss must be cross-entropy, focal, dice, cross-entropy+dice or focal+dice, not 'focall'. Did",
        ),
        ("groups", "[{parameters: a, rate: 1}]", "--groups has an unknown key 'rate'. Expected one of parameters,"),
        ("groups", "[{parameters: a, lr: 0}]", "--groups has an invalid lr: it must be a number above 0, not 0"),
        ("groups", "foo", "--groups must be {parameters: GLOB, lr: 0.001} with the settings that differ, not 'foo'"),
    ],
)
def test_what_a_setting_takes_is_said(name: str, text: str, error: str) -> None:
    with pytest.raises(UsageError) as failed:
        resolve({name: text}, {}, {})
    assert str(failed.value).startswith(error)


def test_a_single_group_needs_no_list() -> None:
    assert resolve({"groups": "{parameters: a, lr: 1}"}, {}, {})["groups"].value == ({"parameters": ("a",), "lr": 1},)


def test_a_list_is_typed_with_commas_alone() -> None:
    assert resolve({"class_weights": "1,2,0.5"}, {}, {})["class_weights"].value == (1, 2, 0.5)
    with pytest.raises(UsageError, match=r"--lr must be a number above 0, not \[1, 2\]"):
        resolve({"lr": "1,2"}, {}, {})


def test_fp16_is_refused_with_its_reason() -> None:
    with pytest.raises(UsageError, match="--precision must be fp32, bf16 or auto: training in fp16 needs loss scaling"):
        resolve({"precision": "fp16"}, {}, {})


def test_groups_are_one_option_with_a_list_or_a_mapping() -> None:
    from cnn_cli.cli.training_options import settings_group

    given = settings_group(["groups", "freeze"])(groups='[{parameters: "0.*", lr: 0.1}]', freeze=["a", "b"]).given
    assert given == {"groups": '[{parameters: "0.*", lr: 0.1}]', "freeze": ["a", "b"]}
    types = settings_group(["groups", "freeze"]).__annotations__
    assert types == {"groups": str | None, "freeze": list[str] | None}
