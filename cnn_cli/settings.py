"""The training settings: one table, and where the value of each comes from.

Option, else `CNN_*` variable, else the spec's recipe, else its `train:`, else the default. No torch: `check` reads
`train:` blocks too.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from cnn_cli.errors import UsageError, closest
from cnn_cli.setting_conflicts import conflicts
from cnn_cli.setting_kinds import FAST, OPTIMIZERS, Fast, Initialization, Normalization, ParameterGroup, Precision
from cnn_cli.values import Choice, Flag, Integer, Kind, ListOf, Null, Number, OneOf, Schema, Text, maybe, shown

_WITH_MOMENTUM = ("optimizer", ("sgd", "muon"))  # the optimizers with a momentum that can be set
_STEP = ("schedule", ("step",))


@dataclass(frozen=True)
class Field:
    """A row of the table. `only`: another setting, and those of its values for which this one applies."""

    group: str
    kind: Kind
    default: Any
    help: str
    only: tuple[str, tuple[str, ...]] | None = None


def _rows(group: str, **rows: tuple[Any, ...]) -> dict[str, Field]:
    """The rows of a group, each given by the other arguments of Field."""
    return {name: Field(group, *row) for name, row in rows.items()}


_SCHEDULES = ("constant", "cosine", "onecycle", "step", "linear", "triangular")
_FLIPS, _PADDING = Choice(("none", "random", "alternating")), Choice(("constant", "reflect"))
_POSITIVE, _FRACTION, _PART = Number(0, above=True), Number(0, 1), Number(0, 1, above=True)
_GROUPS = ListOf(ParameterGroup(), least=0, most=100, single=True)
_PATTERNS = ListOf(Text(), least=0, most=100, single=True)
LOSSES = ("cross-entropy", "focal", "dice", "cross-entropy+dice", "focal+dice")
_CLASS_WEIGHTS = OneOf((Null(), Choice(("balanced", "sqrt")), ListOf(Number(0), least=2, most=100_000)))

SETTINGS: dict[str, Field] = {
    **_rows(
        "Data",
        data=(maybe(Text()), None, "data set name, or a folder of images"),
        val_fraction=(Number(0, 0.9), 0, "fraction held out for validation [0; ignored if the data has a val split]"),
        overfit=(maybe(Integer(1)), None, "train and evaluate on the same N training images, as a sanity check [off]"),
        resize=(Choice(("stretch", "crop", "pad")), "stretch", "resizing of images: stretch, crop or pad [stretch]"),
        normalize=(maybe(Normalization()), None, "normalization of pixels in [0, 1]: {mean: [...], std: [...]} [none]"),
        skip_unreadable=(
            Flag(),
            False,
            "skip images that cannot be read or have invalid boxes [false: report them as errors]",
        ),
        annotations=(
            maybe(Text()),
            None,
            "annotations to use, if there are several: voc, coco or yolo boxes, or the mask folder",
        ),
        workers=(maybe(Integer(0, 256)), None, "data-loading workers [one per CPU, at most 8]"),
    ),
    **_rows(
        "Optimization",
        epochs=(_POSITIVE, 10, "number of epochs; fractions allowed (1.5) [10]"),
        batch_size=(Integer(1), 64, "global batch size, across all processes [64]"),
        shuffle=(Flag(), True, "shuffle the training images in every epoch [true]"),
        optimizer=(Choice(OPTIMIZERS), "adam", "optimizer: sgd, adam, adamw or muon [adam]"),
        lr=(_POSITIVE, None, "learning rate [sgd 0.01, adam and adamw 0.001, muon 0.02]"),
        momentum=(_FRACTION, None, "momentum, for sgd and muon [0.9; muon 0.95]", _WITH_MOMENTUM),
        nesterov=(Flag(), None, "Nesterov momentum, for sgd and muon [false; muon true]", _WITH_MOMENTUM),
        ns_steps=(Integer(1, 99), None, "Newton-Schulz iterations, for muon [5]", ("optimizer", ("muon",))),
        groups=(_GROUPS, (), "parameter groups with their own settings: [{parameters: GLOB, lr: 0.001}] [none]"),
        loss=(
            maybe(Choice(LOSSES)),
            None,
            "segmentation loss: cross-entropy, focal, dice, cross-entropy+dice or focal+dice [cross-entropy]",
        ),
        clip_grad_norm=(maybe(_POSITIVE), None, "clip the global gradient norm to this value [off]"),
        weights=(
            maybe(Text()),
            None,
            "initial weights: torchvision, a torchvision weights name, a file or a run; PART=… for a part [random]",
        ),
        init=(
            maybe(Initialization()),
            None,
            "initialization of convolutions: {GLOB: dirac}, whitening or prior [PyTorch's]",
        ),
        weights_partial=(Flag(), False, "copy only weights that match by name and shape [false: all must match]"),
        freeze=(_PATTERNS, (), "layers or parameters to freeze, such as features.* [none]"),
    ),
    **_rows(
        "Schedule",
        schedule=(
            Choice(_SCHEDULES),
            "constant",
            "learning-rate schedule per step: constant, cosine, onecycle, step, linear (to 0) or triangular [constant]",
        ),
        warmup=(Number(0), 0, "epochs of linear warm-up before the schedule [0]"),
        step_size=(_POSITIVE, 3, "epochs between drops of the learning rate, for the step schedule [3]", _STEP),
        gamma=(_PART, 0.1, "factor by which the learning rate drops, for the step schedule [0.1]", _STEP),
    ),
    **_rows(
        "Augmentation",
        flip=(_FLIPS, "none", "horizontal flips: none, random, or alternating by epoch [none]"),
        shift=(Integer(0), 0, "random shift by up to this many pixels [0]"),
        padding_mode=(_PADDING, "constant", "padding of shifted images: constant (black) or reflect [constant]"),
        crop=(_PART, 1, "random resized crop: minimum fraction of the area [1: off]"),
        cutout=(Integer(0), 0, "cutout: side length of the square, in pixels [0]"),
        mixup=(Number(0), 0, "mixup: alpha of the Beta distribution [0]"),
        cutmix=(Number(0), 0, "CutMix: alpha of the Beta distribution [0]"),
    ),
    **_rows(
        "Regularization",
        weight_decay=(Number(0), None, "weight decay [0; adamw 0.01]"),
        label_smoothing=(Number(0, 0.99), 0, "label smoothing in the training loss [0]"),
        class_weights=(
            _CLASS_WEIGHTS,
            None,
            "class weights in the training loss: balanced, sqrt (its square root), or one value per class [none]",
        ),
        balanced_sampling=(Flag(), False, "sample all classes equally often [false]"),
        ema=(
            maybe(_FRACTION),
            None,
            "decay of the moving average of the weights (EMA), which is evaluated instead of them [off]",
        ),
        lookahead=(
            maybe(Number(0, 0.999)),
            None,
            "Lookahead: decay of slow weights, copied back every 5 steps [off]",
        ),
    ),
    **_rows(
        "Evaluation",
        patience=(maybe(Integer(1)), None, "early stopping: epochs without improvement on the val split [off]"),
        tta=(Choice(("none", "flip", "flip-shift")), "none", "test-time augmentation: none, flip or flip-shift [none]"),
    ),
    **_rows(
        "Speed",
        precision=(Precision(), "fp32", "precision of training steps: fp32, bf16 or auto [fp32]"),
        fast=(
            Fast(),
            "auto",
            f"speedups: auto (those that pay off on the device), none, or some of {', '.join(FAST)} [auto]",
        ),
    ),
    **_rows(
        "Run",
        seed=(Integer(0), 0, "random seed: weights, shuffling, augmentation, dropout, splits [0]"),
        deterministic=(Flag(), False, "use only deterministic algorithms; fail if an operation has none [false]"),
    ),
}

BY_OPTIMIZER: dict[str, dict[str, Any]] = {
    "lr": {"sgd": 0.01, "adam": 0.001, "adamw": 0.001, "muon": 0.02},
    "weight_decay": {"sgd": 0, "adam": 0, "adamw": 0.01, "muon": 0},
    "momentum": {"sgd": 0.9, "muon": 0.95},
    "nesterov": {"sgd": False, "muon": True},
    "ns_steps": {"muon": 5},
}


def by_optimizer(name: str, optimizer: str) -> Any:
    """The default of a setting that depends on the optimizer; None if the optimizer does not have it."""
    return BY_OPTIMIZER[name].get(optimizer)


class Setting(NamedTuple):
    """A value and where it is from: `option`, `CNN_LR`, `recipe`, `spec` or `default`."""

    value: Any
    source: str


def values_of(settings: Mapping[str, Setting]) -> dict[str, Any]:
    return {name: setting.value for name, setting in settings.items()}


def as_typed(value: Any) -> str:
    """A value as typed for an option: `none`, `channels-last,crop-unused`; other lists and mappings as YAML."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, dict | list | tuple) and value:
        from yaml import safe_dump

        return str(safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False)).strip()
    return "none" if value in (None, (), []) else shown(value).strip("'")


def read_train(block: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Every mistake in a spec's `train:` block, or in a recipe that overrides the block `base`, as (key, message)."""
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for key, value in block.items():
        if key not in SETTINGS:
            hint = closest(key, SETTINGS) or f" The settings are {', '.join(SETTINGS)}."
            problems.append((key, f"unknown training setting {key!r}.{hint}"))
            continue
        try:
            values[key] = SETTINGS[key].kind.read(value)
        except ValueError as error:
            problems.append((key, f"{key} {error}"))
    merged = {**_valid(base or {}), **values}
    problems += [(key, _out_of_place(key, merged)) for key in values if not _applies(key, merged)]
    return problems + [
        (key, reason) for key, reason in conflicts(merged, SETTINGS["epochs"].default).items() if key in values
    ]


def _valid(block: Mapping[str, Any]) -> dict[str, Any]:
    """The valid settings of a block; the others are reported with the block itself."""
    values = {}
    for key in block.keys() & SETTINGS.keys():
        with suppress(ValueError):
            values[key] = SETTINGS[key].kind.read(block[key])
    return values


def train_schema() -> Schema:
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
    than the chosen one is ignored. UsageError for a value of the wrong kind, or one that would have no effect.
    """
    settings = {name: _first(name, options, environ, spec, recipe or {}) for name in SETTINGS}
    values = values_of(settings)
    for name, (_, source) in settings.items():
        if not _applies(name, values) and source != "default":
            raise UsageError(f"{_spelled(name, source)}: {_out_of_place(name, values)}; leave it out")
    settings = {name: setting for name, setting in settings.items() if _applies(name, values)}
    for name in BY_OPTIMIZER:
        if name in settings and settings[name].value is None:
            settings[name] = Setting(by_optimizer(name, values["optimizer"]), "default")
    if "nesterov" in settings and settings["nesterov"].source == "default" and not settings["momentum"].value:
        settings["nesterov"] = Setting(False, "default")
    for reason in conflicts(values_of(settings), SETTINGS["epochs"].default).values():
        raise UsageError(reason)
    return settings


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A warning for each variable CNN_… that nothing reads."""
    known = [name.upper() for name in SETTINGS] + ["MODELS", "DEVICE", "DATA_DIR", "TIMEOUT"]
    unknown = sorted({name.removeprefix("CNN_") for name in environ if name.startswith("CNN_")} - set(known))
    hints = [closest(name, known).replace("'", "'CNN_", 1) for name in unknown]
    return [f"warning: unknown variable CNN_{n} is ignored.{h}" for n, h in zip(unknown, hints, strict=True)]


def requested_settings(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Setting]:
    """The settings that the command line or the environment sets, and no others."""
    settings = {name: _first(name, options, environ, {}, {}) for name in SETTINGS}
    return {name: setting for name, setting in settings.items() if setting.source != "default"}


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
        choice, value = _choice(name), block[name]
        if choice and {**below, **block}.get(choice, SETTINGS[choice].default) != _first(choice, *sources).value:
            value = _independent(value) if name == "groups" else None  # the rest was written for another choice
            if not value:
                continue
        return _checked(name, value, source)
    return Setting(SETTINGS[name].default, "default")


def _choice(name: str) -> str | None:
    """The setting on which the meaning or the default of this one depends."""
    only = SETTINGS[name].only
    return only[0] if only else "optimizer" if name in BY_OPTIMIZER or name == "groups" else None


def _independent(groups: Any) -> list[dict[str, Any]]:
    """Parameter groups without what depends on the optimizer, such as lr; groups that become empty are left out."""
    dependent = {"optimizer", *BY_OPTIMIZER}
    kept = [{key: value for key, value in group.items() if key not in dependent} for group in groups]
    return [group for group in kept if len(group) > 1]


def not_inherited(settings: Mapping[str, Setting], spec: Mapping[str, Any]) -> list[str]:
    """`lr 0.001 (for optimizer adam)`: values of the spec that were replaced by defaults, as they are for another
    optimizer or schedule."""
    values = values_of(settings)
    texts = []
    for name, value in spec.items():
        replaced = name in settings and settings[name].source in ("default", "spec" if name == "groups" else "")
        choice = _choice(name) if replaced else None
        if choice and (meant := spec.get(choice, SETTINGS[choice].default)) != values[choice]:
            shown_value = "settings" if name == "groups" else as_typed(value)
            texts.append(f"{name} {shown_value} (for {choice} {meant})")
    return texts


def _checked(name: str, value: Any, source: str) -> Setting:
    try:
        return Setting(SETTINGS[name].kind.read(value), source)
    except ValueError as error:
        raise UsageError(f"{_spelled(name, source)} {error}") from None


def _parsed(kind: Kind, text: Any) -> Any:
    """The text itself if the setting takes text, else its value as JSON or YAML: number, true, null, list, mapping."""
    if not isinstance(text, str):
        return text
    if text.lstrip()[:1] in ("[", "{") and (value := _flow(text)) is not None:
        return value
    try:
        return kind.read(text)
    except ValueError:
        for written in (text, f"[{text}]" if "," in text else text):  # 1,2,3 is a list, too
            with suppress(ValueError):
                return json.loads(written)
    return text


_POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _flow(text: str) -> Any:
    """`[{parameters: "*.bias", lr: 6e-3}]` as it is written in a spec; None if it is not a list or mapping."""
    import yaml

    def numbers(value: Any) -> Any:  # YAML 1.1 reads 6e-3 as text
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
