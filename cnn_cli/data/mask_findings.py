"""Findings about the masks of a folder: every mistake at which training would stop."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from cnn_cli.data.decoding import read_shape
from cnn_cli.data.finding import ERROR, WARNING, Finding, Item, relative_text
from cnn_cli.data.mask_check import Coding, check_classes, check_pixels, check_size, find_coding
from cnn_cli.data.mask_classes import FILE, VOID, find_class_list
from cnn_cli.data.mask_file import MaskPixels, read_pixels
from cnn_cli.data.mask_layout import Layout
from cnn_cli.device import usable_cpus
from cnn_cli.errors import CnnError
from cnn_cli.progress import progress_bar
from cnn_cli.tables import counted

T = TypeVar("T")
Pair = tuple[str, Path, Path]  # split, image, mask


def find_in_masks(root: Path, layout: Layout) -> tuple[list[Finding], dict[str, Counter[str]]]:
    """The findings, and by class and split how many masks show it."""
    findings = [
        Finding("pairs", ERROR, relative_text(root, p.text), p.advice, _files(root, p.files)) for p in layout.problems
    ]
    pairs = [(split, image, mask) for split, own in layout.splits.items() for image, mask in own]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        read = pool.map(lambda pair: _attempt(lambda: read_pixels(pair[2])), pairs)
        masks = list(progress_bar(read, len(pairs), "reading masks"))
        sizes = list(pool.map(lambda pair: _attempt(lambda: read_shape(pair[1])), pairs))
    good = [(pair, m) for pair, m in zip(pairs, masks, strict=True) if isinstance(m, MaskPixels)]
    mistakes = [m for m in masks if isinstance(m, CnnError)]
    for (_, image, mask), pixels, size in zip(pairs, masks, sizes, strict=True):
        if isinstance(pixels, MaskPixels) and isinstance(size, tuple):
            mistakes += _failures([partial(check_size, image, mask, pixels, (size[2], size[1]))])
    counts: dict[str, Counter[str]] = {}
    try:
        known = find_class_list([root, layout.root, *(mask.parent for _, _, mask in pairs[:1])])
        coding = find_coding([m for _, m in good], known, root / FILE) if good else None
    except CnnError as error:
        mistakes.append(error)
        coding = None
    if coding:
        mistakes += _failures([partial(check_pixels, m, coding) for _, m in good])
        counts, more = _classes(root, good, coding)
        findings += more
    if mistakes:
        items = tuple(Item(text=relative_text(root, str(error)).replace("\n", " ")) for error in mistakes)
        title = counted(len(items), "mistake in masks", "mistakes in masks")
        findings.append(Finding("masks", ERROR, title, "correct them; training stops there", items))
    return findings, counts


def _classes(
    root: Path, masks: Sequence[tuple[Pair, MaskPixels]], coding: Coding
) -> tuple[dict[str, Counter[str]], list[Finding]]:
    present: dict[str, set[int]] = {}
    counts = {c: Counter[str]() for c in coding.classes}
    for (split, _, _), pixels in masks:
        codes = pixels.colors if coding.colors else pixels.values or {}
        shown = {coding.numbers[code] for code in codes if code in coding.numbers} - {VOID}
        present.setdefault(split, set()).update(shown)
        for k in shown:
            counts[coding.classes[k]][split] += 1
    try:
        notes = check_classes(root, present, coding.classes)
    except CnnError as error:
        title, _, advice = relative_text(root, str(error)).replace("\n", " ").partition("; ")
        return counts, [Finding("class_not_in_train", ERROR, title, advice)]
    advice = "add masks that show them, or remove them from classes.txt"
    return counts, [Finding("class_missing", WARNING, note, advice) for note in notes]


def _files(root: Path, files: Sequence[Path]) -> tuple[Item, ...]:
    return tuple(Item(text=relative_text(root, str(path))) for path in files)


def _attempt(read: Callable[[], T]) -> T | CnnError:
    try:
        return read()
    except CnnError as error:
        return error


def _failures(checks: Sequence[Callable[[], None]]) -> list[CnnError]:
    results = [_attempt(check) for check in checks]
    return [result for result in results if isinstance(result, CnnError)]
