"""Lists of mistakes of any task: common columns, facts of the split, tables below a headline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.files import short_path
from cnn_cli.interpret.pictured import network_facts
from cnn_cli.tables import Column, Table, TableRow, percent, render, wrapped
from cnn_cli.training.outcomes import Images

INDEX = Column("index", "index", number=True, show=str)
IMAGE = Column("image", "image", wraps=True)
TRUE = Column("true", "true class", wraps=True)
PREDICTED = Column("predicted", "predicted", wraps=True)
SHARE = Column("share", "of the true class", number=True, show=percent)
LOSS = Column("loss", "loss", number=True, show="{:.3f}".format)


def split_name(images: Images) -> str:
    """`digits test`."""
    return f"{Path(images.data).name} {images.split.name}"


def split_facts(loaded: LoadedNetwork, images: Images, task: str) -> dict[str, Any]:
    facts = {"task": task, "data": images.data, "split": images.split.name, "n": len(images)}
    return network_facts(loaded) | facts


def text_of(headline: str, lists: Mapping[str, Table], data: str) -> str:
    """The tables that are not empty, each under its title; files by their paths within the data set's folder."""
    lines = "\n".join(map(wrapped, headline.split("\n")))
    folder = f"{short_path(data)}/"
    tables = ((title, replace(table, rows=_in_folder(table.rows, folder))) for title, table in lists.items())
    return "\n\n".join([lines, *(f"{title}\n{render(table)}" for title, table in tables if table.rows)])


def _in_folder(rows: Sequence[TableRow], folder: str) -> list[TableRow]:
    return [
        {key: value.removeprefix(folder) if isinstance(value, str) else value for key, value in row.items()}
        for row in rows
    ]
