"""The same training with several seeds: one figure is an anecdote, a mean with its standard deviation is evidence."""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cnn_cli.checkpoints.checkpoint import parse_metadata
from cnn_cli.checkpoints.run_folder import LAST, RUNS
from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.distributed.world import current_world
from cnn_cli.errors import StoppedError, UsageError
from cnn_cli.files import make_folder, make_numbered_folder, write_text
from cnn_cli.language.registry import plan_document
from cnn_cli.settings import resolve
from cnn_cli.tables import Column, Table, render
from cnn_cli.tasks.base import TaskResult
from cnn_cli.tasks.selection import read_result
from cnn_cli.training import run
from cnn_cli.training.completion import RunResult
from cnn_cli.training.request import Request, complete, recipe_of

SUMMARY = "seeds.json"


@dataclass(frozen=True)
class SeedsResult:
    """Runs that differ in their seed alone, and the results of their best weights."""

    folder: Path
    seeds: tuple[int, ...]
    runs: tuple[RunResult, ...]
    results: tuple[TaskResult, ...]

    def document(self) -> dict[str, Any]:
        """What seeds.json holds: the metric and the loss, each with its mean, deviation, least and most."""
        metric, first = self.results[0].metric, self.runs[0]
        return {
            "network": first.network,
            "data": first.data,
            "split": self.results[0].split,
            "folder": str(self.folder.resolve()),
            metric: _spread([result.score for result in self.results]),
            "loss": _spread([result.loss for result in self.results]),
            "runs": [
                {
                    "seed": s,
                    metric: result.score,
                    "loss": result.loss,
                    "epoch": r.best_epoch,
                    "run": str(r.run.resolve()),
                }
                for s, r, result in zip(self.seeds, self.runs, self.results, strict=True)
            ],
        }

    def text(self) -> str:
        document, metric = self.document(), self.results[0].metric
        head = f"{document['network']} on {Path(document['data']).name}, {document['split']}, {len(self.runs)} seeds"
        figures = f"{metric} {document[metric]['mean']:.2%} ± {document[metric]['deviation']:.2%}"
        return f"{head}\n\n{render(self.table())}\n\n{figures}\n\n{document['folder']}"

    def table(self) -> Table:
        metric = self.results[0].metric
        columns = (
            Column("seed", "seed", number=True),
            Column(metric, metric, number=True, show="{:.2%}".format),
            Column("loss", "loss", number=True, show="{:.4f}".format),
            Column("epoch", "epoch", number=True),
        )
        return Table(columns, self.document()["runs"])


def train_seeds(request: Request, count: int, folder: Path | None = None, resume: bool = False) -> SeedsResult:
    """Train with `count` seeds, each in a folder of its own, and write seeds.json.

    resume: in `folder`, finished runs stay, interrupted ones resume, and missing ones start.
    """
    if count < 2:
        raise UsageError(f"--seeds must be at least 2, not {count}; for one run, use --seed")
    if current_world().size > 1:
        raise UsageError("--seeds is for one process; start each seed by itself under torchrun")
    request = complete(request)
    plan = request.plan()
    recipe = {**request.settings, **recipe_of(plan, request.recipe)}
    settings = resolve(request.options, os.environ, plan.train, recipe)
    first = int(settings["seed"].value)
    folder = _folder(request, plan.network, folder, resume)
    before = _same_experiment(request, folder) if resume else request
    seeds, runs = range(first, first + count), []
    for seed in seeds:
        own = folder / f"seed-{seed}"
        request.say(f"seed {seed}")
        try:
            if resume and (own / LAST).is_file():
                options = {**request.options, "seed": seed}
                trained = run.resume(replace(request, options=options, recipe="", args={}, input=None, output=own), own)
            else:
                options = {**before.options, **request.options, "seed": seed}
                trained = run.begin(replace(before, options=options, output=own))
        except StoppedError as error:
            text = f"stopped at seed {seed}\nresume with: {_resume_command(request, folder)}"
            raise StoppedError(text, error.exit_code - 128) from None
        assert trained is not None  # one process is the main one
        if trained.result is None:
            raise UsageError("the data has neither test nor val images to compare seeds on; add --val-fraction 0.1")
        runs.append(trained)
    result = SeedsResult(folder, tuple(seeds), tuple(runs), tuple(read_result(r.result or {}) for r in runs))
    write_text(folder / SUMMARY, json.dumps(result.document(), indent=1, allow_nan=False) + "\n")
    return result


def _same_experiment(request: Request, folder: Path) -> Request:
    """A new seed takes network and settings from those that have begun, so that all are one experiment."""
    file = next((path / LAST for path in sorted(folder.glob("seed-*")) if (path / LAST).is_file()), None)
    if file is None:
        return request
    saved = read_state(file)
    plan = plan_document(parse_metadata(saved["about"], file).spec, str(file))
    options = {name: value for name, (value, _) in saved["settings"].items() if value is not None}
    return replace(request, recipe="", options=options, args=plan.args, input=plan.input)


def _folder(request: Request, network: str, folder: Path | None, resume: bool) -> Path:
    """The folder of all seeds: the one named, or the next number."""
    named = folder or request.output
    if resume and named is None:
        raise UsageError(f"name the folder of the seeds: cnn train {request.network} FOLDER --seeds N --resume")
    if not resume and named and named.is_dir() and any(named.iterdir()):
        raise UsageError(f"{named} holds files already; resume with --resume, or name another folder with -o")
    if named is None:
        return make_numbered_folder(RUNS, network)
    make_folder(named)
    return named


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation (n − 1)."""
    return {"mean": fmean(values), "deviation": stdev(values), "least": min(values), "most": max(values)}


def _resume_command(request: Request, folder: Path) -> str:
    words = shlex.split(request.command)
    output = [] if request.output else ["-o", str(folder)]
    return shlex.join([*words, *output, *([] if "--resume" in words else ["--resume"])])
