"""Files of named tensors: safetensors with a checksum of its own, and what others leave behind.

safetensors holds numbers and a header of JSON, so nothing in such a file can run code. It has no checksum of its own,
and a flipped bit in a weight would go unnoticed: a SHA-256 over header and weights is added, and checked before use.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cnn_cli.checkpoints.header import read_document, read_header
from cnn_cli.checkpoints.unpickle import unpickle
from cnn_cli.errors import CnnError
from cnn_cli.files import write_bytes

_WRAPPERS = ("network", "state_dict", "model")  # a last.pt of ours, and what training scripts call it


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write tensors and, in the header, the document that explains them; whole or not at all."""
    own = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    data = safetensors.torch.save(own, metadata={"cnn": json.dumps(document)})
    size = int.from_bytes(data[:8], "little")
    header, weights = json.loads(data[8 : 8 + size]), data[8 + size :]
    header["__metadata__"]["sha256"] = _digest(header, [weights])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the weights start at a multiple of 8 bytes
    write_bytes(path, b"".join((len(text).to_bytes(8, "little"), text, weights)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a checkpoint or of anybody's state_dict, on the CPU, with the document that explains them if any.

    CnnError for a file that is missing, damaged, something else, or wants to run code.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path), read_document(path)
    fix = "save the state_dict() of the network, and nothing else"
    found = unpickle(path, what="a file of weights", fix=fix, old=True)
    metadata = found.get("about") if isinstance(found, dict) else None
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(map(_is_named_tensor, found.items())):
        raise CnnError(f"{path} is not a file of weights: it holds no named tensors; {fix}")
    return {name: t.detach() for name, t in found.items()}, metadata if isinstance(metadata, dict) else None


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    name, value = item
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return isinstance(name, str) and dense and not value.is_quantized


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    header, start = read_header(path)
    try:
        if stated := header.get("__metadata__", {}).pop("sha256", None):
            with path.open("rb") as file:
                file.seek(start)
                found = _digest(header, iter(lambda: file.read(1 << 20), b""))
            if stated != found:
                raise CnnError(f"{path} is damaged: its checksum does not fit; take another copy, or train again")
        elif "cnn" in header.get("__metadata__", {}):
            raise CnnError(f"{path} is damaged: it has lost its checksum; take another copy, or train again")
        return dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise CnnError(f"{path} cannot be read ({error}); take another copy, or train again") from None


def _digest(header: dict[str, Any], weights: Iterable[bytes]) -> str:
    """SHA-256 of the header (without the sum itself, in one fixed spelling) and the weights."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for chunk in weights:
        digest.update(chunk)
    return digest.hexdigest()
