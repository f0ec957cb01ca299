"""Views of learned filters: one layer, alone or compared to another checkpoint; all layers; the epochs of a run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, load_network
from cnn_cli.errors import UsageError, listed
from cnn_cli.interpret.filter_pages import Drawing, draw_atlas, draw_filters
from cnn_cli.interpret.filters import (
    Filters,
    Health,
    choose_convolution,
    convolutions,
    cosine_similarity,
    describe,
    filters_of,
    health,
)
from cnn_cli.interpret.pictured import Pictured, Target, provenance, restored, write_page
from cnn_cli.pictures.film import STRIP, draw_film, frames_of
from cnn_cli.progress import progress_bar
from cnn_cli.tables import wrapped


@dataclass(frozen=True)
class LayerView:
    """The layer to draw, and the options: `compare` names weights to draw beside it."""

    layer: str | None = None
    per_filter: bool = False
    by_norm: bool = False
    compare: str | None = None


@dataclass(frozen=True)
class LayerFilters:
    """The filters of one layer as drawn, and those that they were compared to."""

    filters: Filters
    provenance: str
    drawing: Drawing
    compared: tuple[Filters, str] | None = None

    def document(self) -> dict[str, Any]:
        compared = None
        if self.compared:
            similarity = cosine_similarity(self.filters, self.compared[0]).tolist()
            compared = {"origin": self.compared[1], "likeness": similarity}
        filters, channels = self.drawing.shown
        return {
            "origin": self.provenance,
            "description": describe(self.filters, self.drawing.shown),
            **_facts(self.filters),
            "order": list(self.drawing.order),
            "shown": {"filters": filters, "channels": channels},
            "compared": compared,
        }

    def text(self) -> str:
        largest = float(abs(self.filters.weights).max())
        description = f"{describe(self.filters, self.drawing.shown)}, weights within ±{largest:.3g}"
        return "\n".join([wrapped(description), *_marks(self.filters), self.provenance])


@dataclass(frozen=True)
class AllFilters:
    """The filters of all convolutions, and the number drawn of each."""

    layers: tuple[Filters, ...]
    shown: tuple[int, ...]
    provenance: str

    def document(self) -> dict[str, Any]:
        rows = [_facts(f) | {"shown": n} for f, n in zip(self.layers, self.shown, strict=False)]
        return {"origin": self.provenance, "layers": rows}

    def text(self) -> str:
        return "\n".join([line for layer in self.layers for line in _marks(layer)] + [self.provenance])


@dataclass(frozen=True)
class FilterFilm:
    """The first convolution over the epochs of a run."""

    layer: str
    epochs: tuple[float, ...]
    provenance: str

    @property
    def description(self) -> str:
        return f"layer {self.layer}, epochs {self.epochs[0]} to {self.epochs[-1]}"

    def document(self) -> dict[str, Any]:
        facts = {"description": self.description, "layer": self.layer, "epochs": list(self.epochs)}
        return {"origin": self.provenance} | facts

    def text(self) -> str:
        return f"{self.description}\n{self.provenance}"


def show_filters(loaded: LoadedNetwork, view: LayerView, target: Target, seed: int = 0) -> Pictured[LayerFilters]:
    """Draw the filters of one convolution. A network without weights is initialized from `seed`."""
    filters, source = filters_of(restored(loaded, seed), view.layer), provenance(loaded, seed)
    parts = ["filters", filters.layer, *["by-norm"] * view.by_norm]
    if view.compare:
        other = Path(view.compare)
        parts.append(f"beside-{other.parent.name if other.suffix else other.name}")
    path = target.path(loaded, *parts)
    compared = _compared(loaded, filters.layer, view.compare) if view.compare else None
    drawing = draw_filters(filters, loaded.plan.network, source, view.per_filter, view.by_norm, compared)
    return write_page(loaded, LayerFilters(filters, source, drawing, compared), drawing.page, path)


def show_all_filters(loaded: LoadedNetwork, target: Target, seed: int = 0) -> Pictured[AllFilters]:
    """Draw the atlas of all convolutions, the strongest filters of each first."""
    network, source = restored(loaded, seed), provenance(loaded, seed)
    choose_convolution(network)  # UsageError if there is none
    path, names = target.path(loaded, "filters"), list(convolutions(network))
    layers = tuple(filters_of(network, name) for name in progress_bar(names, len(names), "reading"))
    page, shown = draw_atlas(layers, loaded.plan.network, source)
    return write_page(loaded, AllFilters(layers, tuple(shown), source), page, path)


def show_film(loaded: LoadedNetwork, target: Target) -> Pictured[FilterFilm]:
    """Draw the film strip of a run. CnnError for a run without saved filters."""
    if loaded.run is None:
        raise UsageError("--every-epoch needs a run folder with saved filters")
    path = replace(target, output=target.output or loaded.run / STRIP).path(loaded)
    layer, frames = frames_of(loaded.run)
    page = draw_film(layer, frames, loaded.plan.network, loaded.plan.input[0] == 3)
    film = FilterFilm(layer, tuple(frame.epoch for frame in frames), provenance(loaded))
    return write_page(loaded, film, page, path)


def _compared(loaded: LoadedNetwork, layer: str, compare: str) -> tuple[Filters, str]:
    """The filters to compare to, and their provenance: `untrained` are the run's initial weights."""
    if compare == "untrained":
        seed = int(loaded.metadata.data.get("seed", 0)) if loaded.metadata else 0
        fresh = replace(loaded, weights=None, metadata=None, run=None)
        return filters_of(restored(fresh, seed), layer), provenance(fresh, seed)
    other = load_network(compare)
    if other.weights is None:
        raise UsageError(f"--compare {compare}: no trained weights; name a run folder, a checkpoint, or untrained")
    network = restored(other)
    if layer not in (names := list(convolutions(network))):
        raise UsageError(
            f"--compare {compare}: {other.plan.network} has no convolution {layer!r}; name one that both have with "
            f"--layer. Its convolutions: {listed(names)}"
        )
    return filters_of(network, layer), provenance(other)


def _marks(filters: Filters) -> list[str]:
    words = str(health(filters))
    return [f"layer {filters.layer}: {words}"] if words else []


def _facts(filters: Filters) -> dict[str, Any]:
    marks: Health = health(filters)
    return {
        "layer": filters.layer,
        "type": filters.type,
        "shape": list(filters.weights.shape),  # filters, input channels of each, height, width
        "groups": filters.groups,
        "colour": filters.color,
        "dead": list(marks.dead),
        "alike": [list(group) for group in marks.similar],
        "largest_weight": float(abs(filters.weights).max()),
    }
