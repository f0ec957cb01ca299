"""Data sets that are made here: kept as a file, and made anew where that is missing or damaged."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cnn_cli.files import WriteError, make_folder, write_bytes

D = TypeVar("D")  # a dataclass of tensors


def read_or_make(path: Path, kind: type[D], make: Callable[[], D]) -> D:
    """The data set `kind` from a file, or made and kept there where that can be written."""
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    with suppress(OSError, SafetensorError, KeyError):  # not there, or damaged: it is made anew
        return kind(**load(path.read_bytes()))
    made = make()
    tensors: dict[str, Any] = vars(made)
    with suppress(WriteError):  # without it the next start takes some seconds more
        make_folder(path.parent)
        write_bytes(path, save(tensors))
    return made
