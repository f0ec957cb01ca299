"""Plots of training and evaluation: learning curves, confusion matrix, precision-recall and robustness curves.

Drawn with matplotlib's objects (no pyplot), so that no display is needed and no global state is changed.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_cli.errors import CnnError, enumerated
from cnn_cli.files import write_bytes
from cnn_cli.pictures.fonts import HINT, families, is_drawable
from cnn_cli.pictures.image import INK, PANEL, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Formatter

_DPI = 160
_SMALLEST = 5.0  # points: smaller digits are illegible
SERIES = (("train", "training", "#2166ac"), ("val", "validation", "#d6604d"), ("test", "test", "#4d9221"))

# Overrides matplotlib's defaults, so that a user's own matplotlibrc does not change the pictures.
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a class may be named $x$, which is not a formula
    "axes.edgecolor": PANEL,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": SOFT,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": PANEL,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.labelcolor": SOFT,
}


@contextmanager
def saved_figure(path: Path, width: float, height: float, title: str, words: Sequence[str] = ()) -> Iterator["Figure"]:
    """Context manager with a figure (size in inches), which is written atomically on exit: PNG, SVG or PDF by its
    suffix.

    words: names that may be in any script.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = {"font.family": families([title, *words])}
    with style.context(["default", STYLE, chosen]), warnings.catch_warnings():
        # A title may be in a script that no installed font has.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        weight = "bold" if len(families([title])) == 1 else "normal"  # matplotlib warns if a font has no bold
        figure.suptitle(_one_line(title), x=0.01, horizontalalignment="left", fontsize=14, fontweight=weight)
        yield figure
        _arrange(figure)
        buffer, box = BytesIO(), figure.get_tightbbox().padded(0.3)
        figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=_DPI, bbox_inches=box)
    write_bytes(path, buffer.getvalue())


def _arrange(figure: "Figure") -> None:
    """Compute the layout once: savefig() would do so again, and draw everything for it."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine(None)


def learning_curves(
    history: Sequence[Mapping[str, Any]],
    path: Path,
    title: str,
    metric: str = "accuracy",
    best_epoch: float | None = None,
    training_only: Sequence[str] = (),
    metric_title: str = "",
) -> None:
    """Loss, metric (a fraction, shown in percent) and learning rate over the epochs, a line per measured split.

    `history` holds the rows of metrics.jsonl: `epoch`, `train_loss`, `train_accuracy`, `val_loss`, …, `lr`; values that
    are None, missing or not finite are skipped. `best_epoch` is marked. `training_only` names the terms that only the
    training loss has (`mixup`): then it is dashed, beside `train_plain_loss`, which is comparable. CnnError if no epoch
    was finished or the file cannot be written.
    """
    if not history:
        raise CnnError("no epoch was finished, so there are no learning curves to draw")
    rates = [line["lr"] for line in history if "lr" in line]
    with saved_figure(path, 12 if rates else 10, 5.2 if training_only else 4.4, title) as figure:
        axes = figure.subplots(1, 3 if rates else 2, width_ratios=[3, 3, 2] if rates else None)
        _curves(axes[0], history, "loss", best_epoch, training_only)
        _curves(axes[1], history, metric, best_epoch)
        axes[1].set_title(metric_title or metric)
        if rates:
            epochs = [line["epoch"] for line in history]
            _curve(axes[2], epochs, rates, SOFT)
            axes[2].set_title("learning rate")
            axes[2].set_ylim(0, 1.08 * max(rates) or 1)
            epoch_axis(axes[2], epochs)


def _curves(
    axes: "Axes",
    history: Sequence[Mapping[str, Any]],
    measure: str,
    best_epoch: float | None,
    training_only: Sequence[str] = (),
) -> None:
    epochs, values = [line["epoch"] for line in history], []
    for key, name, color, dash in _series(measure, training_only):
        curve = [finite(line.get(key)) for line in history]
        if points := [v for v in curve if not math.isnan(v)]:
            _curve(axes, epochs, curve, color, name, dash)
        values += points
    axes.set_title(measure)
    epoch_axis(axes, epochs)
    if best_epoch is not None and len(epochs) > 1:
        axes.axvline(best_epoch, color=SOFT, linewidth=1, linestyle=":", label=f"best epoch ({best_epoch:g})")
    if measure != "loss":
        axes.yaxis.set_major_formatter(percent_format())
        low, high = (0.0, 1.0) if len(epochs) == 1 else axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 1 + 0.02 * (1 - low)))  # no tick above 100%
    elif len(epochs) == 1:
        axes.set_ylim(0, 1.15 * max(values, default=0) or 1)
    elif values and min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's default is a formula, which is not parsed here
        axes.yaxis.set_minor_formatter("")
        axes.set_title("loss (logarithmic)")
    if values and training_only:  # long names would cover the curves
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15), borderaxespad=0)
    elif values:
        axes.legend()


def _series(measure: str, training_only: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """The curves of a measure: key in the history, label, color and line style."""
    if measure == "loss" and training_only:
        yield "train_loss", f"training (with {enumerated(training_only)})", SERIES[0][2], "--"
        yield "train_plain_loss", f"training (without {'it' if len(training_only) == 1 else 'them'})", SERIES[0][2], "-"
    for split, name, color in SERIES[bool(measure == "loss" and training_only) :]:
        yield f"{split}_{measure}", name, color, "-"


def _curve(
    axes: "Axes", epochs: Sequence[float], values: Sequence[float], color: str, label: str = "", dash: str = "-"
) -> None:
    marker = "o" if sum(map(math.isfinite, values)) <= 20 else ""  # without a marker a single epoch would be invisible
    fill = color if dash == "-" else "white"
    look: dict[str, Any] = {
        "linewidth": 1.8,
        "marker": marker,
        "markersize": 4,
        "markerfacecolor": fill,
        "clip_on": len(values) > 1,
        "zorder": 3,  # above the axes' lines
    }
    axes.plot(epochs, values, dash, color=color, label=label, **look)


def epoch_axis(axes: "Axes", epochs: Sequence[float]) -> None:
    """Ticks at whole epochs, and at the last epoch if it is fractional."""
    from matplotlib.ticker import MaxNLocator

    first, last = epochs[0], epochs[-1]
    ticks = [t for t in MaxNLocator(integer=True, min_n_ticks=1).tick_values(first, last) if first <= t <= last]
    if last % 1:
        ticks = [t for t in ticks if last - t > 0.08 * (last - first)] + [last]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    if first == last:
        axes.set_xlim(first - 0.5, first + 0.5)
    axes.set_xlabel("epoch")
    axes.grid(axis="y")


def finite(value: float | None) -> float:
    """A float, or NaN, which is not drawn, for a value that is not finite."""
    return math.nan if value is None or not math.isfinite(value) else float(value)


def confusion_picture(
    matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: Path, title: str, shares: bool = False
) -> None:
    """A (K, K) matrix of counts, rows = true class, columns = predicted class.

    The shade is the fraction of the row, so that rare classes count as much as common ones; counts, or `shares`, are
    written in the cells if they fit. A class whose name no installed font can show is shown by its number. CnnError if
    the file cannot be written.
    """
    import numpy as np

    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # a class without images stays white
    classes = len(class_names)
    side = min(max(0.5 * classes, 4.0), 10.0)
    with saved_figure(path, side + 2.6, side + 1.8, title, class_names) as figure:
        axes = figure.subplots()
        shade = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        _name_classes(axes, class_names)
        bar = figure.colorbar(shade, shrink=0.5, aspect=24, format=percent_format())
        bar.set_label(f"share of the true class{', in %' if shares else ''}")
        bar.outline.set_visible(False)
        _arrange(figure)  # the cell size depends on the layout
        cell = axes.get_window_extent().width / classes * 72 / figure.dpi
        longest = 5 if shares else len(str(counts.max()))
        size = min(cell / (0.66 * longest), cell / 1.8, 14)  # a digit is 0.64 of the size wide
        for row, column in np.argwhere(share >= 0.0005 if shares else counts > 0) if size >= _SMALLEST else ():
            ink = "white" if share[row, column] > 0.5 else INK
            text = f"{100 * share[row, column]:.1f}" if shares else str(counts[row, column])
            words = axes.text(column, row, text, color=ink, ha="center", va="center", fontsize=size)
            words.set_in_layout(False)  # the layout of the cells is done, and measuring every text is slow


def _name_classes(axes: "Axes", class_names: Sequence[str]) -> None:
    """Label both axes; beyond 50 classes only at regular intervals."""
    ticks = range(0, len(class_names), math.ceil(len(class_names) / 50))
    hidden = {name for name in class_names if not is_drawable(name)}
    shown = shortened([str(i) if name in hidden else name for i, name in enumerate(class_names)])
    names = [shown[i] for i in ticks]
    if hidden:
        axes.set_title(f"classes shown by number: {HINT}", fontsize=7)
    size = 10 if len(class_names) <= 20 else 7
    if len(names) > 20:
        axes.set_xticks(ticks, names, fontsize=size, rotation=90)
    elif max(map(len, names)) > 3:
        axes.set_xticks(ticks, names, fontsize=size, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(ticks, names, fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


def percent_format() -> "Formatter":
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda share, _: f"{100 * share:.4g}%")  # 94%, but 81.25% where ticks are that close


def shortened(names: Sequence[str], most: int = 24) -> list[str]:
    """Names of at most `most` characters, cut in the middle; names that would become equal begin with their number.

    >>> shortened(["a long name, first", "a long name, last", "short"], 9)
    ['a lo…irst', 'a lo…last', 'short']
    """
    cut = [_cut_middle(name, most) for name in names]
    same = {name for name, count in Counter(cut).items() if count > 1}
    return [_cut_middle(f"{i}: {names[i]}", most) if name in same else name for i, name in enumerate(cut)]


def _cut_middle(text: str, most: int) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)
    tail = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def _one_line(text: str) -> str:
    """One printable line of at most 80 characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= 80 else text[:79] + "…"


def precision_recall_picture(
    recalls: Sequence[float],
    curves: Mapping[str, tuple[Sequence[float], float]],
    path: Path,
    title: str,
) -> None:
    """Precision-recall curves, one per class, labeled with name and average precision, the best first.

    CnnError if the file cannot be written.
    """
    from matplotlib import colormaps

    names = sorted(curves, key=lambda name: -curves[name][1])
    with saved_figure(path, 7.5, 5, title, names) as figure:
        axes = figure.subplots()
        for n, (name, label) in enumerate(zip(names, shortened(names), strict=True)):
            color = colormaps["tab20" if len(names) > 10 else "tab10"](n % 20)
            precision, ap = curves[name]
            axes.plot(recalls, precision, color=color, linewidth=1.8, label=f"{label} {100 * ap:.1f}%")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(percent_format())
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_title("at an IoU of 0.5")
        axes.grid()
        if names:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=10 if len(names) <= 20 else 6)


def robustness_curve(
    rows: Sequence[Mapping[str, Any]], path: Path, title: str, attack: str, target: str | None = None
) -> None:
    """Accuracy (and, with a target class, the success rate `taken`) against `epsilon`, for pixels in [0, 1].

    `attack` describes the attack. CnnError if the file cannot be written.
    """
    epsilons = [row["epsilon"] for row in rows]
    curves = {"accuracy": [row["accuracy"] for row in rows]}
    if target is not None:
        curves[f"predicted as {target}"] = [finite(row["taken"]) for row in rows]
    with saved_figure(path, 7, 4.4, title) as figure:
        axes = figure.subplots()
        for (label, values), (_, _, color) in zip(curves.items(), SERIES, strict=False):
            axes.plot(epsilons, values, "o-", clip_on=False, zorder=3, color=color, label=label, linewidth=1.8)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, max(epsilons) * 1.02 or 1)
        axes.yaxis.set_major_formatter(percent_format())
        axes.set_title(attack)
        axes.set_xlabel("epsilon, for pixels in [0, 1]")
        axes.grid()
        if target is None:
            axes.set_ylabel("accuracy")
        else:
            axes.legend()
