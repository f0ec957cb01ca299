"""The training loop: plain PyTorch, in the order in which it happens."""

import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cnn_cli.data import Data, ReadError, batches, epoch_order
from cnn_cli.errors import CnnError, DivergedError, StoppedError
from cnn_cli.files import write_text
from cnn_cli.recipe import Setting
from cnn_cli.spec.freeze import keeps_statistics, set_training
from cnn_cli.spec.plan import Plan
from cnn_cli.training.checkpoint import About, save_weights
from cnn_cli.training.evaluate import Result, evaluate
from cnn_cli.training.header import BEST, LAST
from cnn_cli.training.loss import Loss
from cnn_cli.training.optimizer import learning_rate
from cnn_cli.training.progress import Progress
from cnn_cli.training.signals import Signals, Stop
from cnn_cli.training.state import State, save_last
from cnn_cli.viz.film import add_frame

LOG = "metrics.jsonl"
SAVE_EVERY = 300  # seconds
_CHECK_EVERY = 50  # steps between two looks at the loss, each of which waits for the device


@dataclass(frozen=True)
class Job:
    """What does not change while a network trains."""

    plan: Plan
    settings: dict[str, Setting]
    data: Data
    loss: Loss
    about: About
    run: Path

    def __getitem__(self, name: str) -> Any:
        """The value of a setting; None where it has no meaning in this run."""
        return self.settings[name].value if name in self.settings else None

    @property
    def values(self) -> dict[str, Any]:
        return {name: setting.value for name, setting in self.settings.items()}

    @property
    def freeze(self) -> tuple[str, ...]:
        """Patterns of what is not trained."""
        return tuple(self["freeze"] or ())

    @property
    def images(self) -> int:
        """Images an epoch: all, but for a last one that BatchNorm could make nothing of."""
        n = len(self.data.splits["train"])
        return n - 1 if n % self["batch_size"] == 1 and needs_two(self.plan, self.freeze) else n

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return math.ceil(self.images / int(self["batch_size"]))

    @property
    def evaluated(self) -> str:
        """The split that is evaluated after every epoch: val where there is one, else test, which never chooses."""
        return next((name for name in ("val", "test") if name in self.data.splits), "")


def train(job: Job, state: State, signals: Signals) -> None:
    """Train until all epochs are done, from wherever `state` stands; the run folder holds the state at all times.

    StoppedError after a signal and DivergedError for a loss that is not finite, both with the last good state saved.
    """
    signals.gentle = True
    done = (len(state.history) * job.images) + state.seen
    try:
        with Progress(job["epochs"], job["epochs"] * job.images, done, job.evaluated) as progress:
            _epochs(job, state, signals, progress)
    except Stop:
        save(job, state)
        raise StoppedError(_stopped(job, state), signals.received) from None
    except ReadError as error:
        save(job, state)
        if signals.soon():
            raise StoppedError(_stopped(job, state), signals.received) from None
        raise CnnError(f"{error}\n{_saved(job, state)}") from None
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        smaller = max(1, job["batch_size"] // 2)
        raise CnnError(
            f"out of memory with batches of {job['batch_size']}; try --batch-size {smaller} in a new run"
        ) from None


def _epochs(job: Job, state: State, signals: Signals, progress: Progress) -> None:
    network, optimizer, split = state.network, state.optimizer, job.data.splits["train"]
    settings, total, saved = job.values, job.steps * job["epochs"], time.monotonic()
    while len(state.history) < job["epochs"]:
        epoch = len(state.history) + 1
        order = epoch_order(len(split), job["seed"], epoch, job["shuffle"])[: job.images]
        done = state.step - (epoch - 1) * job.steps  # steps of this epoch, after a resume
        set_training(network, job.plan, job.freeze)
        clock = time.perf_counter()
        for x, y in batches(split, order[done * job["batch_size"] :], job["batch_size"], state.device):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(state.step, total, job.steps, settings)
            optimizer.zero_grad()
            outputs = network(x)
            loss = job.loss(outputs, y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

            state.count(loss, job.loss.predictions(outputs), y)
            now = time.perf_counter()
            state.seconds, clock = state.seconds + now - clock, now
            if progress.step(len(y)):
                progress.show(
                    epoch, state.loss.item() / state.seen, state.correct.item() / state.seen, state.seen / state.seconds
                )
            if state.step % _CHECK_EVERY == 0:
                _check_loss(job, state, epoch)
            signals.check()
            if time.monotonic() - saved > SAVE_EVERY:
                save(job, state)
                saved = time.monotonic()
        _check_loss(job, state, epoch)
        progress.evaluating(epoch)
        _finish_epoch(job, state, signals)
        saved = time.monotonic()
        progress.row(state.history[-1])
        if epoch < job["epochs"]:
            signals.check()


def _finish_epoch(job: Job, state: State, signals: Signals) -> None:
    """Evaluate, write the epoch down, keep the weights if they are the best so far, save."""
    started, trained = time.perf_counter(), state.seconds
    result = None
    if job.evaluated:
        split, classes = job.data.splits[job.evaluated], len(job.about.classes)
        result = evaluate(state.network, split, job.loss, classes, job["batch_size"], state.device, signals.check)
    row = {
        "epoch": len(state.history) + 1,
        "train_loss": state.loss.item() / state.seen,
        "train_accuracy": state.correct.item() / state.seen,
        **{f"{s}_{k}": _measure(result, s, k) for s in ("val", "test") for k in ("loss", "accuracy")},
        "lr": state.optimizer.param_groups[0]["lr"],
        "seconds": round(trained + time.perf_counter() - started, 3),
        "images_per_second": round(state.seen / max(trained, 1e-9), 1),
    }
    if not state.finite():
        raise DivergedError(_diverged(job, state, "a weight is not finite", row["epoch"]))
    state.history.append(row)
    state.begin_epoch()
    state.result = result
    rank = _rank(result) if job.evaluated == "val" and result else [float(row["epoch"])]
    if state.best is None or rank > state.best:
        state.best = rank
        facts = job.about.facts | {"epoch": row["epoch"], "metrics": row}
        save_weights(job.run / BEST, state.network, About(**(vars(job.about) | {"facts": facts})))
    add_frame(job.run, row["epoch"], state.network)
    save(job, state)


def save(job: Job, state: State) -> None:
    """Write last.pt and metrics.jsonl. Weights that are not finite are never written: the state of before stays."""
    if not state.finite():
        raise DivergedError(_diverged(job, state, "a weight is not finite", len(state.history) + 1))
    settings = {name: list(setting) for name, setting in job.settings.items()}
    save_last(job.run / LAST, state, job.about.document(), settings)
    write_log(job, state)


def write_log(job: Job, state: State) -> None:
    """metrics.jsonl: a line an epoch, all of them anew, so that it never says more or less than the state."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in state.history)
    write_text(job.run / LOG, "".join(lines))


def needs_two(plan: Plan, freeze: Sequence[str]) -> bool:
    """Whether some BatchNorm sees one value a channel and image: of a single image it cannot tell a variance."""
    norms = [a for a in plan.layers if a.type.startswith("BatchNorm") and not keeps_statistics(a, freeze)]
    return any(math.prod(layer.output_shape[1:]) == 1 for layer in norms)


def _rank(result: Result) -> list[float]:
    """Higher is better: the accuracy, among equals the lower loss. A loss that is not finite comes last."""
    finite = math.isfinite(result.loss)
    return [float(finite), result.accuracy, -result.loss if finite else 0.0]


def _measure(result: Result | None, split: str, key: str) -> float | None:
    value = getattr(result, key) if result and result.split == split else None
    return value if value is not None and math.isfinite(value) else None


def _check_loss(job: Job, state: State, epoch: int) -> None:
    if not math.isfinite(state.loss.item()):
        raise DivergedError(_diverged(job, state, "the loss is not finite", epoch))


def _diverged(job: Job, state: State, what: str, epoch: int) -> str:
    step = state.step - (epoch - 1) * job.steps
    kept = f"{job.run / BEST} is from before that; " if state.history else ""
    return f"{what} in epoch {epoch}, noticed at step {step} (lr {job['lr']:g}); {kept}try --lr {job['lr'] / 10:g}"


def _stopped(job: Job, state: State) -> str:
    return f"stopped; {_saved(job, state)}"


def _saved(job: Job, state: State) -> str:
    epoch = min(len(state.history) + 1, job["epochs"])
    step = state.step - (epoch - 1) * job.steps
    return f"saved at epoch {epoch}, step {step} of {job.steps}\n{way_on(job.run)}"


def way_on(run: Path) -> str:
    """The line that names the command to go on with a run."""
    return f"go on with: {shlex.join(['cnn', 'train', str(run), '--resume'])}"


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("DefaultCPUAllocator", "not enough memory", "out of memory", "could not create a primitive", "bad_alloc")
    return any(w in str(error) for w in words)
