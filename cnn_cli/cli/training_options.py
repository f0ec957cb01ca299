"""The training settings as a group of options: one for each row of the table, with the table's own words."""

from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any

import typer

from cnn_cli.settings import SETTINGS, Field
from cnn_cli.values import Flag, Integer, ListOf, Number

_SHORT = {"batch_size": "-b", "workers": "-j"}
_METAVARS = {
    "data": "NAME_OR_FOLDER",
    "weights": "SOURCE",
    "freeze": "GLOB",
    "groups": "LIST",
    "normalize": "MAPPING",
    "class_weights": "balanced|LIST",
    "fast": "NAMES",
}


def _option(name: str, row: Field) -> Any:
    help_text = row.help[0].upper() + row.help[1:] + "."
    flag = "--" + name.replace("_", "-")
    if isinstance(row.kind, Flag):
        return Annotated[
            bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text, rich_help_panel=row.group)
        ]
    names = [_SHORT[name], flag] if name in _SHORT else [flag]
    option = typer.Option(*names, metavar=_METAVARS.get(name, _metavar(row)), help=help_text, rich_help_panel=row.group)
    repeated = isinstance(row.kind, ListOf) and row.kind.single
    return Annotated[(list[str] if repeated else str) | None, option]


def _metavar(row: Field) -> str:
    kinds = getattr(row.kind, "kinds", (row.kind,))
    if any(isinstance(kind, Integer) for kind in kinds):
        return "INTEGER"
    return "NUMBER" if any(isinstance(kind, Number) for kind in kinds) else "NAME"


def _given(settings: Any) -> dict[str, Any]:
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}
    return {name: value for name, value in values.items() if value not in (None, [])}


# `given` holds those that were typed, as text, {name: value}: settings.resolve() reads them, as it reads variables.
Settings: Any = make_dataclass(
    "Settings",
    [(name, _option(name, row), field(default=None)) for name, row in SETTINGS.items()],
    frozen=True,
    namespace={"given": property(_given)},
)
