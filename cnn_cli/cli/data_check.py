"""`cnn data check`."""

from pathlib import Path

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.data import ANNOTATIONS, TASK, Name, check_task
from cnn_cli.cli.options import DATA_DIR, JSON, flag, option
from cnn_cli.cli.output import emit, emit_json, note
from cnn_cli.errors import UsageError


@command("data check")
def data_check_command(
    data: Name,
    data_dir: Path | None = DATA_DIR,
    task: str | None = TASK,
    annotations: str | None = ANNOTATIONS,
    json: bool = JSON,
    html: Path | None = option("Output", "FILE", "Also write an HTML page with the affected images."),
    force: bool = flag("Output", "Overwrite an existing page."),
    strict: bool = flag("Output", "Exit with code 1 if there are errors or warnings."),
) -> None:
    """Check a data set for problems: unreadable images, duplicates, leaks between splits, conflicting labels, and more.

    Errors prevent training; warnings may impair results; notes are worth knowing. Each finding says what to do.
    """
    check_task(task)
    from cnn_cli.data.check import check_data

    if html is not None:
        if html.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--html {html}: a page must end in .html")
        if html.exists() and not force:
            raise UsageError(f"{html} exists already; --force overwrites it")
    result = check_data(data, data_dir, task, annotations)
    if html is not None:
        from cnn_cli.pictures.check_page import write_page

        write_page(result, html)
        note(f"page       {html}")
    emit_json(result.document()) if json else emit(result.text())
    if strict and result.has_problems:
        raise typer.Exit(1)
