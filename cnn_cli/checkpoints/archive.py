"""Reading files written by torch.save without running code in them, and with damage detected.

torch.load does not verify checksums, and a compressed entry could expand from a megabyte to a gigabyte. So the archive
is checked first: every entry must be uncompressed with a valid CRC. Then weights_only=True refuses executable code.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from cnn_cli.errors import CnnError

_FOLDER = 0x10  # the attribute of a folder in a ZIP archive
_BEFORE_2020 = b"\x80\x02\x8a\nl\xfc\x9cF"  # the first bytes of torch.save before PyTorch 1.6: no archive, no checksums

SAVE_WEIGHTS = "save the weights alone: torch.save(network.state_dict(), FILE)"


def unpickle(path: Path, *, kind: str = "a cnn checkpoint", old: bool = False) -> Any:
    """The object that torch.save wrote, on the CPU. kind: of the expected file, for messages.

    old: also accept the format before PyTorch 1.6, which most of torchvision's weights still have. CnnError for a file
    that is missing, damaged, something else, or contains executable code.
    """
    try:
        with path.open("rb") as file:
            _check(path, file, kind, old)
            return torch.load(file, map_location="cpu", weights_only=True)
    except CnnError:
        raise
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        content = f"executable code ({code[1]})" if code else "executable code"
        raise CnnError(f"{path} was rejected: the file contains {content}; {SAVE_WEIGHTS}") from None
    except Exception as error:  # an invalid pickle can make PyTorch raise anything
        if isinstance(error, OSError) and error.strerror:
            raise CnnError(f"cannot read {path}: {error.strerror}") from None
        raise _damaged(path, type(error).__name__) from None


def _damaged(path: Path, reason: str) -> CnnError:
    return CnnError(f"{path} is damaged ({reason}) and was not used")


def _check(path: Path, file: IO[bytes], kind: str, old: bool) -> None:
    """CnnError unless this is an uncompressed archive with valid checksums."""
    start = file.read(len(_BEFORE_2020))
    file.seek(0)
    if old and start == _BEFORE_2020:
        return
    if not start.startswith(b"PK\3\4"):
        raise CnnError(f"{path} is not {kind}" + (": it is empty" if not start else ""))
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
                raise CnnError(f"{path} was rejected: it is compressed, but {kind} never is")
            if len({e.filename for e in entries}) != len(entries):
                raise _damaged(path, "duplicate entry")
            if any(e.external_attr & _FOLDER for e in entries):  # PyTorch would read uninitialized memory
                raise _damaged(path, "an entry is marked as a folder")
            if bad := archive.testzip():
                raise _damaged(path, f"entry {bad.partition('/')[2]}: wrong checksum")
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise _damaged(path, "truncated" if "not a zip" in str(error) else str(error)) from None
    file.seek(0)
