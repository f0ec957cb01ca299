"""Several runs: their results side by side, significance tests, curves on one plot, differing settings."""

from collections.abc import Sequence

from cnn_cli.interpret.comparison_sheet import BETTER, draw_cell
from cnn_cli.pictures.charts import difference_chart
from cnn_cli.pictures.html import Html, Section, element, embedded, table, thumbnail
from cnn_cli.report.confusion import SIDE, Album
from cnn_cli.report.curves import common_curves
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.report.run_settings import setting_rows
from cnn_cli.tables import Column, Table, TableRow, format_count, percent
from cnn_cli.tasks.uncertainty import show as show_interval
from cnn_cli.training.epoch_log import clock
from cnn_cli.training.run_comparison import Candidate, RunComparison, compare_candidates, sides

_IMAGES = 12  # images per side


def compare(runs: Sequence[RunFacts]) -> RunComparison | None:
    """The runs compared on the same images; None if one has no outcomes. UsageError for runs that are not
    comparable."""
    candidates = [
        Candidate(facts.letter, facts.name, (facts.loaded,), (facts.outcomes,)) for facts in runs if facts.outcomes
    ]
    return compare_candidates(candidates) if len(candidates) == len(runs) else None


def comparison_section(runs: Sequence[RunFacts], comparison: RunComparison | None, album: Album) -> Section:
    parts = [
        Section("verdict", "Result", [_verdicts(runs, comparison), _results(runs)]),
        *([Section("common-curves", "Learning curves", curves)] if (curves := common_curves(runs)) else []),
        Section("differing", "Settings that differ", _settings(runs)),
        *([_images(comparison, album)] if comparison else []),
    ]
    return Section("comparison", "Comparison", None, parts)


def _verdicts(runs: Sequence[RunFacts], comparison: RunComparison | None) -> list[Html]:
    if comparison is None:
        missing = ", ".join(facts.title for facts in runs if not facts.outcomes)
        words = f"There are no predictions per image for {missing}, so differences cannot be tested."
        return [element("p", words, class_="note")]
    parts, rows = [], []
    for other, d in zip(comparison.candidates[1:], comparison.differences, strict=True):
        parts.append(element("p", f"{comparison.verdict(other, d)}.", class_="verdict"))
        if d.only_a is not None:
            words = comparison.only(other, d)
            parts.append(element("p", f"{words[:1].upper()}{words[1:]}.", class_="soft"))
        low, high = d.interval
        rows.append((f"{other.letter} − {comparison.candidates[0].letter}", 100 * d.value, (100 * low, 100 * high)))
    title = f"Difference in {comparison.metric}, with its 95% interval"
    return [*parts, difference_chart(title, rows)]


def _results(runs: Sequence[RunFacts]) -> Html:
    rows: list[TableRow] = []
    for facts in runs:
        score = facts.result.score if facts.result else None
        intervals = (facts.result.document().get("intervals") or {}) if facts.result else {}
        interval = intervals.get(facts.result.metric if facts.result else "")
        rows.append(
            {
                "run": element("a", facts.title, href=f"#{facts.id('run')}"),
                "network": facts.loaded.plan.network,
                "score": score,
                "interval": show_interval(interval) if interval else None,
                "epochs": facts.run.epochs,
                "params": facts.loaded.plan.params,
                "macs": facts.loaded.plan.macs,
                "time": clock(facts.run.seconds),
                "state": facts.run.state,
            }
        )
    columns = (
        Column("run", "run"),
        Column("network", "network"),
        Column("score", runs[0].metric, number=True, show=lambda v: percent(v, 2)),
        Column("interval", "95% interval", number=True),
        Column("epochs", "epochs", number=True),
        Column("params", "parameters", number=True),
        Column("macs", "MACs", number=True, show=format_count),
        Column("time", "training time", number=True),
        Column("state", "state"),
    )
    return table(Table(columns, rows), "Runs")


def _settings(runs: Sequence[RunFacts]) -> Html:
    values = {facts.letter: {row["name"]: row["value"] for row in setting_rows(facts)} for facts in runs}
    for facts in runs:
        values[facts.letter]["network"] = facts.loaded.plan.network
    names = dict.fromkeys(["network", *(name for own in values.values() for name in own)])
    rows = [{"name": name, **{k: own.get(name) for k, own in values.items()}} for name in names]
    rows = [row for row in rows if len({row[letter] for letter in values}) > 1]
    if not rows:
        return element("p", "All settings are the same.", class_="soft")
    columns = (Column("name", "setting"), *(Column(f.letter, f.title, wraps=True) for f in runs))
    return table(Table(columns, rows), "Settings that differ")


def _images(comparison: RunComparison, album: Album) -> Section:
    """The images that only the first run or only another run gets right."""
    parts: list[Html] = []
    first = comparison.candidates[0]
    side = SIDE if comparison.metric == "accuracy" else 2 * SIDE
    for other in comparison.candidates[1:]:
        both = sides(first.outcomes[0], other.outcomes[0])
        for winner, loser, indices in zip((first, other), (other, first), both, strict=True):
            if indices:
                count = "1 image" if len(indices) == 1 else f"{len(indices):,} images"
                parts.append(element("h4", f"{BETTER[comparison.metric].format(winner.letter)}: {count}"))
                cells = [_image(winner, loser, i, side) for i in indices[:_IMAGES]]
                album.count += len(cells)
                parts.append(element("ul", cells, class_="thumbs"))
    text = parts or element("p", "The runs do not differ on any image.", class_="soft")
    return Section("only-one", "Images on which they differ", text)


def _image(winner: Candidate, loser: Candidate, index: int, side: int) -> Html:
    cell = draw_cell(winner, loser, index)
    *words, name = cell.words
    shown = embedded(thumbnail(cell.body, side), ", ".join(words))
    return element("li", shown, ((word, element("br")) for word in words), element("small", name))
