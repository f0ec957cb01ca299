"""`cnn data`."""

from pathlib import Path
from typing import Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import DATA_DIR, Format, flag, option
from cnn_cli.errors import UsageError

Name = Annotated[str, typer.Argument(metavar="DATA", help="Data set name, or a folder of images.")]
_TASKS = ("classification", "segmentation", "detection")
TASK = option("Data", "NAME", "Task, for data sets with both masks and boxes.")
ANNOTATIONS = option(
    "Data", "NAME", "Annotations to use, if there are several: voc, coco or yolo boxes, or the mask folder."
)


@command("data")
def data_command(
    data: Name,
    format: Format,
    data_dir: Path | None = DATA_DIR,
    task: str | None = TASK,
    annotations: str | None = ANNOTATIONS,
    skip_unreadable: bool = flag("Data", "Skip images that cannot be read or have invalid boxes."),
) -> None:
    """Check a data set, and show its task, splits and classes.

    For a folder with masks, checks the pairs of images and masks, their sizes, and all pixel values. For a folder with
    boxes, checks every box and lists all annotation errors; the exit code is 1 if there are any.
    """
    from cnn_cli.data.annotations import InvalidAnnotationsError
    from cnn_cli.data.loading import load_dataset, resolve_data_dir
    from cnn_cli.data.summary import BoxErrorReport, DataSummary

    format.check()
    check_task(task)
    try:
        dataset = load_dataset(data, resolve_data_dir(data_dir), skip_unreadable, task, annotations)
    except InvalidAnnotationsError as error:
        format.emit(BoxErrorReport(data, error.errors))
        raise typer.Exit(1) from None
    if task not in (None, dataset.task):
        raise UsageError(f"--task {task}: {Path(dataset.name).name} is for {dataset.task}; leave out --task")
    format.emit(DataSummary(dataset))


def check_task(task: str | None) -> None:
    """UsageError for a task that does not exist."""
    if task not in (None, *_TASKS):
        raise UsageError(f"--task must be {', '.join(_TASKS[:-1])} or {_TASKS[-1]}, not {task!r}")
