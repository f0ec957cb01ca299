"""A file of torch.save, read so that it can neither run code nor be damaged unnoticed.

torch.load checks no checksums, and a compressed entry could make a gigabyte of a megabyte; so the archive is checked
before PyTorch sees it: every entry stored as it is, its CRC right. Then weights_only=True keeps a stranger's file from
running code.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from cnn_cli.errors import CnnError

_FOLDER = 0x10  # the attribute of a folder in a ZIP archive
_BEFORE_2020 = b"\x80\x02\x8a\nl\xfc\x9cF"  # how torch.save began before PyTorch 1.6: no archive, no checksums


def unpickle(path: Path, *, what: str = "a cnn checkpoint", fix: str = "delete it", old: bool = False) -> Any:
    """What torch.save wrote, on the CPU. `what` the file should be and the `fix` go into the messages; `old` takes the
    format of before PyTorch 1.6 too, in which most of torchvision's weights still are.

    CnnError for a file that is missing, damaged, something else, or wants to run code.
    """
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
        raise damaged(path, type(error).__name__) from None


def damaged(path: Path, how: str) -> CnnError:
    """The error for a damaged file, which names what else there is of the run."""
    best = path.with_name("best.safetensors")
    good = f"; {best} is what there is of the run" if best.is_file() and path.name != best.name else ""
    return CnnError(f"{path} is damaged ({how}) and was not used{good}")


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
                raise damaged(path, "an entry occurs twice")
            if any(e.external_attr & _FOLDER for e in entries):  # PyTorch would read zeros for its bytes
                raise damaged(path, "an entry is marked as a folder")
            if bad := archive.testzip():
                raise damaged(path, f"checksum of {bad}")
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise damaged(path, "cut short" if "not a zip" in str(error) else str(error)) from None
    file.seek(0)
