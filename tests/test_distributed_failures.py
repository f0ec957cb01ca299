"""Several processes stop together, whatever stops one of them, and go on together as if they never had."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import processes
import pytest
import small_runs as small
import torch

from cnn_cli.data import preparation
from cnn_cli.distributed.world import Poll
from cnn_cli.training import loop, run

slow = pytest.mark.skipif(not os.environ.get("CNN_SLOW_TESTS"), reason="set CNN_SLOW_TESTS=1")


@pytest.fixture(autouse=True)
def _specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes.ready(tmp_path, monkeypatch)


# --- Stopping and going on -------------------------------------------------------------------------------------------


def _often(rank: int) -> None:
    """Ask at every step whether to stop."""
    Poll.any = lambda self, *questions, now=False: self.world.any(*questions)  # type: ignore[method-assign]


def _stop_at(step: int, ranks: tuple[int, ...], rank: int) -> None:
    _often(rank)
    processes.at_step(dict.fromkeys(ranks, small.interrupt), step, rank)


@pytest.mark.parametrize(
    ("size", "stops"),
    [
        pytest.param(2, {5: (1,), 9: (0, 1), 13: (0,)}, id="two"),
        pytest.param(3, {14: (1,)}, id="three", marks=slow),
    ],
)
def test_stopped_and_resumed_is_as_if_never_stopped(
    tmp_path: Path, size: int, stops: dict[int, tuple[int, ...]]
) -> None:
    """1150 images make nine steps of 128 an epoch: in the middle of an epoch and, at the ninth, at its end."""
    options, resumed = ("small.yaml", *processes.EVERYTHING), ("part", "--resume")
    whole, part = processes.trained(tmp_path, size, "whole", *options), tmp_path / "part"
    arguments: tuple[str, ...] = (*options, "-o", "part")
    for step, ranks in stops.items():
        codes, team = processes.run(tmp_path, size, "train", *arguments, action=partial(_stop_at, step, ranks))
        assert codes[0] == 143 and small.last(part)["step"] == step, team.words()
        way = f"resume with: torchrun --nproc-per-node {size} -m cnn_cli train part --resume"
        assert [team.said(rank).count(way) for rank in range(size)] == [1] + [0] * (size - 1)
        assert all(team.said(rank) == "" for rank in range(1, size))
        arguments = resumed
    codes, team = processes.run(tmp_path, size, "train", *resumed)
    assert codes == [0] * size, team.words()
    assert small.same(*(small.without_times(small.last(run)) for run in (part, whole)))
    assert processes.rows(part) == processes.rows(whole)
    assert (part / "best.safetensors").is_file()


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    processes.trained(tmp_path, 2, "two", "small.yaml", "--epochs", "1")
    processes.trained(tmp_path, 1, "one", "small.yaml", "--epochs", "1")
    for folder, size, hint in (
        ("two", 1, "two was trained with 2 processes, not 1; resume with: torchrun --nproc-per-node 2 "),
        ("two", 3, "two was trained with 2 processes, not 3; resume with: torchrun --nproc-per-node 2 "),
        ("one", 2, "one was trained with 1 process, not 2; resume with: cnn train one --resume"),
    ):
        codes, team = processes.run(tmp_path, size, "train", folder, "--resume", "--epochs", "2")
        assert codes[0] == 2 and team.said(0).count(hint) == 1, team.words()


# --- What ends one ends all ------------------------------------------------------------------------------------------


def _exhausted() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def _a_bug() -> None:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def _about_gloo() -> None:
    raise RuntimeError("[/pytorch/third_party/gloo/x.cc:12] a bug that sounds like a lost connection")


@pytest.mark.parametrize(
    ("action", "code", "words"),
    [
        (_exhausted, 1, "error: out of memory at batch size 128; try --batch-size 64 in a new run"),
        (_a_bug, 70, "internal error: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (_about_gloo, 70, "internal error: RuntimeError: [/pytorch/third_party/gloo/x.cc:12] a bug that sounds"),
    ],
    ids=["memory", "bug", "a bug that sounds like a lost connection"],
)
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=slow)])
def test_what_fails_in_one_process_is_told_by_it(tmp_path: Path, size: int, action: Any, code: int, words: str) -> None:
    codes, team = processes.run(
        tmp_path, size, "train", "small.yaml", "-o", "run", action=partial(processes.at_step, {1: action}, 15)
    )
    assert codes[1] == code and all(codes), team.words()
    assert team.said(1).startswith(words), team.words()
    assert not any("error" in team.said(rank) for rank in range(size) if rank != 1), team.words()
    assert small.last(tmp_path / "run")["step"] == 12


def _an_image_goes_bad(rank: int) -> None:
    preparation.free_memory = lambda *_: 0  # type: ignore[attr-defined]
    os.environ["XDG_CACHE_HOME"] = os.devnull  # no cache on disk, so that the image is read again
    processes.at_step({1: lambda: Path("images/7/7.png").write_bytes(b"bad")}, 12, rank)


def test_an_image_that_goes_bad_in_one_process(tmp_path: Path) -> None:
    options = processes.images(tmp_path)
    codes, team = processes.run(tmp_path, 2, "train", *options, "--epochs", "9", "-o", "run", action=_an_image_goes_bad)
    said = sorted(team.said(rank).count("error: ") for rank in range(2))
    assert all(codes) and said == [0, 1] and team.words().count("7.png") == 1, team.words()
    assert "resume with: torchrun --nproc-per-node 2 -m cnn_cli train run --resume" in team.words()
    assert small.last(tmp_path / "run")["step"] == 12


def test_a_loss_that_is_not_finite_is_told_once(tmp_path: Path) -> None:
    codes, team = processes.run(tmp_path, 2, "train", "plain.yaml:rough", "-o", "run")
    assert codes[0] == 3 and codes[1] in (3, -signal.SIGTERM)
    assert team.said(0).count("error: the loss is not finite in epoch 1") == 1 and team.said(1) == ""
    assert all(t.isfinite().all() for t in small.last(tmp_path / "run")["network"].values())


KILL, STOP = signal.SIGKILL, signal.SIGSTOP


@pytest.mark.parametrize(
    ("size", "victim", "srun", "number"),
    [
        (2, 1, False, KILL),
        (3, 1, False, STOP),
        *(pytest.param(2, 0, srun, n, marks=slow) for srun in (False, True) for n in (KILL, STOP)),
        pytest.param(2, 1, False, STOP, marks=slow),
        pytest.param(3, 1, False, KILL, marks=slow),
    ],
)
def test_a_process_that_dies_or_hangs_is_named(tmp_path: Path, size: int, victim: int, srun: bool, number: int) -> None:
    env = {**processes.SLURM, "SLURM_STEP_NUM_TASKS": str(size)} if srun else None
    options = ("small.yaml", "-o", "run", "--epochs", "3000")
    with processes.team(tmp_path, size, "train", *options, env=env, more={"CNN_TIMEOUT": "2"}) as team:
        team.until(lambda: "   2/3000" in team.said(0))
        team.send(number, victim)
        started = time.monotonic()
        codes = team.wait(25, ends_others=not srun)
    seconds = time.monotonic() - started
    print(f"{size} processes, {signal.Signals(number).name} to {victim}: {seconds:.1f} s")
    assert seconds < (8 if number == signal.SIGKILL else 12)
    others = [rank for rank in range(size) if rank != victim]
    assert codes[victim] == -signal.SIGKILL and 1 in (codes[rank] for rank in others), team.words()
    said = [team.said(rank) for rank in others]
    named = f"error: process {victim} of {size} (counted from 0) has ended or hangs: "
    assert sum(text.count("error: ") for text in said) == sum(text.count(named) for text in said) == 1, team.words()
    hint = f"resume with: torchrun --nproc-per-node {size} -m cnn_cli train run --resume"
    assert sum(text.count(hint) for text in said) == 1, team.words()
    epochs = len(small.last(tmp_path / "run")["history"])
    assert epochs >= 2
    if (size, number) not in ((2, signal.SIGKILL), (3, signal.SIGSTOP)):
        return
    codes, team = processes.run(tmp_path, size, "train", "run", "--resume", "--epochs", "3000", action=_stop_soon)
    assert codes[0] == 143 and small.last(tmp_path / "run")["step"] > 12 * epochs, team.words()


def _slow_download(rank: int) -> None:
    load = run.load_dataset

    def load_dataset(*arguments: Any) -> Any:
        time.sleep(4 * (rank == 0))
        return load(*arguments)

    run.load_dataset = load_dataset  # type: ignore[attr-defined]


def test_a_download_may_last_longer_than_the_timeout(tmp_path: Path) -> None:
    options, more = ("small.yaml", "-o", "run", "--epochs", "1"), {"CNN_TIMEOUT": "2"}
    with processes.team(tmp_path, 2, "train", *options, more=more, action=_slow_download) as team:
        assert team.wait(40) == [0, 0], team.words()


def _stop_soon(rank: int) -> None:
    _often(rank)
    original, steps = loop.learning_rate, []

    def learning_rate(*arguments: Any) -> float:
        steps.append(1)
        if len(steps) == 5:
            small.interrupt()
        return original(*arguments)

    loop.learning_rate = learning_rate


# --- torchrun itself -------------------------------------------------------------------------------------------------


def torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cnn_cli"]
    path = str(Path(loop.__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        [*command, *arguments], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_torchrun_stops_and_goes_on(tmp_path: Path) -> None:
    """SIGTERM reaches the whole group of each process, data workers included, and costs no step."""
    options = ("train", *processes.images(tmp_path), "--epochs", "400")
    process = torchrun(tmp_path, *options, "-o", "run")
    log = tmp_path / "run" / "metrics.jsonl"
    end = time.monotonic() + 60
    while not log.is_file() or len(log.read_bytes().splitlines()) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and said.count("error: ") == 1, said
    assert said.count("resume with: torchrun --nproc-per-node 2 -m cnn_cli train run --resume") == 1, said
    assert "\nerror: stopped; saved at epoch " in said
    saved = small.last(tmp_path / "run")
    assert saved["step"] > 0 and len(saved["ranks"]) == 2
