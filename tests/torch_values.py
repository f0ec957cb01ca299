"""The words, values and scopes of the independent interpreter: what the spec language takes from PyTorch."""

import functools
import inspect
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

NAMES = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d AlphaDropout AvgPool1d AvgPool2d BatchNorm1d
    BatchNorm2d CELU ChannelShuffle CircularPad1d CircularPad2d ConstantPad1d ConstantPad2d Conv1d Conv2d
    ConvTranspose1d ConvTranspose2d Dropout Dropout1d Dropout2d ELU FeatureAlphaDropout Flatten Fold GELU GLU GroupNorm
    Hardshrink Hardsigmoid Hardswish Hardtanh Identity InstanceNorm1d InstanceNorm2d LPPool2d LayerNorm LeakyReLU Linear
    LocalResponseNorm LogSigmoid LogSoftmax MaxPool1d MaxPool2d Mish PReLU PixelShuffle PixelUnshuffle RMSNorm RReLU
    ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReplicationPad1d ReplicationPad2d SELU SiLU Sigmoid Softmax Softmax2d
    Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold Unflatten Unfold Upsample UpsamplingBilinear2d
    UpsamplingNearest2d ZeroPad1d ZeroPad2d
"""
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "Divide": operator.truediv,
    "Maximum": lambda a, b: torch.maximum(torch.as_tensor(a), torch.as_tensor(b)),
    "Minimum": lambda a, b: torch.minimum(torch.as_tensor(a), torch.as_tensor(b)),
}
JOINS = (*OPERATIONS, "Mean", "Concat")
SPLITS = ("Chunk", "Split")
INFERRED = {"in_channels": 1, "num_features": 1, "num_channels": 1, "input_channels": 1, "in_features": -1}
MOST_VALUES = 100_000
SIZES = {"in_channels": 1, "in_height": 2, "in_width": 3, "out_channels": 1, "out_height": 2, "out_width": 3}


class Refused(Exception):
    """The language does not allow this."""


class TooLarge(Exception):
    """A tensor of more values than are worth computing here."""


def bounded(tensor: Tensor) -> Tensor:
    if tensor.numel() > MOST_VALUES:
        raise TooLarge
    return tensor


class Slice(nn.Module):
    def __init__(self, dim: int = 1, start: int = 0, end: int | None = None, step: int = 1) -> None:
        super().__init__()
        self.dim, self.part = dim, slice(start, end, step)

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(self.dim, 0)[self.part].movedim(0, self.dim)


def layer_norm_2d(num_channels: int, eps: float = 1e-6) -> nn.Module:
    return torchvision.models.convnext.LayerNorm2d(num_channels, eps=eps)


CLASSES: dict[str, Any] = {name: getattr(nn, name) for name in NAMES.split()}
CLASSES |= {n: getattr(torchvision.ops, n) for n in ("DropBlock2d", "FrozenBatchNorm2d", "Permute", "StochasticDepth")}
CLASSES |= {
    "LayerNorm2d": lambda num_channels, eps=1e-6: torchvision.models.convnext.LayerNorm2d(num_channels, eps=eps)
}
CLASSES |= {"Slice": Slice}
CLASSES |= {"SqueezeExcitation": torchvision.ops.SqueezeExcitation, "CenterCrop": torchvision.transforms.CenterCrop}


@functools.cache
def settings_of(name: str) -> list[str]:
    """The keyword arguments of a class."""
    found = inspect.signature(CLASSES[name]).parameters
    return [name for name, one in found.items() if one.kind is one.POSITIONAL_OR_KEYWORD]


@functools.cache
def first_setting(name: str) -> str | None:
    return next((n for n in settings_of(name) if n not in INFERRED and n != "inplace"), None)


@dataclass(frozen=True)
class Value:
    """What goes from one part to the next: a tensor, pieces of one, a parameter, or several values together."""

    tensor: Tensor | None
    pieces: tuple[Tensor, ...] = ()
    bare: bool = False
    inside: Mapping[str, "Value"] = field(default_factory=dict)
    inputs: tuple["Value", ...] = ()
    named: bool = False  # whether it is that of a mapping

    @property
    def closed(self) -> "Value":
        return Value(self.tensor, self.pieces, self.bare, {}, self.inputs) if self.inside or self.named else self

    @property
    def one(self) -> Tensor:
        if self.tensor is None or self.pieces or self.inputs:
            raise Refused("one value is needed, and there are several")
        return self.tensor


@dataclass(frozen=True)
class Scope:
    """What the names in a text mean: its blocks, arguments, `$index`, and the mapping that it is written in."""

    blocks: Mapping[str, Any]
    args: dict[str, Any] = field(default_factory=dict)
    index: int | None = None
    around: Any = None  # a MappingRun


@dataclass(frozen=True)
class Closure:
    """Layers or a list as an argument, and the scope of its text."""

    node: Any
    scope: Scope


def find(values: Mapping[str, Value], path: str) -> Value | None:
    """The value of a name or path."""
    if path in values:
        return values[path]
    head, _, rest = path.partition(".")
    return find(values[head].inside, rest) if rest and head in values else None


def broadcasts(value: Value, shape: Any) -> bool:
    own = value.one.shape
    if value.bare:
        return len(own) < len(shape) and all(
            n in (1, m) or m == 1 for n, m in zip(own[::-1], shape[::-1], strict=False)
        )
    return len(own) == len(shape) and all(n == m or 1 in (n, m) for n, m in zip(own, shape, strict=True))


def paths(values: Any, depth: int = 2) -> list[tuple[str, Value]]:
    """The values that may be named, with those inside of groups."""
    found = [*values.items()]
    for name, value in values.items():
        if depth and value.inside:
            found += [(f"{name}.{inner}", v) for inner, v in paths(value.inside, depth - 1)]
    return found


Step = Callable[[Mapping[str, Value]], Value]


def is_number(argument: Any) -> bool:
    return type(argument) in (int, float) or (isinstance(argument, str) and argument.startswith("$"))


class Arithmetic:
    """The value of an expression, by recursive descent."""

    def __init__(self, text: str, look_up: Callable[[str], Any]) -> None:
        self.tokens = re.findall(r"\d+\.\d*|\d+|[A-Za-z_][\w.]*|//|\S", text)
        self.look_up = look_up
        self.value = self.sum()
        if self.tokens:
            raise Refused("an expression")

    def take(self, *options: str) -> str:
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in options else ""

    def sum(self) -> Any:
        value = self.product()
        while sign := self.take("+", "-"):
            other = self.product()
            value = value + other if sign == "+" else value - other
        return value

    def product(self) -> Any:
        value = self.unary()
        while sign := self.take("*", "/", "//", "%"):
            other = self.unary()
            if sign != "*" and other == 0:
                raise Refused("a division by zero")
            functions = {"*": operator.mul, "/": operator.truediv, "%": operator.mod}
            value = int(value // other) if sign == "//" else functions[sign](value, other)
        return value

    def unary(self) -> Any:
        return -self.unary() if self.take("-") else self.atom()

    def atom(self) -> Any:
        token = self.tokens.pop(0) if self.tokens else ""
        if token[:1].isdigit():
            return float(token) if "." in token else int(token)
        if token == "(":
            value = self.sum()
            self.close()
            return value
        if token in ("max", "min", "round") and self.take("("):
            values = [self.sum()]
            while self.take(","):
                values.append(self.sum())
            self.close()
            if (len(values) == 1) != (token == "round") or len(values) > 8:
                raise Refused("values of a function")
            return {"max": max, "min": min, "round": round}[token](*values)
        if not re.match(r"[A-Za-z_]", token):
            raise Refused("an expression")
        value = self.look_up(token)
        if type(value) not in (int, float):
            raise Refused("not a number")
        return value

    def close(self) -> None:
        if not self.take(")"):
            raise Refused("a parenthesis")
