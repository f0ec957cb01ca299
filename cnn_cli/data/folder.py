"""A folder of the user's own images: `train/<class>/…` with `val/` and `test/`, or just `<class>/…`.

Only regular files are read: links can lead out of the folder or round in circles, and a pipe would block for ever.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from cnn_cli.data.dataset import Dataset, Split
from cnn_cli.data.decoding import IMAGE_SUFFIXES
from cnn_cli.errors import UsageError

PARTS = ("train", "val", "test")
_MOST_NESTED = 16


def read_folder(root: Path) -> Dataset:
    """The image files of `root`, by part and class; a flat `<class>/…` is one part, "all". No image is opened yet.

    UsageError for a folder without images or with classes that do not fit together.
    """
    skipped: Counter[str] = Counter()
    folders = _folders(root, skipped)
    split = "train" in folders or (bool(folders) and set(folders) <= set(PARTS))
    parts = {name: _classes(folders[name], skipped) for name in PARTS if name in folders} if split else {}
    if split:
        skipped["other folder"] += len(set(folders) - set(PARTS))
    elif folders:
        parts = {"all": {name: list(_images(path, skipped, 0)) for name, path in folders.items()}}
    parts = {name: classes for name, classes in parts.items() if classes}
    if not any(files for classes in parts.values() for files in classes.values()):
        raise UsageError(
            f"no images in {root}: it needs a folder for each class, {root}/<class>/<image>.jpg{_noted(skipped)}"
        )
    classes = _class_list(root, parts)
    return Dataset(
        str(root), classes, {name: _part(p, classes) for name, p in parts.items()}, tuple(_notes(root, skipped))
    )


def _folders(root: Path, skipped: Counter[str]) -> dict[str, Path]:
    found = {}
    for entry in _entries(root, skipped):
        if entry.is_dir(follow_symlinks=False):
            found[_printable(entry.name)] = Path(entry.path)
        else:
            skipped["file outside the class folders"] += 1
    return found


def _classes(part: Path, skipped: Counter[str]) -> dict[str, list[Path]]:
    return {name: list(_images(path, skipped, 0)) for name, path in _folders(part, skipped).items()}


def _images(folder: Path, skipped: Counter[str], depth: int) -> Iterator[Path]:
    """Every image file below `folder`, in the order of the names."""
    for entry in _entries(folder, skipped):
        if entry.is_dir(follow_symlinks=False):
            if depth < _MOST_NESTED:
                yield from _images(Path(entry.path), skipped, depth + 1)
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield Path(entry.path)
        else:
            skipped["file that is no image"] += 1


def _entries(folder: Path, skipped: Counter[str]) -> list[os.DirEntry[str]]:
    """What lies in `folder` and may be used, by name; the rest is counted."""
    usable = []
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith((".", "__MACOSX")) or entry.name in ("Thumbs.db", "desktop.ini"):
            skipped["hidden entry"] += 1
        elif entry.is_symlink():
            skipped["link"] += 1
        elif not entry.is_file() and not entry.is_dir():
            skipped["special file"] += 1
        else:
            usable.append(entry)
    return usable


def _class_list(root: Path, parts: dict[str, dict[str, list[Path]]]) -> tuple[str, ...]:
    """The classes, sorted: those of train where there is one. What they leave out or leave empty is an error."""
    main = next(iter(parts))  # train, or all; or what there is to evaluate on
    classes = tuple(sorted(parts[main]))
    if main in ("train", "all"):
        where = root if main == "all" else root / main
        if len(classes) < 2:
            raise UsageError(f"only one class ({classes[0]}) in {where}; classification needs at least two")
        if empty := [c for c in classes if not parts[main][c]]:
            raise UsageError(f"no images in {', '.join(str(where / c) for c in empty)}; add some or remove the folder")
    else:
        classes = tuple(sorted({c for p in parts.values() for c in p}))
    for name, found in parts.items():
        if extra := sorted(set(found) - set(classes)):
            raise UsageError(
                f"{root / name} has classes that {main} does not have: {', '.join(extra)}\n"
                f"the classes of {main} are {', '.join(classes)}; make the names agree"
            )
    return classes


def _part(files: dict[str, list[Path]], classes: tuple[str, ...]) -> Split:
    paths = tuple(p for c in classes for p in files.get(c, ()))
    labels = [i for i, c in enumerate(classes) for _ in files.get(c, ())]
    return Split(paths, torch.tensor(labels, dtype=torch.int64))


def _notes(root: Path, skipped: Counter[str]) -> list[str]:
    return [f"{root}: skipped{_noted(skipped).removeprefix(' (skipped').removesuffix(')')}"] if +skipped else []


def _noted(skipped: Counter[str]) -> str:
    things = [f"{n} {what if n == 1 else _plural(what)}" for what, n in skipped.items() if n]
    return f" (skipped {', '.join(things)})" if things else ""


def _plural(what: str) -> str:
    return {"hidden entry": "hidden entries", "file that is no image": "files that are no images"}.get(what) or (
        what.replace("file ", "files ", 1) if what.startswith("file ") else what + "s"
    )


def _printable(name: str) -> str:
    """A class name; bytes that are no UTF-8 are written out, since labels go into JSON and checkpoints."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
