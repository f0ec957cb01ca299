"""A run that is interrupted anywhere, by anything, loses nothing and goes on to the same bits."""

import errno
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
import yaml

from cnn_cli.checkpoints import checkpoint
from cnn_cli.data import preparation
from cnn_cli.errors import CnnError, DivergedError, StoppedError, UsageError
from cnn_cli.training import loop, optimizer
from cnn_cli.training import run as run_module
from cnn_cli.training.eval_report import EvaluationRequest, evaluate_network

pytestmark = pytest.mark.usefixtures("quick")


# --- Stopping and going on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra", [{}, {"optimizer": "sgd", "schedule": "onecycle", "val_fraction": 0.2}], ids=["adam", "sgd"]
)
def test_resumed_at_any_step_is_as_if_never_stopped(tmp_path: Path, extra: dict[str, Any]) -> None:
    options = {"epochs": 3, "batch_size": 512, **extra}
    whole = small.begin(tmp_path, "whole", **options)
    expected = small.without_times(small.last(whole))
    for step in range(1, expected["step"] + 1):
        name = f"stopped{step}"
        with small.at_step(step, small.interrupt), pytest.raises(StoppedError) as stopped:
            small.begin(tmp_path, name, **options)
        assert stopped.value.exit_code == 128 + signal.SIGTERM
        assert "--resume" in str(stopped.value) and small.last(tmp_path / name)["step"] == step
        torch.manual_seed(99)  # whatever the process did in between
        run = small.resume(tmp_path, name)
        assert small.same(small.without_times(small.last(run)), expected)
        assert small.same(checkpoint.load(run).state_dict(), checkpoint.load(whole).state_dict())
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    whole = small.begin(tmp_path, "whole", epochs=1, batch_size=512)
    monkeypatch.setattr(preparation, "free_memory", lambda *_: 0)
    with small.at_step(2, small.interrupt), pytest.raises(StoppedError):
        small.begin(tmp_path, epochs=1, batch_size=512, workers=workers)
    run = small.resume(tmp_path)
    assert small.same(checkpoint.load(run).state_dict(), checkpoint.load(whole).state_dict())


def test_more_epochs_go_on_as_if_asked_for_at_once(tmp_path: Path) -> None:
    whole = small.begin(tmp_path, "whole", epochs=3)
    small.begin(tmp_path, epochs=1)
    run = small.resume(tmp_path, epochs=3)
    assert small.same(small.without_times(small.last(run)), small.without_times(small.last(whole)))


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=1)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    asked = small.request(tmp_path)
    run_module.resume(asked, run)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    assert asked.say.__self__ == [f"{run} is finished (1 epoch); train longer with --epochs N"]  # type: ignore[attr-defined]


def test_a_run_that_went_on_is_not_finished_before_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its last state and its log and result: both are made then, and those of before do not count."""
    run = small.begin(tmp_path, epochs=1)
    result = (run / "eval.json").read_bytes()
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(loop, "write_log", lambda job, state: small.interrupt_at(2, state))
        small.resume(tmp_path, epochs=2)
    assert len(small.last(run)["history"]) == 2 and len((run / "metrics.jsonl").read_text().splitlines()) == 1
    small.resume(tmp_path)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert (run / "eval.json").read_bytes() != result


def test_other_settings_are_listed_and_refused(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=1)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(UsageError) as error:
        small.resume(tmp_path, epochs=2, lr=0.5, momentum=0.5, batch_size=128)
    assert str(error.value) == (
        f"{run} resumes with its own settings (only epochs may grow): lr is 0.01, not 0.5 (option); "
        "momentum is none, not 0.5 (option)\nleave these out, or start a new run"
    )
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_a_run_is_not_begun_where_something_lies(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=1)
    with pytest.raises(UsageError) as error:
        small.begin(tmp_path, epochs=1)
    assert str(error.value) == f"{run} already contains a run; resume it with --resume, or choose another -o"


def test_a_run_killed_at_its_start_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("1")
    assert (small.begin(tmp_path, epochs=1) / "best.safetensors").is_file()


def test_weights_in_the_middle_of_the_first_epoch_say_so(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=1)
    said = "no epoch of this run is complete: these are the weights of an unfinished one"

    def notes(name: str) -> tuple[str, ...]:
        return evaluate_network(
            checkpoint.load_trained(str(run / name)), EvaluationRequest(), torch.device("cpu")
        ).notes

    assert said not in notes("best.safetensors") + notes("last.pt")  # of a finished run
    (run / "best.safetensors").unlink()
    assert said in notes("last.pt")


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=1)
    code = (
        "import sys, time, pathlib; from cnn_cli.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(CnnError, match=f"in use by another cnn train \\(process {other.pid}\\)"):
            small.resume(tmp_path, epochs=2)
    finally:
        other.kill()
        other.communicate()
    small.resume(tmp_path, epochs=2)  # the lock has gone with its holder


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """A process killed in earnest: what is there is whole, and the end is the same to the last bit."""
    (tmp_path / "small.yaml").write_text(small.SPEC)
    command = [sys.executable, "-m", "cnn_cli", "train", "small.yaml", "--epochs", "20", "-o", "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(run_module.__file__).parents[2])}
    run = tmp_path / "killed"
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    log = run / "metrics.jsonl"
    while not log.is_file() or len(log.read_bytes().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    epochs = len(small.last(run)["history"])
    assert 3 <= epochs < 20
    (run / ".last.pt.123.cnn-tmp").write_bytes(b"half")
    run_module.resume(small.request(tmp_path), run)
    assert len(small.last(run)["history"]) == 20
    assert not list(run.glob(".*"))
    whole = small.begin(tmp_path, epochs=20)
    assert small.same(small.last(run)["network"], small.last(whole)["network"])


def test_ctrl_c_before_training_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "load_dataset", lambda *_: small.interrupt())
    with pytest.raises(StoppedError, match="stopped before the first step"):
        small.begin(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        small.interrupt()
        small.interrupt()

    with small.at_step(15, twice), pytest.raises(StoppedError, match="immediately"):
        small.begin(tmp_path)
    assert small.last(tmp_path / "run")["step"] == 12  # of the epoch before
    small.resume(tmp_path)


# --- What goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "step"), [(128, 12), (8, 50)], ids=["at the end of an epoch", "in between"])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, batch: int, step: int) -> None:
    spec = small.SPEC.replace("    - BatchNorm2d\n", "")
    with pytest.raises(DivergedError) as error:
        small.begin(tmp_path, spec=spec, optimizer="sgd", lr=1e30, epochs=1, batch_size=batch)
    assert error.value.exit_code == 3
    assert str(error.value) == (f"the loss is not finite in epoch 1, detected at step {step} (lr 1e+30); try --lr 0.01")
    assert all(t.isfinite().all() for t in small.last(tmp_path / "run")["network"].values())


def test_weights_that_are_not_finite_replace_nothing(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=1)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    network = checkpoint.load(run)
    next(network.parameters()).data.view(-1)[0] = math.nan
    state = loop.State(network, optimizer.Optimizer([], fused=False), torch.device("cpu"), {})
    job: Any = type(
        "Job",
        (),
        {
            "run": run,
            "place": lambda self, state: (1, 0),
            "__getitem__": lambda self, name: {"lr": 0.01, "optimizer": "sgd"}[name],
        },
    )()
    with pytest.raises(DivergedError):
        loop.save(job, state)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory"),
    ],
    ids=["gpu", "host", "allocator"],
)
def test_out_of_memory_names_a_batch_size(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        raise error

    with small.at_step(13, fail), pytest.raises(CnnError) as raised:
        small.begin(tmp_path)
    said = "out of memory at batch size 128; try --batch-size 64 in a new run\nthe last saved state is "
    assert str(raised.value) == f"{said}{tmp_path / 'run' / 'last.pt'}"
    assert small.last(tmp_path / "run")["step"] == 12


def test_a_full_disk_keeps_the_state_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, content: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = tmp_path / "run"
    raises = pytest.raises(CnnError, match=r"No space left on device; the previous file is intact")
    with monkeypatch.context() as patch, small.at_step(13, lambda: patch.setattr(os, "write", full)), raises as error:
        small.begin(tmp_path, epochs=2)
    assert error.value.exit_code == 1
    assert small.last(run)["step"] == 12 and not list(run.glob(".*"))
    small.resume(tmp_path)
    whole = small.begin(tmp_path, "whole", epochs=2)
    assert small.same(small.last(run)["network"], small.last(whole)["network"])


@pytest.mark.parametrize("whole_group", [False, True], ids=["a worker dies", "SIGTERM to the group"])
def test_dying_workers_cost_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_group: bool) -> None:
    def kill() -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGTERM if whole_group else signal.SIGKILL)
            worker.join()
        if whole_group:
            small.interrupt()

    monkeypatch.setattr(preparation, "free_memory", lambda *_: 0)
    with small.at_step(4, kill), pytest.raises(StoppedError if whole_group else CnnError) as error:
        small.begin(tmp_path, epochs=1, batch_size=64, workers=2)
    assert whole_group or str(error.value).startswith("a data worker failed (DataLoader worker")
    assert small.last(tmp_path / "run")["step"] >= 4
    run, whole = small.resume(tmp_path, workers=0), small.begin(tmp_path, "whole", epochs=1, batch_size=64, workers=0)
    assert small.same(small.last(run)["network"], small.last(whole)["network"])


def test_what_the_machine_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    spec = small.SPEC.replace("    - Linear: $classes", "    - Linear: 100000000\n    - Linear: $classes")
    with pytest.raises(
        CnnError, match=r"training small at batch size 128 needs over 155\.2 GB, but only .* GB are free"
    ):
        small.begin(tmp_path, spec=spec)
    assert not (tmp_path / "run").exists()


def test_batchnorm_never_meets_a_single_image(tmp_path: Path) -> None:
    spec = small.SPEC.replace("    - Dropout: 0.2", "    - Linear: 12\n    - BatchNorm1d\n    - ReLU")
    asked = small.request(tmp_path, spec=spec, epochs=1, batch_size=4)  # 1437 = 4 · 359 + 1
    run_module.begin(asked)
    assert "last batch of 1 dropped in every epoch (BatchNorm needs at least 2)" in asked.say.__self__[0]  # type: ignore[attr-defined]
    assert small.last(tmp_path / "run")["step"] == 359
    with pytest.raises(UsageError, match="two images per batch"):
        small.begin(tmp_path, "other", spec=spec, batch_size=1)


def test_config_keeps_the_first_command_and_those_that_resumed(tmp_path: Path) -> None:
    def commands() -> list[Any]:
        config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        return [config["command"], config.get("resumed_by")]

    first = replace(small.request(tmp_path, epochs=1), command="cnn train small.yaml")
    run_module.begin(first)
    assert commands() == ["cnn train small.yaml", None]
    for n in (2, 3):
        again = replace(small.request(tmp_path, epochs=n), command=f"cnn train --resume --epochs {n}")
        run_module.resume(again, tmp_path / "run")
    assert commands() == ["cnn train small.yaml", [f"cnn train --resume --epochs {n}" for n in (2, 3)]]
    (tmp_path / "run" / "config.yaml").write_text("{broken")
    run_module.resume(replace(again, options={"epochs": 4}), tmp_path / "run")
    assert commands() == ["cnn train --resume --epochs 3", None]
