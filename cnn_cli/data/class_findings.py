"""Findings about the classes of a folder: without images, missing in a split, similar in name, or rare."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from cnn_cli.data.finding import ERROR, NOTE, WARNING, Finding, Item
from cnn_cli.data.folder import Listing, class_names, class_problems
from cnn_cli.tables import counted

_IMBALANCE = 10  # times as many images in the largest class as in the smallest

Counts = Mapping[str, Mapping[str, int]]  # images by class and split


def find_in_listing(listing: Listing) -> list[Finding]:
    """Errors at which training would stop, and suspicious classes."""
    findings = []
    for problem in class_problems(listing):
        title, _, advice = problem.replace(f"{listing.root}/", "").replace("\n", "; ").partition("; ")
        code = next(c for word, c in _REFUSED.items() if word in problem)
        findings.append(Finding(code, ERROR, title, advice))
    findings += [*_alike(listing), *_absent(listing)]
    single = [c for c, images in listing.files.get("all", {}).items() if len(images) == 1]
    if single and len(single) == len(listing.files["all"]):
        advice = "add images, at least two per class, or split the folder into train/ and test/"
        findings.append(Finding("too_few_images", ERROR, "no test split can be held out: one image per class", advice))
    if listing.skipped:
        advice = "only images inside class folders are read; check that nothing is missing"
        findings.append(Finding("skipped_files", NOTE, listing.skipped, advice))
    return findings


_REFUSED = {"only one class": "single_class", "no images in": "empty_class", "does not have": "class_not_in_train"}


def find_imbalance(counts: Counts, noun: str = "images") -> list[Finding]:
    """Training splits in which the largest class has many times the images of the smallest."""
    findings = []
    for split in ("train", "all"):
        sizes = {label: by_split[split] for label, by_split in counts.items() if by_split.get(split)}
        if len(sizes) < 2:
            continue
        low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        if sizes[high] >= _IMBALANCE * sizes[low]:
            title = f"imbalanced classes in {split}: {sizes[low]:,} {noun} of {low}, {sizes[high]:,} of {high}"
            rare = [label for label, n in sizes.items() if sizes[high] >= _IMBALANCE * n]
            advice = "add images of rare classes, or weight them (--class-weights sqrt); look at results per class"
            items = tuple(Item(text=f"{label}: {sizes[label]:,} {noun}") for label in sorted(rare, key=sizes.get))  # type: ignore[arg-type]
            findings.append(Finding("imbalance", WARNING, title, advice, items))
    return findings


def _alike(listing: Listing) -> Iterator[Finding]:
    by_name = defaultdict[str, set[str]](set)
    for classes in listing.files.values():
        for name in classes:
            by_name[name.casefold().strip()].add(name)
    items = [Item(text=" and ".join(sorted(names))) for names in by_name.values() if len(names) > 1]
    if items:
        title = f"{counted(len(items), 'class')} in several spellings, which count as different classes"
        yield Finding(
            "similar_class_names", WARNING, title, "give the folders the same name, and merge them", tuple(items)
        )


def _absent(listing: Listing) -> Iterator[Finding]:
    """Classes of train that another split lacks."""
    if "train" not in listing.files:
        return
    for split, files in listing.files.items():
        lacking = [c for c in class_names(listing) if not files.get(c)]
        if split != "train" and lacking:
            title = f"{counted(len(lacking), 'class')} without images in {split}"
            advice = f"the result on {split} says nothing about them; move some of their images there"
            yield Finding("class_missing", WARNING, title, advice, tuple(Item(text=name) for name in lacking))
