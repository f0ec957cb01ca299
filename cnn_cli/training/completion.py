"""The end of a run: evaluate the best weights, report the result, and draw the pictures."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.checkpoint import Metadata, load_network, parse_metadata, restore
from cnn_cli.checkpoints.header import read_metadata
from cnn_cli.checkpoints.run_folder import BEST, CONFIG, CURVES, DIVERGED, LAST, LOG, RESULT, LogRow
from cnn_cli.data.batches import ReadError
from cnn_cli.errors import CnnError, DivergedError, StoppedError
from cnn_cli.files import WriteError, write_text
from cnn_cli.pictures.film import FRAMES, STRIP, write_film
from cnn_cli.tables import counted, metric_title, wrapped
from cnn_cli.tasks.base import TaskResult
from cnn_cli.tasks.selection import read_result
from cnn_cli.training import speedups
from cnn_cli.training.eval_report import Evaluation, draw_evaluation, write_evaluation
from cnn_cli.training.evaluation import evaluate
from cnn_cli.training.job import Job
from cnn_cli.training.loop import resume_with, train
from cnn_cli.training.signals import Signals, Stop
from cnn_cli.training.state import State

_FILES = {
    "weights": BEST,
    "state": LAST,
    "log": LOG,
    "settings": CONFIG,
    "curves": CURVES,
    "result": RESULT,
    "confusion": "confusion_matrix.png",
    "precision": "precision_recall.png",
    "reliability": "reliability.png",
    "film": STRIP,
}


@dataclass(frozen=True)
class RunResult:
    """The result of a run, from the files in its folder. `result` is the content of eval.json, if there is one."""

    network: str
    data: str
    run: Path
    history: list[LogRow]
    best_epoch: float | None
    result: dict[str, Any] | None
    files: dict[str, str]
    overfit: bool = False

    def document(self) -> dict[str, Any]:
        """The document of `cnn train --json`."""
        return {
            "network": self.network,
            "data": self.data,
            "run": str(self.run.resolve()),
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "last_epoch": self.history[-1] if self.history else None,
            "result": self.result,
            "files": self.files,
        }

    def text(self) -> str:
        return f"{self.headline()}\n\n{self.file_list()}" if self.result else self.file_list()

    def file_list(self) -> str:
        width = max(map(len, self.files))
        return "\n".join(f"{name:<{width}}  {path}" for name, path in self.files.items())

    def headline(self) -> str:
        """The metrics, or nothing without a result."""
        if not self.result:
            return ""
        reached = read_result(self.result)
        split = f"{reached.split} (--overfit: the training images)" if self.overfit else reached.split
        head = f"{self.network} on {Path(self.data).name}, {split}: {counted(reached.n, 'image')}"
        return f"{wrapped(f'{head}, weights of epoch {self.best_epoch}')}\n{reached.headline()}"


def train_to_completion(job: Job, state: State, watch: Signals, announce: Callable[[str], object]) -> RunResult | None:
    """Train, evaluate and draw → the result, in the main process. If that is interrupted or a file cannot be written,
    the error names the command to resume. announce: shows the headline of the result before the pictures are drawn."""
    stopped = f"stopped; training is complete, but not all of the evaluation and pictures\n{resume_with(job)}"
    try:
        train(job, state, watch)
        return _report(job, state, watch.check, announce) if job.world.is_main else None
    except DivergedError as error:
        if job.world.is_main:
            write_text(job.run / DIVERGED, f"{error}\n")
        raise
    except Stop:
        raise StoppedError(stopped, watch.received) from None
    except ReadError as error:
        if watch.soon():
            raise StoppedError(stopped, watch.received) from None
        raise CnnError(f"{error}\n{resume_with(job)}") from None
    except WriteError as error:
        raise CnnError(f"{error}\n{resume_with(job)}") from None


def _report(job: Job, state: State, check: Callable[[], object], announce: Callable[[str], object]) -> RunResult:
    """Evaluate the best weights on test, else on val, and draw all pictures. check: may raise to stop."""
    from cnn_cli.pictures.plots import learning_curves

    check()
    result = _evaluate_best(job, state, check)
    job.data.splits.clear()  # matplotlib takes their place: as much memory as 50,000 small images
    if result:
        overfit = job.metadata.overfit and result.split == "val"
        evaluation = Evaluation(job.plan.network, job.data.name, job.run / BEST, result, overfit=overfit)
        write_evaluation(job.run, evaluation)
        announce(read_run(job.plan.network, job.metadata, job.run, state.history).headline())
        draw_evaluation(job.run, evaluation)
    if (job.run / FRAMES).is_file():
        write_film(job.run, job.plan.network, job.plan.input[0] == 3, job.run / STRIP)
    check()
    reached = read_run(job.plan.network, job.metadata, job.run, state.history)
    title = f"{job.plan.network} on {Path(job.data.name).name}"
    title += ", validation on the training images (--overfit)" if reached.overfit else ""
    extras = job.training_loss_only
    metric = job.task.metric
    learning_curves(state.history, job.run / CURVES, title, metric, reached.best_epoch, extras, metric_title(metric))
    return replace(reached, files=files_of(job.run))


def _evaluate_best(job: Job, state: State, check: Callable[[], object]) -> TaskResult | None:
    """The result of the best weights on test, or else on val; None without either."""
    split = next((job.data.splits[name] for name in ("test", "val") if name in job.data.splits), None)
    result = state.result
    if split and (result is None or result.split != split.name or split.name == "val"):  # not of the best weights
        network = restore(load_network(str(job.run / BEST))).to(state.device)
        return evaluate(speedups.prepare(network, job["fast"]), split, job.task, job.inference, check)
    return result if split else None


def files_of(run: Path) -> dict[str, str]:
    """The existing files of a run, by their title."""
    return {title: str((run / name).resolve()) for title, name in _FILES.items() if (run / name).is_file()}


def read_run(network: str, metadata: Metadata, run: Path, history: list[LogRow]) -> RunResult:
    """The result of a run, from its files."""
    files = files_of(run)
    try:
        result = json.loads((run / RESULT).read_text()) if "result" in files else None
    except ValueError as error:
        raise CnnError(f"{run / RESULT} is damaged ({error}); write it again with: cnn eval {run}") from None
    best = read_metadata(run / BEST) if "weights" in files else None
    epoch = parse_metadata(best, run / BEST).facts["epoch"] if best else None
    return RunResult(network, metadata.data["name"], run, history, epoch, result, files, metadata.overfit)
