"""Learning curves: of one run by split, and of several runs on one plot."""

import math
from collections.abc import Sequence
from dataclasses import replace

from cnn_cli.checkpoints.run_folder import LogRow
from cnn_cli.pictures.charts import Line, line_chart
from cnn_cli.pictures.html import Html, Section, element
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tables import metric_title, percent

_OVERFIT = " (the training images)"
_SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))


def curves_section(facts: RunFacts) -> Section | None:
    """Loss, metric and, unless it is constant, learning rate over the epochs; None without a log."""
    if not facts.history:
        return None
    metric, best = _metric(facts), facts.run.best_epoch if facts.run.metric else None
    mark = (float(best), f"best epoch ({best:g})") if best is not None else None
    charts = [_chart([facts], "loss", mark), _chart([facts], metric, mark)]
    rates = _points(facts.history, "lr")
    if len({rate for _, rate in rates}) > 1:
        charts.append(line_chart("Learning rate", [Line("learning rate", rates, 7)], "epoch"))
    return Section(facts.id("curves"), "Learning curves", element("div", charts, class_="charts"))


def common_curves(runs: Sequence[RunFacts]) -> Html | None:
    """Loss and metric of several runs, on the split that all of them measured; None if no run has a log."""
    logged = [facts for facts in runs if facts.history]
    if not logged:
        return None
    return element("div", _chart(logged, "loss", None), _chart(logged, _metric(logged[0]), None), class_="charts")


def _chart(runs: Sequence[RunFacts], measure: str, mark: tuple[float, str] | None) -> Html:
    title = metric_title(measure)
    show = "{:.4g}".format if measure == "loss" else percent
    if len(runs) == 1:
        history = runs[0].history
        names = {split: name + _OVERFIT * (split == "val" and runs[0].overfit) for split, name in _SPLITS}
        lines = [
            Line(name, _points(history, f"{split}_{measure}"), number)
            for number, (split, name) in enumerate(names.items())
        ]
        if measure == "loss" and (plain := _points(history, "train_plain_loss")):
            optimized, *others = lines
            lines = [replace(optimized, name="training, as optimized", dashed=True), Line("training", plain), *others]
        return line_chart(title.capitalize() if title.islower() else title, lines, "epoch", show, mark)
    split, name = next(
        (s for s in (*_SPLITS[1:], _SPLITS[0]) if all(_points(r.history, f"{s[0]}_{measure}") for r in runs)),
        _SPLITS[0],
    )
    lines = [
        Line(
            run.title + _OVERFIT * (split == "val" and run.overfit),
            (_points(run.history, "train_plain_loss") if (split, measure) == ("train", "loss") else [])
            or _points(run.history, f"{split}_{measure}"),
            ord(run.letter) - ord("A"),
        )
        for run in runs
    ]
    return line_chart(f"{name[:1].upper()}{name[1:]} {title}", lines, "epoch", show)


def _points(history: Sequence[LogRow], key: str) -> list[tuple[float, float]]:
    """The finite values of a key of metrics.jsonl, by epoch."""
    return [
        (float(row["epoch"]), float(value))
        for row in history
        if isinstance(value := row.get(key), int | float) and math.isfinite(value)
    ]


def _metric(facts: RunFacts) -> str:
    """The key of the metric in the log."""
    if facts.result:
        return facts.result.metric
    keys = [key for row in facts.history for key in row]
    return next((m for m in ("accuracy", "miou", "ap") if any(key.endswith(f"_{m}") for key in keys)), "accuracy")
