"""A cache on disk of what `cnn list` and `cnn check` report about the shipped networks.

This takes a second or two to compute, and depends only on models.yaml and the code of this package. It is stored with a
digest of both, and computed again if the digest differs or the file cannot be read.
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


def cached_answer(name: str, compute: Callable[[], Any]) -> Any:
    """The result of `compute` as json.loads returns it, from the cache if an equal installation has stored it."""
    path = cache_file()
    answers = _read(path, digest := _digest())
    if name not in answers:
        answers[name] = json.loads(json.dumps(compute()))
        with suppress(CnnError, OSError):  # a full disk or a read-only home costs only time
            make_folder(path.parent)
            write_text(path, json.dumps({"digest": digest, "answers": answers}))
    return answers[name]


def cache_file() -> Path:
    return user_cache("networks.json")


def _read(path: Path, digest: str) -> dict[str, Any]:
    """The answers of an equal installation; none if the file is missing, damaged or of another one."""
    try:
        cache = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    answers = cache.get("answers") if isinstance(cache, dict) and cache.get("digest") == digest else None
    return answers if isinstance(answers, dict) else {}


def _digest() -> str:
    """A digest of what the answers depend on: the text of models.yaml, and size and time of the package's files."""
    files = (Path(folder, name) for folder, _, names in os.walk(PACKAGE) for name in names if name.endswith(".py"))
    code = sorted((str(path), *_state(path)) for path in files)
    text = json.dumps([__version__, sys.version, str(PACKAGE), code])
    return hashlib.sha256(text.encode() + shipped_path().read_bytes()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns
