"""The errors that users see: what is wrong, where, and what to do next. The class gives the exit code.

A traceback therefore always means a bug of ours (exit code 70).
"""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


class CnnError(Exception):
    """Failed for a reason outside the spec: a file, the disk, memory, damage, data, the network.

    Among several processes that train together, `to_report` says whether this one prints it; None: not decided yet.
    """

    exit_code = 1
    to_report: bool | None = None


class UsageError(CnnError):
    """The user has to change something: a wrong name, option, setting or spec."""

    exit_code = 2


class DivergedError(CnnError):
    """Training diverged: a loss that is not finite."""

    exit_code = 3


class StoppedError(CnnError):
    """Stopped by a signal, after the state was saved. `signal` is its number; the exit code is 128 + it."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def closest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for a misspelled known name or the start of one; empty if no known name is close.

    >>> closest("Conv2D", ["Conv2d", "ReLU"])
    " Did you mean 'Conv2d'?"
    >>> closest("activation", ["dilation"]), closest("kernel", ["kernel_size"])
    ('', " Did you mean 'kernel_size'?")
    """
    folded = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.7)
    near = near or [k for k in folded if len(name) > 2 and k.startswith(name.lower())][:1]
    return f" Did you mean {folded[near[0]]!r}?" if near else ""


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """`unknown key 'lrs'. Did you mean 'lr'?`, or all known names if none is close.

    >>> unknown("setting", "color", ["p", "q"])
    "unknown setting 'color'. Expected one of p, q"
    """
    return f"unknown {kind} {name[:60]!r}." + (closest(name[:60], known) or f" Expected one of {', '.join(known)}")


def listed(names: Sequence[str], most: int = 12) -> str:
    """`0, 1, 3`; of more than `most` names the first ones and their number."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def enumerated(names: Sequence[str], word: str = "and") -> str:
    """The names as they are listed in a sentence.

    >>> enumerated(["mixup", "CutMix", "class weights"])
    'mixup, CutMix and class weights'
    """
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


@dataclass(frozen=True, order=True)
class Problem:
    """A mistake in a spec and its place; a `warning` if the network works nevertheless."""

    file: str
    line: int
    column: int
    where: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{self.file}:{self.line}:{self.column}: {'warning: ' if self.warning else ''}{where}{self.message}"


class SpecError(UsageError):
    """All mistakes of a spec that can be found at once, each with its place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in problems))
