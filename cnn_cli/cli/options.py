"""Options that several commands share: the same name means the same thing everywhere."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cnn_cli.errors import UsageError

Network = Annotated[
    str, typer.Argument(help="A name (`cnn list`), FILE.yaml, FILE.yaml:NAME, a run folder or a checkpoint.")
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--models",
        envvar="CNN_MODELS",
        help="A file of further networks, laid over the built-in ones; may be repeated.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set one of the network's args; may be repeated."),
]
Input = Annotated[str | None, typer.Option("--input", metavar="CxHxW", help="Another input size, such as 3x224x224.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Csv = Annotated[bool, typer.Option("--csv", help="The table as CSV.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")]
Device = Annotated[str, typer.Option("--device", envvar="CNN_DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write; used exactly as given.")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="NAME_OR_FOLDER", help="A data set, or a folder of your own images.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="CNN_DATA_DIR",
        help="Where named data sets live and are downloaded to [~/.cache/cnn/datasets].",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="WHAT",
        help="Weights from elsewhere: torchvision, the name of one of its weights, a file (.pth, .safetensors), a run.",
    ),
]
Freeze = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze", metavar="GLOB", help="Layers or parameters not to train, such as 'features.*'; may be repeated."
    ),
]
BatchSize = Annotated[int | None, typer.Option("-b", "--batch-size", help="Images a step.")]
Workers = Annotated[int | None, typer.Option("-j", "--workers", help="Processes or threads that decode images.")]


def arguments(texts: list[str] | None) -> dict[str, Any]:
    """`--set NAME=VALUE …` as a mapping; UsageError if one has no `=`."""
    pairs = [text.partition("=") for text in texts or []]
    for name, equals, _ in pairs:
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, not {name!r}; write --set classes=10")
    return {name: value for name, _, value in pairs}


def input_size(text: str | None) -> tuple[int, ...] | None:
    """`3x224x224` as (3, 224, 224); UsageError for anything else."""
    parts = text.lower().split("x") if text else []
    if text and (len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)):
        raise UsageError(f"--input takes CHANNELSxHEIGHTxWIDTH, such as 3x224x224, not {text!r}")
    return tuple(int(part) for part in parts) or None


def style(csv: bool, markdown: bool, json: bool) -> str:
    """How a table is printed: text, csv or markdown."""
    if csv + markdown + json > 1:
        raise UsageError("--json, --csv and --markdown exclude each other; choose one")
    return "csv" if csv else "markdown" if markdown else "text"
