"""`${4 * width}`: arithmetic on arguments, read by Python's parser and computed here; nothing else is evaluated.

Integers, argument names, + - * // % and parentheses. Arguments may be decimal numbers (a drop rate, say): then + - *
give a decimal number, and // and % are rejected.
"""

import ast
import operator
import re
from collections.abc import Callable

MOST_CHARACTERS = 200
LARGEST = 10**18
_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[int | float, int | float], int | float]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
}


def calculate(text: str, value: Callable[[str], int | float]) -> int | float:
    """The value of an expression; `value(name)` gives that of an argument. ValueError says what is wrong with it."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"an expression has at most {MOST_CHARACTERS} characters; use an argument for a part of it")
    invalid = f"${{{text}}} is not valid; write integers, argument names, + - * // % and parentheses"
    if re.search(r"[^\w\s+\-*/%()]", text) or not text.isascii():
        raise ValueError(invalid)
    try:  # names with a prefix: Python's keywords are names as any other
        tree = ast.parse(re.sub(r"[A-Za-z_]\w*", r"_\g<0>", text).strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(invalid) from None
    return _evaluate(tree.body, value, invalid)


def _evaluate(node: ast.expr, value: Callable[[str], int | float], invalid: str) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return value(node.id[1:])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, value, invalid)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left, value, invalid), _evaluate(node.right, value, invalid)
        return _apply(*_OPERATORS[type(node.op)], left, right)
    raise ValueError(invalid + ("; // divides integers" if isinstance(getattr(node, "op", None), ast.Div) else ""))


def _apply(
    symbol: str, function: Callable[[int | float, int | float], int | float], a: int | float, b: int | float
) -> int | float:
    if symbol in ("//", "%"):
        if isinstance(a, float) or isinstance(b, float):
            raise ValueError(f"{symbol} needs integers, but got {a} and {b}; write integers")
        if b == 0:
            raise ValueError(f"{a} {symbol} 0 is undefined; write a divisor other than 0")
    result = function(a, b)
    if abs(result) > LARGEST:
        raise ValueError(f"{a} {symbol} {b} is too large; write smaller numbers")
    return result
