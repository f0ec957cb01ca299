"""Pictures of filters as files: one layer, one layer beside another checkpoint's, all layers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, load_network
from cnn_cli.errors import UsageError
from cnn_cli.interpret.atlas import Drawing, draw_all, draw_filters
from cnn_cli.interpret.filters import Filters, Health, choose, convolutions, describe, filters_of, health, likeness
from cnn_cli.interpret.progress_bar import tracked
from cnn_cli.interpret.provenance import origin, place, restored
from cnn_cli.pictures import image
from cnn_cli.pictures.film import STRIP, write_film


def show_filters(
    loaded: LoadedNetwork,
    layer: str | None = None,
    output: Path | None = None,
    seed: int = 0,
    per_filter: bool = False,
    force: bool = False,
    sort: str = "",
    compare: str | None = None,
) -> dict[str, Any]:
    """Write the picture of a convolution of an opened network → what `cnn visualize-filters --json` prints.

    `layer` is chosen as in `choose`. Without `output` the picture goes into the run folder or, where there is none, the
    working directory; an existing file is a UsageError unless `force`. Fresh weights are drawn from `seed`. `compare`
    is "untrained" (the weights with which the run began) or a run or checkpoint to show beside it.
    """
    filters = filters_of(restored(loaded, seed), layer)
    path = output or place(loaded, *_parts(filters.layer, sort, compare))
    image.check_target(path, force)
    came = origin(loaded, seed)
    others, other_came = _others(loaded, filters.layer, compare) if compare else (None, "")
    drawing = draw_filters(filters, loaded.plan.network, came, per_filter, sort, others, other_came)
    image.save(drawing.page.image, path)
    kept = likeness(filters, others).tolist() if others else None
    compared = {"origin": other_came, "likeness": kept} if others else None
    return _head(loaded, path, came) | _document(filters, drawing) | {"compared": compared}


def show_all(
    loaded: LoadedNetwork, output: Path | None = None, seed: int = 0, force: bool = False, sort: str = ""
) -> dict[str, Any]:
    """Write the atlas of all convolutions, strongest filters first unless `sort` says otherwise; as above."""
    network = restored(loaded, seed)
    choose(network)  # which says what is missing where there is none
    path = output or place(loaded, "filters")
    image.check_target(path, force)
    names = list(convolutions(network))
    layers = [filters_of(network, name) for name in tracked(names, len(names), "reading")]
    came, marks = origin(loaded, seed), [health(layer) for layer in layers]
    page, shown = draw_all(layers, loaded.plan.network, came, sort or "norm")
    image.save(page.image, path)
    rows = [_facts(f, h) | {"shown": n} for f, h, n in zip(layers, marks, shown, strict=False)]
    return _head(loaded, path, came) | {"body": list(page.body), "layers": rows}


def report(document: dict[str, Any]) -> str:
    """The document for people: the picture, what it shows, what is dead or alike, where the weights come from."""
    lines = [document["picture"]]
    if "largest_weight" in document:
        lines.append(f"{document['description']}, weights within ±{document['largest_weight']:.3g}")
    elif "description" in document:
        lines.append(document["description"])
    for found in document.get("layers", [document] if "dead" in document else []):
        if words := Health(tuple(found["dead"]), tuple(map(tuple, found["alike"]))).words():
            lines.append(f"layer {found['layer']}: {words}")
    return "\n".join([*lines, document["origin"]])


def _parts(layer: str, sort: str, compare: str | None) -> Sequence[str]:
    """What a picture's name says, so that different pictures have different ones."""
    beside = Path(compare).parent.name if compare and Path(compare).suffix else Path(compare or "").name
    return ["filters", layer, *([f"by-{sort}"] if sort else []), *([f"beside-{beside}"] if compare else [])]


def _others(loaded: LoadedNetwork, layer: str, compare: str) -> tuple[Filters, str]:
    """The filters to compare with, and where they come from."""
    if compare == "untrained":
        seed = int(loaded.metadata.data.get("seed", 0)) if loaded.metadata else 0
        fresh = replace(loaded, weights=None, metadata=None, run=None)
        return filters_of(restored(fresh, seed), layer), f"untrained (seed {seed})"
    other = load_network(compare)
    if other.weights is None:
        raise UsageError(f"--compare {compare}: there is no run of it; name a run folder or a checkpoint, or untrained")
    return filters_of(restored(other), layer), origin(other)


def _head(loaded: LoadedNetwork, path: Path, came: str) -> dict[str, Any]:
    weights = loaded.weights and str(loaded.weights)
    return {"network": loaded.plan.network, "picture": str(path), "checkpoint": weights, "origin": came}


def _document(filters: Filters, drawing: Drawing) -> dict[str, Any]:
    return {
        "description": describe(filters, drawing.shown),
        **_facts(filters, health(filters)),
        "order": list(drawing.order),
        "shown": {"filters": drawing.shown[0], "channels": drawing.shown[1]},
        "body": list(drawing.page.body),
    }


def _facts(filters: Filters, marks: Health) -> dict[str, Any]:
    return {
        "layer": filters.layer,
        "type": filters.type,
        "shape": list(filters.weights.shape),  # filters, channels that each sees, height, width
        "groups": filters.groups,
        "colour": filters.colour,
        "dead": list(marks.dead),
        "alike": [list(group) for group in marks.alike],
        "largest_weight": float(abs(filters.weights).max()),
    }


def show_film(loaded: LoadedNetwork, output: Path | None = None, force: bool = False) -> dict[str, Any]:
    """Write the film strip of a run → what --every-epoch prints. CnnError for a run that kept no frames."""
    if loaded.run is None:
        raise UsageError("--every-epoch needs a run folder, which keeps the filters of every epoch")
    path = output or loaded.run / STRIP
    image.check_target(path, force)
    page, layer, epochs = write_film(loaded.run, loaded.plan.network, loaded.plan.input[0] == 3, path)
    facts = {"description": f"layer {layer}, epochs {epochs[0]} to {epochs[-1]}", "layer": layer, "epochs": epochs}
    return _head(loaded, path, origin(loaded)) | facts | {"body": list(page.body)}
