"""Reliability diagrams: accuracy against confidence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_cli.pictures.image import PANEL, SOFT
from cnn_cli.pictures.plots import SERIES, percent_format, saved_figure


def reliability_diagram(
    diagrams: Mapping[str, Sequence[Mapping[str, Any]]],
    errors: Mapping[str, float],
    path: Path,
    title: str,
    counted: str = "images",
) -> None:
    """A diagram per entry: bins (`low`, `high`, `n`, `confidence`, `accuracy`) as bars of accuracy, above a histogram
    of its images or pixels (`counted`). `errors` are the expected calibration errors. CnnError if the file cannot be
    written."""
    with saved_figure(path, 1 + 4.6 * len(diagrams), 5.4, title) as figure:
        axes = figure.subplots(2, len(diagrams), squeeze=False, sharex=True, height_ratios=[4, 1])
        for (name, rows), above, below in zip(diagrams.items(), axes[0], axes[1], strict=True):
            full = [row for row in rows if row["n"]]
            width = rows[0]["high"] - rows[0]["low"]
            look: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 0.8}
            starts = [row["low"] for row in full]
            above.bar(starts, [row["accuracy"] for row in full], color=SERIES[0][2], label="accuracy", **look)
            above.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=":", label="perfectly calibrated")
            points = [row["confidence"] for row in full], [row["accuracy"] for row in full]
            above.plot(*points, "o", color=SERIES[1][2], markersize=4, label="mean confidence of the bin")
            heading = f"{name}: " if len(diagrams) > 1 else ""
            above.set_title(f"{heading}expected calibration error {errors[name]:.2%}")
            above.set_ylabel("accuracy")
            above.set_ylim(0, 1.02)
            total = sum(row["n"] for row in full) or 1
            below.bar(starts, [row["n"] / total for row in full], color=PANEL, **look)
            below.set_ylabel(counted)
            below.set_xlabel("confidence: probability of the predicted class")
            below.set_xlim(0, 1)
            for one in (above, below):
                one.yaxis.set_major_formatter(percent_format())
                one.xaxis.set_major_formatter(percent_format())
                one.grid(axis="y")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8)
