"""`cnn list`."""

from pathlib import Path
from typing import Annotated

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Format, option
from cnn_cli.errors import SpecError

Models = Annotated[
    list[Path] | None,
    option(
        "--models",
        panel="Network",
        metavar="FILE",
        envvar="CNN_MODELS",
        help="File of networks that overrides the built-in ones; may be repeated.",
    ),
]


@command("list", "Networks")
def list_command(format: Format, models: Models = None) -> None:
    """List all networks with their inputs and parameters."""
    from cnn_cli.analysis.networks import list_networks

    result = list_networks(models or ())
    format.emit(result)
    if result.problems:
        raise SpecError(result.problems)
