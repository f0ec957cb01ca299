"""A scan of image files one by one: whether they can be read, their size and mode, and a small gray copy.

Every file is read and decoded once, JPEGs at a reduced size, which reads all of their data, too, so that truncated ones
are found.
"""

import hashlib
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_cli.data.decoding import GRAY_MODES, ORIENTATION, ReadImageError, errors_naming, open_image, to_bytes
from cnn_cli.device import usable_cpus
from cnn_cli.progress import progress_bar

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]

SIDE = 32  # of the gray copies
_DRAFT = (64, 64)  # JPEGs are decoded at an eighth, a quarter or half of their size, if that is no smaller
_CHUNK = 128  # images per task of a worker
_FEW = 1000  # images up to which threads are faster than starting processes
_CONSTANT = 2  # levels between the darkest and the brightest pixel of an image without content
_BITS_PER_SAMPLE = 258  # the TIFF tag
_ANIMATED = ("GIF", "PNG", "WEBP", "TIFF")  # not MPO: photos of phones contain a second, smaller image


@dataclass(frozen=True, slots=True)
class Scan:
    """One image. digest: of the file; size: (width, height), upright; problem: why it cannot be read, and its kind."""

    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str = ""
    traits: tuple[str, ...] = ()
    kind: str = ""
    problem: str = ""


def scan_files(paths: Sequence[Path]) -> tuple[list[Scan], Array]:
    """The scans, and gray copies (n, 32, 32) uint8, zero for images that cannot be read."""
    chunks = [[os.fspath(path) for path in paths[i : i + _CHUNK]] for i in range(0, len(paths), _CHUNK)]
    scans: list[Scan] = []
    gray = np.zeros((len(paths), SIDE, SIDE), np.uint8)
    pool = _pool(len(paths))
    try:
        for chunk, small in _advancing(pool.map(_scan_chunk, chunks), len(paths)):
            gray[len(scans) : len(scans) + len(chunk)] = small
            scans += chunk
    finally:
        pool.shutdown(cancel_futures=True)
    return scans, gray


def scan_arrays(images: Array) -> tuple[list[Scan], Array]:
    """The same for images in memory, (n, h, w) or (n, h, w, 3) bytes."""
    from PIL import Image

    scans, gray = [], np.zeros((len(images), SIDE, SIDE), np.uint8)
    for i, pixels in enumerate(progress_bar(images, len(images), "checking images")):
        picture = Image.fromarray(pixels)
        traits = ("constant",) if int(pixels.max()) - int(pixels.min()) <= _CONSTANT else ()
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
        scans.append(Scan(digest, picture.size, picture.mode, "array", traits))
        gray[i] = _small(picture)
    return scans, gray


def _pool(images: int) -> Executor:
    workers = min(8, usable_cpus())
    if images <= _FEW or workers == 1:
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, initializer=_leave_interrupts)


def _leave_interrupts() -> None:
    """The main process handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _advancing(chunks: Iterable[tuple[list[Scan], Array]], images: int) -> Iterator[tuple[list[Scan], Array]]:
    """The chunks, with a progress bar that counts images."""
    bar = progress_bar(range(images), images, "checking images")
    for chunk in chunks:
        for _ in zip(chunk[0], bar, strict=False):
            pass
        yield chunk
    next(bar, None)


def _scan_chunk(paths: Sequence[str]) -> tuple[list[Scan], Array]:
    gray = np.zeros((len(paths), SIDE, SIDE), np.uint8)
    return [_scan(Path(path), gray[i]) for i, path in enumerate(paths)], gray


def _scan(path: Path, gray: Array) -> Scan:
    try:
        content = path.read_bytes()
    except OSError as error:
        return Scan(kind="unreadable", problem=f"cannot be opened ({error.strerror})")
    if not content:
        return Scan(kind="empty_file")
    digest = hashlib.blake2b(content, digest_size=16).digest()
    try:
        with open_image(path, BytesIO(content)) as image, errors_naming(path):
            return _decoded(image, content, digest, gray)
    except ReadImageError as error:
        problem = str(error).removeprefix(f"{path} ").partition("; ")[0]
        return Scan(digest, kind="truncated" if "truncated" in problem.lower() else "unreadable", problem=problem)


def _decoded(image: "Image.Image", content: bytes, digest: bytes, gray: Array) -> Scan:
    from PIL import ImageOps

    size, mode, kind = image.size, image.mode, image.format or ""
    if kind == "JPEG":
        image.draft(None, _DRAFT)  # None: leave the colors
    image.load()
    traits = list(_traits(image, content, kind))
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation in range(2, 9):
        traits.append("rotated")
        size = size[::-1] if orientation >= 5 else size
        ImageOps.exif_transpose(image, in_place=True)
    plain = to_bytes(image, 1 if mode in GRAY_MODES else 3)
    extrema: Any = plain.getextrema()
    ranges = extrema if isinstance(extrema[0], tuple) else (extrema,)
    if all(high - low <= _CONSTANT for low, high in ranges):
        traits.append("constant")
    gray[:] = _small(plain)
    return Scan(digest, size, mode, kind, tuple(traits))


def _traits(image: "Image.Image", content: bytes, kind: str) -> Iterator[str]:
    if kind in _ANIMATED and getattr(image, "is_animated", False):
        yield "animated"
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I") or (kind == "PNG" and content[24] == 16) or 16 in tags.get(_BITS_PER_SAMPLE, ()):
        yield "16-bit"
    if image.mode == "CMYK":
        yield "cmyk"
    if image.mode in ("RGBA", "LA", "PA") and image.getchannel("A").getextrema() != (255, 255):
        yield "transparent"


def _small(image: "Image.Image") -> Array:
    from PIL.Image import Resampling

    return np.asarray(image.convert("L").resize((SIDE, SIDE), Resampling.BOX))
