"""Commands that need no torch: list, check, schema."""

from typing import Annotated

import typer

from cnn_cli.cli import options
from cnn_cli.cli.app import app
from cnn_cli.cli.options import arguments, input_size, style
from cnn_cli.cli.output import emit, emit_json, note


@app.command("list")
def list_networks(
    models: options.Models = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """All networks, with inputs and parameter counts."""
    from cnn_cli.analysis.summary import network_table
    from cnn_cli.language.registry import planned, registry
    from cnn_cli.tables import render

    form = style(csv, markdown, json)
    plans = [planned(spec, None, None).checked() for spec in registry(models or ()).values()]
    if json:
        keys = ("network", "input", "params", "description", "reference", "args")
        emit_json([{key: getattr(p, key) for key in keys} for p in plans])
    else:
        emit(render(network_table(plans), form))


@app.command()
def check(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Files or networks; all networks if none is named.")
    ] = None,
    models: options.Models = None,
    set: options.Set = None,
    input: options.Input = None,
    json: options.Json = False,
) -> None:
    """Find every mistake in specs. Each comes with its line and what to write; nothing is run."""
    from cnn_cli.analysis.diagnostics import checked

    result = checked(sources or [], tuple(models or ()), arguments(set), input_size(input))
    if json:
        emit_json(result.document())
    else:
        for problem in result.problems:
            emit(str(problem))
        note(result.verdict())
    raise typer.Exit(2 if result.errors else 0)


@app.command("schema")
def json_schema() -> None:
    """The JSON Schema of the language, for editors. They then complete and check while one types."""
    from cnn_cli.language.schema import schema

    emit_json(schema())
