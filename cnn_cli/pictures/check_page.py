"""The page of `cnn data check --html`: findings with the affected images."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from cnn_cli.data.check import DataCheck
from cnn_cli.data.decoding import ReadImageError, errors_naming, open_image, to_bytes
from cnn_cli.data.finding import CheckedImage, Finding, Item
from cnn_cli.files import make_folder, write_text
from cnn_cli.pictures.html import Html, Section, document, element, embedded, figures, folded, table, thumbnail
from cnn_cli.pictures.image import Array
from cnn_cli.tables import Table, counted

_SIDE = 96  # of a thumbnail
_SHOWN = 24  # items per finding shown with their images
_TOGETHER = 6  # images per item
_LISTED = 500  # further items, as text
_OPEN = 30  # the class table is folded if there are more classes


def write_page(check: DataCheck, path: Path) -> None:
    """Write the page atomically."""
    make_folder(path.parent)
    write_text(path, compose_page(check))


def compose_page(check: DataCheck) -> str:
    """The HTML of a check."""
    lead = element("p", check.verdict().capitalize() + ".")
    values = [(name.capitalize() + "s", f"{n:,}", "") for name, n in check.counts.items()]
    values.append(("Images", f"{sum(check.splits.values()):,}", ""))
    numbers = defaultdict[str, int](int)
    sections = [Section("summary", "Summary", [figures(values), [element("p", line) for line in check.facts()]])]
    for finding in check.findings:
        numbers[finding.code] += 1
        sections.append(_section(finding, f"{finding.code}-{numbers[finding.code]}"))
    classes = check.table()
    rows = Table(classes.columns, list(islice(classes.rows, 2000)))
    small = len(classes.rows) <= _OPEN
    title = f"{check.counted.capitalize()} per class"
    counts = folded(counted(len(classes.rows), "class"), table(rows, title, True), is_open=small)
    sections.append(Section("classes", "Classes", counts))
    return document(
        f"Data check: {Path(check.data).name}", lead, sections, "It holds copies of images of the data set."
    )


def _section(finding: Finding, id: str) -> Section:
    shown, rest = finding.items[:_SHOWN], finding.items[_SHOWN:]
    more = f"{len(rest):,} more" + (f", the first {_LISTED} listed" if len(rest) > _LISTED else "")
    listed = folded(more, element("ul", (element("li", str(item)) for item in rest[:_LISTED]))) if rest else None
    advice = element("p", element("strong", "What to do: "), f"{finding.advice[:1].upper()}{finding.advice[1:]}.")
    return Section(id, f"{finding.severity.capitalize()}: {finding.title}", [advice, _items(shown), listed])


def _items(items: Sequence[Item]) -> list[Html]:
    """Single images side by side; each group of images in its own row."""
    if not items:
        return []
    if not any(item.images for item in items):
        return [element("ul", (element("li", item.text) for item in items))]
    if all(len(item.images) <= 1 for item in items):
        return [
            element("ul", (element("li", map(_picture, item.images), item.text) for item in items), class_="thumbs")
        ]
    rows = []
    for item in items:
        more = f"… {len(item.images) - _TOGETHER:,} more images" if len(item.images) > _TOGETHER else None
        cells = [element("li", _picture(image)) for image in item.images[:_TOGETHER]]
        rows += [element("ul", cells, element("li", more) if more else None, class_="thumbs")]
        rows += [element("p", item.text)] if item.text else []
    return rows


def _picture(image: CheckedImage) -> Html:
    pixels = _pixels(image)
    if pixels is None:
        return element("p", f"{image.name} (cannot be shown)")
    return Html(embedded(pixels, "") + element("span", image.name))


def _pixels(image: CheckedImage) -> Array | None:
    """(H, W, 3) uint8; None for an image that is missing or cannot be read."""
    if image.path is None:
        pixels = np.asarray(image.source)
        pixels = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
        return thumbnail(pixels, _SIDE)
    from PIL import ImageOps

    try:
        with open_image(image.path) as file, errors_naming(image.path):
            if file.format == "JPEG":
                file.draft(None, (_SIDE, _SIDE))
            ImageOps.exif_transpose(file, in_place=True)
            return thumbnail(np.asarray(to_bytes(file, 3)), _SIDE)
    except ReadImageError:
        return None
