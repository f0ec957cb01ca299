"""`cnn list`."""

from pathlib import Path

from cnn_cli.cli.app import command
from cnn_cli.cli.options import MODELS, Format
from cnn_cli.errors import SpecError


@command("list")
def list_command(format: Format, models: list[Path] | None = MODELS) -> None:
    """List all networks with their inputs and parameters."""
    from cnn_cli.analysis.networks import list_networks

    format.check()
    result = list_networks(models or ())
    format.emit(result)
    if result.problems:
        raise SpecError(result.problems)
