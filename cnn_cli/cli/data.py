"""`cnn data`."""

from pathlib import Path
from typing import Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import DATA_DIR, Format

Name = Annotated[str, typer.Argument(metavar="DATA", help="Data set name, or a folder of images.")]


@command("data", "Training")
def data_command(data: Name, format: Format, data_dir: Path | None = DATA_DIR) -> None:
    """Check a data set, and show its task, splits and classes.

    In a folder with masks, every file is checked: the pairs of images and masks, their sizes, and all pixel values.
    """
    from cnn_cli.data.loading import load_dataset, resolve_data_dir
    from cnn_cli.data.summary import DataSummary

    format.check()
    format.emit(DataSummary(load_dataset(data, resolve_data_dir(data_dir))))
