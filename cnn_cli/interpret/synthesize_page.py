"""Synthetic images as a picture: one for each class or channel that was asked for, with what it reached."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.interpret.progress_bar import tracked
from cnn_cli.interpret.provenance import origin, place
from cnn_cli.interpret.scores import Scores, class_index, class_names, percent, scores_of
from cnn_cli.interpret.synthesize import Ascent, Liked, Objective, channels_of, choose, numbers, synthesize
from cnn_cli.pictures import image
from cnn_cli.pictures.captioned_grid import Cell, picture, room, sheet
from cnn_cli.pictures.page import Page, page

_FAINT = 0.5  # an image whose values span less than this is shown with its contrast raised


@dataclass(frozen=True)
class Units:
    """What is to be liked: the numbers of classes or of a layer's channels, their names, and a name for all of them."""

    objective: Objective
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    what: str
    layer: str | None = None


def units_of(
    loaded: LoadedNetwork,
    scores: Scores,
    classes: Sequence[str] = (),
    all_classes: bool = False,
    layer: str | None = None,
    channels: str | None = None,
) -> Units:
    """The classes or the channels that are meant; UsageError where none or both are, or where one does not exist."""
    known = class_names(loaded)
    if layer is not None and channels is not None and not classes and not all_classes:
        found = choose(loaded, layer)
        chosen = numbers(channels, found.output_shape[0], "--channels")
        thing = "channel" if len(found.output_shape) == 3 else "unit"
        names = tuple(f"{thing} {n}" for n in chosen)
        return Units(channels_of(scores, found), chosen, names, f"layer {layer} ({found.type})", layer)
    if layer is None and channels is None and (classes or all_classes):
        chosen = tuple(range(len(known))) if all_classes else tuple(class_index(c, known) for c in classes)
        return Units(scores, chosen, tuple(known[k] for k in chosen), "classes")
    raise UsageError(
        "say what the image is for: --all-classes, --class NAME, or --layer NAME with --channels 0-15 "
        "(classes or channels, not both)"
    )


def show_synthesis(
    loaded: LoadedNetwork,
    how: Ascent,
    classes: Sequence[str] = (),
    all_classes: bool = False,
    layer: str | None = None,
    channels: str | None = None,
    size: int | None = None,
    device: torch.device | None = None,
    output: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write the picture of what classes or channels like best → what `cnn synthesize --json` prints.

    `size` is the side of the images in px, else they have the network's own size. UsageError where the network does not
    take it, and for more images than a picture holds.
    """
    where = device or torch.device("cpu")
    scores = scores_of(loaded).to(where)
    units = units_of(loaded, scores, classes, all_classes, layer, channels)
    shape = (loaded.plan.input[0], size or loaded.plan.input[1], size or loaded.plan.input[2])
    rows, columns = room((shape[1], shape[2]))
    if len(units.numbers) > rows * columns:
        raise UsageError(
            f"{len(units.numbers):,} images of {shape[1]}x{shape[2]} are more than a picture holds ({rows * columns}); "
            "ask for fewer classes or channels"
        )
    name = (units.layer, channels or "") if units.layer else ("classes",) if all_classes else units.names[:3]
    path = output or place(loaded, "synthesis", *name)
    image.check_target(path, force)
    _try_size(loaded, units.objective, shape, where)
    watch = partial(tracked, total=how.steps, what="climbing")
    liked = synthesize(scores, units.objective, units.numbers, shape, background(loaded), how, where, watch)
    facts = _facts(scores, units, liked)
    drawing = draw(liked, facts, f"{loaded.plan.network}: what {_plural(units)} best", [how.title, origin(loaded)])
    image.save(drawing.image, path)
    return {
        "network": loaded.plan.network,
        "checkpoint": str(loaded.weights),
        "picture": str(path),
        "body": list(drawing.body),
        "layer": units.layer,
        "size": list(shape),
        "ascent": asdict(how),
        "images": facts,
    }


def background(loaded: LoadedNetwork) -> tuple[float, ...]:
    """The colour that images are drawn towards: the mean that the network subtracts; else black, in colour mid-grey."""
    channels = loaded.plan.input[0]
    return loaded.preprocessing.mean or ((0.0,) if channels == 1 else (0.5,) * channels)


def draw(liked: Liked, facts: Sequence[dict[str, Any]], title: str, lines: Sequence[str]) -> Page:
    """A cell for each image, row by row; a faint one with its contrast raised, which is said under it."""
    cells = []
    for pixels, fact in zip(liked.pixels.cpu(), facts, strict=True):
        shown, factor = stretched(pixels)
        reached = f"{percent(fact['confidence'])}, score" if "confidence" in fact else "activation"
        reached = fact["dead"] or f"{reached} {image.number(fact['value'])}"
        raised = f"; contrast ×{factor:.2g}" if factor > 1 and not fact["dead"] else ""
        cells.append(Cell(picture(shown), (fact["name"], reached + raised)))
    columns = image.columns_for(len(cells), cells[0].body.shape[:2], most=room(cells[0].body.shape[:2])[1])
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return page([sheet(rows)[0]], title, lines, None)


def stretched(pixels: Tensor) -> tuple[Tensor, float]:
    """(C, H, W) in [0, 1] → the same, or with all of [0, 1] in use where it spans little of it; and the factor."""
    low, high = float(pixels.min()), float(pixels.max())
    if not 1e-3 < high - low < _FAINT:
        return pixels, 1.0
    return (pixels - low) / (high - low), 1 / (high - low)


def report(document: dict[str, Any]) -> str:
    """The picture, then a line for each unit that is dead."""
    dead = [f"{fact['name']}: {fact['dead']}" for fact in document["images"] if fact["dead"]]
    return "\n".join([document["picture"], *dead])


@torch.no_grad()
def _facts(scores: Scores, units: Units, liked: Liked) -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = []
    for i, (number, name) in enumerate(zip(units.numbers, units.names, strict=True)):
        dead = "dead: no gradient reaches the image" if liked.dead[i] else ""
        if units.layer and not dead and liked.values[i] <= 0 and _rectified(scores, units.layer):
            dead = "dead: it stays at 0 even here"
        facts.append({"index": number, "name": name, "value": liked.values[i], "dead": dead or None})
    if not units.layer:
        shares = torch.cat([scores(part) for part in torch.split(liked.pixels, 16)]).softmax(1)
        for fact, row in zip(facts, shares, strict=True):
            fact["confidence"] = float(row[fact["index"]])
    return facts


def _rectified(scores: Scores, layer: str) -> bool:
    return isinstance(scores.network.get_submodule(layer), torch.nn.ReLU | torch.nn.ReLU6)


def _plural(units: Units) -> str:
    one = len(units.numbers) == 1
    if units.layer:
        return f"{units.names[0]} of {units.what} likes" if one else f"channels of {units.what} like"
    return f"{units.names[0]} likes" if one else "the classes like"


def _try_size(loaded: LoadedNetwork, objective: Objective, shape: tuple[int, int, int], device: torch.device) -> None:
    """UsageError where the network does not take images of that size."""
    try:
        with torch.no_grad():
            objective(torch.zeros(1, *shape, device=device))
    except (RuntimeError, ValueError):
        own = "x".join(map(str, loaded.plan.input))
        raise UsageError(
            f"--size {shape[1]}: {loaded.plan.network} takes {own}, and what is asked for cannot be computed at "
            f"{'x'.join(map(str, shape))}; leave --size out, or take an earlier layer"
        ) from None
