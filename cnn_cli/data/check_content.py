"""The content of a folder, for a check: read as for training, but with all errors instead of the first."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cnn_cli.data.box_errors import box_classes, check_classes, count_boxes, find_box_errors
from cnn_cli.data.box_layout import FORMATS, BoxLayout
from cnn_cli.data.class_findings import find_imbalance, find_in_listing
from cnn_cli.data.dataset import CLASSIFICATION, DETECTION, SEGMENTATION
from cnn_cli.data.finding import ERROR, NOTE, WARNING, CheckedImage, Finding, Item, relative_text
from cnn_cli.data.folder import class_names, list_folder, printable
from cnn_cli.data.layouts import find_annotations
from cnn_cli.data.mask_findings import find_in_masks
from cnn_cli.data.mask_layout import Layout
from cnn_cli.errors import CnnError
from cnn_cli.tables import counted


@dataclass
class Content:
    """The content of a data set: images, the images (or objects) of each class per split, and findings."""

    name: str
    task: str
    layout: str = ""
    images: list[CheckedImage] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)  # by class and split
    findings: list[Finding] = field(default_factory=list)


def read_content(root: Path, task: str | None, annotations: str | None) -> Content:
    """The content of a folder, with findings about all but its images. UsageError if it cannot be read at all."""
    masks, boxes = find_annotations(root, task, annotations)
    if masks:
        content = _read_masks(root, masks)
        if boxes:
            title = f"the folder also has boxes ({FORMATS[boxes.format][0]}), which were not checked"
            content.findings.append(Finding("other_task", NOTE, title, "check them with --task detection"))
        return content
    return _read_boxes(root, boxes) if boxes else _read_classes(root)


def _read_classes(root: Path) -> Content:
    listing = list_folder(root)
    known = class_names(listing)
    names = sorted({*known, *(c for split in listing.files.values() for c in split)})
    counts = {c: Counter({split: len(files.get(c, ())) for split, files in listing.files.items()}) for c in names}
    images = [
        CheckedImage(_name(root, path), split, c, path)
        for split, files in listing.files.items()
        for c, paths in files.items()
        for path in paths
    ]
    findings = [*find_in_listing(listing), *find_imbalance(counts)]
    return Content(str(root), CLASSIFICATION, "", images, counts, findings)


def _read_masks(root: Path, layout: Layout) -> Content:
    pairs = [(split, image, mask) for split, own in layout.splits.items() for image, mask in own]
    images = [CheckedImage(_name(root, image), split, None, image) for split, image, _ in pairs]
    findings, counts = find_in_masks(root, layout)
    return Content(str(root), SEGMENTATION, layout.name, images, counts, findings)


def _read_boxes(root: Path, layout: BoxLayout) -> Content:
    annotations = layout.read()
    errors, _ = find_box_errors(annotations)
    images = {
        image.path: CheckedImage(_name(root, image.path), split, None, image.path)
        for split, own in annotations.splits.items()
        for image in own
        if image.path.exists()
    }
    findings = []
    if errors:
        items = [Item((images[e.image],) if e.image in images else (), relative_text(root, e.text)) for e in errors]
        advice = "correct them; training stops at them (--skip-unreadable skips the affected images)"
        findings.append(Finding("annotations", ERROR, counted(len(errors), "annotation error"), advice, tuple(items)))
    advice = "add their annotations, or remove them"
    findings += [Finding("not_listed", NOTE, note, advice) for note in annotations.notes]
    shown = count_boxes(annotations)
    counts: dict[str, Counter[str]] = {}
    try:
        classes = annotations.classes or box_classes(annotations)
        counts = {c: Counter({s: n[c] for s, n in shown.items() if n}) for c in classes}
        notes = check_classes(root, shown, classes)
        advice = "add images that show them, or remove the class"
        findings += [Finding("class_missing", WARNING, note, advice) for note in notes]
    except CnnError as error:
        findings.append(_refused(error, root))
    findings += find_imbalance(counts, "boxes")
    return Content(str(root), DETECTION, annotations.layout, list(images.values()), counts, findings)


def _refused(error: CnnError, root: Path) -> Finding:
    """An error at which training would stop, as a finding."""
    title, _, advice = relative_text(root, str(error)).replace("\n", " ").partition("; ")
    return Finding("refused", ERROR, title, advice or "training stops at this; correct it first")


def _name(root: Path, path: Path) -> str:
    """The path within the folder, bytes that are not UTF-8 escaped."""
    return printable(str(path.relative_to(root) if path.is_relative_to(root) else path))
