"""The runs in a folder: settings, progress and metrics, read from their small files only.

Weights are not opened and YAML is not parsed, so that a thousand runs are listed in a second: config.yaml is written by
this tool, with one setting per line.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cnn_cli.checkpoints.run_folder import CONFIG, CURVES, DIVERGED, RESULT, RUNS, LogRow, read_log
from cnn_cli.errors import CnnError, UsageError, closest, enumerated
from cnn_cli.files import is_locked
from cnn_cli.tables import Column, Table, TableRow, metric_title, percent, render, wrapped

_SETTINGS = re.compile(r"^settings:\n((?: .*\n?)*)", re.M)
_ENTRY = re.compile(r"^  (\w+):(.*(?:\n {3}.*)*)", re.M)
_SCALAR = re.compile(r" \{value: (.*), source: \w+\}|\n    value: (.*)\n    source: \w+")
_LINE = re.compile(r"^(network|started): (.*)$", re.M)
_ARGS = re.compile(r"^args: (.*(?:\n .*)*)", re.M)
_SOURCE = re.compile(r"^  (\w+):(?:.*\n {3})*.*source: (\w+)", re.M)
_INHERITED = ("spec", "weights")
_APART = ("data", "epochs", "seed")
_SORTS = ("name", "score", "epochs", "time", "started")


@dataclass(frozen=True)
class Run:
    """A run, or several that differ only in their seed: `settings` as text, and the metrics of the best epoch and test.

    args: those of --set. sources: where each setting comes from, such as `option`, `spec` or `default`.
    state: finished, running, interrupted or diverged. seconds: of training, without the start-up.
    """

    path: Path
    network: str
    settings: dict[str, str]
    state: str
    epochs: float
    best_epoch: float | None
    metric: str
    val: float | None
    test: float | None
    seconds: float
    started: str
    args: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    seeds: int = 1
    spread: float | None = None

    @property
    def values(self) -> dict[str, str]:
        """Arguments and settings."""
        return self.args | self.settings

    @property
    def score(self) -> float | None:
        return self.val if self.test is None else self.test

    @property
    def total(self) -> float:
        """The number of epochs in the settings."""
        text = self.settings.get("epochs", "")
        return _whole(float(text)) if re.fullmatch(r"[\d.e+-]+", text) else self.epochs

    def setting(self, name: str) -> str | None:
        """A setting as shown to users; None if it is off, or was unknown to an earlier version."""
        value = self.values.get(name, "null")
        if value == "[]" and self.sources.get(name) == "option":
            return "none"
        return None if value in ("null", "[]") else _shown(value)

    def document(self) -> dict[str, Any]:
        facts = {k: v for k, v in vars(self).items() if k not in ("path", "spread", "sources")}
        facts["settings"] = {name: _plain(value) for name, value in self.settings.items()}
        return {"run": str(self.path), **facts, "total_epochs": self.total, "standard_deviation": self.spread}

    def cells(self, varied: Sequence[str]) -> TableRow:
        differing = [f"{k.replace('_', ' ')} {v}" for k in varied if (v := self.setting(k)) is not None]
        return {
            "run": self.path.name if self.path.parent == RUNS else str(self.path),
            "network": self.network,
            "data": Path(_shown(self.settings.get("data", ""))).name,
            "settings": ", ".join(differing),
            "epochs": self.epochs,
            "total_epochs": self.total,
            "progress": f"{self.epochs:g}/{self.total:g}",
            "metric": self.metric,
            "val": self.val,
            "test": self.test,
            "spread": self.spread,
            "seconds": self.seconds,
            "state": self.state if self.seeds == 1 else f"{self.state} ({self.seeds} seeds)",
        }


@dataclass(frozen=True)
class RunList:
    """Runs, and the settings in which they differ."""

    folder: Path
    runs: tuple[Run, ...]

    @property
    def varied(self) -> list[list[str]]:
        """For each run the settings that differ between the runs of its network, and those given that differ from
        another network's, without defaults. The data set and the seed are shown elsewhere, epochs in a column."""
        everywhere = _varied(self.runs)
        networks = {run.network for run in self.runs}
        own = {name: set(_varied([run for run in self.runs if run.network == name])) for name in networks}
        defaults = {  # those of lr and others depend on the optimizer
            (run.values.get("optimizer"), n, run.values.get(n))
            for run in self.runs
            for n in everywhere
            if run.sources.get(n) == "default"
        }
        return [
            [
                n
                for n in everywhere
                if (run.values.get("optimizer"), n, run.values.get(n)) not in defaults
                and (n in own[run.network] or run.sources.get(n) not in _INHERITED)
            ]
            for run in self.runs
        ]

    def document(self) -> list[dict[str, Any]]:
        return [run.document() for run in self.runs]

    def table(self) -> Table:
        """For CSV and Markdown: one number per cell."""
        return self._table(Column("epochs", "epochs", number=True), Column("total_epochs", "of", number=True))

    def _table(self, *epochs: Column) -> Table:
        metrics = sorted({run.metric for run in self.runs if run.metric})
        columns = (
            Column("run", "run", wraps=True),
            Column("network", "network", wraps=True),
            Column("data", "data", wraps=True),
            Column("settings", "settings that differ", wraps=True),
            *epochs,
            *((Column("metric", "metric", show=metric_title),) if len(metrics) > 1 else ()),
            Column("val", f"val {metric_title(metrics[0])}" if len(metrics) == 1 else "val", number=True, show=percent),
            Column("test", "test", number=True, show=percent),
            Column("spread", "±", number=True, show=lambda v: percent(v, 2)),
            Column("seconds", "time", number=True, show=_duration),
            Column("state", "state", wraps=True),
        )
        return Table(columns, [run.cells(varied) for run, varied in zip(self.runs, self.varied, strict=True)])

    def text(self) -> str:
        """What all runs have in common, and the table below."""
        if not self.runs:
            return f"no runs in {self.folder}; train a network with `cnn train`"
        table, common = self._table(Column("progress", "epochs", number=True)), []
        for key, word in (("network", ""), ("data", "on ")):
            if len({row[key] for row in table.rows}) == 1 and len(self.runs) > 1:
                common.append(f"{word}{table.rows[0][key]}")
                table = replace(table, columns=tuple(c for c in table.columns if c.key != key))
        overfit = [row["run"] for row, run in zip(table.rows, self.runs, strict=True) if run.setting("overfit")]
        below = [wrapped(f"val of {enumerated(overfit)} is computed on training images (--overfit)")] if overfit else []
        return "\n\n".join([*([" ".join(common)] if common else []), render(table), *below])


def list_runs(folder: Path = RUNS, where: Sequence[str] = (), sort: str = "name") -> RunList:
    """The runs in `folder`; those of several seeds are one, with mean and standard deviation.

    where: conditions NAME=VALUE on a setting, `network`, `data` or `state`, all of which must hold. sort: `name`,
    `score` (best first), `epochs`, `time`, `started`, or a setting. A folder that is itself a run is listed alone.
    UsageError for a condition or order that does not exist, CnnError if there is no such folder.
    """
    if not folder.is_dir():
        if folder == RUNS:
            return RunList(folder, ())
        raise CnnError(f"{folder}: no such folder; name a folder of runs, such as {RUNS}")
    runs = list(_read_all(folder))
    known = list(dict.fromkeys(("network", "data", "state", *(name for run in runs for name in run.values))))
    for condition in where:
        name, equals, value = condition.partition("=")
        if not equals:
            raise UsageError(f"--where takes NAME=VALUE, not {condition!r}; write --where lr=0.01")
        if runs and name not in known:
            raise UsageError(
                f"--where: no {name!r}.{closest(name, known)} Choose network, data, state or a setting of `cnn train`"
            )
        runs = [run for run in runs if _equal(_value(run, name), value)]
    return RunList(folder, tuple(_sorted(runs, sort, known)))


def _varied(runs: Sequence[Run]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.values)
    return [n for n in names if n not in _APART and len({run.setting(n) for run in runs}) > 1]


def _sorted(runs: list[Run], sort: str, known: Sequence[str]) -> list[Run]:
    named = sorted(runs, key=lambda run: _natural(str(run.path)))
    if sort == "name":
        return named
    if sort in ("score", *(run.metric for run in runs)):
        return sorted(named, key=lambda run: -1.0 if run.score is None else run.score, reverse=True)
    if sort in ("epochs", "started"):
        return sorted(named, key=lambda run: getattr(run, sort), reverse=True)
    if sort == "time":
        return sorted(named, key=lambda run: run.seconds, reverse=True)
    if runs and sort not in known:
        choices = [*_SORTS, *known]
        raise UsageError(f"--sort: no {sort!r}.{closest(sort, choices)} Sort by {', '.join(_SORTS)} or a setting")
    return sorted(named, key=lambda run: _natural(_value(run, sort)))


def _read_all(folder: Path) -> Iterator[Run]:
    if (folder / CONFIG).is_file():
        yield _read(folder)
        return
    for entry in folder.iterdir():
        if (entry / CONFIG).is_file():
            yield _read(entry)
        elif seeds := [_read(p) for p in entry.glob("seed-*") if (p / CONFIG).is_file()]:
            yield _grouped(entry, seeds)


def _read(path: Path) -> Run:
    """A run, without what is missing or damaged in its files."""
    text = ""
    with suppress(OSError):
        text = (path / CONFIG).read_text(errors="replace")
    head = text.partition("\nspec:")[0]
    block = _SETTINGS.search(head)
    settings = {name: _text(entry) for name, entry in _ENTRY.findall(block[1] if block else "")}
    facts = dict(_LINE.findall(head))
    args = _ARGS.search(head)
    given = _plain(args[1]) if args else None
    given = given if isinstance(given, dict) else {}
    history = read_log(path)[0]
    metric = next(
        (key[4:] for key in (history[-1] if history else ()) if key.startswith("val_") and key != "val_loss"), ""
    )
    validated = [row for row in history if row.get(f"val_{metric}") is not None]
    best = max(validated, key=lambda row: _rank(row, metric), default=history[-1] if history else {})
    result: Any = None
    with suppress(OSError, ValueError):
        result = json.loads((path / RESULT).read_text())
    result = result if isinstance(result, dict) else {}
    return Run(
        path=path,
        network=facts.get("network", ""),
        settings=settings,
        state=_state(path),
        epochs=_whole(history[-1].get("epoch") or len(history)) if history else 0,
        best_epoch=best.get("epoch"),
        metric=metric,
        val=best.get(f"val_{metric}"),
        test=result.get(metric) if result.get("split") == "test" else None,
        seconds=sum(row.get("seconds") or 0.0 for row in history),
        started=facts.get("started", "").strip("'"),
        args={str(name): str(value) for name, value in given.items()},
        sources=dict(_SOURCE.findall(block[1] if block else "")),
    )


def _rank(row: LogRow, metric: str) -> tuple[bool, float, float]:
    """The rank of an epoch as in training: by the metric, then by the loss; without a finite loss it is last."""
    loss = row.get("val_loss")
    return loss is not None, row.get(f"val_{metric}") or 0.0, -(loss or 0.0)


def _text(entry: str) -> str:
    """The value of a setting as in config.yaml, lists and mappings on a single line; empty if damaged."""
    if one := _SCALAR.fullmatch(entry):
        return (one[1] or one[2] or "").strip()
    import yaml

    with suppress(yaml.YAMLError, KeyError, TypeError):
        flow = yaml.safe_dump(yaml.safe_load(entry)["value"], default_flow_style=True, width=math.inf, sort_keys=False)
        return str(flow).removesuffix("\n").removesuffix("\n...")
    return ""


def _state(path: Path) -> str:
    if is_locked(path):
        return "running"
    if (path / DIVERGED).is_file():
        return "diverged"
    return "finished" if (path / CURVES).is_file() else "interrupted"


def _grouped(folder: Path, runs: Sequence[Run]) -> Run:
    """Runs of several seeds as one: means, and the standard deviation of the score."""
    runs = sorted(runs, key=lambda run: _natural(run.path.name))
    states = {run.state for run in runs}
    tests = [run.test for run in runs if run.test is not None]
    scores = tests or [run.val for run in runs if run.val is not None]
    return replace(
        runs[0],
        path=folder,
        metric=next((run.metric for run in runs if run.metric), ""),
        state=next((s for s in ("running", "diverged", "interrupted") if s in states), "finished"),
        epochs=min(run.epochs for run in runs),
        best_epoch=None,
        seconds=sum(run.seconds for run in runs),
        started=min(run.started for run in runs),
        seeds=len(runs),
        spread=stdev(scores) if len(scores) > 1 else None,
        val=_mean([run.val for run in runs]),
        test=_mean([run.test for run in runs]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def _value(run: Run, name: str) -> str:
    return str(getattr(run, name)) if name in ("network", "state") else _shown(run.values.get(name, ""))


def _equal(value: str, wanted: str) -> bool:
    """Whether a value equals the wanted one as a number or as text; a path also by its last part."""
    with suppress(ValueError):
        return float(value) == float(wanted)
    return wanted in (value, Path(value).name)


def _plain(value: str) -> Any:
    """A value of config.yaml as plain data."""
    with suppress(ValueError):
        return json.loads(value)  # numbers, true, false and null: a hundred times as fast as YAML
    import yaml

    with suppress(yaml.YAMLError):
        return yaml.safe_load(value)
    return value


def _whole(epochs: float) -> float:
    """As an integer if it is a whole number, for JSON."""
    return int(epochs) if epochs == int(epochs) else epochs


def _shown(value: str) -> str:
    with suppress(ValueError):
        return f"{float(value):g}"
    items = re.fullmatch(r"\[([^\[\]{}]*)\]", value)
    return re.sub(r"'(.*?)'", r"\1", items[1]) if items else value.strip("'\"")


def _natural(text: str) -> list[tuple[float, str]]:
    """A sort key that orders numbers by value, also within names."""
    with suppress(ValueError):
        return [(float(text), "")]
    return [(float(part), "") if part.isdecimal() else (float("inf"), part) for part in re.split(r"(\d+)", text)]


def _duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3 h 05`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d}"
