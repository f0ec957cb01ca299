"""The training loop: plain PyTorch, in the order in which it happens."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import save_weights
from cnn_cli.checkpoints.run_folder import BEST, LAST, LOG, LogRow
from cnn_cli.data.augmentation import mix
from cnn_cli.data.batches import ReadError, iterate_batches, to_pixels
from cnn_cli.distributed.world import Poll
from cnn_cli.errors import CnnError, DivergedError, StoppedError, UsageError
from cnn_cli.files import write_text
from cnn_cli.language.freezing import set_training_mode
from cnn_cli.pictures.film import add_frame
from cnn_cli.settings import by_optimizer
from cnn_cli.tasks.base import TaskResult, rank
from cnn_cli.training.cuda_graph import StepGraph
from cnn_cli.training.ddp import wrapped
from cnn_cli.training.ema import follow, look_ahead
from cnn_cli.training.epoch_log import Progress
from cnn_cli.training.evaluation import evaluate
from cnn_cli.training.job import Job
from cnn_cli.training.optimizer import learning_rate
from cnn_cli.training.signals import Signals, Stop
from cnn_cli.training.speedups import computing
from cnn_cli.training.state import State, save_state

SAVE_EVERY = 300  # seconds
_CHECK_EVERY = 50  # steps between checks of the loss, each of which synchronizes with the device


def train(job: Job, state: State, signals: Signals) -> None:
    """Train from `state` until all epochs are done; the run folder always has a state to resume from.

    StoppedError after a signal and DivergedError for a loss that is not finite, both with the last good state saved.
    """
    signals.gentle = True
    done = state.step * job["batch_size"]
    progress = Progress(
        job["epochs"], job.total * job["batch_size"], done, job.evaluated, job.task.metric, job.world.is_main
    )
    try:
        with progress:
            _train_epochs(job, state, signals, progress)
    except Stop:
        save(job, state)
        raise StoppedError(_stopped(job, state), signals.received or 15) from None
    except ReadError as error:
        if job.world.size > 1:
            raise CnnError(f"{error}\n{resume_with(job)}") from None
        save(job, state)
        if signals.soon():
            raise StoppedError(_stopped(job, state), signals.received) from None
        raise CnnError(f"{error}\n{_saved(job, state)}") from None
    except (MemoryError, RuntimeError) as error:
        if job["deterministic"] and "deterministic" in str(error):  # PyTorch's message, which names the operation
            raise UsageError(f"{str(error).split(', but')[0]}; leave out --deterministic") from None
        if not _out_of_memory(error):
            error.add_note(resume_with(job))  # for join_process_group, in case another process has ended
            raise
        smaller = max(1, job["batch_size"] // 2)
        raise CnnError(
            f"out of memory at batch size {job['batch_size']}; try --batch-size {smaller} in a new run\n"
            f"the last saved state is {job.run / LAST}"
        ) from None


def _train_epochs(job: Job, state: State, signals: Signals, progress: Progress) -> None:
    network: nn.Module | None = None
    graph: StepGraph | None = None
    poll, saved = Poll(job.world), time.monotonic()
    while not job.done(state):
        epoch, _ = job.place(state)
        clock = time.perf_counter()
        if state.optimizer.freeze_finished(epoch) or network is None:  # new DDP wrapper and graph
            network = None
            network = wrapped(state.network, job.plan.input, job["precision"], state.device, job.world)
            if graph:
                graph.forget()
            graph = graph or _step_graph(job, state, network)
        set_training_mode(state.network, job.plan, job.freeze)
        for _ in _steps(job, state, network, graph):
            now = time.perf_counter()
            state.seconds, clock = state.seconds + now - clock, now
            if progress.step(job["batch_size"]):
                progress.show(epoch, *job.task.training_figures(state.totals, state.seen), state.seen / state.seconds)
            if state.step % _CHECK_EVERY == 0:
                _check_loss(job, state)
            saved = _pause(job, state, signals, saved, poll)
        _check_loss(job, state)
        state.seconds += time.perf_counter() - clock  # including work still queued on the device
        progress.evaluating(epoch)
        _finish_epoch(job, state, signals, poll)
        saved = time.monotonic()
        progress.row(state.history[-1], state.history[:-1])
        progress.slowdown(state.history)
        if not job.done(state):
            saved = _pause(job, state, signals, saved, poll, now=True)
    if state.step < job.total:
        epochs = "epoch" if job["patience"] == 1 else f"{job['patience']} epochs"
        progress.line(f"stopped early: no improvement in the last {epochs}")


def _steps(job: Job, state: State, network: nn.Module, graph: StepGraph | None) -> Iterator[None]:
    """Take the remaining steps of the current epoch, one per iteration."""
    epoch, done = job.place(state)
    parts = job.batches(epoch, done)
    if graph is None:
        indices = [index for index, _ in parts]
        loaded = iterate_batches(job.data.splits["train"], indices, state.device, job.layout, job.augment(epoch))
    elif job.augmentation:
        graph.draws.copy_(job.draws(epoch))
    for index, share in parts:
        batch = next(loaded) if graph is None else None
        state.optimizer.rate(lambda lr: learning_rate(state.step, job.total, job.steps, job.values, lr))
        if batch:
            _step(job, state, network, *batch, share)
        elif graph:
            graph(index)
        state.step += 1
        state.seen += len(index) if share else 0
        if state.average and job["lookahead"] is not None:
            look_ahead(state.average, state.network, job["lookahead"], state.step, job.total)
        elif state.average:
            follow(state.average, state.network, job["ema"], state.step)
        yield


def _step(job: Job, state: State, network: nn.Module, x: Tensor, targets: Tensor, share: float) -> None:
    """A training step on a batch, x (b, C, H, W), whose loss has the weight `share` in the mean over all processes."""
    key, size = (job["seed"], job.epoch(state), state.step), job.plan.input[1:]
    x, others, own = mix(x, targets, job["mixup"], job["cutmix"], *key, size)
    state.optimizer.zero_grad()
    with computing(job["precision"], state.device):
        outputs = network(x)
    loss = job.task.objective(outputs, targets)
    if own < 1:
        loss = own * loss + (1 - own) * job.task.objective(outputs, others)
    (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
    if job["clip_grad_norm"]:
        nn.utils.clip_grad_norm_(state.optimizer.parameters, job["clip_grad_norm"])
    state.optimizer.step()
    if share:
        job.task.add(state.totals, loss, outputs, targets if own >= 0.5 else others)


def _step_graph(job: Job, state: State, network: nn.Module) -> StepGraph | None:
    """The step as a CUDA graph; None if the device, the data or a setting does not allow it."""
    split = job.data.splits["train"]
    images, targets = split.images, split.targets
    if not ("cuda-graph" in job["fast"] and isinstance(images, Tensor) and images.is_cuda and job.world.size == 1):
        return None
    if job["mixup"] or job["cutmix"] or not state.optimizer.capturable:
        return None
    table = torch.zeros(len(split), 9, dtype=torch.int16, device=state.device)
    augmented = bool(job.augmentation)

    def step(index: Tensor) -> None:
        batch, own = images[index], targets[index]
        if augmented:
            batch, own = job.moved(batch, own, table[index])
        _step(job, state, network, to_pixels(batch, state.device, job.layout), own, 1.0)

    return StepGraph(step, job["batch_size"], table)


def _pause(job: Job, state: State, signals: Signals, saved: float, poll: Poll, now: bool = False) -> float:
    """Stop if a signal has arrived, save if it is time → the time of the last save. All processes do so together."""
    due = job.world.is_main and time.monotonic() - saved > SAVE_EVERY
    stop, due = poll.any(bool(signals.received), due, now=now)
    if stop:
        raise Stop
    if not due:
        return saved
    save(job, state)
    return time.monotonic()


def _finish_epoch(job: Job, state: State, signals: Signals, poll: Poll) -> None:
    """Evaluate, log the epoch, keep the weights if they are the best so far, save."""
    started, trained = time.perf_counter(), state.seconds
    network, result = state.result_network, None
    job.world.broadcast(*state.network.buffers(), *network.buffers())  # BatchNorm statistics differ between processes
    if job.evaluated:
        split = job.data.splits[job.evaluated]
        result = evaluate(network, split, job.task, job.inference, lambda: _stop_if_requested(signals, poll), job.world)
    row = _row(job, state, result, trained, started)
    if not state.finite():
        raise DivergedError(_diverged(job, state, "a weight is not finite"))
    state.history.append(row)
    state.begin_epoch()
    state.result = result
    reached = rank(result.score, result.loss) if job.evaluated == "val" and result else [float(len(state.history))]
    if state.best is None or reached > state.best:
        state.best = reached
        facts = job.metadata.facts | {"epoch": row["epoch"], "metrics": row}
        if job.world.is_main:
            save_weights(job.run / BEST, network, replace(job.metadata, facts=facts))
    if job.world.is_main:
        add_frame(job.run, row["epoch"], network)
    save(job, state)


def _row(job: Job, state: State, result: TaskResult | None, trained: float, started: float) -> LogRow:
    """The epoch's line of metrics.jsonl, over all processes. trained: seconds; started: when evaluation began."""
    totals = {name: total.clone() for name, total in state.totals.items()}
    images = torch.tensor(state.seen, device=state.device)
    job.world.sum(*totals.values(), images)
    seen = int(images.item())
    loss, score = job.task.training_figures(totals, seen)
    row: LogRow = {
        "epoch": min(job.epoch(state), job["epochs"]),  # a fraction at the end, even if rounded up
        "train_loss": loss,
        f"train_{job.task.metric}": score,
    }
    if (plain := job.task.plain_loss(totals, seen)) is not None:
        row["train_plain_loss"] = plain if math.isfinite(plain) else None
    for split in ("val", "test"):
        measured = result if result and result.split == split else None
        row[f"{split}_loss"] = measured.loss if measured and math.isfinite(measured.loss) else None
        row[f"{split}_{job.task.metric}"] = measured.score if measured else None
    return row | {
        "lr": state.optimizer.groups[0].rate,
        "seconds": round(trained + time.perf_counter() - started, 3),
        "images_per_second": round(seen / max(trained, 1e-9), 1),
    }


def _stop_if_requested(signals: Signals, poll: Poll) -> None:
    if any(poll.any(bool(signals.received))):
        raise Stop


def save(job: Job, state: State) -> None:
    """Write last.pt and metrics.jsonl. DivergedError for weights that are not finite: the previous state is kept.

    Every process must call it; the main one writes.
    """
    if not state.finite():
        raise DivergedError(_diverged(job, state, "a weight is not finite"))
    settings = {name: list(setting) for name, setting in job.settings.items()}
    save_state(job.run / LAST, state, job.metadata.document(), settings, job.world)
    if job.world.is_main:
        write_log(job, state)


def write_log(job: Job, state: State) -> None:
    """metrics.jsonl: one line per epoch, rewritten as a whole, so that it always agrees with the state."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in state.history)
    write_text(job.run / LOG, "".join(lines))


def _check_loss(job: Job, state: State) -> None:
    loss, _ = job.task.training_figures(state.totals, max(1, state.seen))
    if any(job.world.any(not math.isfinite(loss))):
        raise DivergedError(_diverged(job, state, "the loss is not finite"))


def _diverged(job: Job, state: State, reason: str) -> str:
    epoch, step = job.place(state)
    kept = f"{job.run / BEST} is from before that; " if state.history else ""
    lr = min(job["lr"] / 10, by_optimizer("lr", job["optimizer"]))
    return f"{reason} in epoch {epoch}, detected at step {step} (lr {job['lr']:g}); {kept}try --lr {lr:g}"


def _stopped(job: Job, state: State) -> str:
    return f"stopped; {_saved(job, state)}"


def _saved(job: Job, state: State) -> str:
    epoch, step = job.place(state)
    if step == 0 and state.step >= job.total:
        epoch, step = epoch - 1, job.steps
    return f"saved at epoch {epoch}, step {step} of {job.steps}\n{resume_with(job)}"


def resume_with(job: Job) -> str:
    """The line that names the command to resume a run."""
    return job.world.resume_hint(job.run)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("DefaultCPUAllocator", "not enough memory", "out of memory", "could not create a primitive", "bad_alloc")
    return any(w in str(error) for w in words)
