"""Saliency maps as a picture: a row for each image, a column for each method; and what they are worth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.interpret.capture import choose_layer
from cnn_cli.interpret.inputs import Inputs
from cnn_cli.interpret.progress_bar import tracked
from cnn_cli.interpret.provenance import origin, place
from cnn_cli.interpret.saliency import (
    METHODS,
    Question,
    attribute,
    check_method,
    need_captum,
    refusal,
    remark,
    why_flat,
)
from cnn_cli.interpret.sanity import Areas, areas, randomised, rank_correlation
from cnn_cli.interpret.scores import Scores, class_index, class_names, percent, says, scores_of
from cnn_cli.pictures import image
from cnn_cli.pictures.captioned_grid import Cell, picture, sheet
from cnn_cli.pictures.page import Bar, Page, page
from cnn_cli.tables import Column, Table, render

_CLIP = 99.0  # percentile of the absolute values that has full colour, as in SmoothGrad's paper: a few pixels stick out


@dataclass(frozen=True)
class Row:
    """An image (number `index` of `inputs`), its scores (K,), the class that is asked about, and its maps."""

    inputs: Inputs
    index: int
    scores: torch.Tensor
    asked: int
    maps: tuple["Map", ...]

    def document(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Plain data: what the network says, and a line for each map."""
        label, shares = self.inputs.labels[self.index], self.scores.softmax(0)
        predicted = int(shares.argmax())
        return {
            "image": self.inputs.names[self.index],
            "true": None if label is None else classes[label],
            "predicted": {"class": classes[predicted], "confidence": float(shares[predicted])},
            "class": classes[self.asked],
            "confidence": float(shares[self.asked]),
            "score": float(self.scores[self.asked]),
            "maps": [m.document() for m in self.maps],
        }


@dataclass(frozen=True)
class Map:
    """The map of one method for one image, (H, W). `flat`: why it is 0 everywhere. `random`: with random weights."""

    method: str
    values: image.Array
    flat: str = ""
    random: image.Array | None = None
    correlation: float | None = None
    worth: Areas | None = None

    def document(self) -> dict[str, Any]:
        """Plain data, without the values themselves."""
        facts: dict[str, Any] = {"method": self.method, "flat": self.flat or None}
        facts |= {"largest": float(self.values.max()), "smallest": float(self.values.min())}
        facts |= {"sum": float(self.values.sum())}
        return facts | (
            {"correlation_with_random_weights": self.correlation, **asdict(self.worth)} if self.worth else {}
        )


def show_saliency(
    loaded: LoadedNetwork,
    inputs: Inputs,
    methods: Sequence[str] = (),
    wanted: str | None = None,
    layer: str | None = None,
    sanity: bool = False,
    seed: int = 0,
    device: torch.device | None = None,
    output: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write the picture of the maps → what `cnn visualize-saliency --json` prints.

    `methods`: all of them where none is named, without those that do not suit the network, which is noted. `wanted`:
    the class, else the predicted one of each image. UsageError for what does not exist.
    """
    need_captum()
    where = device or torch.device("cpu")
    classes, scores = class_names(loaded), scores_of(loaded).to(where)
    label = None if wanted is None else class_index(wanted, classes)
    layer = _layer(loaded, scores, methods, layer)
    chosen, notes = _suited(scores, methods, layer)
    word = (Path(inputs.names[0]).stem.replace(" ", "-"),) if len(inputs.names) == 1 else ()
    path = output or place(loaded, "saliency", *word)
    image.check_target(path, force)
    with torch.no_grad():
        values = scores(inputs.pixels.to(where))
    of = values.argmax(1) if label is None else torch.full_like(values.argmax(1), label)
    asked = Question(inputs.pixels.to(where), of, layer, seed)
    fresh = randomised(loaded, seed).to(where) if sanity else None
    found = [_maps(scores, m, asked, fresh) for m in tracked(chosen, len(chosen), "computing maps")]
    rows = [Row(inputs, i, values[i].cpu(), int(of[i]), tuple(maps[i] for maps in found)) for i in range(len(of))]
    aim = "the predicted class" if label is None else classes[label]
    lines = [*_lines(layer if "grad-cam" in chosen else None, rows), origin(loaded)]
    drawing = draw(rows, classes, f"{loaded.plan.network}: what speaks for {aim}", lines)
    image.save(drawing.image, path)
    return {
        "network": loaded.plan.network,
        "checkpoint": str(loaded.weights),
        "picture": str(path),
        "body": list(drawing.body),
        "layer": layer if "grad-cam" in chosen else None,
        "notes": notes,
        "images": [row.document(classes) for row in rows],
    }


def _layer(loaded: LoadedNetwork, scores: Scores, methods: Sequence[str], layer: str | None) -> str | None:
    """Grad-CAM's layer; None where the network has none to offer and Grad-CAM was not asked for by name."""
    if layer is not None and methods and "grad-cam" not in methods:
        raise UsageError("--layer is for Grad-CAM; add --method grad-cam, or leave --layer out")
    try:
        return choose_layer(loaded, scores.network, layer)
    except UsageError:
        if layer is not None or "grad-cam" in methods:
            raise
        return None


def _suited(scores: Scores, methods: Sequence[str], layer: str | None) -> tuple[list[str], list[str]]:
    """The methods to use, and notes on those left out and on what to keep in mind. UsageError for one named in vain."""
    chosen, notes = [], []
    for method in dict.fromkeys(methods or METHODS):
        check_method(method)
        why = refusal(scores, method, layer)
        if why and method in methods:
            raise UsageError(f"{why}; take another --method: {', '.join(m for m in METHODS if m != method)}")
        if why:
            notes.append(f"left out: {why}")
            continue
        chosen.append(method)
        if said := remark(scores, method):
            notes.append(said)
    return chosen, notes


def _maps(scores: Scores, method: str, asked: Question, fresh: Scores | None) -> list[Map]:
    """The maps of one method, one for each image; with a network of fresh weights also what they are worth."""
    values = attribute(scores, method, asked).cpu()
    others = attribute(fresh, method, asked).cpu().numpy() if fresh else None
    maps = []
    for i, v in enumerate(values):
        flat = "" if v.any() else why_flat(scores, method, asked, i)
        if others is None:
            maps.append(Map(method, v.numpy(), flat))
            continue
        worth = areas(scores, asked.pixels[i], int(asked.classes[i]), METHODS[method].importance(v), asked.seed)
        correlation = rank_correlation(v.numpy(), others[i])
        maps.append(Map(method, v.numpy(), flat, others[i], correlation, worth))
    return maps


def draw(rows: Sequence[Row], classes: tuple[str, ...], title: str, lines: Sequence[str]) -> Page:
    """A row of maps for each image, each in its own scale; with random weights a second row under it."""
    cells: list[list[Cell]] = []
    for row in rows:
        label = row.inputs.labels[row.index]
        truth = f"in truth {classes[label]}" if label is not None else Path(row.inputs.names[row.index]).name
        shown = picture(row.inputs.pixels[row.index])
        cells.append([Cell(shown, (says(row.scores[None], classes)[0], truth))])
        cells[-1] += [Cell(shade(m.values), _worth(m)) for m in row.maps]
        if any(m.random is not None for m in row.maps):
            blank = np.full_like(shown, 255)
            cells.append([Cell(blank, ("", ""))])
            cells[-1] += [Cell(shade(m.random), _likeness(m)) for m in row.maps if m.random is not None]
    panel, count = sheet(cells, ("image", *(METHODS[m.method].title for m in rows[0].maps)))
    some = [f"shown: the first {count} of {len(cells)} rows"] if count < len(cells) else []
    label_text = f"the score of the class; each map by the {_CLIP:g}th percentile of its absolute values"
    return page([panel], title, [*lines, *some], Bar(image.ramp(), "lowers", "0", "raises", label_text))


def shade(values: image.Array) -> image.Array:
    """(H, W) → (H, W, 3) uint8: red speaks for the class, blue against it."""
    strong = np.abs(values)
    return image.signed(values, float(np.percentile(strong, _CLIP)) or float(strong.max()))


def _worth(found: Map) -> tuple[str, str]:
    if found.flat:
        return "flat: 0 everywhere", ""
    if (w := found.worth) is None:
        return "", ""
    return (
        f"deletion {w.deletion:.2f} / {w.deletion_random:.2f}",
        f"insertion {w.insertion:.2f} / {w.insertion_random:.2f}",
    )


def _likeness(found: Map) -> tuple[str, str]:
    return "random weights:", "flat" if found.correlation is None else f"correlation {found.correlation:.2f}".replace(
        "-", "−"
    )


def _lines(layer: str | None, rows: Sequence[Row]) -> list[str]:
    """What a reader has to know: the layer, how to read the figures, why maps are flat."""
    lines = [f"Grad-CAM at layer {layer}"] if layer is not None else []
    if any(m.worth for row in rows for m in row.maps):
        lines.append("deletion (small is good) and insertion (large is good) / the same for pixels in random order")
    flat = {f"{METHODS[m.method].title} is flat: {m.flat}": None for row in rows for m in row.maps if m.flat}
    return lines + list(flat)[:2]


def report(document: dict[str, Any], style: str = "text") -> str:
    """A line for each image and method: what its map is worth, or why it is flat."""
    rows = [
        {"image": shot["image"], "class": f"{shot['class']} {percent(shot['confidence'])}"} | m | _numbers(m)
        for shot in document["images"]
        for m in shot["maps"]
    ]
    figures = [k for k in ("correlation", "deletion", "insertion") if any(k in row for row in rows)]
    columns = [Column("image", "image", wraps=True), Column("class", "class", wraps=True), Column("method", "method")]
    columns += [Column(k, k, number=True) for k in figures]
    if any(row["flat"] for row in rows):
        columns.append(Column("flat", "why it is flat", wraps=True))
    return render(Table(tuple(columns), rows), style)


def _numbers(found: dict[str, Any]) -> dict[str, str]:
    if "deletion" not in found:
        return {}
    correlation = found["correlation_with_random_weights"]
    both = {k: f"{found[k]:.3f} / {found[f'{k}_random']:.3f}" for k in ("deletion", "insertion")}
    return both | {"correlation": "" if correlation is None else f"{correlation:.3f}"}
