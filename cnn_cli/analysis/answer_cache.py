"""What `cnn list` and `cnn check` say of the shipped networks, kept on disk from one call to the next.

It takes a second or two to work out, and follows from nothing but models.yaml and the code of this package. So it is
kept with a digest of both, and worked out anew wherever that is another one, or the file cannot be read.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnn_cli import __version__
from cnn_cli.errors import CnnError
from cnn_cli.files import make_folder, user_cache, write_text
from cnn_cli.language.shipped import shipped_path

PACKAGE = Path(__file__).parents[1]


def keep_answer(name: str, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, plain data as json.loads gives it, or gave under this name to an equal installation."""
    path = cache_file()
    answers = _read(path, digest := _digest())
    if name not in answers:
        answers[name] = json.loads(json.dumps(compute()))
        with suppress(CnnError, OSError):  # a full disk or a home that is read-only costs time, nothing else
            make_folder(path.parent)
            write_text(path, json.dumps({"digest": digest, "answers": answers}))
    return answers[name]


def cache_file() -> Path:
    return user_cache("networks.json")


def _read(path: Path, digest: str) -> dict[str, Any]:
    """The answers of an equal installation; none where the file is missing, damaged or of another one."""
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    answers = kept.get("answers") if isinstance(kept, dict) and kept.get("digest") == digest else None
    return answers if isinstance(answers, dict) else {}


def _digest() -> str:
    """What the answers follow from: models.yaml byte by byte, and the files of this package by size and time."""
    files = (Path(folder, name) for folder, _, names in os.walk(PACKAGE) for name in names if name.endswith(".py"))
    code = sorted((str(path), *_state(path)) for path in files)
    text = json.dumps([__version__, sys.version, str(PACKAGE), code])
    return hashlib.sha256(text.encode() + shipped_path().read_bytes()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns
