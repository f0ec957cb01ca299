"""Learning curves and the confusion matrix: the same facts give the same picture, other facts another."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from cnn_cli.errors import CnnError
from cnn_cli.pictures import fonts, plots, run_curves
from cnn_cli.pictures.image import Array


def longest_side(path: Path) -> int:
    with Image.open(path) as picture:
        return max(picture.size)


def curves(path: Path, history: list[dict[str, float | None]]) -> bytes:
    plots.learning_curves(history, path, "a run")  # type: ignore[arg-type]
    return path.read_bytes()


def test_learning_curves_leave_out_what_was_not_measured(tmp_path: Path) -> None:
    bare: list[dict[str, float | None]] = [
        {"epoch": e, "train_loss": 1 / e, "train_accuracy": 1 - 0.5 / e} for e in (1, 2, 3)
    ]
    with_none = [line | {"val_loss": None, "val_accuracy": math.nan, "test_loss": math.inf} for line in bare]
    validated = [line | {"val_loss": 0.7, "val_accuracy": 0.6} for line in bare]
    assert curves(tmp_path / "a.png", bare) == curves(tmp_path / "b.png", with_none)
    assert curves(tmp_path / "a.png", bare) != curves(tmp_path / "c.png", validated)
    assert longest_side(tmp_path / "a.png") < 2000


def drawn(monkeypatch: pytest.MonkeyPatch, path: Path, epochs: list[float], **marks: Any) -> list[Any]:
    """The axes of learning curves over these epochs."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    subplots = Figure.subplots
    monkeypatch.setattr(Figure, "subplots", lambda self, *a, **k: (figures.append(self), subplots(self, *a, **k))[1])
    history = [
        {"epoch": e, "train_loss": 1 / e, "train_plain_loss": 0.9 / e, "train_accuracy": 0.5, "lr": 0.1 / e}
        for e in epochs
    ]
    plots.learning_curves(history, path, "a run", **marks)
    return list(figures[0].axes)


def test_curves_lie_above_the_grid_and_the_axes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.axes import Axes

    seen: list[bool] = []
    plot = Axes.plot

    def look(self: Any, *a: Any, **k: Any) -> Any:
        lines = plot(self, *a, **k)
        seen.extend(line.zorder > 2.5 for line in lines)  # that of the axes
        return lines

    monkeypatch.setattr(Axes, "plot", look)
    drawn(monkeypatch, tmp_path / "c.png", [1, 2])
    rows = [{"epsilon": e, "accuracy": 0.0} for e in (0, 0.1)]
    plots.robustness_curve(rows, tmp_path / "r.png", "a run", "PGD")
    assert len(seen) > 3 and all(seen)


@pytest.mark.parametrize(
    ("epochs", "ticks"), [([1, 2, 2.5], ["1", "2", "2.5"]), ([1, 2, 3], ["1", "2", "3"]), ([0.5], ["0.5"])]
)
def test_every_epoch_axis_ends_at_the_last_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, epochs: list[float], ticks: list[str]
) -> None:
    for axes in drawn(monkeypatch, tmp_path / "c.png", epochs):
        assert [label.get_text() for label in axes.get_xticklabels()] == ticks


def test_curves_mark_the_best_epoch_another_training_loss_and_the_learning_rate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loss, accuracy, rate = drawn(monkeypatch, tmp_path / "c.png", [1, 2, 3], best_epoch=2, training_only=["mixup"])
    names = ["training (with mixup)", "training (without it)", "best epoch (2)"]
    assert [t.get_text() for t in loss.get_legend().get_texts()] == names
    assert loss.lines[1].get_ydata().tolist() == [0.9, 0.45, 0.3]
    assert loss.get_legend().get_window_extent().y1 < loss.get_window_extent().y0  # not over the curves
    assert [t.get_text() for t in accuracy.get_legend().get_texts()] == ["training", "best epoch (2)"]
    assert rate.get_title("left") == "learning rate"
    assert rate.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.05, 0.1 / 3])


def test_a_single_epoch_has_axes_from_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loss, accuracy, _ = drawn(monkeypatch, tmp_path / "c.png", [1])
    assert loss.get_ylim() == pytest.approx((0, 1.15)) and accuracy.get_ylim() == (0, 1)


def test_a_logarithmic_axis_has_plain_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loss, *_ = drawn(monkeypatch, tmp_path / "c.png", [1, 10, 1000])
    labels = [label.get_text() for label in loss.get_yticklabels(which="both")]
    assert "0.01" in labels and not any("$" in label for label in labels)


def test_curves_of_several_runs_compare_the_loss_that_evaluation_computes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    figures: list[Any] = []
    subplots = Figure.subplots
    monkeypatch.setattr(Figure, "subplots", lambda self, *a, **k: (figures.append(self), subplots(self, *a, **k))[1])
    plain = {"epoch": 0.5, "train_loss": 2.0, "train_accuracy": 0.5}
    runs = {"A": [[plain]], "B": [[plain | {"train_loss": 9.0, "train_plain_loss": 1.0}]]}
    run_curves.draw_curves(runs, "accuracy", tmp_path / "c.png")
    loss, accuracy = figures[0].axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[2.0], [1.0]]
    assert loss.get_title("left") == "training loss, as in evaluation"
    assert loss.get_ylim() == pytest.approx((0, 2.3)) and accuracy.get_ylim() == (0, 1.02)
    assert [label.get_text() for label in loss.get_xticklabels()] == ["0.5"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_plots_are_written_as_their_name_says(suffix: str, tmp_path: Path) -> None:
    magic = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert curves(tmp_path / f"c{suffix}", [{"epoch": 1, "train_loss": 1e6, "val_loss": 1.0}]).startswith(magic)


def test_no_epoch_has_no_curves(tmp_path: Path) -> None:
    with pytest.raises(CnnError, match="no epoch was finished, so there are no learning curves to draw"):
        curves(tmp_path / "c.png", [])
    assert list(tmp_path.iterdir()) == []


def confusion(path: Path, matrix: Array, names: list[str] | None = None) -> bytes:
    plots.confusion_picture(matrix.tolist(), names or [f"class {i}" for i in range(len(matrix))], path, "a run, test")
    return path.read_bytes()


def test_the_shades_of_a_confusion_matrix_are_shares_of_the_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from matplotlib.axes import Axes

    monkeypatch.setattr(Axes, "text", lambda *a, **k: Text())  # the counts
    matrix = np.random.default_rng(0).integers(0, 9, (5, 5))
    assert confusion(tmp_path / "a.png", matrix) == confusion(tmp_path / "b.png", matrix * np.arange(1, 6)[:, None])
    assert confusion(tmp_path / "a.png", matrix) != confusion(tmp_path / "c.png", matrix.T)


@pytest.mark.parametrize(("classes", "count", "fit"), [(25, 999, True), (60, 99999, False)])
def test_counts_stand_in_the_cells_where_they_fit(
    classes: int, count: int, fit: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from matplotlib.axes import Axes

    written: list[str] = []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **k: (written.append(text), Text())[1])
    confusion(tmp_path / "m.png", np.full((classes, classes), count))
    assert written == [str(count)] * (classes**2 if fit else 0)


def test_long_names_of_classes_stay_different() -> None:
    names = [f"a_long_common_beginning_{i}" for i in range(30)]
    assert len(set(plots.shortened(names, 12))) == 30
    both_ends = [f"a_long_common_beginning_{i}_and_a_common_end" for i in range(30)]
    shown = plots.shortened(both_ends, 12)
    assert len(set(shown)) == 30 and shown[7] == "7: a_l…n_end" and max(map(len, shown)) == 12


def test_class_names_take_a_font_that_has_them_or_become_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from matplotlib.axes import Axes

    shown: list[list[str]] = []
    monkeypatch.setattr(Axes, "set_yticks", lambda self, ticks, names, **k: shown.append(names))
    of_matplotlib = {name: path for name, path in fonts._files().items() if name in ("DejaVu Sans", "STIXGeneral")}
    monkeypatch.setattr(fonts, "_files", lambda: of_matplotlib)
    confusion(tmp_path / "m.png", np.eye(3, dtype=int), ["кот", "\u24b6", "猫"])
    assert shown == [["кот", "\u24b6", "2"]]
    assert fonts.families(["кот"]) == ["DejaVu Sans"]
    assert fonts.families(["a circled \u24b6"]) == ["DejaVu Sans", "STIXGeneral"]
    assert fonts.is_drawable("a \u24b6") and not fonts.is_drawable("猫")


@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_a_confusion_matrix_has_bounded_size(classes: int, tmp_path: Path) -> None:
    confusion(tmp_path / "m.png", np.zeros((classes, classes), int), [f"$class_{i}$ 日\n" * 9 for i in range(classes)])
    assert 600 < longest_side(tmp_path / "m.png") < 3000


def test_a_users_own_matplotlib_settings_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    matrix = np.eye(3, dtype=int)
    plain = confusion(tmp_path / "a.png", matrix)
    with matplotlib.rc_context({"axes.titlesize": 40, "figure.facecolor": "red", "font.size": 30}):
        assert confusion(tmp_path / "b.png", matrix) == plain
