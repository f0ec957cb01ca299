"""What a network says to images: the likeliest classes with their probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.interpret.inputs import Inputs, files_of, load_inputs
from cnn_cli.interpret.progress_bar import tracked
from cnn_cli.interpret.scores import class_names, percent, probabilities, scores_of
from cnn_cli.tables import Column, Table, render
from cnn_cli.tasks.selection import task_for

_BATCH = 64


def predict(
    loaded: LoadedNetwork,
    images: Sequence[str],
    *,
    index: Sequence[int] = (),
    split: str = "test",
    data: str | None = None,
    data_dir: Path | None = None,
    top: int = 5,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """The `top` likeliest classes of each image, as `load_inputs` finds them → what `cnn predict --json` prints.

    Any number of images; a few are in memory at a time. UsageError for a network that was not trained.
    """
    if top < 1:
        raise UsageError(f"--top {top}: must be 1 or more")
    task_for(loaded.plan, class_names(loaded))  # says what is wrong where the outputs are not those of the classes
    where = device or torch.device("cpu")
    network, classes = scores_of(loaded).to(where), class_names(loaded)
    files, rows = [str(path) for path in files_of(images)], []
    parts: list[tuple[list[str], tuple[int, ...]]] = [(files[i : i + _BATCH], ()) for i in range(0, len(files), _BATCH)]
    if index or not parts:
        parts.append(([], tuple(index)))
    for some, numbers in tracked(parts, len(parts), "predicting"):
        inputs = load_inputs(
            loaded, some, index=numbers, split=split, data=data, data_dir=data_dir, limit=max(_BATCH, len(numbers))
        )
        shares = probabilities(network, inputs.pixels.to(where)).cpu()
        rows += [_row(inputs, i, shares[i], classes, top) for i in range(len(shares))]
    return {
        "network": loaded.plan.network,
        "checkpoint": str(loaded.weights),
        "classes": list(classes),
        "images": rows,
    }


def report(document: dict[str, Any], style: str = "text") -> str:
    """The document as a table: of one image its classes, of several a line each; csv has a line for each class."""
    images = document["images"]
    if style == "csv":
        columns = tuple(Column(key, key) for key in ("image", "true", "rank", "class", "probability"))
        rows = [
            {"image": shot["image"], "true": shot["true"], "rank": rank, **likely}
            for shot in images
            for rank, likely in enumerate(shot["top"], 1)
        ]
        return render(Table(columns, rows), style)
    return _one(images[0], style) if len(images) == 1 else _several(images, style)


def _one(shot: dict[str, Any], style: str) -> str:
    columns = (Column("class", "class", wraps=True), Column("probability", "probability", number=True))
    rows = [{"class": _marked(a["class"], shot["true"]), "probability": percent(a["probability"])} for a in shot["top"]]
    return f"{shot['image']}\n\n{render(Table(columns, rows), style)}"


def _several(images: Sequence[dict[str, Any]], style: str) -> str:
    known = any(shot["true"] for shot in images)
    columns = (
        Column("image", "image", wraps=True),
        *([Column("true", "true", wraps=True)] if known else []),
        Column("class", "predicted", wraps=True),
        Column("probability", "probability", number=True),
        Column("then", "then", wraps=True),
    )
    rows = []
    for shot in images:
        first, *others = shot["top"]
        then = ", ".join(f"{a['class']} {percent(a['probability'])}" for a in others[:2])
        facts = {"image": shot["image"], "true": shot["true"], "class": _marked(first["class"], shot["true"])}
        rows.append(facts | {"probability": percent(first["probability"]), "then": then})
    return render(Table(columns, rows), style)


def _marked(name: str, true: str | None) -> str:
    return f"{name} ✓" if name == true else name


def _row(inputs: Inputs, i: int, shares: Tensor, classes: Sequence[str], top: int) -> dict[str, Any]:
    values, places = shares.topk(min(top, len(classes)))
    likely = zip(places.tolist(), values.tolist(), strict=True)
    label = inputs.labels[i]
    return {
        "image": inputs.names[i],
        "true": None if label is None else classes[label],
        "top": [{"class": classes[k], "index": k, "probability": p} for k, p in likely],
    }
