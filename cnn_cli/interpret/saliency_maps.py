"""Saliency maps as a page and a table: a row per image, a column per method, and their sanity checks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.interpret.activations import choose_layer
from cnn_cli.interpret.box_scores import BoxScores, ChosenBox, box_scores_of, choose_box, layer_before
from cnn_cli.interpret.inputs import Inputs
from cnn_cli.interpret.pictured import CPU, Pictured, Target, provenance, single_word, write_page
from cnn_cli.interpret.saliency import (
    METHODS,
    Query,
    attribute,
    check_method,
    need_captum,
    refusal,
    remark,
    why_flat,
)
from cnn_cli.interpret.sanity import Areas, areas, randomized, rank_correlation
from cnn_cli.interpret.scores import (
    Prediction,
    Scores,
    class_index,
    class_names,
    main_class,
    parse_region,
    predicted,
    region_of,
    scores_of,
)
from cnn_cli.pictures import image
from cnn_cli.pictures.box_drawing import with_boxes
from cnn_cli.pictures.grid import Cell, captioned_grid, picture, tinted
from cnn_cli.pictures.page import Bar, Page, compose_page
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, percent, render, wrapped

_CLIP = 99.0  # percentile of absolute values with full color, as in SmoothGrad's paper, since a few are outliers

_AREAS = ("deletion", "insertion")
_SANITY = (
    "correlation: with the map of the same network with random weights; a map that shows what was learned has a low "
    "one. deletion, insertion: mean probability of the class while the most important pixels are removed (lower is "
    "better) or added first (higher is better) / the same for pixels in random order."
)


@dataclass(frozen=True)
class SaliencyRequest:
    """The options of `cnn visualize-saliency`.

    `methods`: by default all that apply to the network. `target`: the class to explain, by default the predicted one of
    each image. `overlay`: opacity of the maps over the image, 0 for no overlays. `region` (x0,y0,x1,y1): for a dense
    network, the pixels whose scores are explained, by default those predicted as the class. `box`: for a detector, the
    number of the detected box whose score is explained.
    """

    methods: Sequence[str] = ()
    target: str | None = None
    layer: str | None = None
    sanity: bool = False
    overlay: float = 0.7
    seed: int = 0
    region: str | None = None
    box: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlay <= 1:
            raise UsageError(f"--overlay {self.overlay:g}: must be from 0 (no overlays) to 1 (opaque)")


@dataclass(frozen=True)
class Map:
    """The map of one method for one image, (H, W). `flat`: why it is 0 everywhere. `random`: with random weights."""

    method: str
    values: image.Array
    flat: str = ""
    random: image.Array | None = None
    correlation: float | None = None
    areas: Areas | None = None

    def document(self) -> dict[str, Any]:
        """The document, without the values of the map."""
        facts: dict[str, Any] = {"method": self.method, "flat": self.flat or None}
        facts |= {"largest": float(self.values.max()), "smallest": float(self.values.min())}
        facts |= {"sum": float(self.values.sum())}
        if self.areas is None:
            return facts
        return facts | {"correlation_with_random_weights": self.correlation, **asdict(self.areas)}


@dataclass(frozen=True)
class Explanation:
    """The maps of image `index`, its scores (K,) and the index of the explained class.

    `region` (H, W) bool: for a dense network, the pixels whose scores these are. `box`: of a detector.
    """

    index: int
    scores: torch.Tensor
    target: int
    maps: tuple[Map, ...]
    region: torch.Tensor | None = None
    box: ChosenBox | None = None
    temperature: float = 1.0  # of probabilities, where they are calibrated

    def prediction(self, classes: tuple[str, ...]) -> Prediction:
        box = self.box
        return Prediction(box.name, box.score) if box else predicted(self.scores, classes, self.temperature)

    @property
    def confidence(self) -> float:
        """The probability of the explained class."""
        return self.box.score if self.box else float((self.scores / self.temperature).softmax(0)[self.target])


@dataclass(frozen=True)
class SaliencyMaps:
    """The maps of several images by several methods; `notes`: the methods left out, and caveats."""

    inputs: Inputs
    classes: tuple[str, ...]
    explanations: tuple[Explanation, ...]
    layer: str | None = None  # of Grad-CAM
    notes: tuple[str, ...] = field(default=())

    def document(self) -> dict[str, Any]:
        images = []
        for e in self.explanations:
            label = self.inputs.labels[e.index]
            facts = {
                "image": self.inputs.names[e.index],
                "true": None if label is None else self.classes[label],
                "predicted": e.prediction(self.classes).document(),
                "class": self.classes[e.target],
                "confidence": e.confidence,
                "score": float(e.scores[e.target]),
            }
            region = {} if e.region is None else {"region": float(e.region.float().mean())}
            box = {} if e.box is None else {"box": e.box.document()}
            images.append(facts | region | box | {"maps": [m.document() for m in e.maps]})
        return {"layer": self.layer, "notes": list(self.notes), "images": images}

    def text(self) -> str:
        """A table per image, each figure beside that of a random pixel order."""
        full, lines, each = self.table(), list[str](), len(self.explanations[0].maps)
        shown = [c for c in full.columns if c.title != "random" and c.key not in ("image", "class", "confidence")]
        columns = tuple(replace(c, show=None) if c.key in _AREAS else c for c in shown)
        for first in range(0, len(full.rows), each):
            rows = [
                row | {k: f"{row[k]:.3f} / {row[f'{k}_random']:.3f}" for k in _AREAS if k in row}
                for row in full.rows[first : first + each]
            ]
            show = "{:.2f}".format if self.explanations[first // each].box else percent
            head = f"{rows[0]['image']}: {rows[0]['class']} {show(rows[0]['confidence'])}"
            figures = [render(Table(columns, rows))] if len(columns) > 1 else []
            lines += [*[""] * bool(lines and figures), head, *figures]
        return "\n".join([*lines, *(["", wrapped(_SANITY)] if any("deletion" in row for row in full.rows) else [])])

    def table(self) -> Table:
        """A row per image and method: its sanity checks, or why it is flat."""
        rows, figure = [], "{:.3f}".format
        for shot in self.document()["images"]:
            for m in shot["maps"]:
                own = {k: shot[k] for k in ("image", "class", "confidence")}
                rows.append(own | m | {"correlation": m.get("correlation_with_random_weights")})
        columns = [
            Column("image", "image", wraps=True),
            Column("class", "class", wraps=True),
            Column("confidence", "", number=True, show=percent),
            Column("method", "method"),
        ]
        if any("deletion" in row for row in rows):
            columns.append(Column("correlation", "correlation", number=True, show=figure))
            for key in _AREAS:
                columns.append(Column(key, key, number=True, show=figure))
                columns.append(Column(f"{key}_random", "random", number=True, show=figure))
        if any(row["flat"] for row in rows):
            columns.append(Column("flat", "flat because", wraps=True))
        return Table(tuple(columns), rows)


def show_saliency(
    loaded: LoadedNetwork, inputs: Inputs, request: SaliencyRequest, target: Target, device: torch.device = CPU
) -> Pictured[SaliencyMaps]:
    """Compute the maps of images and draw them. UsageError for a method, class or layer that does not exist."""
    need_captum()
    scores = (box_scores_of(loaded) if loaded.plan.detects else scores_of(loaded)).to(device)
    label = None if request.target is None else class_index(request.target, class_names(loaded))
    box = _box(scores, inputs, label, request)
    layer = _layer(loaded, scores, request, box)
    methods, notes = _suitable(scores, request.methods, layer)
    aim = [] if request.target is None else [request.target]
    number = [] if request.box is None else [f"box-{request.box}"]
    path = target.path(loaded, "saliency", *request.methods, *aim, *number, *single_word(inputs.names))
    pixels = inputs.pixels.to(device)
    query = _query_of_box(scores, pixels, box) if box else _query(scores, pixels, class_names(loaded), label, request)
    query = replace(query, layer=layer, seed=request.seed)
    with torch.no_grad():
        values = torch.cat([_scores(scores, part) for part in query.parts])
    fresh = randomized(loaded, request.seed).to(device) if request.sanity else None
    maps = [_maps(scores, m, query, fresh) for m in progress_bar(methods, len(methods), "computing maps")]
    explanations = tuple(
        Explanation(
            i,
            values[i].cpu(),
            int(query.classes[i]),
            tuple(of_method[i] for of_method in maps),
            None if box else query.region(i),
            box,
            scores.temperature,
        )
        for i in range(len(values))
    )
    used = layer if "grad-cam" in methods else None
    result = SaliencyMaps(inputs, class_names(loaded), explanations, used, tuple(notes))
    explained = "the predicted class" if label is None else f"class {result.classes[label]}"
    if box:  # with a class, only its boxes are numbered
        explained = f"box {box.number}, {box}" if label is None else f"box {box.number} of {box.name}, {box.score:.2f}"
    title = f"{loaded.plan.network}: saliency maps of {explained}"
    return write_page(loaded, result, draw_saliency(result, title, provenance(loaded), request.overlay), path)


def _query(
    scores: Scores, pixels: torch.Tensor, classes: tuple[str, ...], label: int | None, request: SaliencyRequest
) -> Query:
    """The class of each image to explain, by default the predicted one, and the region in a dense network."""
    with torch.no_grad():
        logits = scores.logits(pixels)
    if scores.dense:
        box = None if request.region is None else parse_region(request.region, (pixels.shape[2], pixels.shape[3]))
        targets = torch.tensor([main_class(z, classes) if label is None else label for z in logits])
        regions = [region_of(z, int(k), box) for z, k in zip(logits, targets, strict=True)]
        return Query(pixels, targets.to(pixels.device), regions=torch.stack(regions))
    if request.region is not None:
        raise UsageError("--region is for networks with scores of each pixel, for segmentation; leave it out")
    targets = logits.argmax(1) if label is None else torch.full_like(logits.argmax(1), label)
    return Query(pixels, targets)


def _box(scores: Scores, inputs: Inputs, label: int | None, request: SaliencyRequest) -> ChosenBox | None:
    """The box of a detector; None for other networks. UsageError for options that do not apply."""
    if not isinstance(scores, BoxScores):
        if request.box is not None:
            raise UsageError("--box is for detectors; leave it out")
        return None
    for name, value in (("--sanity", request.sanity), ("--region", request.region)):
        if value:
            raise UsageError(f"{name} does not apply to detectors; leave it out")
    if len(inputs.names) > 1:
        raise UsageError(f"a detector is explained box by box; name one image, not {len(inputs.names)}")
    pixels = inputs.pixels.to(next(scores.parameters()).device)
    return choose_box(scores, pixels, request.box or 0, label, inputs.names[0])


def _query_of_box(scores: Scores, pixels: torch.Tensor, box: ChosenBox) -> Query:
    """The query for the class of a box at its cell."""
    with torch.no_grad():
        cells = torch.zeros(1, *scores.logits(pixels).shape[2:], dtype=torch.bool, device=pixels.device)
    cells[..., box.cell] = True
    return Query(pixels, torch.tensor([box.label], device=pixels.device), regions=cells)


def _scores(scores: Scores, query: Query) -> torch.Tensor:
    with scores.over(query.region(0)):
        values: torch.Tensor = scores(query.pixels)
    return values


def _layer(loaded: LoadedNetwork, scores: Scores, request: SaliencyRequest, box: ChosenBox | None) -> str | None:
    """Grad-CAM's layer; None if the network has no suitable one and Grad-CAM was not requested by name."""
    if request.layer is not None and request.methods and "grad-cam" not in request.methods:
        raise UsageError("--layer is for Grad-CAM; add --method grad-cam, or leave --layer out")
    if box and request.layer is None:
        assert isinstance(scores, BoxScores)
        return layer_before(scores, box.cell)
    try:
        return choose_layer(loaded, scores.network, request.layer)
    except UsageError:
        if request.layer is not None or "grad-cam" in request.methods:
            raise
        return None


def _suitable(scores: Scores, methods: Sequence[str], layer: str | None) -> tuple[list[str], list[str]]:
    """The methods that apply, and notes on those left out and on caveats. UsageError if one that was named does not."""
    chosen, notes = [], []
    for method in dict.fromkeys(methods or METHODS):
        check_method(method)
        reason = refusal(scores, method, layer)
        if reason and method in methods:
            raise UsageError(f"{reason}; choose another --method: {', '.join(m for m in METHODS if m != method)}")
        if reason:
            notes.append(f"left out: {reason}")
            continue
        chosen.append(method)
        if caveat := remark(scores, method):
            notes.append(caveat)
    return chosen, notes


def _maps(scores: Scores, method: str, query: Query, fresh: Scores | None) -> list[Map]:
    """The maps of one method, one per image; with a network of random weights also their sanity checks."""
    values = attribute(scores, method, query).cpu()
    others = attribute(fresh, method, query).cpu().numpy() if fresh else None
    maps = []
    for i, v in enumerate(values):
        flat = "" if v.any() else why_flat(scores, method, query, i)
        if others is None:
            maps.append(Map(method, v.numpy(), flat))
            continue
        importance = METHODS[method].importance(v)
        with scores.over(query.region(i)):
            curves = areas(scores, query.pixels[i], int(query.classes[i]), importance, query.seed)
        maps.append(Map(method, v.numpy(), flat, others[i], rank_correlation(v.numpy(), others[i]), curves))
    return maps


def draw_saliency(result: SaliencyMaps, title: str, provenance: str, overlay: float = 0.7) -> Page:
    """A row of signed maps per image, each on its own scale; below it overlays, and maps with random weights."""
    cells: list[list[Cell]] = []
    captions = result.inputs.captions(result.classes)
    for e in result.explanations:
        pixels = result.inputs.pixels[e.index]
        shown = picture(pixels)
        blank = marked = Cell(np.full_like(shown, 255))
        first = Cell(_boxed(shown, e), (str(e.box or e.prediction(result.classes)), captions[e.index]))
        if e.region is not None:
            share = float(e.region.float().mean())
            first = replace(first, words=(f"class {result.classes[e.target]}", captions[e.index]))
            words = "all pixels" if share == 1 else f"{percent(share)} of pixels"
            marked = Cell(tinted(shown, e.region.cpu().numpy()), ("region explained", words))
        cells.append([first, *(Cell(shade(m.values), _areas_caption(m)) for m in e.maps)])
        if overlay:
            cells.append([marked, *(Cell(_boxed(overlaid(shown, m, overlay), e)) for m in e.maps)])
        if any(m.random is not None for m in e.maps):
            cells.append([blank, *(Cell(shade(m.random), _random_caption(m)) for m in e.maps if m.random is not None)])
    headings = ("image", *(METHODS[m.method].title for m in result.explanations[0].maps))
    panel, count = captioned_grid(cells, headings)
    left_out = [f"the first {count} of {len(cells)} rows are shown"] if count < len(cells) else []
    lines = [*_legend(result, overlay), provenance, *left_out]
    label = f"effect on the class score; full color at the {_CLIP:g}th percentile of each map"
    return compose_page([panel], title, lines, Bar(image.ramp(), "lowers", "0", "raises", label))


def _boxed(shown: image.Array, explanation: Explanation) -> image.Array:
    return with_boxes(shown, [explanation.box.drawn]) if explanation.box else shown


def shade(values: image.Array) -> image.Array:
    """(H, W) → (H, W, 3) uint8: red raises the class score, blue lowers it."""
    return image.signed(values, _scale(np.abs(values)))


def overlaid(shown: image.Array, map: Map, opacity: float) -> image.Array:
    """A heat map of pixel importance over the image (H, W, 3) in grayscale; opacity grows with importance."""
    values = METHODS[map.method].importance(torch.from_numpy(map.values)).clamp_min(0).numpy()
    return image.overlay_heat(shown, (values / (_scale(values) or 1)).clip(0, 1), opacity)


def _scale(strength: image.Array) -> float:
    return float(np.percentile(strength, _CLIP)) or float(strength.max())


def _areas_caption(map: Map) -> tuple[str, ...]:
    if map.flat:
        return ("flat: 0 everywhere",)
    if (a := map.areas) is None:
        return ()
    return (
        f"deletion {a.deletion:.2f} / {a.deletion_random:.2f}",
        f"insertion {a.insertion:.2f} / {a.insertion_random:.2f}",
    )


def _random_caption(map: Map) -> tuple[str, str]:
    figure = "flat" if map.correlation is None else f"correlation {map.correlation:.2f}".replace("-", "−")
    return "random weights:", figure


def _legend(result: SaliencyMaps, overlay: float) -> list[str]:
    """The legend: Grad-CAM's layer, overlays, figures, why maps are flat."""
    maps = [m for e in result.explanations for m in e.maps]
    parts = [f"Grad-CAM at layer {result.layer}"] if result.layer is not None else []
    parts += ["second row: importance over the image"] * bool(overlay)
    lines = ["; ".join(parts)] * bool(parts)
    if any(m.areas for m in maps):
        lines.append(
            "deletion (lower is better) and insertion (higher is better) / the same for pixels in random order"
        )
    flat = {f"{METHODS[m.method].title} is flat: {m.flat}": None for m in maps if m.flat}
    return lines + list(flat)[:2]
