"""Findings about the images of a data set: those that cannot be read or are unusual, constant ones, and duplicates."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np

from cnn_cli.data.finding import ERROR, NOTE, WARNING, CheckedImage, Finding, Item
from cnn_cli.data.image_scan import Scan
from cnn_cli.data.near_duplicates import find_near_duplicates, group
from cnn_cli.tables import counted

_LEAST_SIDE = 16  # of images compared for near duplicates: smaller ones have too few details
_UNUSUAL = 4  # times smaller or larger than the median side
_KINDS = {  # of images that cannot be read: title, advice
    "empty_file": ("empty file", "remove them or copy them again; training stops at them (--skip-unreadable skips)"),
    "truncated": ("truncated image", "copy them again or remove them; training stops (--skip-unreadable skips them)"),
    "unreadable": ("unreadable image", "repair or remove them; training stops at them (--skip-unreadable skips them)"),
}
_TRAITS = {  # severity, title, plural, advice
    "animated": (
        WARNING,
        "image with several frames",
        "images with several frames",
        "only the first frame is used; save the frames you need as separate images",
    ),
    "rotated": (
        NOTE,
        "image rotated by EXIF",
        "images rotated by EXIF",
        "they are rotated upright here, but some tools ignore the tag; save them upright to be safe",
    ),
    "16-bit": (
        WARNING,
        "16-bit image",
        "16-bit images",
        "only the high byte of each value is used; scale the values to 8 bits if they do not use the whole range",
    ),
    "cmyk": (
        WARNING,
        "CMYK image",
        "CMYK images",
        "they are converted to RGB without their color profile; save them as RGB",
    ),
    "transparent": (
        WARNING,
        "image with transparent pixels",
        "images with transparent pixels",
        "transparency is dropped, which reveals hidden colors; paste the images onto a background",
    ),
    "constant": (
        WARNING,
        "constant image",
        "constant images",
        "every pixel has the same value, so there is nothing to learn from; remove them",
    ),
}
_CODES = {"rotated": "exif_rotation", "16-bit": "16_bit"}


def find_in_images(
    images: Sequence[CheckedImage], scans: Sequence[Scan], gray: "np.ndarray[Any, np.dtype[Any]]"
) -> list[Finding]:
    """All findings about these images, their duplicates last."""
    readable = [i for i, scan in enumerate(scans) if not scan.kind]
    return [
        *_unreadable(images, scans),
        *_unusual(images, scans),
        *_sizes(images, scans, readable),
        *_modes(images, scans, readable),
        *_duplicates(images, scans, gray),
    ]


def _unreadable(images: Sequence[CheckedImage], scans: Sequence[Scan]) -> Iterator[Finding]:
    for kind, (noun, advice) in _KINDS.items():
        items = [Item((i,), scan.problem) for i, scan in zip(images, scans, strict=True) if scan.kind == kind]
        if items:
            yield Finding(kind, ERROR, counted(len(items), noun), advice, tuple(items))


def _unusual(images: Sequence[CheckedImage], scans: Sequence[Scan]) -> Iterator[Finding]:
    for trait, (severity, one, many, advice) in _TRAITS.items():
        items = [Item((image,)) for image, scan in zip(images, scans, strict=True) if trait in scan.traits]
        if items:
            yield Finding(_CODES.get(trait, trait), severity, counted(len(items), one, many), advice, tuple(items))


def _sizes(images: Sequence[CheckedImage], scans: Sequence[Scan], readable: Sequence[int]) -> Iterator[Finding]:
    if not readable:
        return
    middle = median(min(scans[i].size) for i in readable), median(max(scans[i].size) for i in readable)
    odd = [
        i for i in readable if min(scans[i].size) * _UNUSUAL <= middle[0] or max(scans[i].size) >= middle[1] * _UNUSUAL
    ]
    if odd:
        items = [Item((images[i],), "{}x{} pixels (width x height)".format(*scans[i].size)) for i in odd]
        title = counted(len(odd), "image of an unusual size", "images of unusual sizes")
        advice = "a side is 4 times shorter or longer than usual; check for icons, crops and panoramas"
        yield Finding("unusual_size", NOTE, title, advice, tuple(items))


def _modes(images: Sequence[CheckedImage], scans: Sequence[Scan], readable: Sequence[int]) -> Iterator[Finding]:
    """Gray and color images in one data set."""
    grays = [i for i in readable if scans[i].mode in ("1", "L", "LA")]
    if not grays or len(grays) == len(readable):
        return
    rare = grays if 2 * len(grays) <= len(readable) else sorted({*readable} - {*grays})
    kind = "gray" if rare is grays else "color"
    title = f"{counted(len(rare), f'{kind} image')} among {'color' if kind == 'gray' else 'gray'} ones"
    advice = "all images are converted to the channels of the network; check that this does not give a class away"
    yield Finding("mixed_modes", NOTE, title, advice, tuple(Item((images[i],)) for i in rare))


def _duplicates(
    images: Sequence[CheckedImage], scans: Sequence[Scan], gray: "np.ndarray[Any, np.dtype[Any]]"
) -> Iterator[Finding]:
    """Exact duplicates have the same bytes; near duplicates are searched among one image of each group of these."""
    copies = defaultdict[bytes, list[int]](list)
    for i, scan in enumerate(scans):
        if scan.digest and not scan.kind:
            copies[scan.digest].append(i)
    yield from _described("", images, [same for same in copies.values() if len(same) > 1])
    first = [same[0] for same in copies.values()]
    single = [i for i in first if "constant" not in scans[i].traits and max(scans[i].size) >= _LEAST_SIDE]
    pairs = find_near_duplicates(gray, np.array(single, np.int64))
    yield from _described("near_", images, group(len(images), pairs))


def _described(prefix: str, images: Sequence[CheckedImage], groups: Sequence[Sequence[int]]) -> Iterator[Finding]:
    """Groups of duplicates, most harmful first: under several classes, in several splits, in one split."""
    groups_by_code = defaultdict[str, list[Item]](list)
    for members in groups:
        item = Item(tuple(images[i] for i in members))
        labels, splits = ({getattr(image, key) for image in item.images} for key in ("label", "split"))
        if len(labels) > 1:
            groups_by_code["label_conflict"].append(item)
        if len(splits) > 1:
            groups_by_code["leak"].append(item)
        if len(labels) == len(splits) == 1:
            groups_by_code["duplicates"].append(item)
    exact = not prefix
    alike = "exact copies" if exact else "near duplicates"
    unsplit = {image.split for image in images} == {"all"}
    texts = {
        "label_conflict": (
            WARNING,
            f"{alike} under different classes",
            "decide which class is right, and remove the others; a network cannot learn both",
        ),
        "leak": (
            WARNING,
            f"{alike} in different splits",
            "remove them from all splits but one: they make results on val and test look better than they are",
        ),
        "duplicates": (
            WARNING if exact or unsplit else NOTE,
            f"{alike} in the same class and split",
            "keep one of each: a part may be held out for testing"
            if unsplit
            else "keep one of each, unless they should count more",
        ),
    }
    for code, (severity, fact, advice) in texts.items():
        if items := groups_by_code[code]:
            size = {image.name for item in items for image in item.images}
            title = f"{fact}: {counted(len(items), 'group')}, {counted(len(size), 'image')}"
            yield Finding(f"{prefix}{code}", severity, title, advice, tuple(items))
