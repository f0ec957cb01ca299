"""Training with several seeds: mean and standard deviation of the results."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from cnn_cli.checkpoints.checkpoint import load_trained, parse_metadata
from cnn_cli.checkpoints.run_folder import BEST, LAST, RUNS
from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.distributed.world import current_world
from cnn_cli.errors import StoppedError, UsageError
from cnn_cli.files import make_folder, make_numbered_folder, write_text
from cnn_cli.language.registry import plan_document
from cnn_cli.tables import Column, Table, metric_title, render
from cnn_cli.tasks.base import TaskResult
from cnn_cli.tasks.selection import read_result
from cnn_cli.training import run
from cnn_cli.training.eval_report import EvaluationRequest, draw_evaluation, evaluate_network, write_evaluation
from cnn_cli.training.request import Request, complete, resolve_settings

SUMMARY = "seeds.json"


@dataclass(frozen=True)
class SeedRun:
    """One seed: its run, the epoch of its best weights, and their result."""

    seed: int
    run: Path
    epoch: float | None
    result: TaskResult


@dataclass(frozen=True)
class SeedsResult:
    """Runs that differ only in their seed, and the results of their best weights."""

    network: str
    data: str
    folder: Path
    runs: tuple[SeedRun, ...]

    def document(self) -> dict[str, Any]:
        """The content of seeds.json: metric and loss, each with mean, standard deviation, minimum and maximum."""
        first, results = self.runs[0].result, [run.result for run in self.runs]
        return {
            "network": self.network,
            "data": self.data,
            "split": first.split,
            "folder": str(self.folder.resolve()),
            first.metric: _spread([result.score for result in results]),
            "loss": _spread([result.loss for result in results]),
            "runs": [
                {
                    "seed": run.seed,
                    first.metric: run.result.score,
                    "loss": run.result.loss,
                    "epoch": run.epoch,
                    "run": str(run.run.resolve()),
                }
                for run in self.runs
            ],
        }

    def text(self) -> str:
        document, metric = self.document(), self.runs[0].result.metric
        head = f"{self.network} on {Path(self.data).name}, {document['split']}, {len(self.runs)} seeds"
        figures = (
            f"{metric_title(metric)} {document[metric]['mean']:.2%} ± {document[metric]['deviation']:.2%} "
            "(mean ± standard deviation)"
        )
        return f"{head}\n\n{render(self.table())}\n\n{figures}\n\n{document['folder']}"

    def table(self) -> Table:
        metric = self.runs[0].result.metric
        columns = (
            Column("seed", "seed", number=True),
            Column(metric, metric_title(metric), number=True, show="{:.2%}".format),
            Column("loss", "loss", number=True, show="{:.4f}".format),
            Column("epoch", "epoch", number=True),
        )
        return Table(columns, self.document()["runs"])


def train_seeds(request: Request, count: int, folder: Path | None = None, resume: bool = False) -> SeedsResult:
    """Train with `count` seeds, each in its own folder, and write seeds.json.

    resume: in `folder`, finished runs are kept, interrupted ones resumed, and missing ones started.
    """
    if count < 2:
        raise UsageError(f"--seeds must be at least 2, not {count}; for one run, use --seed")
    if current_world().size > 1:
        raise UsageError("--seeds runs in a single process; under torchrun, train each seed with --seed")
    request = complete(request)
    plan = request.plan()
    first = int(resolve_settings(request, plan)["seed"].value)
    folder = _folder(request, plan.network, folder, resume)
    before = _same_experiment(request, folder) if resume else request
    runs: list[SeedRun] = []
    for seed in range(first, first + count):
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
        runs.append(SeedRun(seed, trained.run, trained.best_epoch, read_result(trained.result)))
    assert trained is not None  # of two or more seeds
    result = SeedsResult(trained.network, trained.data, folder, tuple(runs))
    write_text(folder / SUMMARY, json.dumps(result.document(), indent=1, allow_nan=False) + "\n")
    return result


def seed_runs(folder: Path) -> dict[int, Path]:
    """The runs in a folder of seeds, by their seed; none in any other folder."""
    paths = [path for path in folder.glob("seed-*") if path.name[5:].isdecimal() and (path / BEST).is_file()]
    return {int(path.name[5:]): path for path in sorted(paths, key=lambda path: int(path.name[5:]))}


def evaluate_seeds(
    folder: Path,
    request: EvaluationRequest,
    device: torch.device,
    args: Mapping[str, Any] | None = None,
    input: Sequence[int] | None = None,
    *,
    output: Path | None = None,
) -> SeedsResult:
    """Evaluate every run in a folder of seeds, and write each result to its run folder, or to `output`/seed-N."""
    runs = []
    for seed, path in seed_runs(folder).items():
        loaded = load_trained(str(path), args=args, input=input)
        evaluation = evaluate_network(loaded, request, device)
        own = output / path.name if output else path
        write_evaluation(own, evaluation)
        draw_evaluation(own, evaluation)
        epoch = loaded.metadata.facts.get("epoch") if loaded.metadata else None
        runs.append(SeedRun(seed, path, epoch, evaluation.result))
    return SeedsResult(evaluation.network, evaluation.data, output or folder, tuple(runs))


def _same_experiment(request: Request, folder: Path) -> Request:
    """The request with network and settings of earlier seeds, so that a new seed belongs to the same experiment."""
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
        raise UsageError(f"{named} is not empty; resume with --resume, or choose another folder with -o")
    if named is None:
        return make_numbered_folder(RUNS, network)
    make_folder(named)
    return named


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation (n − 1); 0 for a single value."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return {"mean": fmean(values), "deviation": deviation, "least": min(values), "most": max(values)}


def _resume_command(request: Request, folder: Path) -> str:
    words = shlex.split(request.command)
    output = [] if request.output else ["-o", str(folder)]
    return shlex.join([*words, *output, *([] if "--resume" in words else ["--resume"])])
