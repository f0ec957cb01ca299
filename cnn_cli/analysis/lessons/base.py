"""What a lesson is, and how numbers are written in it."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from cnn_cli.language.plan import Layer


class Lesson(NamedTuple):
    """What a layer does, and how its output size, its parameters and its MACs are computed, a line each."""

    what: str
    size: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()


Make = Callable[[Layer], Lesson]  # what a row of the tables of lessons is


def times(*numbers: int) -> str:
    """`3·3·64`."""
    return "·".join(str(n) for n in numbers)


def symbols(names: str, values: Collection[tuple[int, ...]]) -> str:
    """`n = 28, kernel k = 3, stride s = 1`; without the values where rows and columns differ in them."""
    shown = [f" = {value}" for value in next(iter(values))] if len(values) == 1 else [""] * len(names.split())
    return ", ".join(f"{name.replace('.', ' ')}{value}" for name, value in zip(names.split(), shown, strict=True))


def alike(lines: Sequence[str]) -> tuple[str, ...]:
    """One line where rows and columns are computed alike, else one for each."""
    if len(set(lines)) == 1:
        return (lines[0],)
    return tuple(f"{name:<7} {line}" for name, line in zip(("rows", "columns"), lines, strict=True))
