"""A run that is killed at any instant, and a disk that fails at any call, cost at most the time since the last save.

EXHAUSTIVE=FILE tries every combination and more than a hundred kills, and adds the figures to that file; else it is a
part of them that takes seconds.
"""

import errno
import os
import random
import time
from pathlib import Path
from typing import Any

import crashes
import pytest
import small_runs as small
from crashes import TRAIN, Diary, Disk, everything, go_on, save_every_step

from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.errors import CnnError
from cnn_cli.training import run as run_module

EXHAUSTIVE = os.environ.get("EXHAUSTIVE", "")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EXDEV)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that a run says which nothing happened to."""
    return everything(go_on(tmp_path_factory.mktemp("unbroken")))


def figure(text: str) -> None:
    if EXHAUSTIVE:
        with Path(EXHAUSTIVE).open("a") as file:
            file.write(f"{text}\n")


def fresh(folder: Path, name: object) -> Path:
    (made := folder / str(name)).mkdir()
    return made


def whole(run: Path) -> int:
    """The step of last.pt, which is whole, or is not there yet; previous.pt is whole too, and of no later step."""
    if not (run / "last.pt").exists():
        return 0
    step = int(read_state(run / "last.pt")["step"])
    if (run / "previous.pt").exists():
        assert read_state(run / "previous.pt")["step"] <= step
    return step


# --- Killed ---------------------------------------------------------------------------------------------------------


def test_kills_at_random_instants(tmp_path: Path, unbroken: dict[str, Any]) -> None:
    """Chains of five kills in a run that saves after every step; what was acknowledged is there, the end the same."""
    draw, wanted = random.Random(5), 150 if EXHAUSTIVE else 3
    crashes.cnn(tmp_path, "list")  # starts the server
    started = time.monotonic()
    assert crashes.cnn(fresh(tmp_path, "timed"), *TRAIN, patches=(save_every_step,)).code == 0
    span = time.monotonic() - started
    kills = writing = lost = 0
    while kills < wanted:
        folder = fresh(tmp_path, len(list(tmp_path.iterdir())))
        for _ in range(5):
            diary, begun = Diary(folder / "diary"), whole(folder / "run")
            again = ("train", "run", "--resume") if (folder / "run" / "last.pt").exists() else TRAIN
            process = crashes.start(folder, *again, patches=(save_every_step, diary))
            time.sleep(draw.uniform(0.02, span))
            process.kill()
            if crashes.end(process, folder).code != -9:
                break  # it was finished before
            kills += 1
            writing += any((folder / "run").glob(".*.cnn-tmp"))
            step, (last_begun, saved) = whole(folder / "run"), diary.read()
            assert step >= max(begun, saved)
            lost = max(lost, last_begun - step)
        run = go_on(folder)
        assert small.same(everything(run), unbroken)
        assert (run / "previous.pt").is_file()
    assert lost <= 1
    figure(f"kills at random instants: {kills} survived of {kills}, {writing} inside a write; worst loss {lost} step")


def test_killed_at_every_call_that_changes_files(tmp_path: Path, unbroken: dict[str, Any]) -> None:
    trials = 0
    for number in range(1, 1000, 1 if EXHAUSTIVE else 12):
        for how in ("before", "half") if EXHAUSTIVE else (("before", "half")[number // 12 % 2],):
            folder = fresh(tmp_path, f"{number}{how}")
            ended = crashes.cnn(folder, *TRAIN, patches=(Disk(number, how),))
            if ended.code == 0:
                assert trials > (80 if EXHAUSTIVE else 6), "the faults were not where the files are written"
                return figure(f"killed at calls that change files: {trials} survived of {trials}")
            assert ended.code == -9
            whole(folder / "run")
            assert small.same(everything(go_on(folder)), unbroken)
            trials += 1


# --- A disk that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ERRORS, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("full", [False, True], ids=["once", "from then on"])
def test_every_call_that_changes_files_fails(tmp_path: Path, unbroken: dict[str, Any], code: int, full: bool) -> None:
    """The message is short, the state of before good, nothing half-written stays, and the run can go on."""
    failures, number, step = 0, 0, 1 if EXHAUSTIVE else 6 * len(ERRORS)
    first = 0 if EXHAUSTIVE else ERRORS.index(code) + len(ERRORS) * full
    for number in range(first + 1, 1000, step):
        folder = fresh(tmp_path, number)
        disk, error = Disk(number, code, full), None
        with pytest.MonkeyPatch.context() as patch:
            crashes.prepare(folder, TRAIN, patch)
            disk(patch)
            try:
                run_module.begin(small.request(folder, spec=crashes.SPEC))
            except CnnError as raised:
                error = raised
        if len(disk.calls) < number:
            break
        if error is None:
            continue
        failures += 1
        assert error.exit_code == 1 and len(str(error).splitlines()) <= 3
        assert os.strerror(code) in str(error)
        whole(folder / "run")
        left = list(folder.rglob("*.cnn-tmp"))
        assert not left or disk.calls[number - 1] == "unlink"
        if (folder / "run" / "best.safetensors").is_file():
            assert str(error).splitlines()[-1] == f"resume with: cnn train {folder}/run --resume"
        assert small.same(everything(go_on(folder)), unbroken)
    assert failures > (50 if EXHAUSTIVE else 1)
    figure(f"{errno.errorcode[code]} at every call{', from then on' * full}: {failures} survived of {failures}")
