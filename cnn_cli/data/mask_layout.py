"""Folders of images with masks: pairs of images and masks, by the usual names of folders and files.

The layouts, as they are tried: VOC (`JPEGImages`, `SegmentationClass`, `ImageSets`); `train/` with `trainannot/`;
`images/` with `masks/`, split inside or outside of them; `NAME` with `NAME_mask` in one folder.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnn_cli.data.decoding import IMAGE_SUFFIXES
from cnn_cli.data.folder import SPLITS, list_images, lower_subfolders, subfolders
from cnn_cli.errors import CnnError, UsageError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "frames", "rgb")
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass", "segmentations", "annot"),
    "gt",
)
_BESIDE = ("annot", "_annot", "_masks", "_mask", "_labels", "_label", "_annotations", "_gt")  # of a folder of images
_SUFFIXES = ("_mask", "_L", "_label", "_labels", "_labelIds", "_seg", "_segmentation", "_gt", "_annotation")
_NESTED = 3  # folders that contain only the next one


@dataclass(frozen=True)
class Layout:
    """How a folder is read: `name` for people, and the pairs (image, mask) of each split."""

    name: str
    root: Path
    splits: dict[str, list[tuple[Path, Path]]]
    problems: tuple["PairProblem", ...] = ()

    def check(self) -> None:
        """CnnError for the first image without a mask, or mask without an image."""
        for problem in self.problems:
            raise CnnError(f"{problem.text}; {problem.advice}".removesuffix("; "))


@dataclass(frozen=True)
class PairProblem:
    """Images or masks with a problem: `text` describes the first, `advice` says what to do."""

    text: str
    advice: str
    files: tuple[Path, ...] = ()


def find_layout(root: Path, chosen: str | None = None) -> Layout | None:
    """The images and masks of a folder; None if it has no masks.

    chosen: the folder of the masks, such as `masks` or `train/masks`, or the suffix of their names, such as `_mask`, if
    several fit. UsageError if two layouts fit.
    """
    name_of_masks = chosen and chosen.rstrip("/").rpartition("/")[2].lower()
    for _ in range(_NESTED):
        readings = [(name, folders) for name, folders in _readings(root, name_of_masks or None) if folders]
        if len(readings) > 1 and chosen:
            readings = [r for r in readings if _place(root, r[1]) == chosen.rstrip("/")] or readings
        if len(readings) > 1:
            options = "\n".join(
                f"  {name}, {_described(root, folders)}: --annotations {_place(root, folders)}"
                for name, folders in readings
            )
            raise UsageError(f"{root} can be read in several ways; choose one:\n{options}")
        if readings:
            ((name, folders),) = readings
            order = [split for split in ("all", "train", "val", "test") if split in folders]
            problems: list[PairProblem] = []
            return Layout(name, root, {s: _paired(s, *folders[s], problems) for s in order}, tuple(problems))
        inside = list(subfolders(root).values())
        if len(inside) != 1:
            return None
        root = inside[0]
    return None


Folders = dict[str, tuple[list[Path], list[Path]]]  # images and masks by split


def _readings(root: Path, chosen: str | None) -> Iterator[tuple[str, Folders]]:
    """chosen: the name of the folder of masks, or the end of their names, in lower case."""
    folders = lower_subfolders(root)
    if "jpegimages" in folders and "segmentationclass" in folders and chosen in (None, "segmentationclass"):
        yield "VOC", _voc(root, folders)
        return
    yield "train/ with trainannot/", _beside(folders, chosen)
    yield "images/ with masks/", _inside(folders, chosen)
    splits = _by_split(folders)
    pairs = {split: _pair_in(path, chosen) for split, path in splits.items()}
    yield "train/images/ with train/masks/", {split: pair for split, pair in pairs.items() if pair}
    if not any(pairs.values()) and not {*IMAGE_FOLDERS} & {*folders}:
        together = {split: _together(path, chosen) for split, path in (splits or {"all": root}).items()}
        yield "NAME with NAME_mask", {split: pair for split, pair in together.items() if pair}


def _voc(root: Path, folders: dict[str, Path]) -> Folders:
    images, masks = list_images(folders["jpegimages"]), list_images(folders["segmentationclass"])
    if not masks:
        return {}
    lists = root / "ImageSets" / "Segmentation"
    files = {split: lists / f"{split}.txt" for split in ("train", "val", "test") if (lists / f"{split}.txt").is_file()}
    if not files:
        stems = {path.stem for path in masks}
        return {"all": ([path for path in images if path.stem in stems], masks)}
    names = {split: {line.split()[0] for line in _lines(path)} for split, path in files.items()}
    result = {}
    for split, wanted in names.items():
        chosen = [[p for p in paths if p.stem in wanted] for paths in (images, masks)]
        if missing := sorted(wanted - {path.stem for path in chosen[0]}):
            raise CnnError(f"{files[split]} names {missing[0]}, but there is no such image in {folders['jpegimages']}")
        if chosen[1]:  # the test split of VOC has no masks
            result[split] = (chosen[0], chosen[1])
    return result


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]


def _beside(folders: dict[str, Path], chosen: str | None) -> Folders:
    """`train/` and `trainannot/`, `train_images/` and `train_masks/`."""
    result: Folders = {}
    for name, path in folders.items():
        stem = name.removesuffix("_images")
        if stem not in SPLITS:
            continue
        ends = [end for end in _BESIDE if stem + end in folders and chosen in (None, end, stem + end)]
        if masks := _one_of([folders[stem + end] for end in ends], ends):
            result[SPLITS[stem]] = (list_images(path), list_images(masks))
    return result


def _one_of(folders: list[Path], options: list[str]) -> Path | None:
    """The only one of these folders that has masks. UsageError if several have, with the option for each."""
    filled = [(path, option) for path, option in zip(folders, options, strict=True) if list_images(path)]
    if len(filled) > 1:
        parent, names = filled[0][0].parent, " and ".join(f"{path.name}/" for path, _ in filled)
        add = " or ".join(f"--annotations {option}" for _, option in filled)
        raise UsageError(f"{parent} has masks in {names}; choose one: {add}")
    return filled[0][0] if filled else None


def _inside(folders: dict[str, Path], chosen: str | None) -> Folders:
    """`images/` and `masks/`, each with or without folders for the splits."""
    if (pair := _image_and_mask_folder(folders, chosen)) is None:
        return {}
    images, masks = pair
    inner = [_by_split(lower_subfolders(path)) for path in (images, masks)]
    if inner[0] and inner[0].keys() == inner[1].keys():
        return {split: (list_images(inner[0][split]), list_images(inner[1][split])) for split in inner[0]}
    files = list_images(masks)
    return {"all": (list_images(images), files)} if files else {}


def _image_and_mask_folder(folders: dict[str, Path], chosen: str | None) -> tuple[Path, Path] | None:
    images = [folders[name] for name in IMAGE_FOLDERS if name in folders]
    if not images:
        return None
    candidates = [folders[name] for name in MASK_FOLDERS if name in folders and chosen in (None, name)]
    masks = _one_of(candidates, [path.name for path in candidates])
    return (images[0], masks) if masks else None


def _pair_in(path: Path, chosen: str | None) -> tuple[list[Path], list[Path]] | None:
    pair = _image_and_mask_folder(lower_subfolders(path), chosen)
    return (list_images(pair[0]), list_images(pair[1])) if pair else None


def _together(path: Path, chosen: str | None) -> tuple[list[Path], list[Path]] | None:
    """Images and masks in one folder; None unless most images have a mask."""
    files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
    names = {p.stem for p in files}
    masks = [p for p in files if any(p.stem.endswith(s) and p.stem.removesuffix(s) in names for s in _SUFFIXES)]
    suffixes = {s for p in masks for s in _SUFFIXES if p.stem.endswith(s) and chosen in (None, s.lower())}
    masks = [p for p in files if any(p.stem.endswith(s) for s in suffixes)]
    images = [p for p in files if p not in set(masks)]
    return (images, masks) if masks and 2 * len(masks) >= len(images) else None


def _by_split(folders: dict[str, Path]) -> dict[str, Path]:
    return {SPLITS[name]: path for name, path in folders.items() if name in SPLITS}


def _paired(split: str, images: list[Path], masks: list[Path], problems: list[PairProblem]) -> list[tuple[Path, Path]]:
    """Each image with its mask, by the names of the files. Appends those without a counterpart to `problems`."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        by_name[mask.stem].append(mask)
        for suffix in _SUFFIXES:
            if mask.stem.endswith(suffix):
                by_name[mask.stem.removesuffix(suffix)].append(mask)
    pairs, images_of = [], defaultdict[Path, list[Path]](list)
    for path in images:
        own = by_name.get(path.stem, [])
        if len(own) > 1:
            text = f"{path} has several masks: {own[0]} and {own[1]}"
            problems.append(PairProblem(text, "keep one", (path, *own)))
        for mask in own:
            images_of[mask].append(path)
        pairs += [(path, own[0])] if own else []
    if lacking := [path for path in images if path.stem not in by_name]:
        more = f" ({len(lacking):,} images without a mask in all)" if len(lacking) > 1 else ""
        text = f"{lacking[0]} has no mask in {masks[0].parent}{more}"
        problems.append(PairProblem(text, f"add {lacking[0].stem}.png, or remove it", tuple(lacking)))
    if orphans := [mask for mask in masks if mask not in images_of]:
        more = f" ({len(orphans):,} masks without an image in all)" if len(orphans) > 1 else ""
        text = f"{orphans[0]} has no image{more}"
        problems.append(PairProblem(text, "add the image, or remove the mask", tuple(orphans)))
    for mask, both in images_of.items():
        if len(both) > 1:
            text = f"{both[0]} and {both[1]} have the same name, so both would have the mask {mask}"
            problems.append(PairProblem(text, "rename one", tuple(both)))
    if not pairs and not problems:
        problems.append(PairProblem(f"the {split} split has no images", ""))
    return pairs


def _place(root: Path, folders: Folders) -> str:
    """The first of the layout's folders of masks, as --annotations takes it; or the suffix of their names, if images
    and masks are in one folder."""
    images, masks = next(iter(folders.values()))
    if images and images[0].parent == masks[0].parent:
        return next(suffix for suffix in _SUFFIXES if masks[0].stem.endswith(suffix))
    return masks[0].parent.relative_to(root).as_posix()


def _described(root: Path, folders: Folders) -> str:
    images, masks = next(iter(folders.values()))
    places = [str((paths[0].parent if paths else root).relative_to(root)) for paths in (images, masks)]
    return f"images in {places[0]}/, masks in {places[1]}/"
