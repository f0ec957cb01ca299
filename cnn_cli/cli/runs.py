"""`cnn runs`."""

from pathlib import Path
from typing import Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Format, option

_FOLDER_HELP = "Folder of runs [runs]."
_WHERE_HELP = "List only runs with this setting, network, data or state; may be repeated."
_SORT_HELP = "Sort by name, score, epochs, time, started, or a setting."
Folder = Annotated[Path, typer.Argument(metavar="[FOLDER]", help=_FOLDER_HELP)]


@command("runs")
def runs_command(
    format: Format,
    folder: Folder = Path("runs"),
    where: list[str] | None = option("Runs", "NAME=VALUE", _WHERE_HELP),
    sort: str = option("Runs", "NAME", _SORT_HELP, default="name"),
) -> None:
    """List runs with the settings that differ, epochs, metrics and state.

    Runs with several seeds are one row, with mean and standard deviation.
    """
    from cnn_cli.checkpoints.runs import list_runs

    format.emit(list_runs(folder, where or (), sort))
