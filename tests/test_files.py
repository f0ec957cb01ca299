"""A file is written whole or not at all, whatever fails on the way."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnn_cli import files
from cnn_cli.errors import CnnError

CALLS = ("open", "write", "fsync", "replace")


class FailingDisk:
    """Lets the N-th system call that files.py makes fail, or stop the program."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
        self.calls, self.number, self.error = 0, number, error
        for name in CALLS:
            patch.setattr(os, name, self.watched(getattr(os, name)))

    def watched(self, call: Any) -> Any:
        def watched(*arguments: Any, **rest: Any) -> Any:
            self.calls += 1
            if self.calls == self.number:
                raise self.error
            return call(*arguments, **rest)

        return watched


def fail_each(folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """Write over a file with the N-th call failing, for N = 1, 2, … until the writing succeeds → the failures."""
    path = folder / "state"
    for number in range(1, 100):
        files.write_bytes(path, b"before")
        with monkeypatch.context() as patch:
            disk = FailingDisk(patch, number, error)
            try:
                files.write_bytes(path, b"after")
            except (CnnError, KeyboardInterrupt) as raised:
                if isinstance(raised, CnnError):
                    assert str(raised).startswith(f"cannot write {path} (0.0 kB): ")
                    assert str(raised).endswith("; the previous file is intact") or path.read_bytes() == b"after"
        assert path.read_bytes() in (b"before", b"after")
        assert [p.name for p in folder.iterdir()] == ["state"]
        if disk.calls < number:
            assert path.read_bytes() == b"after"
            return number - 1
    raise AssertionError("it never succeeded")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EXDEV])
def test_every_failing_call_leaves_the_file_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    assert fail_each(tmp_path, monkeypatch, OSError(code, os.strerror(code))) == 6  # both files' open and fsync, …


def test_a_signal_in_the_middle_leaves_the_file_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fail_each(tmp_path, monkeypatch, KeyboardInterrupt()) == 6


def test_the_data_are_on_the_disk_before_they_get_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts cannot be tried here; the order of the calls can be read."""
    order = []
    for name in CALLS:
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, call=original, **k: (order.append(n), call(*a, **k))[1])
    files.write_bytes(tmp_path / "state", b"x")
    assert order == ["open", "write", "fsync", "replace", "open", "fsync"]


def test_a_disk_that_takes_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    files.write_bytes(tmp_path / "state", b"0123456789")
    assert (tmp_path / "state").read_bytes() == b"0123456789"


def test_nothing_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "state"
    with pytest.raises(CnnError) as error:
        files.write_text(path, "x" * 1_250_000)
    assert str(error.value) == f"cannot write {path} (1.2 MB): No such file or directory; nothing was written"


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.4711.cnn-tmp").write_bytes(b"half")
    (tmp_path / "last.pt").write_bytes(b"whole")
    files.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_folders_are_numbered_after_the_highest(tmp_path: Path) -> None:
    for name in ("net-2", "net-10", "net-x", "net-7-3", "other-99"):
        (tmp_path / name).mkdir()
    assert files.make_numbered_folder(tmp_path, "net").name == "net-11"
    assert files.make_numbered_folder(tmp_path, "net-7").name == "net-7-4"
    assert files.make_numbered_folder(tmp_path / "new", "net").name == "net-1"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CnnError) as error:
        files.make_folder(tmp_path / "file" / "run")
    assert str(error.value) == f"cannot write to {tmp_path}/file/run: Not a directory; name another folder with -o"


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, os, pathlib; from cnn_cli.files import locked\nwith locked(pathlib.Path(sys.argv[1])): os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / ".lock").exists()
    with files.locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_in_the_package_writes_files() -> None:
    """All writing passes through files.py, so that the tests above hold for all of it."""
    import ast

    writers = {"write_text", "write_bytes", "savefig", "imsave", "mkdir", "makedirs", "touch", "rename", "symlink_to"}
    found = []
    for path in Path(files.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or path.name == "files.py":
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            opens = (isinstance(node.func, ast.Name) and node.func.id == "open") or name == "open"
            writes = opens and any(
                isinstance(a, ast.Constant) and str(a.value)[:1] in "wax" and a.value for a in node.args
            )
            to_memory = name == "savefig" and isinstance(node.args[0], ast.Name) and node.args[0].id == "buffer"
            if writes or (name in writers and not to_memory):
                found.append(f"{path.name}:{node.lineno} {name}")
    assert found == []


def test_short_path_is_relative_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.short_path(tmp_path / "photos/a.png") == "photos/a.png"
    assert files.short_path(tmp_path.parent / "a.png") == str(tmp_path.parent / "a.png")
