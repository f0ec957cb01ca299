"""Output: results to stdout, everything else to stderr, with control characters from files and names escaped."""

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
    """`text` with control, bidirectional and surrogate characters escaped, so that no name can control the terminal."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """Print a message to stderr."""
    print(highlighted(clean(text), sys.stderr), file=sys.stderr, flush=True)


def note_weights(network: str, loaded: "LoadedNetwork") -> None:
    """Print which weights are used for a network's name: those of the newest run. Other weights are named in their
    notes."""
    if loaded.weights and not loaded.notes and not Path(network).exists():
        note(f"weights    {loaded.weights}")


def emit(text: str) -> None:
    """Print a result to stdout."""
    _write(highlighted(clean(text), sys.stdout))


def emit_json(document: Any) -> None:
    """Print a JSON document to stdout; numbers that are not finite become null, since JSON has none."""
    _write(json.dumps(_finite(document), indent=2, ensure_ascii=True, allow_nan=False))


def emit_result(result: "Result", json: bool) -> None:
    """Print a result as text, or as one JSON document."""
    emit_json(result.document()) if json else emit(result.text())


def _write(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer must not be written again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `cnn summary … | head -1`: the reader needs no more
            raise SystemExit(0) from None
        raise CnnError(f"cannot write the output: {error.strerror}; make room, or write elsewhere") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
