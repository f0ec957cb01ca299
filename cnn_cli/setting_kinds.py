"""Kinds of values that only training settings take: a normalization, an initialization, a parameter group, speedups."""

from dataclasses import dataclass
from typing import Any

from cnn_cli.errors import unknown
from cnn_cli.values import Choice, Flag, Integer, Kind, ListOf, Number, Schema, Text, shown


@dataclass(frozen=True)
class Normalization:
    """`{mean: [0.2860], std: [0.3530]}`: a number for each channel; pixels are in [0, 1] before."""

    def read(self, value: Any) -> dict[str, list[float]]:
        if not isinstance(value, dict) or set(value) != {"mean", "std"}:
            raise ValueError(f"must be {{mean: [...], std: [...]}}, not {shown(value)}")
        mean = ListOf(Number(), single=True).read(value["mean"])
        try:
            std = ListOf(Number(0, above=True), single=True).read(value["std"])
        except ValueError:
            raise ValueError(
                f"must be {{mean: [...], std: [...]}} with every std above 0, not {shown(value)}"
            ) from None
        if len(mean) != len(std):
            raise ValueError(f"must have as many values in mean ({len(mean)}) as in std ({len(std)})")
        return {"mean": [float(m) for m in mean], "std": [float(s) for s in std]}

    def schema(self) -> Schema:
        mean, std = ListOf(Number(), single=True).schema(), ListOf(Number(0, above=True), single=True).schema()
        return {
            "type": "object",
            "properties": {"mean": mean, "std": std},
            "required": ["mean", "std"],
            "additionalProperties": False,
        }


class Precision(Choice):
    """The precision of training steps; fp16 is refused with the reason."""

    def __init__(self) -> None:
        super().__init__(("fp32", "bf16", "auto"))

    def read(self, value: Any) -> Any:
        if value == "fp16":
            raise ValueError("must be fp32, bf16 or auto: training in fp16 needs loss scaling, which is not available")
        return super().read(value)


INITIALIZATIONS = ("dirac", "whitening", "prior")
_METHODS = "dirac, whitening or prior"


@dataclass(frozen=True)
class Initialization:
    """`{"0": whitening, "*.conv?": dirac}`: how the convolutions that match a glob are initialized."""

    def read(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or not value:
            raise ValueError(f"must be {{GLOB: {_METHODS}}}, not {shown(value)}")
        for pattern, method in value.items():
            if not isinstance(method, str) or method not in INITIALIZATIONS:
                raise ValueError(f"must be {_METHODS} for {pattern!r}, not {shown(method)}")
        return {str(pattern): method for pattern, method in value.items()}

    def schema(self) -> Schema:
        return {"type": "object", "minProperties": 1, "additionalProperties": {"enum": list(INITIALIZATIONS)}}


OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
FAST = (
    "channels-last",
    "fused-optimizer",
    "pool-before-relu",
    "crop-unused",
    "keep-memory",
    "cuda-graph",
    "max-pool-kernel",
)
_GROUP: dict[str, Kind] = {
    "parameters": ListOf(Text(), most=100, single=True),
    "optimizer": Choice(OPTIMIZERS),
    "lr": Number(0, above=True),
    "weight_decay": Number(0),
    "momentum": Number(0, 1),
    "nesterov": Flag(),
    "ns_steps": Integer(1, 99),
    "epochs": Integer(1),
}


@dataclass(frozen=True)
class ParameterGroup:
    """`{parameters: "*.bias", optimizer: adamw, lr: 6e-3}`: settings left out are those of the other parameters.

    epochs: the parameters are trained for this many epochs, and frozen afterwards.
    """

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or "parameters" not in value or len(value) < 2:
            form = "{parameters: GLOB, lr: 0.001}"
            raise ValueError(f"must be {form} with the settings that differ, not {shown(value)}")
        read = {}
        for key, item in value.items():
            if key not in _GROUP:
                raise ValueError(f"has an {unknown('key', str(key), _GROUP)}")
            try:
                read[key] = _GROUP[key].read(item)
            except ValueError as error:
                raise ValueError(f"has an invalid {key}: it {error}") from None
        return read

    def schema(self) -> Schema:
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
    """`auto`, `none`, or the names of speedups, as a list or separated by commas."""

    def read(self, value: Any) -> str | tuple[str, ...]:
        if value in ("auto", "none", ()):
            return "auto" if value == "auto" else ()
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(name in FAST for name in names):
            raise ValueError(f"must be auto, none or some of {', '.join(FAST)}, not {shown(value)}")
        return tuple(name for name in FAST if name in names)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": ["auto", "none"]}, {"type": "array", "items": {"enum": list(FAST)}}]}
