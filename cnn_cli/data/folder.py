"""A folder of your own images: `train/<class>/…` with `val/` and `test/`, or just `<class>/…`.

Symbolic links are followed, but no folder is read twice for a class, and only regular files are opened: a pipe would
block forever.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnn_cli.data.dataset import Dataset, Split
from cnn_cli.data.decoding import IMAGE_SUFFIXES
from cnn_cli.errors import UsageError, listed
from cnn_cli.progress import progress_bar

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages"}
_TARGET_FOLDERS = {"masks", "mask", "labels", "annotations", "segmentationclass", "segmentations", "annot", "gt"}
_MAX_DEPTH = 16
_PLURALS = {
    "hidden entry": "hidden entries",
    "file outside the class folders": "files outside the class folders",
    "file that is not an image": "files that are not images",
    "folder that was already read": "folders that were already read",
}
Skipped = defaultdict[str, list[str]]  # names by kind
Visited = set[tuple[int, int]]  # device and inode of folders


@dataclass(frozen=True)
class Listing:
    """The image files of a folder by split and class; `folders` are those of the splits, `skipped` in one line."""

    root: Path
    folders: dict[str, Path]
    files: dict[str, dict[str, list[Path]]]
    skipped: str


def list_folder(root: Path) -> Listing:
    """The image files of `root`; a folder without splits is one split, "all". Opens no image.

    UsageError for a folder without images, or in the layout of another task.
    """
    skipped: Skipped = defaultdict(list)
    folders = _subfolders(root, skipped)
    splits = _split_folders(root, folders)
    if splits:
        skipped["other folder"] += [name for name, path in folders.items() if path not in splits.values()]
    class_folders = {name: _subfolders(path, skipped) for name, path in splits.items()} if splits else {"all": folders}
    files = {
        name: {
            c: list(_images(path, skipped, _visited(root, splits.get(name, root))))
            for c, path in progress_bar(paths.items(), len(paths), f"listing {root.name}")
        }
        for name, paths in class_folders.items()
        if paths
    }
    _refuse_targets(root, [*folders, *(c for classes in files.values() for c in classes)])
    if not any(images for classes in files.values() for images in classes.values()):
        layout = f"{splits.get('train', root)}/<class>/<image>.jpg"
        raise UsageError(f"no images in {root}: it needs one folder per class, {layout}{_listed(skipped, ' ({})')}")
    return Listing(root, splits, files, _listed(skipped, "{}"))


def read_folder(root: Path) -> Dataset:
    """The image files of `root` as a data set.

    UsageError for a folder without images, with classes that do not match, or in the layout of another task.
    """
    listing = list_folder(root)
    if problems := class_problems(listing):
        raise UsageError(problems[0])
    classes = class_names(listing)
    notes = (f"{root}: {listing.skipped}",) if listing.skipped else ()
    return Dataset(str(root), classes, {name: _split(f, classes) for name, f in listing.files.items()}, notes)


def list_images(folder: Path) -> list[Path]:
    """Every image file in `folder` and its subfolders, sorted by name."""
    return list(_images(folder, defaultdict(list), set()))


def list_files(folder: Path, suffix: str) -> list[Path]:
    """Every file with this suffix, in any case, in `folder` and its subfolders, sorted by name."""
    return list(_files(folder, {suffix}, defaultdict(list), set()))


def _split_folders(root: Path, folders: dict[str, Path]) -> dict[str, Path]:
    """The folders of train, val and test by their usual names, in any case; empty if `root` has classes only."""
    names = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}
    if "train" not in names.values() and len(names) < len(folders):
        return {}
    for split in names.values():
        if len(same := [name for name in names if names[name] == split]) > 1:
            raise UsageError(f"{root} has {' and '.join(f'{n}/' for n in same)}, both for the {split} split; keep one")
    return {split: folders[name] for split in ("train", "val", "test") for name in names if names[name] == split}


def _refuse_targets(root: Path, names: list[str]) -> None:
    """UsageError for the folders of other data sets, which would pass for classes."""
    images = [name for name in names if name.lower() in _IMAGE_FOLDERS]
    targets = [name for name in names if name.lower() in _TARGET_FOLDERS]
    lowercase = {name.lower(): name for name in names}
    pairs = [(name, lowercase[other]) for name in names if (other := f"{name.lower()}annot") in lowercase]
    if pairs or (images and targets):
        pair = " and ".join(f"{name}/" for name in (pairs or [(images[0], targets[0])])[0])
        raise UsageError(
            f"{root} has {pair}, but neither masks nor boxes in a known format (cnn guide data);\n"
            f"for classification, make a folder for each class: {root}/<class>/<image>.jpg"
        )


def subfolders(folder: Path) -> dict[str, Path]:
    """The folders in `folder` by name, sorted, without hidden ones."""
    return _subfolders(folder, defaultdict(list))


def lower_subfolders(folder: Path) -> dict[str, Path]:
    """As `subfolders`, with names in lower case."""
    return {name.lower(): path for name, path in subfolders(folder).items()}


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders in `folder` that are named as splits, by split."""
    folders = {SPLITS[name]: path for name, path in lower_subfolders(folder).items() if name in SPLITS}
    return {split: folders[split] for split in ("train", "val", "test") if split in folders}


def _subfolders(folder: Path, skipped: Skipped) -> dict[str, Path]:
    subfolders = {}
    for entry in _entries(folder, skipped):
        if entry.is_dir():
            subfolders[printable(entry.name)] = Path(entry.path)
        else:
            skipped["file outside the class folders"].append(entry.name)
    return subfolders


def _images(folder: Path, skipped: Skipped, visited: Visited) -> Iterator[Path]:
    """Every image file in `folder` and its subfolders, sorted by name."""
    return _files(folder, IMAGE_SUFFIXES, skipped, visited)


def _files(folder: Path, suffixes: set[str], skipped: Skipped, visited: Visited, depth: int = 0) -> Iterator[Path]:
    if depth > _MAX_DEPTH or not _visit(folder, visited):
        skipped["folder that was already read"].append(folder.name)
        return
    for entry in _entries(folder, skipped):
        if entry.is_dir():
            yield from _files(Path(entry.path), suffixes, skipped, visited, depth + 1)
        elif Path(entry.name).suffix.lower() in suffixes:
            yield Path(entry.path)
        else:
            skipped["file that is not an image"].append(entry.name)


def _visited(*folders: Path) -> Visited:
    visited: Visited = set()
    for folder in folders:
        _visit(folder, visited)
    return visited


def _visit(folder: Path, visited: Visited) -> bool:
    """Note that `folder` is read; False if it was before, under whatever name."""
    status = folder.stat()
    key = (status.st_dev, status.st_ino)
    new = key not in visited
    visited.add(key)
    return new


def _entries(folder: Path, skipped: Skipped) -> list[os.DirEntry[str]]:
    """The files and folders in `folder`, sorted by name, without hidden ones, broken links and special files."""
    usable = []
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith((".", "__MACOSX")) or entry.name in ("Thumbs.db", "desktop.ini"):
            skipped["hidden entry"].append(entry.name)
        elif entry.is_file() or entry.is_dir():
            usable.append(entry)
        else:
            skipped["broken link" if entry.is_symlink() else "special file"].append(entry.name)
    return usable


def class_names(listing: Listing) -> tuple[str, ...]:
    """The classes, sorted: those of train if there is a train split."""
    first = next(iter(listing.files))  # train, or all, or a split to evaluate on
    splits = [listing.files[first]] if first in ("train", "all") else listing.files.values()
    return tuple(sorted({c for split in splits for c in split}))


def class_problems(listing: Listing) -> list[str]:
    """Why nothing can be trained on these classes: they are few, empty or differ between splits."""
    root, splits, files = listing.root, listing.folders, listing.files
    first, classes = next(iter(files)), class_names(listing)
    problems = []
    if first in ("train", "all"):
        folder = splits.get(first, root)
        if len(classes) < 2:
            problems.append(f"only one class ({classes[0]}) in {folder}; classification needs at least two")
        if empty := [c for c in classes if not files[first][c]]:
            problems.append(f"no images in {listed([str(folder / c) for c in empty])}; add some or remove the folder")
    for name, split in files.items():
        if extra := sorted(set(split) - set(classes)):
            problems.append(
                f"{splits.get(name, root)} has classes that {first} does not have: {listed(extra)}\n"
                f"the classes of {first} are {listed(classes)}; make the names match"
            )
    return problems


def _split(files: dict[str, list[Path]], classes: tuple[str, ...]) -> Split:
    import torch

    paths = tuple(path for c in classes for path in files.get(c, ()))
    labels = [i for i, c in enumerate(classes) for _ in files.get(c, ())]
    return Split(paths, torch.tensor(labels, dtype=torch.int64))


def _listed(skipped: Skipped, frame: str) -> str:
    """`skipped 1 broken link (a.png), 5 hidden entries`: the kinds with their first names, in the frame; or nothing."""
    kinds = []
    for kind, names in skipped.items():
        if names:
            listed = ", ".join([*map(printable, names[:3]), *["…"] * (len(names) > 3)])
            named = "" if kind == "hidden entry" else f" ({listed})"
            kinds.append(f"{len(names):,} {kind if len(names) == 1 else _PLURALS.get(kind, f'{kind}s')}{named}")
    return frame.format(f"skipped {', '.join(kinds)}") if kinds else ""


def printable(name: str) -> str:
    """A name in which bytes that are not UTF-8 are escaped, since class names are written to JSON and checkpoints."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
