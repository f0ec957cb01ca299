"""Generated data sets: stored in a file, and generated again if that is missing or damaged."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cnn_cli.files import WriteError, make_folder, write_bytes

D = TypeVar("D")  # a dataclass of tensors


def read_or_make(path: Path, kind: type[D], make: Callable[[], D]) -> D:
    """The data set `kind` from a file, or made and stored there if that is writable."""
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    with suppress(OSError, SafetensorError, KeyError):  # missing or damaged
        return kind(**load(path.read_bytes()))
    made = make()
    tensors: dict[str, Any] = vars(made)
    with suppress(WriteError):  # without it the next start takes a few seconds longer
        make_folder(path.parent)
        write_bytes(path, save(tensors))
    return made
