"""`cnn check`."""

from typing import Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Json, Spec
from cnn_cli.cli.output import emit, emit_json, note

Sources = Annotated[
    list[str] | None, typer.Argument(metavar="[FILE_OR_NETWORK]...", help="Files or networks to check [all networks].")
]


@command("check", "Networks")
def check_command(spec: Spec, sources: Sources = None, json: Json = False) -> None:
    """Find mistakes in specs, without running anything."""
    from cnn_cli.analysis.diagnostics import diagnose

    result = diagnose(sources or [], spec.files, spec.args, spec.size)
    if json:
        emit_json(result.document())
    else:
        if result.problems:
            emit(result.text())
        note(result.verdict())
    raise typer.Exit(2 if result.errors else 0)
