"""What goes to the terminal: results to stdout, everything else to stderr, and no control character of a stranger's."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_cli.colors import highlighted
from cnn_cli.errors import CnnError

if TYPE_CHECKING:
    from cnn_cli.checkpoints.checkpoint import LoadedNetwork
    from cnn_cli.tables import Result


def clean(text: str) -> str:
    """`text` with control, bidirectional and surrogate characters written out: no name can steer the terminal."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """A message to the person: stderr."""
    print(highlighted(clean(text), sys.stderr), file=sys.stderr, flush=True)


def note_weights(network: str, loaded: "LoadedNetwork") -> None:
    """Which weights a network's name stands for: the newest run. The notes of other weights name them."""
    if loaded.weights and not loaded.notes and not Path(network).exists():
        note(f"weights    {loaded.weights}")


def emit(text: str) -> None:
    """A result: stdout."""
    _write(highlighted(clean(text), sys.stdout))


def emit_json(document: Any) -> None:
    """One JSON document on stdout; a number that is not finite becomes null, since JSON has none."""
    _write(json.dumps(_finite(document), indent=2, ensure_ascii=True, allow_nan=False))


def emit_result(result: "Result", json: bool) -> None:
    """A result as text, or as one JSON document."""
    emit_json(result.document()) if json else emit(result.text())


def _write(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer must not be tried once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `cnn summary … | head -1`: the reader has what it wants
            raise SystemExit(0) from None
        raise CnnError(f"cannot write the output: {error.strerror}; make room, or write elsewhere") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
