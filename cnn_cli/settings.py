"""The training settings: one table, and where the value of each comes from.

Option, else `CNN_*` variable, else the spec's recipe, else its `train:`, else the default. No torch: `check` reads
`train:` blocks too.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from cnn_cli.errors import UsageError, closest
from cnn_cli.values import Choice, Flag, Integer, Kind, ListOf, Null, Number, OneOf, Text, maybe, shown


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


OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
FAST = ("channels-last", "fused-optimizer", "pool-before-relu", "crop-unused", "keep-memory", "cuda-graph")
_WITH_MOMENTUM = ("optimizer", ("sgd", "muon"))  # the optimizers with a momentum that can be set
_GROUP: dict[str, Kind] = {
    "parameters": ListOf(Text(), most=100, single=True),
    "optimizer": Choice(OPTIMIZERS),
    "lr": Number(0, above=True),
    "weight_decay": Number(0),
    "momentum": Number(0, 1),
    "nesterov": Flag(),
    "ns_steps": Integer(1, 99),
}


@dataclass(frozen=True)
class ParameterGroup:
    """`{parameters: "*.bias", optimizer: adamw, lr: 6e-3}`: what is left out is as for the other parameters."""

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or "parameters" not in value or len(value) < 2:
            raise ValueError(f"must be {{parameters: GLOB, lr: 0.001}} with what is to differ, not {shown(value)}")
        read = {}
        for key, item in value.items():
            if key not in _GROUP:
                raise ValueError(f"must not have {key!r}.{closest(key, _GROUP)} A group has {', '.join(_GROUP)}")
            try:
                read[key] = _GROUP[key].read(item)
            except ValueError as error:
                raise ValueError(f"{key} {error}".replace("must", "in it must", 1)) from None
        return read

    def schema(self) -> dict[str, Any]:
        properties = {key: kind.schema() for key, kind in _GROUP.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": ["parameters"],
            "minProperties": 2,
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Fast:
    """`auto`, `none`, or the names of what makes it fast: as a list, or with commas between them."""

    def read(self, value: Any) -> str | tuple[str, ...]:
        if value in ("auto", "none", ()):
            return "auto" if value == "auto" else ()
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(name in FAST for name in names):
            raise ValueError(f"must be auto, none or some of {', '.join(FAST)}, not {shown(value)}")
        return tuple(name for name in FAST if name in names)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["auto", "none"]}, {"type": "array", "items": {"enum": list(FAST)}}]}


@dataclass(frozen=True)
class Field:
    """A row of the table. `only` names the choices of another setting without which this one means nothing."""

    kind: Kind
    default: Any
    help: str
    only: tuple[str, tuple[str, ...]] | None = None


SETTINGS: dict[str, Field] = {
    "data": Field(maybe(Text()), None, "a data set's name, or a folder of images"),
    "epochs": Field(Number(0, above=True), 10, "how often every training image is seen, in all; 1.5 is one and a half"),
    "batch_size": Field(Integer(1), 64, "images a step, of all processes together"),
    "optimizer": Field(Choice(OPTIMIZERS), "adam", "PyTorch's SGD, Adam, AdamW, or Muon (for convolutions too)"),
    "lr": Field(Number(0, above=True), None, "learning rate [sgd 0.01, adam and adamw 0.001, muon 0.02]"),
    "weight_decay": Field(Number(0), None, "PyTorch's weight_decay [0, adamw 0.01]"),
    "momentum": Field(Number(0, 1), None, "of sgd and muon [sgd 0.9, muon 0.95]", _WITH_MOMENTUM),
    "nesterov": Field(Flag(), None, "Nesterov's momentum, of sgd and muon [sgd false, muon true]", _WITH_MOMENTUM),
    "ns_steps": Field(Integer(1, 99), None, "Newton-Schulz steps of muon [5]", ("optimizer", ("muon",))),
    "groups": Field(
        ListOf(ParameterGroup(), least=0, most=100),
        (),
        "parameters with an optimizer or a learning rate of their own: [{parameters: GLOB, lr: 0.001}]",
    ),
    "clip_grad_norm": Field(maybe(Number(0, above=True)), None, "the largest norm of all gradients together"),
    "schedule": Field(
        Choice(("constant", "cosine", "onecycle", "step", "linear")),
        "constant",
        "how the learning rate moves, step by step: constant, cosine, onecycle, step or linear (to 0)",
    ),
    "step_size": Field(
        Number(0, above=True), 3, "epochs between two drops of the learning rate", ("schedule", ("step",))
    ),
    "gamma": Field(Number(0, 1, above=True), 0.1, "what each drop multiplies it by", ("schedule", ("step",))),
    "warmup": Field(Number(0), 0, "epochs in which the learning rate rises to lr, before the schedule"),
    "label_smoothing": Field(Number(0, 1), 0, "share of every label that is spread over all classes"),
    "class_weights": Field(
        OneOf((Null(), Choice(("balanced",)), ListOf(Number(0), least=2, most=100_000))),
        None,
        "of the loss: balanced (rare classes count more), or a list, a number a class",
    ),
    "balanced_sampling": Field(Flag(), False, "draw images so that all classes come equally often"),
    "flip": Field(
        Choice(("none", "random", "alternating")), "none", "mirror images: none, random, or alternating by epoch"
    ),
    "shift": Field(Integer(0), 0, "move images by up to so many pixels each way"),
    "crop": Field(Number(0, 1, above=True), 1, "enlarge a part of the image, of at least this share of its area"),
    "cutout": Field(Integer(0), 0, "blank a square of so many pixels"),
    "mixup": Field(Number(0), 0, "mix pairs of images; alpha of the Beta distribution of their shares"),
    "cutmix": Field(Number(0), 0, "paste a part of another image; alpha, as of mixup"),
    "ema": Field(maybe(Number(0, 1)), None, "evaluate and keep the moving average of the weights, with this decay"),
    "tta": Field(
        Choice(("none", "flip", "flip-shift")), "none", "evaluate the mean over views of an image: flip or flip-shift"
    ),
    "val_fraction": Field(
        Number(0, 0.9), 0, "part of the training images held out to choose by, where the data has no val split"
    ),
    "patience": Field(maybe(Integer(1)), None, "stop after so many epochs without a better one on the val split"),
    "shuffle": Field(Flag(), True, "a new order of the images every epoch"),
    "seed": Field(Integer(0), 0, "of the weights, the order, augmentation, dropout and the validation split"),
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
    "precision": Field(
        Choice(("fp32", "bf16", "auto")), "fp32", "of the steps: fp32, bf16, or auto (bf16 where the device is fast)"
    ),
    "fast": Field(Fast(), "auto", f"auto (what pays on the device), none, or some of {', '.join(FAST)}"),
    "deterministic": Field(
        Flag(), False, "only operations that give the same bits again; an error where there is none"
    ),
    "workers": Field(maybe(Integer(0, 256)), None, "processes or threads that decode images [one a CPU, at most 8]"),
}

BY_OPTIMIZER: dict[str, dict[str, Any]] = {
    "lr": {"sgd": 0.01, "adam": 0.001, "adamw": 0.001, "muon": 0.02},
    "weight_decay": {"sgd": 0, "adam": 0, "adamw": 0.01, "muon": 0},
    "momentum": {"sgd": 0.9, "muon": 0.95},
    "nesterov": {"sgd": False, "muon": True},
    "ns_steps": {"muon": 5},
}


def by_optimizer(name: str, optimizer: str) -> Any:
    """The default of a setting that depends on the optimizer; None where it has no meaning for it."""
    return BY_OPTIMIZER[name].get(optimizer)


class Setting(NamedTuple):
    """A value and where it is from: `option`, `CNN_LR`, `recipe`, `spec` or `default`."""

    value: Any
    source: str


def as_typed(value: Any) -> str:
    """A value in one word where it can be, as it is typed for an option: `none`, `channels-last,crop-unused`."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return "none" if value in (None, ()) else shown(value).strip("'")


def read_train(block: Mapping[str, Any], under: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Every mistake in a spec's `train:` block, or in a recipe, which lies over it (`under`), as (key, message)."""
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
    whole = {**_readable(under or {}), **values}
    problems += [(key, _out_of_place(key, whole)) for key in values if not _applies(key, whole)]
    return problems + [(key, why) for key, why in _contradictions(whole).items() if key in values]


def _readable(block: Mapping[str, Any]) -> dict[str, Any]:
    """What of a block makes sense; the rest is told where it stands."""
    values = {}
    for key in block.keys() & SETTINGS.keys():
        with suppress(ValueError):
            values[key] = SETTINGS[key].kind.read(block[key])
    return values


def train_schema() -> dict[str, Any]:
    """JSON Schema (draft 7) of a `train:` block."""
    properties = {name: {**f.kind.schema(), "description": f.help} for name, f in SETTINGS.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def resolve(
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    spec: Mapping[str, Any],
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Setting]:
    """Every setting of a run, in the table's order, with its source.

    options: of the command line, None = not given; environ: looked up as CNN_<NAME>; spec: a checked `train:` block;
    recipe: a checked recipe, which overrides it. A value that spec or recipe wrote for another optimizer or schedule
    than the one chosen is not taken over. UsageError for a value of the wrong kind, or one that would have no effect.
    """
    found = {name: _first(name, options, environ, spec, recipe or {}) for name in SETTINGS}
    values = {name: setting.value for name, setting in found.items()}
    for name, (_, source) in found.items():
        if not _applies(name, values) and source != "default":
            raise UsageError(f"{_spelled(name, source)}: {_out_of_place(name, values)}; leave it out")
    found = {name: setting for name, setting in found.items() if _applies(name, values)}
    for name in BY_OPTIMIZER:
        if name in found and found[name].value is None:
            found[name] = Setting(by_optimizer(name, values["optimizer"]), "default")
    if "nesterov" in found and found["nesterov"].source == "default" and not found["momentum"].value:
        found["nesterov"] = Setting(False, "default")
    for why in _contradictions({name: setting.value for name, setting in found.items()}).values():
        raise UsageError(why)
    return found


def _contradictions(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings that exclude each other, by the name of one of them."""
    found = {}
    if values.get("nesterov") and values.get("momentum") == 0:
        found["nesterov"] = "nesterov needs a momentum above 0; write momentum 0.9"
    if values.get("warmup") and values.get("schedule") == "onecycle":
        found["warmup"] = "schedule onecycle has a warm-up of its own; leave out warmup"
    if values.get("balanced_sampling") and values.get("shuffle") is False:
        found["balanced_sampling"] = "balanced_sampling samples images at random; leave out --no-shuffle"
    if values.get("warmup", 0) >= values.get("epochs", SETTINGS["epochs"].default):
        found["warmup"] = "warmup must be shorter than epochs"
    if values.get("momentum") == 1 and values.get("optimizer") == "muon":
        found["momentum"] = "muon with momentum 1 ignores every gradient; write 0.95"
    if values.get("ema") == 1:
        found["ema"] = "with ema 1 the average never changes; write 0.999"
    return found


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A warning for each variable CNN_… that nothing reads."""
    known = [name.upper() for name in SETTINGS] + ["MODELS", "DEVICE", "DATA_DIR", "TIMEOUT"]
    unknown = sorted({name.removeprefix("CNN_") for name in environ if name.startswith("CNN_")} - set(known))
    hints = [closest(name, known).replace("'", "'CNN_", 1) for name in unknown]
    return [f"warning: unknown variable CNN_{n} is ignored.{h}" for n, h in zip(unknown, hints, strict=True)]


def asked_for(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Setting]:
    """The settings that the command line or the environment names, and no others."""
    found = {name: _first(name, options, environ, {}, {}) for name in SETTINGS}
    return {name: setting for name, setting in found.items() if setting.source != "default"}


def _first(
    name: str,
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    spec: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> Setting:
    sources = (options, environ, spec, recipe)
    variable = f"CNN_{name.upper()}"
    if options.get(name) is not None:
        return _checked(name, _parsed(SETTINGS[name].kind, options[name]), "option")
    if environ.get(variable):
        return _checked(name, _parsed(SETTINGS[name].kind, environ[variable]), variable)
    for source, block, below in (("recipe", recipe, spec), ("spec", spec, {})):
        if name not in block:
            continue
        choice = _choice(name)
        if choice and {**below, **block}.get(choice, SETTINGS[choice].default) != _first(choice, *sources).value:
            continue  # it was written for another choice
        return _checked(name, block[name], source)
    return Setting(SETTINGS[name].default, "default")


def _choice(name: str) -> str | None:
    """The setting that decides what this one means, or what its default is."""
    only = SETTINGS[name].only
    return only[0] if only else "optimizer" if name in BY_OPTIMIZER else None


def not_inherited(settings: Mapping[str, Setting], spec: Mapping[str, Any]) -> list[str]:
    """`lr 0.001 (for optimizer adam)`: the spec's values that a default replaces, since they are for another choice."""
    values = {name: setting.value for name, setting in settings.items()}
    texts = []
    for name, value in spec.items():
        choice = _choice(name) if name in settings and settings[name].source == "default" else None
        if choice and (meant := spec.get(choice, SETTINGS[choice].default)) != values[choice]:
            texts.append(f"{name} {as_typed(value)} (for {choice} {meant})")
    return texts


def _checked(name: str, value: Any, source: str) -> Setting:
    try:
        return Setting(SETTINGS[name].kind.read(value), source)
    except ValueError as error:
        raise UsageError(f"{_spelled(name, source)} {error}") from None


def _parsed(kind: Kind, text: Any) -> Any:
    """A text as it stands where the setting takes text, else as JSON or YAML: numbers, true, null, lists, mappings."""
    if not isinstance(text, str):
        return text
    if text.lstrip()[:1] in ("[", "{") and (value := _flow(text)) is not None:
        return value
    try:
        return kind.read(text)
    except ValueError:
        with suppress(ValueError):
            return json.loads(text)
    return text


_POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _flow(text: str) -> Any:
    """`[{parameters: "*.bias", lr: 6e-3}]` as it is written in a spec; None where it is no list or mapping."""
    import yaml

    def numbers(value: Any) -> Any:  # YAML 1.1 takes 6e-3 for a word
        if isinstance(value, dict):
            return {str(key): numbers(v) for key, v in value.items()}
        if isinstance(value, list):
            return [numbers(v) for v in value]
        return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return numbers(value) if isinstance(value, list | dict) else None


def _spelled(name: str, source: str) -> str:
    spelled = {"option": "--" + name.replace("_", "-"), "spec": f"train.{name}", "recipe": f"{name} of the recipe"}
    return spelled.get(source, source)


def _applies(name: str, values: Mapping[str, Any]) -> bool:
    only = SETTINGS[name].only
    return only is None or values.get(only[0], SETTINGS[only[0]].default) in only[1]


def _out_of_place(name: str, values: Mapping[str, Any]) -> str:
    other, needed = SETTINGS[name].only or ("", ())
    now = values.get(other, SETTINGS[other].default)
    return f"{name} applies only to {other} {' or '.join(needed)}, not {now}"


def _known() -> str:
    return f" The settings are {', '.join(SETTINGS)}."
