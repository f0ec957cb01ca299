"""`cnn list`."""

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Format, Models
from cnn_cli.errors import SpecError


@command("list", "Networks")
def list_command(format: Format, models: Models = None) -> None:
    """List all networks with their inputs and parameters."""
    from cnn_cli.analysis.networks import list_networks

    result = list_networks(models or ())
    format.emit(result)
    if result.problems:
        raise SpecError(result.problems)
