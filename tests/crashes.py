"""Runs of `cnn train` that are killed, stopped and starved at chosen points, each in a process of its own.

The processes are forked from one that has loaded PyTorch already, so that hundreds of them take seconds. What a fault
needs is patched before the command starts; the package itself knows nothing of tests.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import processes
import pytest
import small_runs as small
import torch

from cnn_cli import cli, files
from cnn_cli.checkpoints.header import read_metadata
from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.checkpoints.tensor_file import read_tensors
from cnn_cli.data import preparation
from cnn_cli.pictures import plots, reliability_plot
from cnn_cli.training import completion, loop
from cnn_cli.training import run as run_module

SPEC = small.SPEC.replace("epochs: 2, batch_size: 128", "epochs: 2, batch_size: 512, val_fraction: 0.2")
TRAIN = ("train", "small.yaml", "--device", "cpu", "-o", "run")
LIMIT = 60  # seconds that any command here may take

Patch = Callable[[pytest.MonkeyPatch], object]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (−9 where it was killed) and what it said; the processes that it left."""

    code: int
    said: str
    left: bool

    @property
    def message(self) -> list[str]:
        """The lines of its error, of the last thing it said."""
        lines = self.said.splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith(("error: ", "internal error: "))]
        return lines[starts[-1] :] if starts else []


def start(folder: Path, *arguments: str, patches: tuple[Patch, ...] = ()) -> BaseProcess:
    """`cnn ARGUMENTS` in `folder`, in a process group of its own."""
    (folder / "small.yaml").write_text(SPEC)
    process: BaseProcess = processes.CONTEXT.Process(target=_command, args=(folder, arguments, patches))
    process.start()
    return process


def end(process: BaseProcess, folder: Path) -> Ended:
    process.join(LIMIT)
    said = (folder / "said").read_text() if (folder / "said").is_file() else ""
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        pytest.fail(f"it hangs:\n{said}")
    until = time.monotonic() + 5
    while (left := _group_lives(process.pid or 0)) and time.monotonic() < until:
        time.sleep(0.01)
    return Ended(process.exitcode, said, left)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def cnn(folder: Path, *arguments: str, patches: tuple[Patch, ...] = ()) -> Ended:
    """Run it to its end."""
    return end(start(folder, *arguments, patches=patches), folder)


def here(folder: Path, *arguments: str) -> int:
    """Run it in this process → its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, arguments, patch)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def go_on(folder: Path) -> Path:
    """What a person does whose run was killed: with --resume if there is a state, else once more → the finished run."""
    again = ("train", "run", "--resume") if (folder / "run" / "last.pt").is_file() else TRAIN
    assert here(folder, *again) == 0
    return folder / "run"


def _command(folder: Path, arguments: tuple[str, ...], patches: tuple[Patch, ...]) -> None:
    os.setsid()
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    multiprocessing.set_start_method(os.environ.get("START_METHOD"), force=True)  # not the server's
    patch = pytest.MonkeyPatch()
    prepare(folder, arguments, patch)
    for fault in patches:
        fault(patch)
    cli.main()


def prepare(folder: Path, arguments: tuple[str, ...], patch: pytest.MonkeyPatch) -> None:
    """In place of the pictures, which take half a second to draw, the writing of them alone. And fsync takes no time:
    a killed process loses nothing that it has written, and the order of the calls is looked at in test_files.py.
    """
    (folder / "small.yaml").write_text(SPEC)
    torch.set_num_threads(1)
    patch.chdir(folder)
    patch.setattr(os, "fsync", _no_time)
    patch.setattr(plots, "learning_curves", _empty_picture)
    patch.setattr(plots, "confusion_picture", _empty_picture)
    patch.setattr(reliability_plot, "reliability_diagram", _empty_picture)
    patch.setattr(sys, "argv", ["cnn", *arguments])


def _no_time(fd: int) -> None: ...


def _empty_picture(*arguments: Any) -> None:
    files.write_bytes(next(a for a in arguments if isinstance(a, Path)), b"picture")


# --- Patches --------------------------------------------------------------------------------------------------------


def save_every_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop, "SAVE_EVERY", 0)


def stream_the_images(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(preparation, "free_memory", lambda *_: 0)


CALLS = ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "rmdir", "ftruncate")


@dataclass(frozen=True)
class Disk:
    """Of the calls that change files, let number `number` fail with an error, or be killed before or half-way through.

    full: all later ones that make or write a file fail too, as on a disk that stays full.
    """

    number: int
    how: str | int = "before"
    full: bool = False
    calls: list[str] = field(default_factory=list)  # all that were made

    def __call__(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, call: Any) -> Any:
        def watched(*arguments: Any, **rest: Any) -> Any:
            if name == "write" and arguments[0] <= 2:  # what it says
                return call(*arguments, **rest)
            self.calls.append(name)
            later = self.full and len(self.calls) > self.number and name in ("write", "link", "mkdir")
            if len(self.calls) == self.number or later:
                if isinstance(self.how, int):
                    raise OSError(self.how, os.strerror(self.how))
                if self.how == "half" and name == "write":
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **rest)

        return watched


@dataclass(frozen=True)
class Signal:
    """Send a signal, to itself or to the whole group, when the command comes to a point of its life."""

    phase: str
    number: int
    group: bool = False
    times: int = 1

    def __call__(self, patch: pytest.MonkeyPatch) -> None:
        owner, name, occasion = _PHASES[self.phase]
        original, seen = getattr(owner, name), [0]

        def wrapped(*arguments: Any, **rest: Any) -> Any:
            seen[0] += self.phase != "saving" or Path(arguments[1]).name == "last.pt"
            if seen[0] == occasion:
                seen[0] += 1
                for _ in range(self.times):
                    (os.killpg if self.group else os.kill)(os.getpid(), self.number)
            return original(*arguments, **rest)

        patch.setattr(owner, name, wrapped)


_PHASES: dict[str, tuple[Any, str, int]] = {  # what is called then, and at which of its calls
    "start-up": (run_module, "load_dataset", 1),
    "step": (loop, "learning_rate", 2),
    "validation": (loop, "evaluate", 1),
    "saving": (os, "replace", 2),
    "last validation": (loop, "evaluate", 2),
    "test": (completion, "evaluate", 1),
    "pictures": (plots, "confusion_picture", 1),
}


@dataclass(frozen=True)
class Memory:
    """After so many steps the process may have no more than so many bytes of memory beyond what it has."""

    more: int
    after: int = 0

    def __call__(self, patch: pytest.MonkeyPatch) -> None:
        import resource

        original = loop.learning_rate

        def learning_rate(done: int, *rest: Any) -> float:
            if done == self.after:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                limit = pages * resource.getpagesize() + self.more
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            return original(done, *rest)

        patch.setattr(loop, "learning_rate", learning_rate)


@dataclass(frozen=True)
class Diary:
    """Write down each step that begins and each that was saved, past the package."""

    path: Path

    def __call__(self, patch: pytest.MonkeyPatch) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT)
        rate, save = loop.learning_rate, loop.save

        def learning_rate(done: int, *rest: Any) -> float:
            os.pwrite(file, (done + 1).to_bytes(8, "little"), 0)
            return rate(done, *rest)

        def saved(job: Any, state: Any) -> None:
            save(job, state)
            os.pwrite(file, state.step.to_bytes(8, "little"), 8)

        patch.setattr(loop, "learning_rate", learning_rate)
        patch.setattr(loop, "save", saved)

    def read(self) -> tuple[int, int]:
        """(the last step begun, the last step saved)."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        return int.from_bytes(content[:8], "little"), int.from_bytes(content[8:], "little")


# --- What a run is --------------------------------------------------------------------------------------------------

_CLOCK = {
    "seconds",
    "images_per_second",
    "started",
    "checkpoint",
    "folder",
    "workers",
}  # and places, and how many hands there were


def everything(run: Path) -> dict[str, Any]:
    """All that a finished run says, but for times and places: the state, the best weights, the log, the result."""
    tensors = read_tensors(run / "best.safetensors").tensors
    return {
        "state": timeless(read_state(run / "last.pt")),
        "best": [tensors, timeless(read_metadata(run / "best.safetensors"))],
        "log": timeless([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]),
        "result": timeless(json.loads((run / "eval.json").read_text())),
        "files": sorted(p.name for p in run.iterdir()),
    }


def timeless(value: Any) -> Any:
    """Without what two runs never have in common, wherever it stands."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in _CLOCK}
    return [timeless(v) for v in value] if isinstance(value, list | tuple) else value
