"""Writing files atomically: whole or not at all; on failure, the previous content stays intact.

The bytes go to a temporary file in the same folder and to the disk (fsync), then take the name in one step (rename),
and the disk is told of that too (fsync of the folder). Without both a power cut can leave an empty file: Pillai et al.,
"All File Systems Are Not Created Equal", OSDI 2014.
"""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

from cnn_cli.errors import CnnError

_TEMPORARY = ".cnn-tmp"
_LOCK = ".lock"


class WriteError(CnnError):
    """A file could not be written. What it was to replace is intact."""


class DownloadError(CnnError):
    """A download failed; the message is the reason alone."""


def write_bytes(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Replace the content of `path` by `data`, or leave it unchanged. WriteError says what failed and what is intact.

    keep: a path in the same folder, to which the previous content is renamed.
    """
    temporary = _temporary(path)
    outcome = "the previous file is intact" if path.exists() else "nothing was written"
    try:
        with _removed_on_failure(temporary):
            _write_through(temporary, data)
            if keep and path.exists():
                _link(path, keep)
            temporary.replace(path)
        outcome = "it is written, but may not survive a power failure"
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteError(f"cannot write {path} ({_size(len(data))}): {error.strerror or error}; {outcome}") from None


def put_back(kept: Path, path: Path) -> None:
    """Restore `path` from `kept` in one step; `kept` remains. CnnError if that fails: both files are then unchanged."""
    try:
        _link(kept, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CnnError(f"cannot write {path}: {error.strerror or error}; {kept} is intact") from None


def write_text(path: Path, text: str) -> None:
    """As write_bytes, in UTF-8. A lone surrogate (part of a file name that is not UTF-8) is written as `\\udc..`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def make_folder(path: Path) -> None:
    """Create `path` and its parents, and check that files can be written there. WriteError if they cannot."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}{_TEMPORARY}"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o666))
        probe.unlink()
    except OSError as error:
        raise WriteError(f"cannot write to {path}: {error.strerror or error}; name another folder with -o") from None


def make_private_folder(folder: Path) -> None:
    """Create `folder` for this user alone. PermissionError if others can write to it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(1, "other users can write to it")


def user_cache(name: str) -> Path:
    """The file or folder `name` of this tool in the user's cache, which need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cnn" / name


def make_numbered_folder(parent: Path, name: str) -> Path:
    """Create and return `parent/name-N`, N one above the highest there. Two processes never get the same one."""
    make_folder(parent)
    number = max((number_of(p, name) for p in parent.iterdir()), default=0) + 1
    while True:
        try:
            (folder := parent / f"{name}-{number}").mkdir()
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise CnnError(f"cannot create {folder}: {error.strerror or error}; name a folder with -o") from None


def number_of(path: Path, name: str) -> int:
    """N where `path` is called `name-N`, else 0."""
    digits = path.name.removeprefix(f"{name}-") if path.name.startswith(f"{name}-") else ""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0


def short_path(path: Path | str) -> str:
    """`path` relative to the working directory, where it is below it."""
    return str(path.relative_to(folder) if (path := Path(path)).is_relative_to(folder := Path.cwd()) else path)


def holds_files(folder: Path) -> bool:
    """Whether `folder` contains more than the lock and temporary files that a killed process leaves behind."""
    return any(p.name != _LOCK and not p.match(f".*{_TEMPORARY}") for p in folder.iterdir())


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder` inside the `with`; CnnError if another process has locked it.

    The kernel releases the lock when its process ends, however it ends; forked data-loading workers do not inherit it.
    """
    path = folder / _LOCK
    fd = _open_lock(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while still held, so that nobody else's lock file is removed
        os.close(fd)


def is_locked(folder: Path) -> bool:
    """Whether another process has locked `folder`."""
    with suppress(OSError), (folder / _LOCK).open("r+b") as file:
        return not _try_lock(file.fileno())
    return False


def _open_lock(path: Path) -> int:
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise CnnError(f"cannot write to {path.parent}: {error.strerror or error}") from None
        if not _try_lock(fd):
            holder = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            raise CnnError(
                f"{path.parent} is in use by another cnn train (process {holder or 'unknown'}); wait for it, or stop it"
            )
        try:
            if os.path.samestat(os.fstat(fd), path.stat()):  # else its last holder has just removed it: try again
                with suppress(OSError):  # on a full disk the lock is valid, but does not name its process
                    os.ftruncate(fd, 0)
                    os.write(fd, f"{os.getpid()}\n".encode())
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows, where nothing stops two runs in one folder
        return True
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # a file system without locks: continue without one
    return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")


@contextmanager
def _removed_on_failure(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:  # a signal's exception too must leave nothing behind
        with suppress(OSError):
            temporary.unlink()
        raise


def _link(path: Path, name: Path) -> None:
    """Hard-link the file `path` as `name` in one step; on file systems without hard links, copy it."""
    if name.exists() and name.samefile(path):  # rename would do nothing, and leave the temporary name there
        return
    temporary = _temporary(name)
    with _removed_on_failure(temporary):
        try:
            temporary.unlink(missing_ok=True)
            os.link(path, temporary)
        except OSError:
            _write_through(temporary, path.read_bytes())
        temporary.replace(name)


def _write_through(path: Path, data: bytes) -> None:
    """Write and fsync a new file. An existing one is removed: a killed process of this PID may have left a link."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot fsync a folder
            raise
    finally:
        os.close(fd)


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


@contextmanager
def downloading(message: str) -> Iterator[None]:
    """Announce a download and run it inside the `with`; what it prints goes to stderr. DownloadError with the reason.

    A connection that is silent for 30 seconds counts as broken, so that no start hangs forever.
    """
    import socket

    print(message, file=sys.stderr, flush=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError, EOFError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise DownloadError(lines[-1].removeprefix("<urlopen error ").removesuffix(">")) from None
    finally:
        socket.setdefaulttimeout(timeout)
