"""The network of a run as a table and a graph, and its learned filters."""

import numpy as np

from cnn_cli.analysis.summary import setup, summarize
from cnn_cli.graph.inline import inline_svg
from cnn_cli.interpret.filter_pages import draw_filters
from cnn_cli.interpret.filters import choose_convolution, convolutions, describe, filters_of, health
from cnn_cli.interpret.pictured import restored
from cnn_cli.pictures import image
from cnn_cli.pictures.html import Html, Section, element, embedded, folded, table
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tables import format_count

_COLUMNS = ("name", "layer", "output", "params", "macs", "rf")
_MOST_ROWS = 300


def network_section(facts: RunFacts) -> Section:
    plan = facts.loaded.plan
    depth = None if len(plan.layers) <= _MOST_ROWS else 2
    summary = summarize(plan, setup(plan), columns=_COLUMNS, depth=depth)
    drawing = inline_svg(plan, f"Graph of {plan.network}; the table of layers has the same information")
    graph = element("div", Html(drawing), class_="scroll", tabindex=0, role="group", aria_label="Graph of the network")
    words = f"{plan.description}. " if plan.description else ""
    words += f"{plan.params:,} parameters, {format_count(plan.macs, 'MACs')} per image."
    layers = table(summary.table(), f"Layers of {plan.network}")
    notes = element("ul", (element("li", " ".join(line.split())) for line in summary.notes() if line), class_="soft")
    parts = [element("p", words), graph, folded("Table of layers", layers, notes, is_open=len(summary.rows) <= 20)]
    return Section(facts.id("network"), "Network", parts)


def filters_section(facts: RunFacts) -> Section | None:
    """The filters of the first convolution; None without one."""
    network = restored(facts.loaded)
    if not convolutions(network):
        return None
    filters = filters_of(network, choose_convolution(network))
    drawing = draw_filters(filters, "", "")
    left, top, right, bottom = drawing.page.body
    words = describe(filters, drawing.shown)
    shown = embedded(np.asarray(drawing.page.image)[top:bottom, left:right], f"Filters: {words}", class_="filters")
    scale = image.number(drawing.scale)
    legend = "dark to bright: −" if filters.color else "blue to red: −"
    marks = str(health(filters))
    caption = f"{words}; {legend}{scale} to {scale}" + (f"; {marks}" if marks else "")
    return Section(facts.id("filters"), "Learned filters", element("figure", element("figcaption", caption), shown))
