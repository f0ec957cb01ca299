"""The header of a safetensors file: what a checkpoint says of itself, read without its weights and without torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_cli.errors import CnnError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document

BEST, LAST = "best.safetensors", "last.pt"
PREVIOUS = "previous.pt"  # what last.pt was before it was last written
SUFFIXES = (".safetensors", ".pt", ".pth")
_MOST_BYTES = 32 << 20


def is_stored(network: str) -> bool:
    """Whether a NETWORK argument is a run folder or a checkpoint, which carries its own spec."""
    return bool(network.strip()) and (Path(network).is_dir() or Path(network).suffix in SUFFIXES)


def stored_plan(network: str, args: Mapping[str, Any] | None, input: Sequence[int] | None) -> Plan:
    """The plan that a run folder or checkpoint carries. Only a file other than safetensors needs torch to be read."""
    path = Path(network)
    if path.is_dir() and (path / BEST).is_file():
        path = path / BEST
    document = read_document(path) if path.suffix == ".safetensors" else None
    if document is None or not isinstance(document.get("spec"), dict):
        from cnn_cli.checkpoints.checkpoint import (
            load_network,  # reads last.pt, and says what is wrong with other files
        )

        return load_network(network, args=args, input=input).plan
    return plan_document(document["spec"], str(path), args, input)


def read_document(path: Path) -> dict[str, Any] | None:
    """The document that explains the weights; None in a file of others. CnnError for a damaged file."""
    header, _ = read_header(path)
    try:
        document = json.loads(header["__metadata__"]["cnn"])
    except (KeyError, TypeError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The whole header, and where the weights start. CnnError for a file that is missing, damaged or something else."""
    fix = "take another copy, or train again"
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= min(_MOST_BYTES, path.stat().st_size - 8):
                raise CnnError(f"{path} is damaged or no file of weights: it has no header; {fix}")
            header = json.loads(file.read(size))
    except OSError as error:
        raise CnnError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CnnError(f"{path} is damaged or no file of weights: its header is not JSON; {fix}") from None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise CnnError(f"{path} is no file of weights: its header names no tensors; {fix}")
    return header, 8 + size
