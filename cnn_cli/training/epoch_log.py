"""The printed training log: one line per epoch and, on a terminal, a progress bar."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cnn_cli.checkpoints.run_folder import LogRow
from cnn_cli.colors import BOLD, GREEN, colored
from cnn_cli.tables import metric_title

if TYPE_CHECKING:
    import rich.progress

_SLOW_EPOCH = 2  # seconds; the throughput of shorter epochs is mostly noise
_INTERVAL = 0.25  # seconds between updates of the bar, each of which waits for the device


class Progress:
    """The lines go to stderr. `total` and `done` are images, over all epochs; `evaluated` is the split, `metric` the
    task's metric. Only the main process prints."""

    def __init__(
        self, epochs: float, total: int, done: int, evaluated: str, metric: str = "accuracy", is_main: bool = True
    ) -> None:
        self.is_main, self.metric = is_main, metric
        self.epochs, self.total, self.done, self.evaluated = epochs, total, done, evaluated
        self.start, self.start_done, self.shown = time.monotonic(), done, 0.0
        self.bar: rich.progress.Progress | None = None

    def __enter__(self) -> Self:
        self.line(colored(header(self.epochs, self.evaluated, self.metric), BOLD, sys.stderr))
        if self.is_main and sys.stderr.isatty():
            self.bar = _bar()
            self.task = self.bar.add_task("", total=self.total, completed=self.done, facts=" " * 50)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, images: int) -> bool:
        """Count a step; True when it is time to show()."""
        self.done += images
        now = time.monotonic()
        if self.bar is None or now - self.shown < _INTERVAL:
            return False
        self.shown = now
        return True

    def show(self, epoch: int, loss: float, score: float | None, speed: float) -> None:
        """Move the bar."""
        known = "" if score is None else f"{score:6.2%}  "
        self._move(epoch, f"loss {loss:.4f}  {known}{speed:,.0f} images/s  {self._left()} left")

    def evaluating(self, epoch: int) -> None:
        """Show that the epoch is trained and is being evaluated."""
        self._move(epoch, "evaluating")

    def line(self, text: str) -> None:
        """A permanent line, above the bar."""
        if self.bar:
            self.bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        elif self.is_main:
            print(text, file=sys.stderr, flush=True)

    def row(self, row: LogRow, earlier: Sequence[LogRow] = ()) -> None:
        """The permanent line of an epoch, with its score in color if it is the best so far."""
        key = f"{self.evaluated}_{self.metric}"
        best = bool(earlier) and all((row.get(key) or 0) > (before.get(key) or 0) for before in earlier)
        self.line(epoch_line(row, self.epochs, self.evaluated, self.metric, GREEN if best else ""))

    def slowdown(self, history: Sequence[LogRow]) -> None:
        """Print a note if the throughput of the last epoch is the first below a third of the maximum."""
        rates = [row["images_per_second"] for row in history]
        slow = [rate < max(rates) / 3 for rate in rates]
        if len(rates) > 1 and slow[-1] and not slow[-2] and history[-1]["seconds"] > _SLOW_EPOCH:
            self.line(
                f"throughput fell from {max(rates):,.0f} to {rates[-1]:,.0f} images/s: the machine seems busy "
                "with other programs; fewer --threads may help"
            )

    def _move(self, epoch: int, facts: str) -> None:
        if self.bar:
            where = f"epoch {min(epoch, self.epochs):g}/{self.epochs:g}"
            self.bar.update(self.task, description=where, completed=self.done, facts=f"{facts:<50}", refresh=True)

    def _left(self) -> str:
        speed = (self.done - self.start_done) / max(1e-9, time.monotonic() - self.start)
        return clock((self.total - self.done) / speed) if speed else "?"


def header(epochs: float, evaluated: str, metric: str = "accuracy") -> str:
    """The titles of the epochs' lines. `evaluated` is val, test or nothing."""
    title = metric_title(metric)
    split = f"  {evaluated:>5} loss  {title:>8}" if evaluated else ""
    epoch = f"{'epoch':>{sum(_widths(epochs)) + 1}}"
    seconds = f"{'time':>{_time_width(epochs)}}"
    return f"{epoch}  {'train loss':>10}  {title:>8}{split}  {'lr':>8}  {'images/s':>8}  {seconds}"


def epoch_line(row: LogRow, epochs: float, evaluated: str, metric: str = "accuracy", color: str = "") -> str:
    """A row of metrics.jsonl as a printed line of 80 columns; `color` is that of the evaluated metrics."""
    split = f"{_number(row[f'{evaluated}_loss']):>10}  {row[f'{evaluated}_{metric}']:>8.2%}" if evaluated else ""
    split = f"  {colored(split, color, sys.stderr) if color else split}" if split else ""
    score = row[f"train_{metric}"]
    left, right = _widths(epochs)
    train = f"{_number(row['train_loss']):>10}  {'–' if score is None else f'{score:.2%}':>8}"
    return (
        f"{row['epoch']:>{left}g}/{epochs:<{right}g}  {train}{split}"
        f"  {row['lr']:>8.3g}  {row['images_per_second']:>8,.0f}  {clock(row['seconds']):>{_time_width(epochs)}}"
    )


def _widths(epochs: float) -> tuple[int, int]:
    """Columns before and after the `/` of `10/20`."""
    digits = len(f"{epochs:g}")
    return max(6 - max(2, digits), digits), max(2, digits)


def _time_width(epochs: float) -> int:
    """Columns of the time: less where the epochs take more than usual."""
    return max(5, 13 - sum(_widths(epochs)))


def clock(seconds: float) -> str:
    """`7.1s`, `12:40`, `3:05:00`."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"


def _bar() -> "rich.progress.Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(None),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    # No refresh thread, which could hold a lock while data-loading workers are forked: the loop moves the bar itself.
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True, expand=True)
