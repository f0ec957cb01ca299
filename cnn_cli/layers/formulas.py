"""Formulas that both count and explain: applied to integers, a rule returns a number; applied to terms, its own text.

Sources: the shape sections of docs.pytorch.org/docs/stable/nn.html, which follow Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning", arXiv:1603.07285.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

_SUM, _PRODUCT, _ATOM = 1, 2, 3  # how tightly a term binds
_MEANINGS = {"k": "kernel", "s": "stride", "p": "padding", "d": "dilation", "e": "output_padding"}
_MEANINGS |= {"w": "window", "j": "jump"}


@dataclass(frozen=True)
class Term:
    """A number or symbol as text; its operators return the operation as text.

    >>> (2 * (Term("n") - 1) + Term("k")).text, (Term("14·14", 2) * (Term("k") // 2)).text
    ('2·(n − 1) + k', '14·14 · ⌊k/2⌋')
    """

    text: str
    rank: int = _ATOM

    def __add__(self, other: Any) -> "Term":
        return Term(f"{self.text} + {_term(other).text}", _SUM)

    def __radd__(self, other: Any) -> "Term":
        return _term(other) + self

    def __sub__(self, other: Any) -> "Term":
        return Term(f"{self.text} − {_term(other).bound(_PRODUCT)}", _SUM)

    def __mul__(self, other: Any) -> "Term":
        left, right = self.bound(_PRODUCT), _term(other).bound(_PRODUCT)
        spaced = any("·" in side or (side.isalpha() and len(side) > 1) for side in (left, right))
        return Term(f"{left} · {right}" if spaced else f"{left}·{right}", _PRODUCT)

    def __rmul__(self, other: Any) -> "Term":
        return _term(other) * self

    def __floordiv__(self, other: Any) -> "Term":
        return Term(f"⌊{ratio(self, other).text}⌋")

    def __floor__(self) -> "Term":
        return Term(f"⌊{self.text}⌋")

    def bound(self, rank: int) -> str:
        """The text, in parentheses where it binds less tightly than `rank`."""
        return self.text if self.rank >= rank else f"({self.text})"


def _term(value: Any) -> Term:
    if isinstance(value, Term):
        return value
    if isinstance(value, tuple):
        return Term("·".join(str(n) for n in value) or "1", _PRODUCT if len(value) > 1 else _ATOM)
    return Term(f"{value:g}" if isinstance(value, float) else str(value))


def ratio(a: Any, b: Any) -> Any:
    """a/b, which must leave no remainder."""
    if isinstance(a, Term) or isinstance(b, Term):
        return Term(f"{_term(a).bound(_PRODUCT)}/{_term(b).bound(_ATOM)}", _PRODUCT)
    return a // b


def ceil_ratio(a: Any, b: Any) -> Any:
    """a/b, rounded up."""
    return Term(f"⌈{ratio(a, b).text}⌉") if isinstance(a, Term) or isinstance(b, Term) else -(-a // b)


@dataclass(frozen=True)
class Formula:
    """A rule and the numbers that go into it, by their symbols; a tuple of numbers stands for their product.

    >>> formula = Formula(lambda n, k: n - k + 1, {"n": 28, "k": 3})
    >>> formula.value, formula.symbols, formula.numbers
    (26, 'n − k + 1', '28 − 3 + 1 = 26')
    """

    rule: Callable[..., Any]
    inputs: Mapping[str, Any]
    label: str = ""  # of several values of a layer, which one: height, width, channels
    note: str = ""

    @property
    def value(self) -> int:
        return int(self.rule(*(prod(n) if isinstance(n, tuple) else n for n in self.inputs.values())))

    @property
    def symbols(self) -> str:
        return str(self.rule(*map(Term, self.inputs)).text)

    @property
    def numbers(self) -> str:
        written = self.rule(*map(_term, self.inputs.values())).text
        return f"{written} = {self.value:,}" if written != str(self.value) else written

    @property
    def meaning(self) -> str:
        """`n = 28, kernel k = 3, stride s = 1`; empty if the symbols are words."""
        if not all(len(symbol) == 1 for symbol in self.inputs):
            return ""
        return ", ".join(f"{_MEANINGS.get(k, '')} {k} = {v}".strip() for k, v in self.inputs.items())


Line = Formula | str  # a formula, or a sentence where there is nothing to compute


def numbers(lines: Sequence[Line]) -> tuple[str, ...]:
    """The formulas with their numbers; height and width share a line if they are computed alike."""
    labels: dict[str, list[str]] = {}
    for line in lines:
        text, label = (line, "") if isinstance(line, str) else (line.numbers, line.label)
        labels.setdefault(text, []).append(label)
    if len(labels) == 1:
        return tuple(labels)
    return tuple(f"{' and '.join(names)} {text}".strip() for text, names in labels.items())


def derivation(lines: Sequence[Line]) -> tuple[str, ...]:
    """The formulas with symbols, the meaning of these, the formulas with numbers, and notes, one line each."""
    formulas = [line for line in lines if isinstance(line, Formula)]
    symbols = dict.fromkeys(f.symbols for f in formulas)
    meanings = dict.fromkeys(f.meaning for f in formulas)
    if len(meanings) > 1:  # the axes differ, and the lines with numbers show how
        meanings = dict.fromkeys(", ".join(f"{_MEANINGS[k]} {k}" for k in f.inputs if k in _MEANINGS) for f in formulas)
    notes = dict.fromkeys(f.note for f in formulas)
    shown = (*symbols, *meanings, *numbers(lines), *notes)
    return tuple(dict.fromkeys(line for line in shown if line))


AXES = {1: ("length",), 2: ("height", "width")}


def by_axis(rule: Callable[..., Any], symbols: str, *columns: Sequence[Any]) -> list[Formula]:
    """A formula for each axis, from the values of each symbol along the axes."""
    rows = list(zip(*columns, strict=True))
    return [Formula(rule, dict(zip(symbols, row, strict=True)), AXES[len(rows)][n]) for n, row in enumerate(rows)]


def window(n: Any, k: Any, s: Any, p: Any) -> Any:
    """Positions of a window of `k` values, moved by `s` over `n` values with a padding of `p` at both ends.

    >>> window(28, 3, 1, 0)
    26
    """
    return (n + 2 * p - k) // s + 1


def dilated_window(n: Any, k: Any, s: Any, p: Any, d: Any) -> Any:
    """The same for a window whose values are `d` apart (dilation)."""
    return (n + 2 * p - d * (k - 1) - 1) // s + 1


def ceil_window(n: Any, k: Any, s: Any, p: Any, d: Any) -> Any:
    """The same with a last window that may reach beyond the padding (ceil_mode)."""
    return ceil_ratio(n + 2 * p - d * (k - 1) - 1, s) + 1


def cut_window(n: Any, k: Any, s: Any, p: Any, d: Any) -> Any:
    """The same without the last window, which would start in the padding at the end."""
    return ceil_window(n, k, s, p, d) - 1


def window_size(n: int, k: int, s: int, p: int, d: int, ceil: bool, label: str) -> Formula:
    """The output size of a convolution or pooling along one axis, as PyTorch computes it."""
    values = {"n": n, "k": k, "s": s, "p": p}
    if not ceil and d == 1:
        return Formula(window, values, label)
    values["d"] = d
    if not ceil:
        return Formula(dilated_window, values, label)
    if (ceil_window(n, k, s, p, d) - 1) * s < n + p:
        return Formula(ceil_window, values, label)
    return Formula(cut_window, values, label, note="− 1: the last window would start in the padding at the end")


def transposed_window(n: Any, k: Any, s: Any, p: Any, d: Any, e: Any) -> Any:
    """Size after a transposed convolution: the size whose convolution gives `n`, plus `e` (output_padding)."""
    return (n - 1) * s - 2 * p + d * (k - 1) + e + 1


def adaptive_start(i: Any, n: Any, o: Any) -> Any:
    """The first of `n` values that output i of `o` reads."""
    return i * n // o


def adaptive_end(i: Any, n: Any, o: Any) -> Any:
    """The first value after those."""
    return ceil_ratio((i + 1) * n, o)
