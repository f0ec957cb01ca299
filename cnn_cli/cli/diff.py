"""`cnn diff`."""

from typing import Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Estimate, Format, Spec

First = Annotated[str, typer.Argument(metavar="A", help="Network, as in `cnn summary`.")]
Second = Annotated[str, typer.Argument(metavar="B", help="Network to compare it with.")]


@command("diff", "Networks")
def diff_command(a: First, b: Second, spec: Spec, estimate: Estimate, format: Format) -> None:
    """Compare two networks layer by layer."""
    from cnn_cli.analysis.comparison import compare
    from cnn_cli.analysis.summary import setup

    first, second = spec.draft(a).checked(), spec.draft(b).checked()
    format.emit(compare(first, second, setup(first, estimate.batch_size, estimate.optimizer, estimate.precision)))
