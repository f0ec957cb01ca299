"""Too little memory, workers that hang or cannot start, weights that run away: what was saved stays good."""

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import crashes
import pytest
import small_runs as small
import torch
from crashes import TRAIN, Memory
from torch.utils.data import DataLoader

from cnn_cli import data
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.training import launch, train
from cnn_cli.training.evaluate import Result
from cnn_cli.training.state import read_last
from cnn_cli.training.tensorfile import read_tensors

batches = sys.modules["cnn_cli.data.batches"]  # data.batches is the function of that name


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, a folder of its own, no drawing."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    small.without_pictures(monkeypatch)


# --- Memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is told by Linux alone")
@pytest.mark.parametrize("channels", [6, 1000], ids=["nothing left", "less than a layer takes"])
def test_out_of_memory_in_earnest(tmp_path: Path, channels: int) -> None:
    """A limit of the kernel's, in the middle of a run: a batch size to try, and the state of before stays."""
    spec = crashes.SPEC.replace("out_channels: 6", f"out_channels: {channels}").replace(
        "Flatten", "AdaptiveAvgPool2d: 1\n    - Flatten"
    )
    (tmp_path / "large.yaml").write_text(spec.replace("batch_size: 512", "batch_size: 1000"))
    memory = Memory(0 if channels == 6 else 30_000_000)
    ended = crashes.cnn(tmp_path, "train", "large.yaml", "-o", "run", patches=(memory,))
    assert ended.code == 1, ended.said
    assert ended.message == ["error: out of memory with batches of 1000; try --batch-size 500 in a new run"]
    assert read_last(tmp_path / "run" / "last.pt")["step"] == 0


# --- Workers --------------------------------------------------------------------------------------------------------


@contextmanager
def streaming(**patches: Any) -> Iterator[None]:
    """The images are streamed; patches: of attributes of data.batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "free_memory", lambda *_: 0)
        for name, value in patches.items():
            patch.setattr(batches, name, value)
        yield


def goes_on(folder: Path, **options: Any) -> None:
    """The run in `folder` ends as one that nothing happened to."""
    run, whole = small.resume(folder, workers=0), small.begin(folder, "whole", workers=0, **options)
    assert small.same(small.last(run)["network"], small.last(whole)["network"])


def test_a_worker_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, main = batches.Stream.__getitems__, os.getpid()

    def hang(stream: Any, index: list[int]) -> Any:
        if os.getpid() != main and len(stream) > 1000 and index[0] == order[2 * 512]:  # the third batch of the epoch
            signal.pause()
        return read(stream, index)

    order = data.epoch_order(1437, 0, 1).tolist()
    monkeypatch.setattr(batches.Stream, "__getitems__", hang)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # how long it may take to end
    started = time.monotonic()
    with streaming(_PATIENCE=2), pytest.raises(CnnError) as error:
        small.begin(tmp_path, epochs=1, batch_size=512, workers=1)
    assert 2 <= time.monotonic() - started < 30
    assert str(error.value).splitlines() == [
        "a data worker failed (no batch for 2 seconds); try --workers 0, or fewer if memory or /dev/shm is short",
        "saved at epoch 1, step 2 of 3",
        f"go on with: cnn train {tmp_path}/run --resume",
    ]
    goes_on(tmp_path, epochs=1, batch_size=512)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "[Errno 11] Resource temporarily unavailable"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "[Errno 12] Cannot allocate memory"),
        (EOFError(), "EOFError"),
    ],
    ids=["processes", "memory", "server"],
)
def test_no_worker_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: str
) -> None:
    def fail(loader: Any) -> Any:
        raise failure

    monkeypatch.setattr(DataLoader, "__iter__", fail)
    with streaming(), pytest.raises(CnnError) as error:
        small.begin(tmp_path, epochs=1, workers=2)
    assert error.value.exit_code == 1
    first, *rest = str(error.value).splitlines()
    assert first == f"no data worker could be started ({reason}); try --workers 0" and len(rest) == 2
    goes_on(tmp_path, epochs=1)


def test_shared_memory_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at the first batch; PyTorch's queue alone would print a traceback for each batch and never end."""

    def refuse(tensor: Any) -> Any:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with streaming(_PATIENCE=10), pytest.raises(CnnError) as error:
        small.begin(tmp_path, epochs=1, workers=2)
    monkeypatch.undo()
    first, *rest = str(error.value).splitlines()
    assert first == "shared memory (/dev/shm) is too small: a batch takes 0.0 MB; try --workers 0, or fewer"
    assert rest == ["saved at epoch 1, step 0 of 12", f"go on with: cnn train {tmp_path}/run --resume"]
    goes_on(tmp_path, epochs=1)


# --- Numbers --------------------------------------------------------------------------------------------------------


def finite(run: Path) -> bool:
    tensors = [*read_tensors(run / "best.safetensors")[0].values(), *read_last(run / "last.pt")["network"].values()]
    return all(bool(t.isfinite().all()) for t in tensors)


@pytest.mark.parametrize(
    ("first", "rate", "what"),
    [(3, 1e38, "the loss is not finite"), (5, float("inf"), "a weight is not finite")],
    ids=["in the epoch", "at its last step"],
)
def test_weights_that_run_away_after_a_good_epoch(tmp_path: Path, first: int, rate: float, what: str) -> None:
    """Exit code 3; the best and the last weights are those of before, and both files are whole."""
    arguments = (*TRAIN, "--optimizer", "sgd", "--val-fraction", "0")
    ended = crashes.cnn(tmp_path, *arguments, patches=(partial(_run_away, first, rate),))
    assert ended.code == 3, ended.said
    (message,) = ended.message
    assert message.startswith(f"error: {what} in epoch 2") and message.endswith("try --lr 0.001")
    assert "run/best.safetensors is from before that" in message
    assert finite(tmp_path / "run") and len(read_last(tmp_path / "run" / "last.pt")["history"]) == 1
    assert not list((tmp_path / "run").glob(".*"))


def _run_away(first: int, high: float, patch: pytest.MonkeyPatch) -> None:
    rate = train.learning_rate
    patch.setattr(train, "learning_rate", lambda done, *rest: high if done >= first else rate(done, *rest))


def test_a_loss_that_is_not_finite_on_the_validation_images_is_no_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, results = train.evaluate, []

    def evaluated(*arguments: Any) -> Result:
        result = evaluate(*arguments)
        results.append(result)
        return result if len(results) == 1 else Result(result.split, float("nan"), result.matrix)

    monkeypatch.setattr(train, "evaluate", evaluated)
    run = small.begin(tmp_path, epochs=3, val_fraction=0.2)
    first = small.last(run)["history"][0]
    assert small.last(run)["best"][1] == first["val_accuracy"] and len(results) == 3
    assert small.last(run)["history"][1]["val_loss"] is None


# --- Folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to_is_told_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Any, *rest: Any) -> Any:
        raise OSError(number, os.strerror(number))

    asked = small.request(tmp_path)
    monkeypatch.setattr(launch, "read_source", lambda *_: pytest.fail("the data were read"))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CnnError) as error:
        launch.begin(asked)
    said = f"cannot write to {tmp_path}/run: {os.strerror(number)}; name another folder with -o"
    assert str(error.value) == said and error.value.exit_code == 1


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").write_text("mine")
    monkeypatch.setattr(launch, "read_source", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(UsageError, match="run is a file; name a folder with -o"):
        small.begin(tmp_path)
    assert (tmp_path / "run").read_text() == "mine"
