"""How a trained network does on a data set: the result as a document, as text, and as files beside the run."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, Metadata, load_network, restore
from cnn_cli.checkpoints.header import BEST, LAST
from cnn_cli.checkpoints.runs import ROOT
from cnn_cli.data import Part, Source, data_folder, fit, only, read_source, split
from cnn_cli.errors import UsageError
from cnn_cli.files import make_folder, write_text
from cnn_cli.settings import SETTINGS, asked_for
from cnn_cli.tables import Column, Table, render
from cnn_cli.tasks.loss import loss_for
from cnn_cli.training import speedups as fast
from cnn_cli.training.evaluate import Result, evaluate

_MOST_CLASSES = 20  # a confusion matrix of more is told by its largest cells
SPLITS = ("test", "val", "train")


def trained(network: str, models: Sequence[Path] = (), weights: str | None = None) -> LoadedNetwork:
    """NETWORK with its weights and what travels with them; UsageError for a network that was not trained yet."""
    loaded = load_network(network, models=models, weights=weights)
    if loaded.metadata is None:
        raise UsageError(f"{network} has no finished epoch in {ROOT.resolve()}; train it: cnn train {network}")
    return loaded


def score(
    loaded: LoadedNetwork,
    data: str | None,
    data_dir: Path | None,
    split_name: str | None,
    batch_size: int | None,
    workers: int | None,
    device: torch.device,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Evaluate on its own data set, or on another whose classes have the same names → (document, remarks).

    None stands for: the training's data; test, else val, else train; the training's batch size, which makes the loss
    the same to the last digit; a worker a CPU.
    """
    assert loaded.metadata is not None and loaded.weights is not None
    metadata = loaded.metadata
    asked = asked_for({"batch_size": batch_size, "workers": workers, "data": data}, os.environ)
    batch_size, workers, data = (asked[k].value if k in asked else None for k in ("batch_size", "workers", "data"))
    own = str(metadata.data.get("name", ""))
    if not (data or own):
        raise UsageError("these weights know no data set; name one with --data")
    source = divided(own, metadata.data, data, data_dir)
    name = split_name or next((s for s in SPLITS if s in source.parts), "test")
    chosen = only(source, name)
    classes = metadata.classes or source.classes  # weights of a bare file: in the order of the data
    loss = loss_for(loaded.plan, len(classes))
    fitted = fit(matched(chosen, classes), loaded.preprocessing, device, workers)
    as_trained = _as_trained(metadata)
    network = fast.prepare(restore(loaded).to(device), as_trained["fast"])
    size = batch_size or int(metadata.data.get("batch_size", 64))
    layout, tta = fast.layout(loaded.plan, as_trained["fast"]), as_trained["tta"]
    result = evaluate(network, fitted.splits[name], loss, len(classes), size, device, layout=layout, tta=tta)
    notes = (*loaded.notes, *fitted.notes)
    if loaded.weights.name == LAST and not loaded.weights.with_name(BEST).is_file():
        notes += ("the run has no finished epoch: these are its weights in the middle of one",)
    return document(loaded.plan.network, source.name, result, classes, loaded.weights), notes


def _as_trained(metadata: Metadata) -> dict[str, Any]:
    """How the run that made the weights evaluated, so that the figures are the same to the last digit.

    A stranger's file may say anything; what makes no sense counts as not said.
    """
    found: dict[str, Any] = {"fast": (), "tta": "none"}
    settings: Any = metadata.facts.get("settings")
    for name in found:
        with suppress(ValueError, TypeError, KeyError):
            found[name] = SETTINGS[name].kind.read(settings[name])
    return found


def document(network: str, data: str, result: Result, classes: tuple[str, ...], checkpoint: Path) -> dict[str, Any]:
    """What `cnn eval --json` prints."""
    return {
        "network": network,
        "data": data,
        **result.document(classes),
        "classes": list(classes),
        "checkpoint": str(checkpoint.resolve()),
    }


def divided(own: str, facts: Mapping[str, Any], data: str | None, data_dir: Path | None) -> Source:
    """The data set `own`, divided as in training; or `data`, of which a folder that is not divided is used whole.

    `facts` are those of the training, as in Metadata.data. Named data sets are looked for in `data_dir`, else where the
    training found them, else in the cache.
    """
    source = read_source(data or own, data_folder(data_dir, str(facts.get("folder", ""))))
    if source.name == own:
        return split(source, facts.get("val_fraction", 0), int(facts.get("seed", 0)))
    return split(source, whole=True)


def matched(source: Source, classes: tuple[str, ...]) -> Source:
    """The source with its labels in the order of `classes`, by name. UsageError for a class that is not among them."""
    if source.classes == classes:
        return source
    used = {source.classes[i] for part in source.parts.values() for i in set(part.labels.tolist())}
    if extra := sorted(used - set(classes)):
        raise UsageError(
            f"{source.name} has classes that the network does not know: {', '.join(extra)}\n"
            f"it was trained on {', '.join(classes)}; labels are matched by these names"
        )
    place = torch.tensor([classes.index(c) if c in classes else -1 for c in source.classes])
    parts = {name: Part(p.images, place[p.labels]) for name, p in source.parts.items()}
    return Source(source.name, classes, parts, source.notes)


def report(document: dict[str, Any]) -> str:
    """The document for people: the figures, a table of the classes, the confusion matrix."""
    d = document
    images = f"{d['n']:,} images"
    head = f"{d['network']} on {d['data']}, {d['split']}: {images}\n{figures(d)}"
    return f"{head}\n\n{class_table(d)}\n\n{_confusions(d)}"


def figures(document: dict[str, Any]) -> str:
    """`accuracy 91.23 %   macro F1 0.912   loss 0.2531`."""
    d = document
    balanced = f"balanced {d['balanced_accuracy']:.2%}   " if abs(d["balanced_accuracy"] - d["accuracy"]) > 5e-5 else ""
    return f"accuracy {d['accuracy']:.2%}   {balanced}macro F1 {d['macro_f1']:.3f}   loss {d['loss']:.4f}"


def class_table(document: dict[str, Any], style: str = "text") -> str:
    """Images, precision, recall and F1 of each class, as text, csv or markdown."""
    columns = (
        Column("class", "class", wraps=True),
        Column("n", "images", number=True),
        *(Column(k, k.replace("f1", "F1"), number=True) for k in ("precision", "recall", "f1")),
    )
    rows = document["per_class"]
    if style != "csv":
        rows = [r | {k: f"{r[k]:.3f}" for k in ("precision", "recall", "f1")} for r in rows]
    return render(Table(columns, rows), style)


def write(folder: Path, document: dict[str, Any], suffix: str = "") -> list[Path]:
    """Write eval.json and confusion_matrix.png, or `eval-….json` and so on → their paths."""
    from cnn_cli.pictures.plots import confusion_picture

    make_folder(folder)
    text, picture = folder / f"eval{suffix}.json", folder / f"confusion_matrix{suffix}.png"
    finite = document | {"loss": document["loss"] if abs(document["loss"]) < float("inf") else None}
    write_text(text, json.dumps(finite, indent=2) + "\n")
    title = f"{document['network']} on {Path(document['data']).name}, {document['split']}: {document['accuracy']:.2%}"
    confusion_picture(document["confusion_matrix"], document["classes"], picture, title)
    return [text, picture]


def suffix(document: dict[str, Any], metadata: Metadata | None) -> str:
    """Nothing for the run's own test images; else what was evaluated, so that no result replaces another."""
    if metadata and document["data"] == metadata.data.get("name"):
        return "" if document["split"] == "test" else f"-{document['split']}"
    return "-" + re.sub(r"[^A-Za-z0-9._-]", "_", f"{Path(document['data']).name}-{document['split']}")[:80]


def _confusions(document: dict[str, Any]) -> str:
    matrix, classes = document["confusion_matrix"], document["classes"]
    if len(classes) > _MOST_CLASSES:
        return f"most frequent confusions\n{_largest(matrix, classes)}"
    columns = (
        Column("name", "true \\ predicted", wraps=True),
        *(Column(str(i), str(i), number=True) for i in range(len(classes))),
    )
    rows = [
        {"name": f"{i} {name}", **{str(j): n or "·" for j, n in enumerate(matrix[i])}} for i, name in enumerate(classes)
    ]
    return f"confusion matrix\n{render(Table(columns, rows))}"


def _largest(matrix: Sequence[Sequence[int]], classes: Sequence[str], most: int = 20) -> str:
    cells = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    rows = [
        {"true": classes[i], "predicted": classes[j], "n": n}
        for n, i, j in sorted(cells, key=lambda c: (-c[0], c[1:]))[:most]
    ]
    columns = (
        Column("true", "true", wraps=True),
        Column("predicted", "predicted", wraps=True),
        Column("n", "images", number=True),
    )
    return render(Table(columns, rows))
