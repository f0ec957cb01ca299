"""The training settings: one table, and where the value of each comes from.

Option, else `CNN_*` variable, else the spec's `train:`, else the default. No torch: `check` reads `train:` blocks too.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from cnn_cli.errors import UsageError, closest
from cnn_cli.values import Choice, Flag, Kind, ListOf, Number, Text, Whole, maybe, shown


@dataclass(frozen=True)
class Normalization:
    """`{mean: [0.2860], std: [0.3530]}`: a number for each channel; pixels are in [0, 1] before."""

    def read(self, value: Any) -> dict[str, list[float]]:
        if not isinstance(value, dict) or set(value) != {"mean", "std"}:
            raise ValueError(f"must be {{mean: [...], std: [...]}}, not {shown(value)}")
        mean = ListOf(Number(), single=True).read(value["mean"])
        std = ListOf(Number(0, above=True), single=True).read(value["std"])
        if len(mean) != len(std):
            raise ValueError(f"must have as many values in mean ({len(mean)}) as in std ({len(std)})")
        return {"mean": [float(m) for m in mean], "std": [float(s) for s in std]}

    def schema(self) -> dict[str, Any]:
        mean, std = ListOf(Number(), single=True).schema(), ListOf(Number(0, above=True), single=True).schema()
        return {
            "type": "object",
            "properties": {"mean": mean, "std": std},
            "required": ["mean", "std"],
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Field:
    """A row of the table. `only` names the choice of another setting without which this one means nothing."""

    kind: Kind
    default: Any
    help: str
    only: tuple[str, str] | None = None


SETTINGS: dict[str, Field] = {
    "data": Field(maybe(Text()), None, "a data set's name, or a folder of images"),
    "epochs": Field(Whole(1), 10, "how often every training image is seen, in all"),
    "batch_size": Field(Whole(1), 64, "images a step"),
    "optimizer": Field(Choice(("sgd", "adam", "adamw")), "adam", "PyTorch's SGD, Adam or AdamW"),
    "lr": Field(Number(0, above=True), None, "learning rate [sgd 0.01, adam and adamw 0.001]"),
    "weight_decay": Field(Number(0), None, "PyTorch's weight_decay [0, adamw 0.01]"),
    "momentum": Field(Number(0, 1), 0.9, "of sgd", ("optimizer", "sgd")),
    "nesterov": Field(Flag(), False, "Nesterov's momentum", ("optimizer", "sgd")),
    "schedule": Field(
        Choice(("constant", "cosine", "onecycle", "step")), "constant", "how the learning rate moves, step by step"
    ),
    "step_size": Field(Number(0, above=True), 3, "epochs between two drops of the learning rate", ("schedule", "step")),
    "gamma": Field(Number(0, 1, above=True), 0.1, "what each drop multiplies it by", ("schedule", "step")),
    "val_fraction": Field(
        Number(0, 0.9), 0, "part of the training images held out to choose by, where the data has no val split"
    ),
    "shuffle": Field(Flag(), True, "a new order of the images every epoch"),
    "seed": Field(Whole(0), 0, "of the weights, the order, dropout and the validation split"),
    "resize": Field(
        Choice(("stretch", "crop", "pad")), "stretch", "how images of another shape are fitted to the input"
    ),
    "normalize": Field(maybe(Normalization()), None, "subtract mean and divide by std, channel by channel"),
    "weights": Field(maybe(Text()), None, "to begin with: torchvision, the name of a weight, a file of weights, a run"),
    "freeze": Field(
        ListOf(Text(), least=0, most=100, single=True),
        (),
        "layers and parameters to leave as they are, such as features.*",
    ),
    "workers": Field(maybe(Whole(0, 256)), None, "processes or threads that decode images [one a CPU, at most 8]"),
}

_BY_OPTIMIZER = {
    "lr": {"sgd": 0.01, "adam": 0.001, "adamw": 0.001},
    "weight_decay": {"sgd": 0, "adam": 0, "adamw": 0.01},
}


class Setting(NamedTuple):
    """A value and where it is from: `option`, `CNN_LR`, `spec` or `default`."""

    value: Any
    source: str


def read_train(block: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every mistake in a spec's `train:` block, as (key, message)."""
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for key, value in block.items():
        if key not in SETTINGS:
            problems.append((key, f"unknown training setting {key!r}.{closest(key, SETTINGS) or _known()}"))
            continue
        try:
            values[key] = SETTINGS[key].kind.read(value)
        except ValueError as error:
            problems.append((key, f"{key} {error}"))
    problems += [(key, _out_of_place(key, values)) for key in values if not _applies(key, values)]
    if values.get("nesterov") and values.get("momentum") == 0:
        problems.append(("nesterov", "nesterov needs a momentum above 0"))
    return problems


def train_schema() -> dict[str, Any]:
    """JSON Schema (draft 7) of a `train:` block."""
    properties = {name: {**f.kind.schema(), "description": f.help} for name, f in SETTINGS.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def resolve(options: Mapping[str, Any], environ: Mapping[str, str], spec: Mapping[str, Any]) -> dict[str, Setting]:
    """Every setting of a run, in the table's order, with its source.

    options: of the command line, None = not given; environ: looked up as CNN_<NAME>; spec: a checked `train:` block.
    UsageError for a value of the wrong kind, or one asked for that would have no effect.
    """
    found = {name: _first(name, options, environ, spec) for name in SETTINGS}
    values = {name: setting.value for name, setting in found.items()}
    for name, (_, source) in found.items():
        if not _applies(name, values) and source not in ("spec", "default"):  # the spec's were for its own choice
            raise UsageError(f"{_spelled(name, source)}: {_out_of_place(name, values)}; leave it out")
    found = {name: setting for name, setting in found.items() if _applies(name, values)}
    for name, defaults in _BY_OPTIMIZER.items():
        if found[name].value is None:
            found[name] = Setting(defaults[values["optimizer"]], "default")
    if "nesterov" in found and found["nesterov"].value and not found["momentum"].value:
        raise UsageError("nesterov needs a momentum above 0; add --momentum 0.9")
    return found


def asked_for(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Setting]:
    """The settings that the command line or the environment names, and no others."""
    found = {name: _first(name, options, environ, {}) for name in SETTINGS}
    return {name: setting for name, setting in found.items() if setting.source != "default"}


def _first(name: str, options: Mapping[str, Any], environ: Mapping[str, str], spec: Mapping[str, Any]) -> Setting:
    variable = f"CNN_{name.upper()}"
    if options.get(name) is not None:
        return _checked(name, options[name], "option")
    if environ.get(variable):
        return _checked(name, _parsed(SETTINGS[name].kind, environ[variable]), variable)
    if name in spec:
        return _checked(name, spec[name], "spec")
    return Setting(SETTINGS[name].default, "default")


def _checked(name: str, value: Any, source: str) -> Setting:
    try:
        return Setting(SETTINGS[name].kind.read(value), source)
    except ValueError as error:
        raise UsageError(f"{_spelled(name, source)} {error}") from None


def _parsed(kind: Kind, text: str) -> Any:
    """A variable's text as it stands where the setting takes text, else as JSON: numbers, true, null, mappings."""
    try:
        return kind.read(text)
    except ValueError:
        with suppress(ValueError):
            return json.loads(text)
    return text


def _spelled(name: str, source: str) -> str:
    return {"option": "--" + name.replace("_", "-"), "spec": f"train.{name}"}.get(source, source)


def _applies(name: str, values: Mapping[str, Any]) -> bool:
    only = SETTINGS[name].only
    return only is None or values.get(only[0], SETTINGS[only[0]].default) == only[1]


def _out_of_place(name: str, values: Mapping[str, Any]) -> str:
    other, needed = SETTINGS[name].only or ("", "")
    return f"{name} is a setting of {other} {needed}, and this is {values.get(other, SETTINGS[other].default)}"


def _known() -> str:
    return f" The settings are {', '.join(SETTINGS)}."
