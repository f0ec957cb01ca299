"""`cnn data preview`."""

from pathlib import Path
from typing import Any

from cnn_cli.cli.app import command
from cnn_cli.cli.data import TASK, Name, check_task
from cnn_cli.cli.options import DATA_DIR, JSON, NETWORK_HELP, Picture, Spec, argument, option
from cnn_cli.cli.output import emit_result, note
from cnn_cli.cli.training_options import settings_group
from cnn_cli.errors import UsageError

_SETTINGS = ("flip", "shift", "padding_mode", "crop", "cutout", "resize", "normalize", "val_fraction", "seed")
SampleSettings: Any = settings_group((*_SETTINGS, "skip_unreadable", "annotations"))
_COUNT = option("Output", "N", "Images per class.", "-n", "--images", default=4, min=1, max=16)


@command("data preview")
def data_preview_command(
    data: Name,
    spec: Spec,
    settings: SampleSettings,
    picture: Picture,
    network: str | None = argument("[NETWORK]", NETWORK_HELP.removesuffix(".") + " [none: the images alone]."),
    data_dir: Path | None = DATA_DIR,
    task: str | None = TASK,
    split: str = option("Data", "NAME", "Split: train, val or test.", default="train"),
    epoch: int = option("Augmentation", "N", "Epoch whose augmentation is shown.", default=1, min=1),
    recipe: str = option("Optimization", "NAME", "Training recipe of the network.", default=""),
    images: int = _COUNT,
    json: bool = JSON,
) -> None:
    """Draw images as a network sees them: resized, augmented, with masks or boxes.

    Accepts the training options, which default to the settings of NETWORK. Only training images are augmented.
    """
    check_task(task)
    from cnn_cli.checkpoints.run_folder import find_run
    from cnn_cli.interpret.data_preview import PreviewRequest, preview_data
    from cnn_cli.pictures.image import check_target, file_name
    from cnn_cli.training.request import Request

    path = picture.output or Path(file_name("preview", Path(data).name, split))
    check_target(path, picture.force)
    chosen = settings.given | {"data": data}
    request = None
    if network:
        name = find_run(network, spec.files)
        request = Request(name, chosen, models=spec.files, args=spec.args, input=spec.size, recipe=recipe)
    elif spec.args or recipe:
        raise UsageError("--set and --recipe need a network; name one after the data set")
    result = preview_data(PreviewRequest(data, chosen, request, data_dir, task, split, images, epoch, spec.size), path)
    for line in result.notes:
        note(line)
    emit_result(result, json)
    picture.preview(result.path, result.body)
