"""A file of torch.save, read so that it can neither run code nor be damaged unnoticed.

torch.load checks no checksums, and a compressed entry could make a gigabyte of a megabyte; so the archive is checked
before PyTorch sees it: every entry stored as it is, its CRC right. Then weights_only=True keeps a stranger's file from
running code.
"""

import pickle
import re
import shlex
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from cnn_cli.checkpoints.header import BEST, LAST, PREVIOUS
from cnn_cli.errors import CnnError, StoppedError

_FOLDER = 0x10  # the attribute of a folder in a ZIP archive
_BEFORE_2020 = b"\x80\x02\x8a\nl\xfc\x9cF"  # how torch.save began before PyTorch 1.6: no archive, no checksums


def unpickle(path: Path, *, what: str = "a cnn checkpoint", fix: str = "delete it", old: bool = False) -> Any:
    """What torch.save wrote, on the CPU. `what` the file should be and the `fix` go into the messages; `old` takes the
    format of before PyTorch 1.6 too, in which most of torchvision's weights still are.

    CnnError for a file that is missing, damaged, something else, or wants to run code; of a last.pt it says what else
    there is of the run.
    """
    try:
        return _unpickled(path, what, fix, old)
    except StoppedError:
        raise
    except CnnError as error:
        raise CnnError(f"{error}{_what_else(path)}") from None


def _unpickled(path: Path, what: str, fix: str, old: bool) -> Any:
    try:
        with path.open("rb") as file:
            _check(path, file, what, old)
            return torch.load(file, map_location="cpu", weights_only=True)
    except CnnError:
        raise
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        code = f" ({wanted[1]})" if wanted else ""
        raise CnnError(f"{path} is refused: it holds code{code}, and {what} holds none; {fix}") from None
    except Exception as error:  # whatever a wrong pickle makes PyTorch raise
        if isinstance(error, OSError) and error.strerror:
            raise CnnError(f"cannot read {path}: {error.strerror}") from None
        raise _damaged(path, type(error).__name__) from None


def _damaged(path: Path, how: str) -> CnnError:
    return CnnError(f"{path} is damaged ({how}) and was not used")


def _what_else(path: Path) -> str:
    """Of a run whose state cannot be used: the state of before where that is good, else the best weights."""
    if path.name not in (LAST, PREVIOUS):
        return ""
    previous, best = path.with_name(PREVIOUS), path.with_name(BEST)
    found = ""
    if path != previous and previous.is_file():
        try:
            document = _unpickled(previous, "a cnn checkpoint", "delete it", False)
            stands = f"step {document['step']}, {len(document['history'])} epochs done"
        except StoppedError:
            raise
        except (CnnError, KeyError, TypeError):
            found = f"; nor is {previous} good"
        else:
            command = shlex.join(["cnn", "train", str(path.parent), "--resume", str(previous)])
            return f"; {previous} is good ({stands})\nresume with: {command}"
    return found + (f"; {best} is what there is of the run, for eval or --weights" if best.is_file() else "")


def _check(path: Path, file: IO[bytes], what: str, old: bool) -> None:
    """CnnError unless this is an archive without compression whose checksums are right."""
    start = file.read(len(_BEFORE_2020))
    file.seek(0)
    if old and start == _BEFORE_2020:
        return
    if not start.startswith(b"PK\3\4"):
        raise CnnError(f"{path} is not {what}" + (": it is empty" if not start else ""))
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
                raise CnnError(f"{path} is refused: it would unpack to more than its size; it is not {what}")
            if len({e.filename for e in entries}) != len(entries):
                raise _damaged(path, "an entry occurs twice")
            if any(e.external_attr & _FOLDER for e in entries):  # PyTorch would take memory as it lies for its bytes
                raise _damaged(path, "an entry is marked as a folder")
            if bad := archive.testzip():
                raise _damaged(path, f"entry {bad.partition('/')[2]}: wrong checksum")
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise _damaged(path, "cut short" if "not a zip" in str(error) else str(error)) from None
    file.seek(0)
