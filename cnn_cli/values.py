"""Kinds of values that a setting may take: read a value, or describe the valid ones as JSON Schema.

The layer table and the training settings are both written in these kinds, so that a wrong value is refused in the same
words everywhere: "must be an integer of at least 1, not 0".
"""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from cnn_cli.errors import closest, enumerated

Schema = dict[str, Any]  # a JSON Schema (draft 7)


class Kind(Protocol):
    """A kind of value."""

    def read(self, value: Any) -> Any:
        """The value in its normal form; ValueError says what it must be."""

    def schema(self) -> Schema:
        """JSON Schema (draft 7) of the same."""


def shown(value: Any) -> str:
    """A value as a YAML author would write it, cut to one short line."""
    text = _flow(value, 3)
    return text if len(text) <= 60 else text[:57] + "…"


def _flow(value: Any, depth: int) -> str:
    """The value in YAML's flow style, down to `depth` levels and with the first items of long lists."""
    if isinstance(value, str):
        return repr(value[:80])
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if not isinstance(value, dict | list | tuple):
        return f"{value:g}" if isinstance(value, float) and abs(value) >= 1e6 else str(value)
    if depth == 0:
        return "…"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k[:80]}: {_flow(v, depth - 1)}" for k, v in islice(value.items(), 12)) + "}"
    return "[" + ", ".join(_flow(v, depth - 1) for v in value[:30]) + "]"


def _range(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return f" of at least {least}" if least is not None else f" of at most {most}" if most is not None else ""
    return f" from {least} to {most}"


_MEANT = {"none": "null", "yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def _instead(value: Any, number: bool = False) -> str:
    """What to write instead of a number in quotes, or another language's word for true, false or null."""
    if not isinstance(value, str) or len(value) > 40:
        return ""
    if not number:
        word = _MEANT.get(value.lower())
        return f"; write {word}" if word else ""
    if re.fullmatch(r"0+\d+", value):
        return f"; write {int(value)}"
    return f"; write {value} without quotes" if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value, re.I) else ""


MOST_FLOAT = 3e38  # about the largest float32
LARGE = 2**31 - 1  # the largest size in PyTorch; messages leave out a limit that large


@dataclass(frozen=True)
class Integer:
    """An integer within [least, most]."""

    least: int | None = None
    most: int | None = LARGE

    def read(self, value: Any) -> int:
        ok = isinstance(value, int) and not isinstance(value, bool)
        if not ok or (self.least is not None and value < self.least) or (self.most is not None and value > self.most):
            most = self.most if self.most is None or self.most < LARGE or (ok and value > self.most) else None
            words = f"must be an integer{_range(self.least, most)}, not {shown(value)}"
            raise ValueError(words + _instead(value, number=True))
        return int(value)

    def schema(self) -> Schema:
        bounds = {"minimum": self.least, "maximum": self.most}
        return {"type": "integer", **{k: v for k, v in bounds.items() if v is not None}}


@dataclass(frozen=True)
class Number:
    """A finite number within [least, most], or above `least` where `above` is set."""

    least: float | None = None
    most: float | None = None
    above: bool = False

    def read(self, value: Any) -> float:
        ok = isinstance(value, int | float) and not isinstance(value, bool)
        if ok and not abs(value) < MOST_FLOAT:
            raise ValueError(f"must be a number below {MOST_FLOAT:.0e}, not {shown(value)}")
        low = ok and (self.least is None or (value > self.least if self.above else value >= self.least))
        if not low or (self.most is not None and value > self.most):
            bounds = _range(self.least, self.most)
            words = (
                re.sub("from|of at least", "above", bounds).replace(" to ", " and at most ") if self.above else bounds
            )
            finite = "finite " * (isinstance(value, str) and value.lower().lstrip("+-") in ("inf", "infinity", "nan"))
            raise ValueError(f"must be a {finite}number{words}, not {shown(value)}{_instead(value, number=True)}")
        return value  # type: ignore[no-any-return]  # 1 stays an int: it prints as written

    def schema(self) -> Schema:
        bounds = {"exclusiveMinimum" if self.above else "minimum": self.least, "maximum": self.most}
        return {"type": "number", **{k: v for k, v in bounds.items() if v is not None}}


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {shown(value)}{_instead(value)}")
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Text:
    """Any text."""

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be text, not {shown(value)}")
        return value

    def schema(self) -> Schema:
        return {"type": "string"}


@dataclass(frozen=True)
class Choice:
    """One of a few words (or numbers)."""

    options: tuple[Any, ...]

    def read(self, value: Any) -> Any:
        for option in self.options:
            if option == value and type(option) is type(value):
                return option
        words = ", ".join(str(o) for o in self.options[:-1]) + " or " * (len(self.options) > 1) + str(self.options[-1])
        hint = closest(value, [o for o in self.options if isinstance(o, str)]) if isinstance(value, str) else ""
        raise ValueError(f"must be {words}, not {shown(value)}.{hint}".removesuffix("."))

    def schema(self) -> Schema:
        return {"enum": list(self.options)}


@dataclass(frozen=True)
class Sizes:
    """`count` values of a kind, as PyTorch takes them: one for all, or a list. Read as a tuple of `count`."""

    item: Kind
    count: int = 2

    def read(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, list | tuple):
            if len(value) != self.count:
                raise ValueError(f"must be one value or a list of {self.count}, not {shown(value)}")
            return tuple(self.item.read(v) for v in value)
        return (self.item.read(value),) * self.count

    def schema(self) -> Schema:
        item = self.item.schema()
        return {"anyOf": [item, {"type": "array", "items": item, "minItems": self.count, "maxItems": self.count}]}


@dataclass(frozen=True)
class ListOf:
    """A list of values of one kind; a single value counts as a list of one where `single` is set."""

    item: Kind
    least: int = 1
    most: int = 8
    single: bool = False

    def read(self, value: Any) -> tuple[Any, ...]:
        if self.single and not isinstance(value, list | tuple):
            return (self.item.read(value),)
        if not isinstance(value, list | tuple) or not self.least <= len(value) <= self.most:
            count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most:,}"
            count = count if self.least else f"at most {self.most:,}"
            raise ValueError(f"must be a list of {count} values, not {shown(value)}")
        return tuple(self.item.read(v) for v in value)

    def schema(self) -> Schema:
        item = self.item.schema()
        array = {"type": "array", "items": item, "minItems": self.least, "maxItems": self.most}
        return {"anyOf": [item, array]} if self.single else array


@dataclass(frozen=True)
class OneOf:
    """Any of several kinds; the first that reads the value wins."""

    kinds: tuple[Kind, ...]

    def read(self, value: Any) -> Any:
        reasons: list[str] = []
        for kind in self.kinds:
            try:
                return kind.read(value)
            except ValueError as error:
                if not isinstance(kind, Null):
                    reasons.append(str(error))
        hint = _instead(value)
        if len(reasons) == 1:  # its own words may say more than the kind of value
            raise ValueError(reasons[0] + (hint if hint not in reasons[0] else ""))
        words = " or ".join(reason.removeprefix("must be ").rsplit(", not ", 1)[0] for reason in reasons)
        raise ValueError(f"must be {enumerated(words.split(' or '), 'or')}, not {shown(value)}{hint}")

    def schema(self) -> Schema:
        return {"anyOf": [k.schema() for k in self.kinds]}


def maybe(kind: Kind) -> OneOf:
    """The kind, or `null`."""
    return OneOf((Null(), kind))


@dataclass(frozen=True)
class Null:
    """YAML's `null`."""

    def read(self, value: Any) -> None:
        if value is not None:
            raise ValueError(f"must be null, not {shown(value)}")

    def schema(self) -> Schema:
        return {"type": "null"}


def parse_numbers(text: str) -> tuple[int, ...]:
    """`3,5,8-10` as (3, 5, 8, 9, 10), each once; ValueError for anything else.

    >>> parse_numbers("3,5,8-10")
    (3, 5, 8, 9, 10)
    """
    numbers: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first]
        if not all(end.isascii() and end.isdigit() and len(end) < 7 for end in ends):
            raise ValueError(f"takes numbers such as 3, 0-15 or 3,5,8-10, not {shown(text)}")
        numbers += range(int(first), int(ends[-1]) + 1)
    return tuple(dict.fromkeys(numbers))
