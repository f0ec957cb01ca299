"""Preprocessed images on disk, for folders that do not fit into memory.

A cache is one file per folder and preprocessing: a header, two numbers per image (a digest of its file, and a checksum
of its pixels), then the pixels of all images. An image is read from the cache only if both match; otherwise it is
decoded and written again. So a killed process, a full disk or a damaged file costs time, but never changes a pixel, and
several processes can read and fill the same cache at once, without a lock.
"""

import json
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor

from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import CnnError
from cnn_cli.files import make_private_folder, user_cache
from cnn_cli.tables import Column, Table, format_bytes, render

_FORMAT = 1
_HEADER = 4096
_ENTRY = 16  # bytes per image: the digest of its file, and 2**32 + the CRC-32 of its pixels; zeros: not there yet
_SUFFIX = ".images"


@dataclass(frozen=True)
class CacheFile:
    """The cache of a folder. size: bytes on disk; used: when it was last opened, in seconds since 1970."""

    path: Path
    data: str
    images: int
    input: tuple[int, ...]
    size: int
    used: float


_AGES = ((86400, "days"), (3600, "hours"), (60, "minutes"))
_COLUMNS = (
    Column("data", "data set"),
    Column("images", "images", number=True),
    Column("input", "input"),
    Column("bytes", "size", number=True, show=format_bytes),
    Column("age", "last used", number=True, show=lambda seconds: f"{_age(seconds)} ago"),
)


@dataclass(frozen=True)
class CacheList:
    """All caches, the most recently used first."""

    folder: Path
    caches: tuple[CacheFile, ...]
    now: float

    def document(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "caches": list(self.table().rows)}

    def table(self) -> Table:
        rows = [
            {"data": c.data, "images": c.images, "input": list(c.input), "bytes": c.size}
            | {"age": max(0, round(self.now - c.used)), "file": str(c.path)}
            for c in self.caches
        ]
        return Table(_COLUMNS, rows)

    def text(self) -> str:
        if not self.caches:
            return f"no cached images in {self.folder}"
        total = format_bytes(sum(cache.size for cache in self.caches))
        return f"{render(self.table())}\n\n{total} in {self.folder}; delete with: cnn data cache --clear"


class ImageCache:
    """An open cache: `digests` (n,) uint64 identify the image files, `shape` is that of one image."""

    def __init__(self, path: Path, digests: Any, shape: tuple[int, ...]) -> None:
        self.path, self.digests, self.shape = path, digests, shape
        self._bytes = int(np.prod(shape))
        self._fd: int | None = None
        with suppress(OSError):  # in a worker, where it may have been deleted meanwhile: all images are missing then
            self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageCache, (self.path, self.digests, self.shape)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._start(len(self.digests))

    def missing(self) -> Any:
        """(n,) bool: the images that are not cached. Others may still turn out to be damaged when they are read."""
        entries = np.zeros((len(self.digests), 2), np.uint64)
        if self._fd is not None:
            with suppress(OSError):
                os.preadv(self._fd, [_buffer(entries)], _HEADER)
        return (entries[:, 0] != self.digests) | (entries[:, 1] == 0)

    def read(self, number: int, image: Tensor) -> bool:
        """Fill `image`, contiguous bytes, and return whether that succeeded."""
        if self._fd is None:
            return False
        entry, pixels = np.zeros(2, np.uint64), _buffer(image.numpy())
        with suppress(OSError):
            os.preadv(self._fd, [_buffer(entry)], self._entry(number))
            if entry[0] == self.digests[number] and entry[1]:
                whole = os.preadv(self._fd, [pixels], self._start(number)) == self._bytes
                return whole and int(entry[1]) == _checksum(pixels)
        return False

    def write(self, number: int, image: Tensor) -> None:
        """Store the bytes of an image if there is room: the pixels first, then their checksum."""
        if self._fd is None:
            return
        pixels = _buffer(image.numpy())
        entry = np.array([self.digests[number], _checksum(pixels)], np.uint64)
        with suppress(OSError):  # the image is decoded again in the next epoch
            if os.pwrite(self._fd, pixels, self._start(number)) == self._bytes:
                os.pwrite(self._fd, _buffer(entry), self._entry(number))

    def _entry(self, number: int) -> int:
        return _HEADER + _ENTRY * number

    def _start(self, number: int) -> int:
        return _first_image(len(self.digests)) + self._bytes * number


def open_cache(data: str, files: Sequence[Path], preprocessing: Preprocessing) -> ImageCache | str:
    """The cache of these image files at the size of the network's input, new or existing; or why there is none."""
    if not hasattr(os, "preadv"):
        return "not cached: this system has no preadv()"
    about = {"format": _FORMAT, "data": data, "images": len(files), **_decoding(preprocessing)}
    header = json.dumps(about).encode().ljust(_HEADER)
    if len(header) > _HEADER:
        return "not cached: the name of the folder is too long"
    size = _first_image(len(files)) + len(files) * int(np.prod(preprocessing.input))
    folder = cache_folder()
    path = folder / (blake2b(json.dumps(about | {"images": 0}).encode(), digest_size=16).hexdigest() + _SUFFIX)
    try:
        make_private_folder(folder)
        _discard_others(path, header)
        if not path.exists() and (problem := _make_room(folder, size)):
            return problem
        _create(path, header, size)
        return ImageCache(path, _digests(files), preprocessing.input)
    except OSError as error:
        return f"not cached: {folder}: {error.strerror or error}"


def cache_folder() -> Path:
    """Where all caches are."""
    return user_cache("images")


def list_caches() -> CacheList:
    """The caches that can be used; damaged files are left out."""
    caches = []
    for path in cache_folder().glob(f"*{_SUFFIX}"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # deleted meanwhile, or damaged
            with path.open("rb") as file:
                about = json.loads(file.read(_HEADER))
            facts = path.stat()
            name, images, input = str(about["data"]), int(about["images"]), tuple(about["input"])
            caches.append(CacheFile(path, name, images, input, facts.st_blocks * 512, facts.st_mtime))
    caches.sort(key=lambda cache: cache.used, reverse=True)
    return CacheList(cache_folder(), tuple(caches), time.time())


def clear_caches() -> None:
    """Delete all caches, also damaged ones. A run that uses one still has it until it ends."""
    for path in cache_folder().glob(f"*{_SUFFIX}"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CnnError(f"cannot delete {path}: {error.strerror or error}") from None


def _age(seconds: int) -> str:
    """A time span in its largest unit: 3 days."""
    for length, unit in _AGES:
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit if count > 1 else unit[:-1]}"
    return "less than a minute"


def _decoding(preprocessing: Preprocessing) -> dict[str, Any]:
    """What the bytes of an image depend on besides its file: another version of a library may round differently."""
    resizing = {k: v for k, v in preprocessing.document().items() if k not in ("mean", "std")}
    cpu = torch.backends.cpu.get_cpu_capability()
    return resizing | {"pillow": PIL.__version__, "torch": str(torch.__version__), "cpu": cpu}


def _digests(files: Sequence[Path]) -> Any:
    """(n,) uint64 of the path, size and times of each file."""
    digests = np.zeros(len(files), np.uint64)
    for i, file in enumerate(files):
        with suppress(OSError):  # the error comes when it is read
            facts = file.stat()
            text = f"{file}\0{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}".encode("utf-8", "surrogateescape")
            digests[i] = int.from_bytes(blake2b(text, digest_size=8).digest())
    return digests


def _discard_others(path: Path, header: bytes) -> None:
    """Delete a cache of another number of images, or one whose header is damaged."""
    with suppress(FileNotFoundError):
        with path.open("rb") as file:
            content = file.read(_HEADER)
        if content != header and content.strip(b"\0"):
            path.unlink()


def _make_room(folder: Path, size: int) -> str:
    """Delete the least recently used caches until all together take at most half of the space that is free without
    them.

    Returns a message if there is not enough room, else an empty text.
    """
    caches = list(list_caches().caches)
    total, facts = sum(cache.size for cache in caches), os.statvfs(folder)
    limit = (facts.f_bavail * facts.f_frsize + total) // 2
    if size > limit:
        return f"not cached: the cache would take {format_bytes(size)}, more than half of the free space of {folder}"
    while total + size > limit:
        cache = caches.pop()
        total -= cache.size
        cache.path.unlink(missing_ok=True)
    return ""


def _create(path: Path, header: bytes, size: int) -> None:
    """Create a file of this size and reserve its space, so that a full disk is noticed now. Keeps an existing one."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(fd).st_size != size:
            os.ftruncate(fd, size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size)
        os.pwrite(fd, header, 0)
        os.utime(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _first_image(count: int) -> int:
    return -(-(_HEADER + _ENTRY * count) // _HEADER) * _HEADER


def _buffer(array: Any) -> memoryview:
    return memoryview(array).cast("B")


def _checksum(pixels: memoryview) -> int:
    return (1 << 32) + zlib.crc32(pixels)
