"""`cnn check`."""

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import JSON, Spec, argument
from cnn_cli.cli.output import emit, emit_json, note


@command("check")
def check_command(
    spec: Spec,
    sources: list[str] | None = argument("[FILE_OR_NETWORK]...", "Files or networks to check [all networks]."),
    json: bool = JSON,
) -> None:
    """Check specs for mistakes, without running anything."""
    from cnn_cli.analysis.diagnostics import diagnose

    result = diagnose(sources or [], spec.files, spec.args, spec.size)
    if json:
        emit_json(result.document())
    else:
        if result.problems:
            emit(result.text())
        note(result.verdict())
    raise typer.Exit(2 if result.errors else 0)
