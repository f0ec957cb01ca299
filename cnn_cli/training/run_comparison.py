"""`cnn compare`: runs on the same images, each compared with the first, with tests of significance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.checkpoints.run_folder import LogRow, read_log
from cnn_cli.checkpoints.runs import list_runs
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.tables import Column, Table, TableRow, counted, percent, render, wrapped
from cnn_cli.tasks.paired import Difference, compare_groups, compare_right, compare_sums, compare_weighted
from cnn_cli.tasks.precision_resampling import weighted_precision
from cnn_cli.tasks.segmentation_result import mean_ious
from cnn_cli.tasks.uncertainty import LEVEL, Array
from cnn_cli.training.eval_report import EvaluationRequest
from cnn_cli.training.outcomes import BoxOutcomes, ClassOutcomes, MaskOutcomes, Outcomes, compute_outcomes

_METRICS = {ClassOutcomes: "accuracy", MaskOutcomes: "mIoU", BoxOutcomes: "AP"}


@dataclass(frozen=True)
class Candidate:
    """A run, or the runs of several seeds as one, with its letter in the tables."""

    letter: str
    name: str
    runs: tuple[LoadedNetwork, ...]
    outcomes: tuple[Outcomes, ...]

    @property
    def title(self) -> str:
        """`A: runs-1`, for legends; those of validation images name the runs that were validated on training images."""
        overfit = any(run.metadata and run.metadata.overfit for run in self.runs)
        return f"{self.letter}: {Path(self.name).name}{' (--overfit: training images)' * overfit}"

    @property
    def scores(self) -> list[float]:
        """The metric of each seed."""
        return [_score(one) for one in self.outcomes]

    def document(self) -> dict[str, Any]:
        spread = stdev(self.scores) if len(self.scores) > 1 else None
        runs = [str(run.weights) for run in self.runs]
        return {
            "letter": self.letter,
            "name": self.name,
            "network": self.runs[0].plan.network,
            "checkpoints": runs,
            "score": fmean(self.scores),
            "standard_deviation": spread,
            "scores": self.scores,
        }


@dataclass(frozen=True)
class RunComparison:
    """Several candidates and the difference of each to the first. With m differences, the significance level is 5%/m
    (Bonferroni correction)."""

    candidates: tuple[Candidate, ...]
    differences: tuple[Difference, ...]
    settings: tuple[TableRow, ...]

    @property
    def images(self) -> int:
        return len(self.candidates[0].outcomes[0].images)

    @property
    def metric(self) -> str:
        return _METRICS[type(self.candidates[0].outcomes[0])]

    def is_different(self, difference: Difference) -> bool:
        """Whether the difference is significant."""
        return difference.p * len(self.differences) < 1 - LEVEL

    def verdict(self, other: Candidate, difference: Difference) -> str:
        """In a sentence: which is better, or that the difference is not significant."""
        first, points = self.candidates[0], 100 * difference.value
        low, high = (100 * end for end in difference.interval)
        figures = f"{points:+.2f} points (95% interval {low:+.2f} to {high:+.2f}), p = {difference.p:.2g}"
        figures = f"{other.letter} − {first.letter} {figures.replace('-', '−')} by {difference.test}"
        where = f"on {counted(self.images, 'image')}"
        if len(first.runs) > 1:
            where = f"with {len(first.runs)} and {counted(len(other.runs), 'seed')} {where}"
        if not self.is_different(difference):
            return f"no significant difference between {first.letter} and {other.letter} {where}: {figures}"
        better, worse = (other, first) if difference.value > 0 else (first, other)
        return f"{better.letter} is better than {worse.letter} {where}: {figures}"

    def only(self, other: Candidate, difference: Difference) -> str:
        """In a sentence: on how many images only one is right, or how many objects only one detects."""
        a, b = self.candidates[0].letter, other.letter
        of_a, of_b = difference.only_a or 0, difference.only_b or 0
        if self.metric == "AP":
            own = "each at its own score threshold, of the best F1"
            return f"only {a} detects {counted(of_a, 'object')}, only {b} {of_b:,} ({own})"
        return f"only {a} is right on {counted(of_a, 'image')}, only {b} on {of_b:,}"

    def document(self) -> dict[str, Any]:
        first = self.candidates[0].outcomes[0].images
        return {
            "metric": self.metric,
            "data": first.data,
            "split": first.split.name,
            "n": self.images,
            "runs": [candidate.document() for candidate in self.candidates],
            "comparisons": [
                {
                    "a": self.candidates[0].letter,
                    "b": other.letter,
                    "difference": d.value,
                    "interval": list(d.interval),
                    "level": LEVEL,
                    "p": d.p,
                    "test": d.test,
                    "different": self.is_different(d),
                    "verdict": self.verdict(other, d),
                    "only_a": d.only_a,
                    "only_b": d.only_b,
                    **self._sides(other),
                }
                for other, d in zip(self.candidates[1:], self.differences, strict=True)
            ],
            "settings": list(self.settings),
        }

    def _sides(self, other: Candidate) -> dict[str, Any]:
        if len(other.outcomes) > 1 or len(self.candidates[0].outcomes) > 1:
            return {}
        only_a, only_b = sides(self.candidates[0].outcomes[0], other.outcomes[0])
        return {"indices_a": only_a, "indices_b": only_b}

    def table(self) -> Table:
        """The candidates."""
        columns = (
            Column("letter", ""),
            Column("name", "run", wraps=True),
            Column("score", self.metric, number=True, show=lambda v: percent(v, 2)),
            Column("standard_deviation", "± over seeds", number=True, show=lambda v: percent(v, 2)),
        )
        seeds = any(len(candidate.runs) > 1 for candidate in self.candidates)
        return Table(columns if seeds else columns[:-1], [one.document() for one in self.candidates])

    def text(self) -> str:
        first = self.candidates[0].outcomes[0].images
        head = f"{Path(first.data).name} {first.split.name}: {counted(self.images, 'image')}"
        lines = [head, "", render(self.table()), ""]
        for other, d in zip(self.candidates[1:], self.differences, strict=True):
            lines.append(wrapped(self.verdict(other, d)))
            if d.only_a is not None:
                lines.append(wrapped(self.only(other, d)))
        if self.settings:
            names = [candidate.letter for candidate in self.candidates]
            columns = (Column("setting", "setting"), *(Column(name, name, wraps=True) for name in names))
            rows = [{key: "none" if value is None else value for key, value in row.items()} for row in self.settings]
            lines += ["", "settings that differ", render(Table(columns, rows))]
        return "\n".join(lines)


def compare_runs(
    candidates: Sequence[tuple[str, Sequence[LoadedNetwork]]], request: EvaluationRequest, device: torch.device
) -> RunComparison:
    """Run all of them over the same split. candidates: a name, and the runs of one or more seeds.

    UsageError for different tasks, classes or images, and for a mix of single runs and groups of seeds.
    """
    groups = {len(runs) > 1 for _, runs in candidates}
    if len(groups) > 1:
        raise UsageError("seeds can only be compared with seeds; name folders of seeds only, or single runs only")
    compared = []
    for i, (name, runs) in enumerate(candidates):
        results = tuple(compute_outcomes(run, request, device) for run in runs)
        compared.append(Candidate(chr(ord("A") + i), name, tuple(runs), results))
    return compare_candidates(compared)


def compare_candidates(candidates: Sequence[Candidate]) -> RunComparison:
    """Compare candidates whose outcomes are known. UsageError for different tasks, classes or images."""
    first = candidates[0].outcomes[0]
    for candidate in candidates:
        for one in candidate.outcomes:
            _check_same(candidates[0].name, first, candidate.name, one)
    differences = [_difference(candidates[0], other) for other in candidates[1:]]
    return RunComparison(tuple(candidates), tuple(differences), tuple(_settings(candidates)))


def sides(a: Outcomes, b: Outcomes) -> tuple[list[int], list[int]]:
    """The images for which only A is right, and those for which only B is, the largest difference first; of masks by
    mean IoU, of boxes by the number of objects that only one detects."""
    if isinstance(a, ClassOutcomes) and isinstance(b, ClassOutcomes):
        by_loss = np.argsort(-np.abs(a.losses - b.losses), kind="stable")
        return [int(i) for i in by_loss if a.right[i] and not b.right[i]], [
            int(i) for i in by_loss if b.right[i] and not a.right[i]
        ]
    if isinstance(a, BoxOutcomes) and isinstance(b, BoxOutcomes):
        return _images_with(a, a.detected & ~b.detected), _images_with(b, b.detected & ~a.detected)
    assert isinstance(a, MaskOutcomes) and isinstance(b, MaskOutcomes)
    gain = b.ious - a.ious
    order = np.argsort(-np.abs(gain), kind="stable")
    return [int(i) for i in order if gain[i] < 0], [int(i) for i in order if gain[i] > 0]


def _images_with(one: BoxOutcomes, objects: Array) -> list[int]:
    """The images that have any of these objects (m,), those with most objects first."""
    counts = np.bincount(one.objects.images[objects], minlength=len(one.images))
    return [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]


def _score(one: Outcomes) -> float:
    if isinstance(one, BoxOutcomes):
        return one.precision.mean() or 0.0
    return float(one.right.mean()) if isinstance(one, ClassOutcomes) else float(mean_ious(one.counts.sum(0)))


def _difference(a: Candidate, b: Candidate) -> Difference:
    if len(a.runs) > 1:
        return compare_groups(a.scores, b.scores)
    one, two = a.outcomes[0], b.outcomes[0]
    if isinstance(one, ClassOutcomes) and isinstance(two, ClassOutcomes):
        return compare_right(one.right, two.right)
    if isinstance(one, BoxOutcomes) and isinstance(two, BoxOutcomes):
        only_a, only_b = (int(side.sum()) for side in (one.detected & ~two.detected, two.detected & ~one.detected))
        figures = [lambda w, m=x.precision.matches: weighted_precision(m, w).mean(1) for x in (one, two)]
        return replace(compare_weighted(len(one.images), *figures), only_a=only_a, only_b=only_b)
    assert isinstance(one, MaskOutcomes) and isinstance(two, MaskOutcomes)
    return compare_sums(one.counts, two.counts, mean_ious)


def _check_same(first: str, a: Outcomes, other: str, b: Outcomes) -> None:
    """UsageError unless both were run over the same images of the same classes."""
    fix = "name the images of both with --data and --split"
    if type(a) is not type(b):
        raise UsageError(f"{first} and {other} are for different tasks; compare runs of one task")
    if set(a.images.classes) != set(b.images.classes):
        raise UsageError(f"{first} and {other} have different classes; compare runs on the same data")
    if a.images.names != b.images.names:
        counts = f"{counted(len(a.images), 'image')} of {a.images.data} and {len(b.images):,} of {b.images.data}"
        raise UsageError(f"{first} and {other} are evaluated on different images ({counts}); {fix}")


def _settings(candidates: Sequence[Candidate]) -> list[TableRow]:
    """The settings in which the runs differ, as `cnn runs` reads them; none if a candidate has no run folder."""
    rows, given = [], set[str]()
    for candidate in candidates:
        run = candidate.runs[0].run
        if run is None:
            return []
        try:
            listed = list_runs(run).runs
        except CnnError:
            return []
        settings = {name: listed[0].setting(name) for name in listed[0].values} if listed else {}
        given.update(*(own.args for own in listed[:1]))
        rows.append({**settings, "network": candidate.runs[0].plan.network})
    for candidate, row in zip(candidates, rows, strict=True):  # an argument without --set has the value in the spec
        args = candidate.runs[0].plan.args
        row.update({name: str(args[name]) for name in args.keys() & given - row.keys()})
    seeds = {"seed"} if len(candidates[0].runs) > 1 else set()
    names = sorted({name for row in rows for name in row} - seeds)
    return [
        {
            "setting": name.replace("_", " "),
            **{c.letter: row.get(name) for c, row in zip(candidates, rows, strict=True)},
        }
        for name in names
        if len({row.get(name) for row in rows}) > 1
    ]


def histories(candidate: Candidate) -> list[list[LogRow]]:
    """The rows of metrics.jsonl of each seed that has any."""
    return [history for run in candidate.runs if run.run and (history := read_log(run.run)[0])]
