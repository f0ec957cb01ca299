"""`${4 * width}`: whole-number arithmetic on arguments, and nothing else. No name is evaluated; the grammar is below.

    sum     = product (("+" | "-") product)*
    product = unary (("*" | "//" | "%") unary)*
    unary   = "-" unary | number | name | "(" sum ")"

An argument may be a decimal number (a drop rate, say); + - * then give a decimal number, // and % refuse it.
"""

import re
from collections.abc import Callable

MOST_CHARACTERS = 200
MOST_DEPTH = 20
LARGEST = 10**18
_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_]\w*)|(//|[-+*%()]))")


class _Reader:
    """The text and how far it has been read."""

    def __init__(self, text: str, value: Callable[[str], int | float]) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.value = value
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self.at += 1
        return token


def calculate(text: str, value: Callable[[str], int | float]) -> int | float:
    """The value of an expression; `value(name)` gives that of an argument. ValueError says what is wrong with it."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"an expression has at most {MOST_CHARACTERS} characters; write an argument for a part of it")
    reader = _Reader(text, value)
    result = _sum(reader)
    if reader.peek():
        raise ValueError(f"{reader.peek()!r} is not expected in ${{{text}}}; write an operator before it, or remove it")
    return result


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            hint = "; write // to divide integers" if text[at:].lstrip()[:1] == "/" else ""
            raise ValueError(
                f"{text[at:].lstrip()[:1]!r} is not allowed in ${{{text}}}: only + - * // % and parentheses{hint}"
            )
        tokens.append(match.group().strip())
        at = match.end()
    return tokens


def _sum(r: _Reader) -> int | float:
    result = _product(r)
    while r.peek() in ("+", "-"):
        result = _apply(r.next(), result, _product(r))
    return result


def _product(r: _Reader) -> int | float:
    result = _unary(r)
    while r.peek() in ("*", "//", "%"):
        result = _apply(r.next(), result, _unary(r))
    return result


def _unary(r: _Reader) -> int | float:
    token = r.next()
    r.depth += token in ("-", "(")
    if r.depth > MOST_DEPTH:
        raise ValueError(f"more than {MOST_DEPTH} signs and parentheses in ${{{r.text}}}; write an argument for a part")
    if token == "-":
        return -_unary(r)
    if token == "(":
        result = _sum(r)
        if r.next() != ")":
            raise ValueError(f"a parenthesis is not closed in ${{{r.text}}}; write )")
        return result
    if token.isdigit():
        return int(token[:30])
    if token[:1].isalpha() or token[:1] == "_":
        return r.value(token)
    missing = f"before {token!r}" if token else "at the end"
    raise ValueError(f"a number or a name is missing {missing} of ${{{r.text}}}; write it there")


def _apply(operator: str, a: int | float, b: int | float) -> int | float:
    if operator in ("//", "%"):
        if isinstance(a, float) or isinstance(b, float):
            raise ValueError(f"{operator} takes integers, not {a} and {b}; write integers")
        if b == 0:
            raise ValueError(f"{a} {operator} 0 has no value; write a divisor that is not 0")
        result: int | float = a // b if operator == "//" else a % b
    else:
        result = a + b if operator == "+" else a - b if operator == "-" else a * b
    if abs(result) > LARGEST:
        raise ValueError(f"{a} {operator} {b} is too large; write smaller numbers")
    return result
