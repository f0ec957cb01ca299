"""What goes to the terminal: results to stdout, everything else to stderr, and no control character of a stranger's."""

import json
import math
import sys
from typing import Any


def clean(text: str) -> str:
    """`text` with control, bidirectional and surrogate characters written out: no name can steer the terminal."""
    return "".join(c if c == "\n" or _printable(c) else c.encode("unicode_escape").decode() for c in text)


def _printable(c: str) -> bool:
    return c.isprintable() or c == " "


def note(text: str) -> None:
    """A message to the person: stderr."""
    print(clean(text), file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """A result: stdout."""
    print(clean(text), flush=True)


def emit_json(document: Any) -> None:
    """One JSON document on stdout; a number that is not finite becomes null, since JSON has none."""
    print(json.dumps(_finite(document), indent=2, ensure_ascii=True, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
