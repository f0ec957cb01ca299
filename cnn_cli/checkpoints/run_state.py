"""last.pt: the state of a run, written atomically, with its predecessor kept as previous.pt, and checked when read."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from cnn_cli.checkpoints.archive import unpickle
from cnn_cli.checkpoints.run_folder import BEST, PREVIOUS
from cnn_cli.distributed.world import World
from cnn_cli.errors import CnnError, StoppedError
from cnn_cli.files import write_bytes
from cnn_cli.tables import counted

_KEYS = {"about", "settings", "network", "average", "optimizer", "step", "start", "ranks", "history", "best"}


def write_state(path: Path, document: dict[str, Any]) -> None:
    """Write a state of tensors and plain values atomically; the previous file becomes previous.pt."""
    buffer = BytesIO()  # first into memory: on a full disk torch.save raises an error that looks like a bug
    torch.save(document, buffer)
    write_bytes(path, buffer.getvalue(), keep=path.with_name(PREVIOUS))


def read_state(path: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """The state that write_state wrote. CnnError for a file that is missing, damaged or something else.

    The error names an alternative: previous.pt with the command that resumes from it (and its `options`), or the best
    weights.
    """
    try:
        return _read(path)
    except StoppedError:
        raise
    except CnnError as error:
        raise CnnError(f"{error}{_alternative(path, options)}") from None


def _read(path: Path) -> dict[str, Any]:
    document = unpickle(path)
    if not isinstance(document, dict) or not set(document) >= _KEYS:
        raise CnnError(
            f"{path} is not a cnn checkpoint: it has no training state; load third-party weights with --weights"
        )
    return document


def _alternative(path: Path, options: Sequence[str]) -> str:
    previous, best = path.with_name(PREVIOUS), path.with_name(BEST)
    text = ""
    if path != previous and previous.is_file():
        try:
            document = _read(previous)
        except StoppedError:
            raise
        except CnnError:
            text = f"; {previous} is damaged, too"
        else:
            state = f"step {document['step']}, {counted(len(document['history']), 'epoch')} done"
            hint = World(size=len(document["ranks"])).resume_hint(path.parent, str(previous), *options)
            return f"; {previous} is good ({state})\n{hint}"
    return text + (f"; use {best} for eval or --weights" if best.is_file() else "")
