"""Charts as inline SVG, each with its data as a table: lines, intervals, and bars of shares."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnn_cli.pictures.html import Html, element, folded, join, table
from cnn_cli.tables import Column, Table, counted

_WIDTH, _HEIGHT = 440.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 428.0, 12.0, 222.0  # px of the plot area
_COLORS = 8  # --s0 to --s7 in html.css
Show = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """A curve: its name, its (x, y) points (missing values are skipped), and the index of its color."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    dashed: bool = False

    @property
    def ink(self) -> str:
        return f"var(--s{self.color % _COLORS})"


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis: values from `low` to `high` are placed from `start` to `end`, in px."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    is_whole: bool = False  # ticks only at integers
    only: float | None = None  # the only tick

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.is_log else (self.low, self.high, value)
        )
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About five round values; powers of ten on a logarithmic axis."""
        if self.only is not None:
            return [self.only]
        if self.is_log:
            exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**e for e in exponents]
        rough = max((self.high - self.low) / 5, float(self.is_whole))
        power = 10 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_title: str,
    show: Show = "{:.3g}".format,
    mark: tuple[float, str] | None = None,
    limits: tuple[float, float] | None = None,
    x_limits: tuple[float, float] | None = None,
    x_show: Show = "{:g}".format,
) -> Html:
    """Curves over a common x axis. `mark` labels a value of x; `limits` are those of y."""
    lines = [line for line in lines if line.points]
    xs = [x for line in lines for x, _ in line.points]
    if not xs:
        return element("p", f"{title}: no finite values.", class_="soft")
    whole = not x_limits and all(float(x).is_integer() for x in xs)
    only = xs[0] if len(set(xs)) == 1 and not x_limits else None
    x_axis = Axis(*_widened(*(x_limits or (min(xs), max(xs))), 0.0), _LEFT, _RIGHT, is_whole=whole, only=only)
    if only is not None and not limits and (highest := max(y for line in lines for _, y in line.points)) > 0:
        limits = 0.0, 1.15 * highest
    y_axis = _vertical(lines, limits)
    parts = [_grid(x_axis, y_axis, x_title, show, x_show)]
    if mark:
        x = x_axis(mark[0])
        parts.append(_line(x, _TOP, x, _BOTTOM, "mark"))
    parts += [_curve(line, x_axis, y_axis, show, x_show) for line in lines]
    named = [*lines, *([Line(mark[1], (), 7, True)] if mark else [])]
    return _figure(title, parts, _legend(named), _data(lines, x_title, show, x_show))


def _vertical(lines: Sequence[Line], limits: tuple[float, float] | None) -> Axis:
    ys = [y for line in lines for _, y in line.points]
    low, high = min(ys), max(ys)
    if limits:
        return Axis(*limits, _BOTTOM, _TOP)
    if low > 0 and high > 100 * low:
        return Axis(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)), _BOTTOM, _TOP, True)
    return Axis(*_widened(low, high, 0.06), _BOTTOM, _TOP)


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    """The limits with a margin: never equal, and not below 0 unless there are negative values."""
    room = (high - low) * share if high > low else abs(high) * 0.1 or 1.0
    if not share and high == low:
        room = max(room, 0.5)
    return (max(0.0, low - room) if low >= 0 and share else low - room), high + room


def _grid(x_axis: Axis, y_axis: Axis, x_title: str, show: Show, x_show: Show) -> Html:
    parts = []
    for value in y_axis.ticks():
        y = y_axis(value)
        parts += [_line(_LEFT, y, _RIGHT, y, "grid"), _text(_LEFT - 7, y + 4, show(value), "end")]
    for value in x_axis.ticks():
        parts.append(_text(x_axis(value), _BOTTOM + 18, x_show(value), "middle"))
    parts.append(_line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"))
    return join(parts, _text((_LEFT + _RIGHT) / 2, _HEIGHT - 4, x_title, "middle"))


def _curve(line: Line, x_axis: Axis, y_axis: Axis, show: Show, x_show: Show) -> Html:
    points = [(x_axis(x), y_axis(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:g},{y:g}" for x, y in points)
    drawn = element("path", d=path, class_="line dashed" if line.dashed else "line", style=f"stroke:{line.ink}")
    if len(points) > 30:
        return drawn
    dots = [
        element("circle", element("title", f"{line.name}, {x_show(x)}: {show(y)}"), cx=px, cy=py, r=3, fill=line.ink)
        for (px, py), (x, y) in zip(points, line.points, strict=True)
    ]
    return join(drawn, dots)


def _legend(lines: Sequence[Line]) -> Html:
    swatches = [
        (
            element(
                "svg",
                element("path", d="M1 5H21", class_=f"line{' dashed' * line.dashed}", style=f"stroke:{line.ink}"),
                viewBox="0 0 22 10",
                aria_hidden="true",
            ),
            line.name,
        )
        for line in lines
    ]
    return element("ul", (element("li", swatch) for swatch in swatches), class_="legend")


def _data(lines: Sequence[Line], x_title: str, show: Show, x_show: Show) -> Table:
    columns = (
        Column("x", x_title, number=True, show=x_show),
        *(Column(str(i), line.name, number=True, show=show) for i, line in enumerate(lines)),
    )
    values = [dict(line.points) for line in lines]
    xs = sorted({x for line in lines for x, _ in line.points})
    return Table(columns, [{"x": x, **{str(i): own.get(x) for i, own in enumerate(values)}} for x in xs])


def _figure(title: str, parts: Sequence[Html], legend: Html | None, data: Table, height: float = _HEIGHT) -> Html:
    box = f"0 0 {_WIDTH:g} {height:g}"
    drawing = element("svg", parts, viewBox=box, role="img", aria_label=f"{title}; the data are in the table below")
    caption = element("figcaption", element("strong", title), legend)
    return element("figure", caption, drawing, folded("Data", table(data, title)), class_="chart")


def _line(x0: float, y0: float, x1: float, y1: float, kind: str) -> Html:
    return element("line", x1=f"{x0:g}", y1=f"{y0:g}", x2=f"{x1:g}", y2=f"{y1:g}", class_=kind)


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return element("text", text, x=f"{x:g}", y=f"{y:g}", text_anchor=anchor)


def reliability_chart(title: str, rows: Sequence[Mapping[str, Any]], show: Show) -> Html:
    """A reliability diagram of bins (`low`, `high`, `n`, `confidence`, `accuracy`): bars of accuracy against the
    diagonal of perfect calibration, and the share of images in each bin below."""
    full, total = [row for row in rows if row["n"]], sum(row["n"] for row in rows) or 1
    x_axis, y_axis = Axis(0, 1, _LEFT, _RIGHT), Axis(0, 1, _BOTTOM, _TOP)
    parts = [_grid(x_axis, y_axis, "confidence: probability of the predicted class", "{:.0%}".format, "{:.0%}".format)]
    for row in full:
        x, y = x_axis(row["low"]) + 1, y_axis(row["accuracy"])
        width = x_axis(row["high"]) - x - 1
        words = f"confidence {show(row['confidence'])}, accuracy {show(row['accuracy'])}, {counted(row['n'], 'image')}"
        opacity = 0.35 + 0.65 * row["n"] / max(r["n"] for r in full)
        bar = element(
            "rect",
            element("title", words),
            x=f"{x:.1f}",
            y=y,
            width=f"{width:.1f}",
            height=f"{_BOTTOM - y:.1f}",
            style=f"fill:var(--s0);fill-opacity:{opacity:.2f}",
        )
        parts += [bar, element("circle", cx=x_axis(row["confidence"]), cy=y, r=3.5, style="fill:var(--s1)")]
    parts.append(_line(x_axis(0), y_axis(0), x_axis(1), y_axis(1), "mark"))
    columns = (
        Column("bin", "confidence"),
        Column("n", "images", number=True),
        Column("share", "share", number=True, show="{:.1%}".format),
        Column("confidence", "mean confidence", number=True, show=show),
        Column("accuracy", "accuracy", number=True, show=show),
    )
    data = [{**row, "bin": f"{row['low']:.1%} to {row['high']:.1%}", "share": row["n"] / total} for row in rows]
    legend = [
        Line("accuracy of a bin (darker: more images)", (), 0),
        Line("mean confidence", (), 1),
        Line("perfect calibration", (), 7, True),
    ]
    return _figure(title, parts, _legend(legend), Table(columns, data))


def difference_chart(title: str, rows: Sequence[tuple[str, float, tuple[float, float]]]) -> Html:
    """Differences (name, value, interval) in percentage points, as points on their intervals, around a line at 0."""
    show = "{:+.2f}".format
    ends = [0.0, *(end for _, _, interval in rows for end in interval)]
    low, high = min(ends), max(ends)
    room = (high - low) * 0.08 or 1e-3
    x_axis, height = Axis(low - room, high + room, _LEFT, _RIGHT), 34.0
    bottom = _TOP + height * len(rows)
    parts: list[Html] = []
    for value in x_axis.ticks():
        x = x_axis(value)
        parts += [_line(x, _TOP, x, bottom, "grid"), _text(x, bottom + 17, show(value), "middle")]
    parts.append(_line(x_axis(0), _TOP, x_axis(0), bottom, "axis"))
    for i, (name, value, (start, end)) in enumerate(rows):
        y, ink = _TOP + height * (i + 0.5), f"var(--s{(i + 1) % _COLORS})"
        words = element("title", f"{name}: {show(value)}, {show(start)} to {show(end)}")
        parts += [
            _text(_LEFT - 10, y + 4, name, "end"),
            element("line", words, x1=x_axis(start), x2=x_axis(end), y1=y, y2=y, style=f"stroke:{ink};stroke-width:3"),
            element("circle", words, cx=x_axis(value), cy=y, r=5.5, style=f"fill:{ink}"),
        ]
    parts.append(_text((_LEFT + _RIGHT) / 2, bottom + 36, "percentage points", "middle"))
    columns = (
        Column("name", ""),
        *(
            Column(k, t, number=True, show=show)
            for k, t in (("value", "percentage points"), ("low", "95% interval from"), ("high", "to"))
        ),
    )
    data = [{"name": name, "value": value, "low": ends[0], "high": ends[1]} for name, value, ends in rows]
    return _figure(title, parts, None, Table(columns, data), bottom + 42)


def share_bar(value: float | None, interval: Sequence[float] | None = None, color: int = 0) -> Html:
    """A fraction as a bar with its interval, for a table cell. The number is beside it, so screen readers skip the
    bar."""
    if value is None:
        return Html("")
    parts = [
        element("rect", width=100, height=10, rx=2, style="fill:var(--line)"),
        element("rect", width=f"{100 * value:.1f}", height=10, rx=2, style=f"fill:var(--s{color})"),
    ]
    if interval:
        low, high = (100 * end for end in interval)
        parts.append(element("path", d=f"M{low:.1f} 5H{high:.1f}M{low:.1f} 2V8M{high:.1f} 2V8", class_="whisker"))
    return element("svg", parts, viewBox="0 0 100 10", class_="bar", aria_hidden="true")
