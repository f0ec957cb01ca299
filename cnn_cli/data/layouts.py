"""The choice between masks, boxes, and folders of classes as the annotations of a folder."""

from pathlib import Path

from cnn_cli.data.box_layout import FORMATS, BoxLayout, find_boxes
from cnn_cli.data.dataset import DETECTION
from cnn_cli.data.mask_layout import Layout, find_layout
from cnn_cli.errors import UsageError


def find_annotations(root: Path, task: str | None, annotations: str | None) -> tuple[Layout | None, BoxLayout | None]:
    """The masks and boxes of a folder: masks are read before boxes, unless for detection; without either, classes are.

    annotations: the format of the boxes, or the folder of the masks, if a folder has several. UsageError if it does not
    fit the folder.
    """
    kind, place = (annotations, None) if annotations in FORMATS else (None, annotations)
    if kind and task not in (None, DETECTION):
        raise UsageError(f"--annotations {kind} is a format of boxes, for detection, not for {task}; leave it out")
    masks = None if kind or task == DETECTION else find_layout(root, place)
    boxes = find_boxes(root, kind) if (not masks or task is None) and not place else None
    if masks or boxes:
        return masks, boxes
    if kind:
        raise UsageError(f"{root} has no boxes in the format of --annotations {kind}; leave it out")
    if place:
        raise UsageError(
            f"--annotations {place}: {root} has no such folder of masks next to images, and it is not a format of "
            f"boxes;\nboxes have the formats {', '.join(FORMATS)}; cnn guide segmentation lists the layouts of masks"
        )
    return (find_layout(root) if task == DETECTION else None), None
