"""Too little memory, workers that hang or cannot start, weights that run away: what was saved stays good."""

import errno
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import crashes
import pytest
import small_runs as small
import torch
from crashes import TRAIN, Memory, everything, go_on
from torch.utils.data import DataLoader

from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.checkpoints.tensor_file import read_tensors
from cnn_cli.data import batches
from cnn_cli.data.preparation import ImageStream
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.tasks.classification_result import ClassificationResult
from cnn_cli.training import loop
from cnn_cli.training import run as run_module

pytestmark = pytest.mark.usefixtures("quick")


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
    assert ended.message[0] == "error: out of memory at batch size 1000; try --batch-size 500 in a new run"
    assert read_state(tmp_path / "run" / "last.pt")["step"] == 0


# --- Workers --------------------------------------------------------------------------------------------------------


def fresh(folder: Path) -> Path:
    (made := folder / "fresh").mkdir()
    return made


def test_a_worker_that_hangs_is_given_up(tmp_path: Path) -> None:
    ended = crashes.cnn(tmp_path, *TRAIN, "--workers", "1", patches=(crashes.stream_the_images, _hang))
    assert (ended.code, ended.left) == (1, False), ended.said
    assert ended.message == [
        "error: a data worker failed (no batch for 2 seconds); "
        "try --workers 0, or fewer if memory or /dev/shm is short",
        "saved at epoch 1, step 2 of 3",
        "resume with: cnn train run --resume",
    ]
    assert small.same(everything(go_on(tmp_path)), everything(go_on(fresh(tmp_path))))


def _hang(patch: pytest.MonkeyPatch) -> None:
    """At the third batch of the first epoch."""
    read, read_before = ImageStream.__getitems__, [0]

    def hang(stream: Any, index: list[int]) -> Any:
        read_before[0] += 1
        if read_before[0] == 3:
            signal.pause()
        return read(stream, index)

    patch.setattr(batches, "_PATIENCE", 2)
    patch.setattr(ImageStream, "__getitems__", hang)
    patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # how long it may take to end


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

    with monkeypatch.context() as patch, pytest.raises(CnnError) as error:
        crashes.stream_the_images(patch)
        patch.setattr(DataLoader, "__iter__", fail)
        small.begin(tmp_path, epochs=1, workers=2)
    assert error.value.exit_code == 1
    first, *rest = str(error.value).splitlines()
    assert first == f"no data worker could be started ({reason}); try --workers 0" and len(rest) == 2
    run, whole = small.resume(tmp_path, workers=0), small.begin(tmp_path, "whole", epochs=1)
    assert small.same(small.last(run)["network"], small.last(whole)["network"])


def test_shared_memory_that_is_too_small(tmp_path: Path) -> None:
    """Told at the first batch; PyTorch's queue alone would print a traceback for each batch and never end."""
    patches = (crashes.stream_the_images, _no_shared_memory)
    ended = crashes.cnn(tmp_path, *TRAIN, "--workers", "2", patches=patches)
    assert (ended.code, ended.left) == (1, False) and "Traceback" not in ended.said
    assert ended.message == [
        "error: shared memory (/dev/shm) is too small: a batch takes 0.0 MB; try --workers 0, or fewer",
        "saved at epoch 1, step 0 of 3",
        "resume with: cnn train run --resume",
    ]
    assert small.same(everything(go_on(tmp_path)), everything(go_on(fresh(tmp_path))))


def _no_shared_memory(patch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: Any) -> Any:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"
        )

    patch.setattr(batches, "_PATIENCE", 10)
    patch.setattr(torch.Tensor, "share_memory_", refuse)


# --- Numbers --------------------------------------------------------------------------------------------------------


def finite(run: Path) -> bool:
    tensors = [
        *read_tensors(run / "best.safetensors").tensors.values(),
        *read_state(run / "last.pt")["network"].values(),
    ]
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
    assert finite(tmp_path / "run") and len(read_state(tmp_path / "run" / "last.pt")["history"]) == 1
    assert not list((tmp_path / "run").glob(".*"))


def _run_away(first: int, high: float, patch: pytest.MonkeyPatch) -> None:
    rate = loop.learning_rate
    patch.setattr(loop, "learning_rate", lambda done, *rest: high if done >= first else rate(done, *rest))


def test_a_loss_that_is_not_finite_on_the_validation_images_is_no_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, results = loop.evaluate, []

    def evaluated(*arguments: Any) -> ClassificationResult:
        result = evaluate(*arguments)
        results.append(result)
        return result if len(results) == 1 else replace(result, loss=float("nan"))

    monkeypatch.setattr(loop, "evaluate", evaluated)
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
    monkeypatch.setattr(run_module, "load_dataset", lambda *_: pytest.fail("the data were read"))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CnnError) as error:
        run_module.begin(asked)
    said = f"cannot write to {tmp_path}/run: {os.strerror(number)}; name another folder with -o"
    assert str(error.value) == said and error.value.exit_code == 1


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").write_text("mine")
    monkeypatch.setattr(run_module, "load_dataset", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(UsageError, match="run is a file; choose a folder with -o"):
        small.begin(tmp_path)
    assert (tmp_path / "run").read_text() == "mine"
