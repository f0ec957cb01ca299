"""The training loop: plain PyTorch, in the order in which it happens."""

import json
import math
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import save_weights
from cnn_cli.checkpoints.header import BEST, LAST
from cnn_cli.data import ReadError, batches, mix
from cnn_cli.distributed.world import Poll
from cnn_cli.errors import CnnError, DivergedError, StoppedError, UsageError
from cnn_cli.files import write_text
from cnn_cli.language.freeze import set_training
from cnn_cli.pictures.film import add_frame
from cnn_cli.training.ddp import wrapped
from cnn_cli.training.ema import follow
from cnn_cli.training.evaluate import Result, evaluate
from cnn_cli.training.job import Job, ranked
from cnn_cli.training.optimizer import learning_rate
from cnn_cli.training.progress import Progress
from cnn_cli.training.signals import Signals, Stop
from cnn_cli.training.speedups import computing
from cnn_cli.training.state import State, save_last

LOG = "metrics.jsonl"
SAVE_EVERY = 300  # seconds
_CHECK_EVERY = 50  # steps between two looks at the loss, each of which waits for the device


def train(job: Job, state: State, signals: Signals) -> None:
    """Train until all epochs are done, from wherever `state` stands; the run folder holds the state at all times.

    StoppedError after a signal and DivergedError for a loss that is not finite, both with the last good state saved.
    """
    signals.gentle = True
    done = state.step * job["batch_size"]
    try:
        with Progress(job["epochs"], job.total * job["batch_size"], done, job.evaluated, job.world.is_main) as progress:
            _epochs(job, state, signals, progress)
    except Stop:
        save(job, state)
        raise StoppedError(_stopped(job, state), signals.received or 15) from None
    except ReadError as error:
        if job.world.size > 1:
            raise CnnError(f"{error}\nthe run goes on from its last saved state with --resume") from None
        save(job, state)
        if signals.soon():
            raise StoppedError(_stopped(job, state), signals.received) from None
        raise CnnError(f"{error}\n{_saved(job, state)}") from None
    except (MemoryError, RuntimeError) as error:
        if job["deterministic"] and "deterministic" in str(error):  # PyTorch's own words, that name the operation
            raise UsageError(f"{str(error).split(', but')[0]}; leave --deterministic out") from None
        if not _out_of_memory(error):
            raise
        smaller = max(1, job["batch_size"] // 2)
        raise CnnError(
            f"out of memory with batches of {job['batch_size']}; try --batch-size {smaller} in a new run\n"
            f"the last saved state is {job.run / LAST}"
        ) from None


def _epochs(job: Job, state: State, signals: Signals, progress: Progress) -> None:
    network = wrapped(state.network, job.plan.input, job["precision"], state.device, job.world)
    settings, saved, poll = job.values, time.monotonic(), Poll(job.world)
    while not job.done(state):
        epoch, done = job.place(state)
        clock = time.perf_counter()
        left = min(job.steps, job.total - (epoch - 1) * job.steps)  # the last epoch may be a part of one
        parts = list(job.shares(torch.split(job.order(epoch), job["batch_size"])[done:left]))
        set_training(state.network, job.plan, job.freeze)
        change, split = job.change(epoch, state.device), job.data.splits["train"]
        loaded = batches(split, [index for index, _ in parts], state.device, job.layout, change)
        for (x, y), (_, share) in zip(loaded, parts, strict=True):
            state.optimizer.rate(lambda lr: learning_rate(state.step, job.total, job.steps, settings, lr))
            _step(job, state, network, x, y, share)
            if state.average:
                follow(state.average, state.network, job["ema"], state.step)
            now = time.perf_counter()
            state.seconds, clock = state.seconds + now - clock, now
            if progress.step(job["batch_size"]):
                loss, correct = state.loss.item() / state.seen, state.correct.item() / state.seen
                progress.show(epoch, loss, correct, state.seen / state.seconds)
            if state.step % _CHECK_EVERY == 0:
                _check_loss(job, state)
            saved = _pause(job, state, signals, saved, poll)
        _check_loss(job, state)
        state.seconds += time.perf_counter() - clock  # with what the device had still to do
        progress.evaluating(epoch)
        _finish_epoch(job, state, signals, poll)
        saved = time.monotonic()
        progress.row(state.history[-1])
        if not job.done(state):
            saved = _pause(job, state, signals, saved, poll, now=True)
    if state.step < job.total:
        progress.line(f"stopped early: no better epoch among the last {job['patience']}")


def _step(job: Job, state: State, network: nn.Module, x: Tensor, y: Tensor, share: float) -> None:
    """What is done with a batch, x (b, C, H, W) and y (b,): its gradients, which count `share`, move the weights."""
    place, size = (job["seed"], job.epoch(state), state.step), job.plan.input[1:]
    x, others, own = mix(x, y, job["mixup"], job["cutmix"], *place, size)
    state.optimizer.zero_grad()
    with computing(job["precision"], state.device):
        outputs = network(x)
    loss = job.objective(outputs, y)
    if own < 1:
        loss = own * loss + (1 - own) * job.objective(outputs, others)
    (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
    if job["clip_grad_norm"]:
        nn.utils.clip_grad_norm_(state.optimizer.parameters, job["clip_grad_norm"])
    state.optimizer.step()
    state.count(loss, job.loss.predictions(outputs), y if own >= 0.5 else others, counts=bool(share))


def _pause(job: Job, state: State, signals: Signals, saved: float, poll: Poll, now: bool = False) -> float:
    """Stop if a signal has arrived, save if it is time to → when it was saved. Several processes do so together."""
    late = job.world.is_main and time.monotonic() - saved > SAVE_EVERY
    stop, late = poll.any(bool(signals.received), late, now=now)
    if stop:
        raise Stop
    if not late:
        return saved
    save(job, state)
    return time.monotonic()


def _finish_epoch(job: Job, state: State, signals: Signals, poll: Poll) -> None:
    """Evaluate, write the epoch down, keep the weights if they are the best so far, save."""
    started, trained = time.perf_counter(), state.seconds
    epoch, done = job.place(state)
    network, result = state.result_network, None
    job.world.broadcast(*state.network.buffers(), *network.buffers())  # each process has seen other images
    if job.evaluated:
        split, classes = job.data.splits[job.evaluated], len(job.metadata.classes)
        result = evaluate(
            network,
            split,
            job.loss,
            classes,
            job["batch_size"],
            state.device,
            lambda: _stop_if_asked(signals, poll),
            job.layout,
            job["tta"],
            job.world,
        )
    sums = torch.stack([state.loss, state.correct.to(state.loss.dtype), torch.full_like(state.loss, state.seen)])
    job.world.sum(sums)
    loss, correct, seen = sums.tolist()
    row = {
        "epoch": epoch if done == job.steps else job["epochs"],
        "train_loss": loss / seen,
        "train_accuracy": correct / seen,
        **{f"{s}_{k}": _measure(result, s, k) for s in ("val", "test") for k in ("loss", "accuracy")},
        "lr": state.optimizer.groups[0].rate,
        "seconds": round(trained + time.perf_counter() - started, 3),
        "images_per_second": round(seen / max(trained, 1e-9), 1),
    }
    if not state.finite():
        raise DivergedError(_diverged(job, state, "a weight is not finite"))
    state.history.append(row)
    state.begin_epoch()
    state.result = result
    rank = ranked(result.accuracy, result.loss) if job.evaluated == "val" and result else [float(len(state.history))]
    if state.best is None or rank > state.best:
        state.best = rank
        facts = job.metadata.facts | {"epoch": row["epoch"], "metrics": row}
        if job.world.is_main:
            save_weights(job.run / BEST, network, replace(job.metadata, facts=facts))
    if job.world.is_main:
        add_frame(job.run, row["epoch"], network)
    save(job, state)


def _stop_if_asked(signals: Signals, poll: Poll) -> None:
    if any(poll.any(bool(signals.received))):
        raise Stop


def save(job: Job, state: State) -> None:
    """Write last.pt and metrics.jsonl. Weights that are not finite are never written: the state of before stays.

    Every process must call it; the first one writes.
    """
    if not state.finite():
        raise DivergedError(_diverged(job, state, "a weight is not finite"))
    settings = {name: list(setting) for name, setting in job.settings.items()}
    save_last(job.run / LAST, state, job.metadata.document(), settings, job.world)
    if job.world.is_main:
        write_log(job, state)


def write_log(job: Job, state: State) -> None:
    """metrics.jsonl: a line an epoch, all of them anew, so that it never says more or less than the state."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in state.history)
    write_text(job.run / LOG, "".join(lines))


def _measure(result: Result | None, split: str, key: str) -> float | None:
    value = getattr(result, key) if result and result.split == split else None
    return value if value is not None and math.isfinite(value) else None


def _check_loss(job: Job, state: State) -> None:
    if any(job.world.any(not math.isfinite(state.loss.item()))):
        raise DivergedError(_diverged(job, state, "the loss is not finite"))


def _diverged(job: Job, state: State, what: str) -> str:
    epoch, step = job.place(state)
    kept = f"{job.run / BEST} is from before that; " if state.history else ""
    return f"{what} in epoch {epoch}, noticed at step {step} (lr {job['lr']:g}); {kept}try --lr {job['lr'] / 10:g}"


def _stopped(job: Job, state: State) -> str:
    return f"stopped; {_saved(job, state)}"


def _saved(job: Job, state: State) -> str:
    epoch, step = job.place(state)
    if step == 0 and state.step >= job.total:
        epoch, step = epoch - 1, job.steps
    return f"saved at epoch {epoch}, step {step} of {job.steps}\n{resume_hint(job)}"


def resume_hint(job: Job) -> str:
    """The line that names the command to go on with a run."""
    return f"go on with: {job.world.resume_command(job.run)}"


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("DefaultCPUAllocator", "not enough memory", "out of memory", "could not create a primitive", "bad_alloc")
    return any(w in str(error) for w in words)
