"""Commands that need no torch: list, check, schema."""

from typing import Annotated

import typer

from cnn_cli.cli import options
from cnn_cli.cli.app import app
from cnn_cli.cli.options import arguments, input_size, style
from cnn_cli.cli.output import emit, emit_json, emit_result, note
from cnn_cli.errors import SpecError


@app.command("list")
def list_command(
    models: options.Models = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """All networks, with inputs and parameter counts."""
    from cnn_cli.analysis.networks import list_networks

    result = list_networks(models or ())
    emit_result(result, style(csv, markdown, json), json)
    if result.problems:
        raise SpecError(result.problems)


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
    from cnn_cli.analysis.diagnostics import diagnose

    result = diagnose(sources or [], tuple(models or ()), arguments(set), input_size(input))
    if json:
        emit_json(result.document())
    else:
        if result.problems:
            emit(result.text())
        note(result.verdict())
    raise typer.Exit(2 if result.errors else 0)


@app.command("schema")
def json_schema() -> None:
    """The JSON Schema of the language, for editors. They then complete and check while one types."""
    from cnn_cli.language.schema import spec_schema

    emit_json(spec_schema())
