"""The result of a run: its figures with confidence intervals, and a table of classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnn_cli.pictures.charts import Line, line_chart, share_bar
from cnn_cli.pictures.html import Html, Section, element, figures, join, table
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tables import Column, Table, counted, percent
from cnn_cli.tasks.average_precision import RECALLS
from cnn_cli.tasks.base import TaskResult
from cnn_cli.tasks.detection_errors import ERROR_TITLES, NOTHING_CORRECT
from cnn_cli.tasks.detection_result import DetectionResult
from cnn_cli.tasks.uncertainty import show

MOST_CLASSES = 100  # rows of the table of classes; of more classes, those with the lowest figures are shown

# Task → the figures, by their keys in eval.json; fractions are shown in percent.
_FIGURES: dict[str, dict[str, str]] = {
    "classification": {
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "macro_f1": "Macro F1",
        "ece": "Expected calibration error",
        "loss": "Loss",
    },
    "segmentation": {
        "miou": "mIoU",
        "mean_image_miou": "Mean IoU per image",
        "dice": "Dice",
        "accuracy": "Pixel accuracy",
        "boundary_f1": "Boundary F1",
        "loss": "Loss",
    },
    "detection": {
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
        "objects": "Objects",
        "detections": "Detections",
        "loss": "Loss",
    },
}
# Task → the column of the table of classes that has bars, and that selects classes if there are too many.
_SHARE_NAMES = {"recall": "recall", "iou": "IoU", "ap": "AP"}
_SHARES = {"classification": "recall", "segmentation": "iou", "detection": "ap"}


def result_section(facts: RunFacts) -> Section:
    """The main figures, at the top of the document."""
    notes = [element("p", note, class_="note") for note in facts.notes]
    if facts.result is None:
        content = join(notes, element("p", "There is no result.", class_="soft"))
    else:
        result, data = facts.result, facts.outcomes.images.data if facts.outcomes else facts.data
        where = f"{counted(result.n, 'image')} of the {result.split} split of {data.rstrip('/').rpartition('/')[2]}."
        level = " Ranges are 95% intervals over images." if _intervals(result) else ""
        content = join(notes, figures(_figures(result)), element("p", where + level, class_="soft"))
    return Section(facts.id("result"), "Result", content)


def _intervals(result: TaskResult) -> Mapping[str, Any]:
    intervals: Mapping[str, Any] = result.document().get("intervals") or {}
    return intervals


def _figures(result: TaskResult) -> list[tuple[str, str, str]]:
    document, intervals = result.document(), _intervals(result)
    rows = []
    for key, title in _FIGURES[document["task"]].items():
        if (value := document.get(key)) is not None:
            interval = intervals.get(key)
            rows.append((title, shown(key, value), show(interval) if interval else ""))
    return rows


def shown(key: str, value: float) -> str:
    """A figure of eval.json as text."""
    if key == "loss":
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else percent(value, 2)


def classes_section(facts: RunFacts) -> Section | None:
    """The table with a row per class."""
    if facts.result is None:
        return None
    source, task = facts.result.table(), facts.result.document()["task"]
    key, rows, words = _SHARES[task], list(source.rows), ""
    if len(rows) > MOST_CLASSES:
        words = f"The {MOST_CLASSES} of {len(rows):,} classes with the lowest {_SHARE_NAMES[key]}."
        rows = sorted(rows, key=lambda row: 2.0 if row.get(key) is None else float(row[key]))[:MOST_CLASSES]
    for row in rows:
        ends = row.get("recall_low"), row.get("recall_high")
        row["bar"] = share_bar(row.get(key), ends if None not in ends else None)  # type: ignore[arg-type]
    columns = _with_bar(source.columns, key)
    caption = "Figures per class" + (", with the 95% interval of recall" if task == "classification" else "")
    content = [element("p", words, class_="note") if words else None, table(Table(columns, rows), caption)]
    return Section(facts.id("classes"), "Classes", content)


def _with_bar(columns: Sequence[Column], key: str) -> tuple[Column, ...]:
    place = next(i for i, column in enumerate(columns) if column.key == key) + 1
    return (*columns[:place], Column("bar", "chart"), *columns[place:])


def detection_section(facts: RunFacts) -> Section | None:
    """Precision and recall per class and errors by kind, for a detector; None for other tasks."""
    if not isinstance(facts.result, DetectionResult):
        return None
    curves = [
        Line(
            f"{row.name} (AP50 {percent(row.ap50 or 0.0)})", list(zip(RECALLS.tolist(), row.precision, strict=True)), i
        )
        for i, row in enumerate(facts.result.per_class[:8])
        if row.precision
    ]
    limits = (0.0, 1.0)
    whole = "{:.0%}".format
    chart = line_chart("Precision by recall, at an IoU of 0.5", curves, "recall", whole, None, limits, limits, whole)
    more = len(facts.result.per_class) - 8
    cap = (
        element("p", f"The curves of the first 8 classes; {more:,} more are left out.", class_="note")
        if more > 0
        else None
    )
    return Section(
        facts.id("precision"),
        "Precision and errors",
        [cap, element("div", chart, _errors(facts.result), class_="charts")],
    )


def _errors(result: DetectionResult) -> Html:
    errors = result.errors
    counts = {name: getattr(errors, name) for name in ERROR_TITLES}
    most = max(1, *counts.values(), errors.hits)
    rows = [
        {
            "kind": "correct",
            "n": errors.hits,
            "what": "detections that hit an object",
            "bar": share_bar(errors.hits / most, color=2),
        }
    ]
    for name in sorted(counts, key=lambda one: -counts[one]):
        title, words = ERROR_TITLES[name]
        rows.append({"kind": title, "n": counts[name], "what": words, "bar": share_bar(counts[name] / most, color=1)})
    columns = (
        Column("kind", "kind"),
        Column("n", "number", number=True),
        Column("bar", "chart"),
        Column("what", "meaning", wraps=True),
    )
    caption = f"Detections with a score of at least {errors.score:.2f}, where F1 is highest"
    caption = caption if errors.hits else NOTHING_CORRECT.capitalize()
    return element("div", table(Table(columns, rows), caption))
