"""`${4 * width}`: arithmetic on arguments, read by Python's parser and computed here; nothing else is evaluated.

Numbers, argument names, sizes of siblings (`skip.out_channels`), + - * / // % and parentheses, and the functions max,
min and round, with the same results as in Python, except that // returns an integer for floats too.
"""

import ast
import operator
import re
from collections.abc import Callable
from functools import lru_cache

MOST_CHARACTERS = 200
LARGEST = 10**18
Number = int | float
_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Number, Number], Number]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", lambda a, b: int(a // b)),
    ast.Mod: ("%", operator.mod),
}
_FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {  # with the fewest and the most values that they take
    "max": (max, 2, 8),
    "min": (min, 2, 8),
    "round": (round, 1, 1),
}
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)*")


def calculate(text: str, value: Callable[[str], Number]) -> Number:
    """The value of an expression; `value(name)` returns that of an argument. ValueError says what is wrong with it."""
    tree, names, invalid = _parsed(text)
    return _Evaluation(names, value, invalid).evaluate(tree)


@lru_cache(maxsize=1000)
def _parsed(text: str) -> tuple[ast.expr, list[str], str]:
    """The tree of an expression, the names in it, and the message for an invalid part."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"an expression has at most {MOST_CHARACTERS} characters; use an argument for a part of it")
    forms = "numbers, argument names, + - * / // % and parentheses, max(a, b), min(a, b) and round(a)"
    invalid = f"${{{text}}} is not valid; write {forms}"
    if re.search(r"[^\w\s+\-*/%().,]", text) or not text.isascii():
        raise ValueError(invalid)
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:  # Python's keywords and paths such as encoder.0 are valid names
        names.append(match[0])
        return f"_{len(names) - 1}"

    try:
        tree = ast.parse(_NAME.sub(numbered, text).strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(invalid) from None
    return tree.body, names, invalid


class _Evaluation:
    """Evaluates an expression whose names are numbered."""

    def __init__(self, names: list[str], value: Callable[[str], Number], invalid: str) -> None:
        self.names, self.value, self.invalid = names, value, invalid

    def evaluate(self, node: ast.expr) -> Number:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return _bounded(node.value, str(node.value)[:20])  # type: ignore[arg-type]
        if isinstance(node, ast.Name):
            return self.value(self.named(node))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.evaluate(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _apply(*_OPERATORS[type(node.op)], self.evaluate(node.left), self.evaluate(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self.call(self.named(node.func), node.args)
        raise ValueError(self.invalid)

    def named(self, node: ast.Name) -> str:
        return self.names[int(node.id[1:])]

    def call(self, name: str, args: list[ast.expr]) -> Number:
        function, fewest, most = _FUNCTIONS.get(name, (max, 1, 0))
        if not fewest <= len(args) <= most:
            raise ValueError(self.invalid)
        return function(*(self.evaluate(arg) for arg in args))


def _bounded(result: Number, text: str) -> Number:
    if not abs(result) <= LARGEST:
        raise ValueError(f"{text} is too large; write smaller numbers")
    return result


def _apply(symbol: str, function: Callable[[Number, Number], Number], a: Number, b: Number) -> Number:
    if symbol in ("/", "//", "%") and b == 0:
        raise ValueError(f"{a} {symbol} {b} is undefined; write a divisor other than 0")
    return _bounded(function(a, b), f"{a} {symbol} {b}")
