"""Files of named tensors: safetensors with a checksum, and the state_dicts that other programs write.

A safetensors file has numbers and a JSON header, so it cannot run code. The format has no checksum, and a flipped bit
in a weight would go unnoticed: a SHA-256 of header and weights is added, and checked before use.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from cnn_cli.checkpoints.archive import SAVE_WEIGHTS, unpickle
from cnn_cli.checkpoints.header import read_header, read_metadata
from cnn_cli.errors import CnnError, listed
from cnn_cli.files import write_bytes

# Keys of the state_dict in a last.pt, and in files of other training scripts.
_WRAPPERS = ("network", "state_dict_ema", "state_dict", "model_state_dict", "model", "net")
_FIX = "restore it from a backup, or train again"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and, in the header, their metadata, atomically."""
    own = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    data = safetensors.torch.save(own, metadata={"cnn": json.dumps(metadata)})
    size = int.from_bytes(data[:8], "little")
    header, weights = json.loads(data[8 : 8 + size]), data[8 + size :]
    header["__metadata__"]["sha256"] = _digest(header, [weights])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the weights start at a multiple of 8 bytes
    write_bytes(path, b"".join((len(text).to_bytes(8, "little"), text, weights)))


class TensorFile(NamedTuple):
    """The tensors of a file, the metadata that cnn wrote with them, and in a third-party file the keys that lead to the
    tensors, and other keys that contain tensors, too."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any] | None
    keys: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def read_tensors(path: Path) -> TensorFile:
    """The tensors of a checkpoint or of any state_dict, on the CPU.

    CnnError for a file that is missing, damaged, something else, or contains executable code.
    """
    if path.suffix == ".safetensors":
        return TensorFile(_read_safetensors(path), read_metadata(path))
    document = unpickle(path, kind="a file of weights", old=True)
    metadata = document.get("about") if isinstance(document, dict) else None
    keys: list[str] = []
    others: list[str] = []
    while len(keys) < 2 and (wrappers := [key for key in _WRAPPERS if _is_mapping(document, key)]):
        keys.append(wrappers[0])
        others += wrappers[1:]
        document = document[wrappers[0]]
    if not isinstance(document, dict) or not document or not all(map(_is_named_tensor, document.items())):
        raise CnnError(f"{path} is not a file of weights: it has no named tensors{_keys(document)}; {SAVE_WEIGHTS}")
    tensors = {name: t.detach() for name, t in document.items()}
    if isinstance(metadata, dict):
        return TensorFile(tensors, metadata)
    return TensorFile(tensors, None, tuple(keys), tuple(others))


def _keys(document: Any) -> str:
    """The keys of a file without named tensors, in words."""
    return f", but {listed([str(key)[:40] for key in document], 5)}" if isinstance(document, dict) and document else ""


def _is_mapping(document: Any, key: str) -> bool:
    return isinstance(document, dict) and isinstance(document.get(key), dict)


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
                actual = _digest(header, iter(lambda: file.read(1 << 20), b""))
            if stated != actual:
                raise CnnError(f"{path} is damaged: wrong checksum; {_FIX}")
        elif "cnn" in header.get("__metadata__", {}):
            raise CnnError(f"{path} is damaged: its checksum is missing; {_FIX}")
        return dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise CnnError(f"{path} cannot be read ({error}); {_FIX}") from None


def _digest(header: dict[str, Any], weights: Iterable[bytes]) -> str:
    """SHA-256 of the header (without the sum itself, as sorted JSON) and the weights."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for chunk in weights:
        digest.update(chunk)
    return digest.hexdigest()
