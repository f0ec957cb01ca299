"""Commands that count and explain: summary, shapes, diff. Only --time and --verify load torch."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cnn_cli.cli import options
from cnn_cli.cli.app import app
from cnn_cli.cli.options import arguments, input_size, style
from cnn_cli.cli.output import emit, emit_json, emit_result, note
from cnn_cli.errors import CnnError, UsageError

Optimizer = Annotated[
    str | None, typer.Option("--optimizer", metavar="NAME", help="For the memory estimate: sgd, adam or adamw.")
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="NAME", help="For the memory estimate: float32, float16 or bfloat16."),
]
Depth = Annotated[
    int | None, typer.Option("--depth", min=1, help="Fold what lies deeper than so many names, with subtotals.")
]


@app.command()
def summary(
    network: options.Network,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B,…", help="Columns to show, such as name,output,params,macs,rf,memory."),
    ] = None,
    depth: Depth = None,
    batch_size: options.BatchSize = None,
    optimizer: Optimizer = None,
    precision: Precision = None,
    freeze: options.Freeze = None,
    timed: Annotated[
        bool, typer.Option("--time", help="Measure each layer, forward and backward, on --device.")
    ] = False,
    device: options.Device = "auto",
    graph: Annotated[
        Path | None,
        typer.Option("--graph", metavar="FILE", help="Draw the network: .svg, .pdf, .png, .mmd or .dot."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --graph.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Build and run the network, and check every number.")
    ] = False,
    input: options.Input = None,
    set: options.Set = None,
    models: options.Models = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """Layers, shapes, parameters, MACs and memory. No weights or data are needed."""
    from cnn_cli.analysis.summary import choose_columns, setup, summarize

    form, plan = style(csv, markdown, json), drafted(network, models, set, input)
    chosen = setup(plan, batch_size, optimizer, precision, freeze)
    keys = choose_columns(columns, timed, bool(chosen.frozen))
    timing = _measure(plan.checked(), device, batch_size) if timed else None
    if graph:
        _draw(plan.checked(), graph, depth, force)
    emit_result(summarize(plan, chosen, columns=keys, depth=depth, timing=timing), form, json)
    plan.checked()
    if verify:
        _verify(plan)


def _measure(plan: Any, device: str, batch_size: int | None) -> Any:
    from cnn_cli.analysis.timing import measure_times
    from cnn_cli.device import pick

    return measure_times(plan, pick(device), batch_size or 1)


def _verify(plan: Any) -> None:
    from cnn_cli.analysis.verification import verify

    result = verify(plan)
    if result.disagreements:
        raise CnnError(f"{result.text()}; please report this")
    note(result.text())


def _draw(plan: Any, path: Path, depth: int | None, force: bool) -> None:
    from cnn_cli.graph import draw, readable_depth

    note(f"wrote {draw(plan, path, depth=depth, force=force).absolute()}")
    if depth is None and (folded := readable_depth(plan)):
        note(f"folded with --depth {folded} to be readable; another --depth shows more or less")


@app.command()
def shapes(
    network: options.Network,
    layer: Annotated[
        str | None, typer.Argument(help="With --explain: only this layer, or the layers of this group.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Where every number comes from, in words and symbols.")
    ] = False,
    valid_inputs: Annotated[
        bool, typer.Option("--valid-inputs", help="Which input sizes fit, which fit exactly, and what comes out.")
    ] = False,
    sizes: Annotated[
        str | None,
        typer.Option("--sizes", metavar="A,B,…", help="With --valid-inputs: the sizes to show, such as 28,32,48x64."),
    ] = None,
    input: options.Input = None,
    set: options.Set = None,
    models: options.Models = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """How the sizes come about. What comes into each layer, what goes out, and the arithmetic between."""
    from cnn_cli.analysis.input_sizes import find_input_sizes
    from cnn_cli.analysis.shapes import ShapeDerivation

    if (valid_inputs or sizes) and (explain or layer):
        raise UsageError("--explain and --valid-inputs are two questions; ask one of them")
    form = style(csv, markdown, json)
    plan = drafted(network, models, set, input)
    if valid_inputs or sizes:
        emit_result(find_input_sizes(plan, sizes), form, json)
    elif explain or layer:
        _explain(plan.checked(), layer, json, form)
    else:
        emit_result(ShapeDerivation(plan), form, json)
    plan.checked()


def _explain(plan: Any, layer: str | None, json: bool, form: str) -> None:
    from cnn_cli.analysis import explain as e
    from cnn_cli.analysis.summary import title
    from cnn_cli.tables import render, wrapped

    found = e.explain(plan, layer)
    lost = e.never_used(plan) if layer is None else []
    if json:
        layers = [explanation.document() for explanation in found]
        emit_json({"network": plan.network, "input": list(plan.input), "layers": layers, "never_used": lost})
    elif form != "text":
        emit(render(e.table(found), form))
    else:
        ends = [wrapped(line) for line in lost]
        emit("\n".join([title(plan), "", e.text(found), *([""] if ends else []), *ends]))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A network, as in `cnn summary`.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    batch_size: options.BatchSize = None,
    optimizer: Optimizer = None,
    precision: Precision = None,
    models: options.Models = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """Two networks side by side. Layers added, removed and changed, and what that does to the counts."""
    from cnn_cli.analysis.comparison import compare
    from cnn_cli.analysis.summary import setup

    form = style(csv, markdown, json)
    first, second = (drafted(name, models, None, None).checked() for name in (a, b))
    emit_result(compare(first, second, setup(first, batch_size, optimizer, precision)), form, json)


def drafted(network: str, models: list[Path] | None, set: list[str] | None, input: str | None) -> Any:
    """The plan with its mistakes, of a name or a file; or the one in a run folder or checkpoint."""
    from cnn_cli.checkpoints.header import is_stored, stored_plan
    from cnn_cli.language.registry import draft

    if is_stored(network):
        return stored_plan(network, arguments(set), input_size(input))
    return draft(network, models=models or (), args=arguments(set), input=input_size(input))
