"""The facts of a run for a report: its folder is read, and its network evaluated once. Nothing is drawn or written."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, load_trained
from cnn_cli.checkpoints.run_folder import BEST, CONFIG, DIVERGED, LAST, LOG, RESULT, LogRow, find_run, read_log
from cnn_cli.checkpoints.runs import Run, list_runs
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.tables import metric_title
from cnn_cli.tasks.base import TaskResult
from cnn_cli.tasks.selection import read_result
from cnn_cli.training.eval_report import EvaluationRequest
from cnn_cli.training.outcomes import Outcomes, measured_outcomes


@dataclass(frozen=True)
class RunFacts:
    """A run with its letter (empty for a single run): `config` is config.yaml, `history` the rows of metrics.jsonl.

    result, outcomes: on the requested split; if the data cannot be read, the result in eval.json and no outcomes.
    seconds: of the evaluation. notes: what is left out, and why.
    """

    letter: str
    name: str
    loaded: LoadedNetwork
    run: Run
    config: dict[str, Any]
    history: tuple[LogRow, ...]
    result: TaskResult | None
    outcomes: Outcomes | None
    seconds: float | None
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.letter}: {self.name}" if self.letter else self.name

    @property
    def overfit(self) -> bool:
        """Whether the validation images are the training images."""
        return self.loaded.metadata is not None and self.loaded.metadata.overfit

    def id(self, name: str) -> str:
        """An id in the document that is unique to this run."""
        return f"{self.letter.lower()}-{name}" if self.letter else name

    @property
    def data(self) -> str:
        return Path(str(self.loaded.metadata.data.get("name", "")) if self.loaded.metadata else "").name

    @property
    def metric(self) -> str:
        """The title of the task's metric."""
        return metric_title(self.result.metric if self.result else self.run.metric or "accuracy")

    def document(self) -> dict[str, Any]:
        score = {self.result.metric: self.result.score, "split": self.result.split} if self.result else {}
        return {"run": str(self.run.path), "network": self.loaded.plan.network, **score, "notes": list(self.notes)}


def load_run(name: str) -> LoadedNetwork:
    """The run in a folder, or the newest run of a network. UsageError if it is not a run, CnnError if it has no weights
    yet."""
    folder = Path(find_run(name))
    if (folder / CONFIG).is_file() and not any((folder / file).is_file() for file in (BEST, LAST)):
        raise CnnError(f"{folder} has no weights yet: no epoch is complete; run this again after its first epoch")
    loaded = load_trained(str(folder) if folder.is_dir() else name)
    if loaded.run is None:
        raise UsageError(f"{name} is not a run folder; a report needs the folder that `cnn train` wrote")
    return loaded


def read_run(letter: str, loaded: LoadedNetwork, request: EvaluationRequest, device: torch.device) -> RunFacts:
    """Read the folder of a run and evaluate its network.

    If the run's data cannot be read, the notes say so; CnnError if other data or a split were requested.
    """
    folder = loaded.run
    assert folder is not None
    notes = [*_state_notes(folder)]
    if loaded.metadata and loaded.metadata.overfit:
        notes.append("This run was trained with --overfit: its validation metrics are computed on the training images.")
    config, history = _read_config(folder, notes), _read_log(folder, notes)
    result, outcomes, seconds = None, None, None
    try:
        began = time.monotonic()
        outcomes, result = measured_outcomes(loaded, request, device)
        seconds = time.monotonic() - began
    except CnnError as error:
        if request.data or request.split:
            raise
        result = _stored_result(folder, notes)
        stored = f"the result is the one in {RESULT}" if result else "there is no result"
        notes.append(f"The network could not be evaluated, so {stored}, and there are no images: {error}")
    (run,) = list_runs(folder).runs
    return RunFacts(
        letter,
        folder.name,
        loaded,
        run,
        config,
        history=tuple(history),
        result=result,
        outcomes=outcomes,
        seconds=seconds,
        notes=tuple(notes),
    )


def _state_notes(folder: Path) -> list[str]:
    """The notes on a run that is not finished."""
    run = next(iter(list_runs(folder).runs), None)
    if run is None or run.state == "finished":
        return []
    done = f"{run.epochs} of {run.total} epoch{'s' * (run.total != 1)}"
    if run.state == "running":
        return [f"This run is in progress: {done} are complete. The report shows its best weights so far."]
    if run.state == "diverged":
        path = folder / DIVERGED
        reason = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
        return [f"Training diverged after {done}. {reason}".strip()]
    return [f"This run was interrupted after {done}. Resume it with: cnn train {folder} --resume"]


def _read_config(folder: Path, notes: list[str]) -> dict[str, Any]:
    """config.yaml; empty if it is damaged, which the notes then say."""
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        if isinstance(config, dict) and isinstance(config.get("settings"), dict):
            return config
    except (OSError, ValueError, yaml.YAMLError):
        pass
    notes.append(f"{CONFIG} cannot be read: the settings are those stored with the weights, without their sources.")
    return {}


def _read_log(folder: Path, notes: list[str]) -> list[LogRow]:
    """The epochs of metrics.jsonl; the notes say how many lines are damaged."""
    if not (folder / LOG).is_file():
        notes.append(f"There is no {LOG}, so there are no learning curves.")
        return []
    rows, damaged = read_log(folder)
    if damaged:
        lines = "1 line" if damaged == 1 else f"{damaged} lines"
        notes.append(f"{lines} of {LOG} cannot be read; the curves leave out those epochs.")
    return rows


def _stored_result(folder: Path, notes: list[str]) -> TaskResult | None:
    try:
        return read_result(json.loads((folder / RESULT).read_text(encoding="utf-8")))
    except FileNotFoundError:
        notes.append(f"There is no {RESULT}; `cnn eval {folder}` writes it if the data can be read.")
    except (OSError, ValueError, TypeError, KeyError):
        notes.append(f"{RESULT} cannot be read; `cnn eval {folder}` rewrites it if the data can be read.")
    return None
