"""Learning curves of several runs on one plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_cli.pictures.plots import epoch_axis, finite, percent_format, saved_figure

_COLORS = ("#2166ac", "#d6604d", "#4d9221", "#762a83", "#b8860b", "#01665e", "#5f6c7b")
_SPLITS = {"val": "validation", "test": "test", "train": "training"}


def draw_curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], metric: str, path: Path) -> None:
    """Loss and metric over the epochs, on the first split that all runs measured, a color per name. Training losses are
    computed as in evaluation, so that runs are comparable.

    histories: name → the rows of metrics.jsonl of each seed. metric: a name such as `mIoU`, whose key is in lower case.
    CnnError if the file cannot be written.
    """
    lines = [line for runs in histories.values() for history in runs for line in history[:1]]
    split = next((s for s in _SPLITS if all(line.get(f"{s}_{metric.lower()}") is not None for line in lines)), "train")
    all_epochs = sorted({line["epoch"] for runs in histories.values() for history in runs for line in history})
    plain = ", as in evaluation" if split == "train" and any("train_plain_loss" in line for line in lines) else ""
    with saved_figure(path, 10, 4.4, "learning curves", list(histories)) as figure:
        axes = figure.subplots(1, 2)
        for one, measure in zip(axes, ("loss", metric), strict=True):
            for number, (name, runs) in enumerate(histories.items()):
                color = _COLORS[number % len(_COLORS)]
                for seed, history in enumerate(runs):
                    epochs = [line["epoch"] for line in history]
                    values = [_value(line, split, measure) for line in history]
                    marker = "o" if len(epochs) <= 20 else ""
                    label = name if not seed else None
                    one.plot(epochs, values, marker=marker, markersize=4, linewidth=1.6, color=color, label=label)
            one.set_title(f"{_SPLITS[split]} {measure}{plain if measure == 'loss' else ''}")
            epoch_axis(one, all_epochs)
            if len(all_epochs) == 1:
                one.set_ylim(0, 1.02 if measure != "loss" else 1.15 * one.dataLim.ymax or 1)
            one.legend()
        axes[1].yaxis.set_major_formatter(percent_format())


def _value(line: Mapping[str, Any], split: str, measure: str) -> float:
    value = line.get(f"{split}_{measure.lower()}")
    return finite(line.get("train_plain_loss", value) if (split, measure) == ("train", "loss") else value)
