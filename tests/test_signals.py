"""SIGTERM and Ctrl-C at any time of a run, to the process or its whole group: it is saved, and the way on is named."""

import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Timer
from typing import Any

import crashes
import pytest
import small_runs as small
from crashes import TRAIN, Signal, everything, go_on, stream_the_images

from cnn_cli.data import batches

INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return everything(go_on(tmp_path_factory.mktemp("unbroken")))


STOPS = [
    *((phase, 0, False, INT) for phase in ("step", "validation", "saving", "last validation", "test", "pictures")),
    *(("step", 2, False, INT), ("step", 2, True, INT), ("validation", 2, False, INT), ("test", 2, True, INT)),
    *(("step", 0, False, TERM), ("saving", 2, True, TERM)),  # the same handler
]


@pytest.mark.parametrize(("phase", "workers", "group", "number"), STOPS)
def test_stopped_at_any_time(
    tmp_path: Path, unbroken: dict[str, Any], phase: str, workers: int, group: bool, number: int
) -> None:
    streaming = (stream_the_images,) if workers else ()
    arguments = (*TRAIN, "--workers", str(workers))
    ended = crashes.cnn(tmp_path, *arguments, patches=(*streaming, Signal(phase, number, group)))
    assert (ended.code, ended.left) == (128 + number, False), ended.said
    assert "Traceback" not in ended.said and "Error" not in ended.said
    assert ended.said.count("stopping after this step; a second signal stops immediately") == 1
    first, second = ended.message
    assert first.startswith("error: stopped; ") and second == "resume with: cnn train run --resume"
    assert crashes.here(tmp_path, *shlex.split(second.removeprefix("resume with: "))[1:], "--workers", "0") == 0
    assert small.same(everything(tmp_path / "run"), unbroken)


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", [INT, TERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_before_training_began(tmp_path: Path, unbroken: dict[str, Any], number: int, group: bool) -> None:
    """Nothing is left that would be in the way of a second start."""
    ended = crashes.cnn(tmp_path, *TRAIN, patches=(Signal("start-up", number, group),))
    assert (ended.code, ended.left) == (128 + number, False)
    assert ended.said == "error: stopped before the first step\n"
    assert not (tmp_path / "run").exists()
    assert small.same(everything(go_on(tmp_path)), unbroken)


@pytest.mark.parametrize(
    ("phase", "workers"), [("step", 0), ("step", 2), ("validation", 2), ("saving", 0), ("pictures", 0)]
)
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, unbroken: dict[str, Any], phase: str, workers: int) -> None:
    patches = (Signal(phase, INT, True, times=2), *((stream_the_images,) if workers else ()))
    ended = crashes.cnn(tmp_path, *TRAIN, "--workers", str(workers), patches=patches)
    assert (ended.code, ended.left) == (130, False), ended.said
    assert ended.message == ["error: stopped immediately; resume the run from its last saved state with --resume"]
    assert small.same(everything(go_on(tmp_path)), unbroken)
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("batch", [2, 4, 7], ids=["training", "validation", "test"])
def test_sigterm_that_ends_the_workers_first(tmp_path: Path, unbroken: dict[str, Any], batch: int) -> None:
    """Of a signal to the whole group, main may see the dead workers before the signal; or they have just begun."""
    patches = (stream_the_images, partial(_end_workers_then_main, batch))
    ended = crashes.cnn(tmp_path, *TRAIN, "--workers", "2", patches=patches)
    assert (ended.code, ended.left) == (143, False), ended.said
    assert ended.message[0].startswith("error: stopped; ") and len(ended.message) == 2
    assert small.same(everything(go_on(tmp_path)), unbroken)


def _end_workers_then_main(batch: int, patch: pytest.MonkeyPatch) -> None:
    original, begin, asked = batches._next, BaseProcess.run, [0]

    def begin_slowly(worker: BaseProcess) -> None:
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            time.sleep(0.01)
        begin(worker)

    def following(iterator: Any) -> Any:
        asked[0] += 1
        if asked[0] == batch:
            for worker in multiprocessing.active_children():
                worker.terminate()
                worker.join(10)
                assert not worker.is_alive()
            Timer(0.1, os.kill, (os.getpid(), TERM)).start()
            return original(_dead())  # whatever they had made ready
        return original(iterator)

    patch.setattr(batches, "_next", following)
    patch.setattr(BaseProcess, "run", begin_slowly)


def _dead() -> Iterator[Any]:
    raise RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly")
    yield
