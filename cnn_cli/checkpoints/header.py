"""The header of a safetensors file: its metadata and the layout of its tensors, read without torch."""

import json
from pathlib import Path
from typing import Any

from cnn_cli.errors import CnnError

_MAX_BYTES = 32 << 20
_FIX = "restore it from a backup, or train again"


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata that cnn writes with weights; None for a third-party file. CnnError for a damaged file."""
    header, _ = read_header(path)
    try:
        document = json.loads(header["__metadata__"]["cnn"])
    except (KeyError, TypeError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and the offset of the weights. CnnError for a file that is missing, damaged or something else."""
    try:
        with path.open("rb") as file:
            size, bytes_in_file = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if not 2 <= size <= min(_MAX_BYTES, bytes_in_file - 8):
                raise CnnError(f"{path} is damaged or not a safetensors file: it has no header; {_FIX}")
            header = json.loads(file.read(size))
        end = 8 + size + max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0)
    except OSError as error:
        raise CnnError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CnnError(f"{path} is damaged or not a safetensors file: its header is not JSON; {_FIX}") from None
    except (AttributeError, LookupError, TypeError):
        raise CnnError(f"{path} is not a safetensors file: its header does not describe tensors; {_FIX}") from None
    if not isinstance(header.get("__metadata__", {}), dict):
        raise CnnError(f"{path} is not a safetensors file: its header does not describe tensors; {_FIX}")
    if bytes_in_file != end:
        raise CnnError(f"{path} is damaged: {bytes_in_file:,} bytes instead of {end:,}; {_FIX}")
    return header, 8 + size
