"""Attacks as pictures and documents: the images before and after, and accuracy against epsilon."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.batches import iterate_batches
from cnn_cli.data.dataset import Dataset, Split
from cnn_cli.data.preparation import PreparedData, prepare
from cnn_cli.errors import UsageError
from cnn_cli.interpret.attack import Attack, Attacked, attack_images, robustness
from cnn_cli.interpret.inputs import Inputs, whole_split
from cnn_cli.interpret.progress_bar import tracked
from cnn_cli.interpret.provenance import origin, place
from cnn_cli.interpret.scores import class_index, class_names, percent, says, scores_of
from cnn_cli.pictures import image
from cnn_cli.pictures.captioned_grid import ACCENT, Cell, picture, sheet
from cnn_cli.pictures.page import Bar, Page, page
from cnn_cli.pictures.plots import robustness_curve
from cnn_cli.tables import Column, Table, render

_BATCH = 256
_SHARES = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)  # of the usual epsilon: what a curve is drawn through


def usual_epsilon(norm: str, channels: int) -> float:
    """The radius that papers report: 8/255 and 0.5 for colour images, 0.1 and 1.5 for grey ones such as MNIST."""
    return {"linf": 8 / 255, "l2": 0.5}[norm] if channels == 3 else {"linf": 0.1, "l2": 1.5}[norm]


def attack_of(
    loaded: LoadedNetwork,
    method: str,
    norm: str,
    steps: int | None,
    step_size: float | None,
    target: str | None,
    seed: int,
) -> Attack:
    """The attack that the options ask for; UsageError for a class that does not exist, or settings without effect."""
    if method == "fgsm" and (steps is not None or step_size is not None):
        raise UsageError("FGSM is a single step of length epsilon; --steps and --step-size are for --method pgd")
    aim = None if target is None else class_index(target, class_names(loaded))
    return Attack(method, norm, 10 if steps is None else steps, step_size, target=aim, seed=seed)


def epsilons_for(given: Sequence[float], norm: str, channels: int, whole: bool) -> list[float]:
    """The radii asked for, sorted, or the usual ones. UsageError for a negative or infinite one."""
    if wrong := [e for e in given if not 0 <= e < float("inf")]:
        raise UsageError(f"--epsilon {wrong[0]:g}: must be 0 or more, in units of pixels in [0, 1]; try 0.03")
    usual = usual_epsilon(norm, channels)
    return sorted(set(given)) or ([usual * share for share in _SHARES] if whole else [usual])


def show_attack(
    loaded: LoadedNetwork,
    inputs: Inputs,
    given: Sequence[float],
    how: Attack,
    device: torch.device,
    output: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Attack images and write the picture → what `cnn attack --json` prints."""
    classes, scores = class_names(loaded), scores_of(loaded).to(device)
    epsilons = epsilons_for(given, how.norm, inputs.pixels.shape[1], whole=False)
    word = (Path(inputs.names[0]).stem.replace(" ", "-"),) if len(inputs.names) == 1 else ()
    path = output or place(loaded, "attack", *word)
    image.check_target(path, force)
    watched = tracked(epsilons, len(epsilons), "attacking")
    results = [r for e in watched for r in attack_images(scores, inputs.pixels.to(device), inputs.labels, [e], how)]
    drawing = draw(results, inputs, classes, how, f"{loaded.plan.network}: adversarial examples", [origin(loaded)])
    image.save(drawing.image, path)
    return {
        "network": loaded.plan.network,
        "checkpoint": str(loaded.weights),
        "picture": str(path),
        "body": list(drawing.body),
        "attack": settings(how, classes),
        "images": document(results, inputs, classes, how),
    }


def show_robustness(
    loaded: LoadedNetwork,
    dataset: Dataset,
    split: str,
    given: Sequence[float],
    how: Attack,
    device: torch.device,
    limit: int | None = None,
    output: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Attack a split (or `limit` images of it) and draw the curve → what `cnn attack --split --json` prints."""
    classes, scores = class_names(loaded), scores_of(loaded).to(device)
    epsilons = epsilons_for(given, how.norm, loaded.plan.input[0], whole=True)
    path = output or place(loaded, "attack", how.method, how.norm, split)
    image.check_target(path, force, (".png", ".svg", ".pdf"))
    data = prepare(_drawn(dataset, split, limit, how.seed), loaded.preprocessing, device)
    measured = robustness(scores, _batches(data, split, device), epsilons, how)
    title = f"{loaded.plan.network} on {Path(dataset.name).name}, {split}: accuracy under attack"
    aim = "" if how.target is None else f", target {classes[how.target]}"
    robustness_curve(
        measured["results"], path, title, f"{how.title}{aim}; {measured['n']:,} images", how.target is not None
    )
    return {
        "network": loaded.plan.network,
        "checkpoint": str(loaded.weights),
        "data": dataset.name,
        "split": split,
        "picture": str(path),
        "attack": settings(how, classes),
        **measured,
    }


def settings(how: Attack, classes: tuple[str, ...]) -> dict[str, Any]:
    """The attack as a document."""
    one = how.method == "fgsm"
    facts = asdict(how) | {"target": None if how.target is None else classes[how.target]}
    facts |= {"steps": 1, "step_size": None, "start": False} if one else {}
    return {"random_start" if key == "start" else key: value for key, value in facts.items()}


def document(
    results: Sequence[Attacked], inputs: Inputs, classes: tuple[str, ...], how: Attack
) -> list[dict[str, Any]]:
    """What was done to each image with each epsilon, and what the network says before and after."""
    rows = []
    for r in results:
        change = (r.pixels.cpu() - inputs.pixels).flatten(1)
        succeeded = r.succeeded(how.target)
        for i, name in enumerate(inputs.names):
            label = inputs.labels[i]
            rows.append(
                {
                    "image": name,
                    "true": None if label is None else classes[label],
                    "epsilon": r.epsilon,
                    "before": _said(r.before[i], classes),
                    "after": _said(r.after[i], classes),
                    "success": succeeded[i],
                    "largest_change": float(change[i].abs().max()),
                    "l2_change": float(change[i].norm()),
                }
            )
    return rows


def images_table(document: dict[str, Any]) -> Table:
    """A line for each image and epsilon."""
    columns = (
        Column("image", "image", wraps=True),
        Column("true", "true", wraps=True),
        Column("epsilon", "epsilon", number=True),
        Column("before", "before", wraps=True),
        Column("after", "after", wraps=True),
        Column("success", "fooled"),
    )
    rows = [
        row
        | {when: f"{row[when]['class']} {percent(row[when]['confidence'])}" for when in ("before", "after")}
        | ({"success": "wrong already"} if row["true"] not in (None, row["before"]["class"]) else {})
        for row in document["images"]
    ]
    return Table(columns, rows)


def robustness_table(document: dict[str, Any]) -> Table:
    """A line for each epsilon."""
    columns = [Column("epsilon", "epsilon", number=True), Column("accuracy", "accuracy", number=True)]
    if document["attack"]["target"] is not None:
        columns.append(Column("taken", f"taken for {document['attack']['target']}", number=True))
    return Table(tuple(columns), document["results"])


def report(document: dict[str, Any], how: Attack, style: str = "text") -> str:
    """A document of either kind for people."""
    whole = "results" in document
    table = render(robustness_table(document) if whole else images_table(document), style)
    if style != "text":
        return table
    lines = [how.title, "", table, ""]
    if lost := document.get("zero_gradient"):
        lines += [f"{lost:,} images have no gradient at all, so the attack cannot begin there: that is no robustness"]
    return "\n".join([*lines, document["picture"]])


def draw(
    results: Sequence[Attacked], inputs: Inputs, classes: tuple[str, ...], how: Attack, title: str, lines: Sequence[str]
) -> Page:
    """For each image and epsilon a row: original, difference magnified, result, with what the network says to them."""
    rows = []
    for i, label in enumerate(inputs.labels):
        truth = f"in truth {classes[label]}" if label is not None else Path(inputs.names[i]).name
        for r in results:
            change = r.pixels[i].cpu() - inputs.pixels[i]
            after = says(r.after[i : i + 1], classes)[0]
            fooled = r.succeeded(how.target)[i]
            rows.append(
                [
                    Cell(picture(inputs.pixels[i]), (says(r.before[i : i + 1], classes)[0], truth)),
                    Cell(difference(change), magnification(change)),
                    Cell(picture(r.pixels[i]), (after, f"epsilon {r.epsilon:.3g}"), ACCENT if fooled else image.INK),
                ]
            )
    panel, count = sheet(rows, ("original", "difference, magnified", "result"))
    aim = "" if how.target is None else f", to be taken for {classes[how.target]}"
    some = f"; shown: the first {count} of {len(rows)}" if count < len(rows) else ""
    return page([panel], title, [f"{how.title}{aim}{some}", *lines], _bar(inputs.pixels.shape[1]))


def difference(change: Tensor) -> image.Array:
    """(C, H, W) → (H, W, 3) uint8, magnified to its own largest value: red brighter, blue darker; colours in colour."""
    values = change.detach().cpu().numpy()
    scale = float(np.abs(values).max())
    return image.colour(values, scale) if len(values) == 3 else image.signed(values.mean(0), scale)


def magnification(change: Tensor) -> tuple[str, str]:
    """What stands under a difference: `×20: within ±0.05`, and its L2 length."""
    largest = float(change.abs().max())
    if not largest:
        return "no difference", ""
    return f"×{1 / largest:.2g}: within ±{image.number(largest)}", f"L2 length {image.number(float(change.norm()))}"


def _bar(channels: int) -> Bar:
    of = "change of each colour" if channels == 3 else "change of a pixel"
    label = f"{of}; the largest is given under each, pixels being in [0, 1]"
    return Bar(image.ramp(channels == 3), "−largest", "0", "largest", label)


def _said(scores: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    confidence, predicted = scores.softmax(0).max(0)
    return {"class": classes[int(predicted)], "confidence": float(confidence)}


def _drawn(dataset: Dataset, split: str, limit: int | None, seed: int) -> Dataset:
    """The dataset with `limit` images of the split, drawn from the seed: the first ones would be of one class."""
    part = dataset.splits[split]
    if limit is None or limit >= len(part.targets):
        return dataset
    chosen = torch.randperm(len(part.targets), generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    images = part.images[chosen] if isinstance(part.images, Tensor) else tuple(part.images[i] for i in chosen.tolist())
    return Dataset(dataset.name, dataset.classes, {split: Split(images, part.targets[chosen])}, dataset.notes)


def _batches(data: PreparedData, split: str, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    images = data.splits[split]
    parts = iterate_batches(images, torch.split(torch.arange(len(images)), _BATCH), device)
    return tracked(parts, -(-len(images) // _BATCH), "attacking")


def source_of(loaded: LoadedNetwork, split: str, data: str | None, data_dir: Path | None, limit: int | None) -> Dataset:
    """The split that is to be attacked. UsageError for a limit below 1."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1, not {limit}")
    return whole_split(loaded, split, data, data_dir)
