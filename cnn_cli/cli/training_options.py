"""The training settings as a group of options: one per row of the table of settings, with its help."""

from collections.abc import Iterable
from dataclasses import field, fields, make_dataclass
from typing import Any

from cnn_cli.cli.options import option
from cnn_cli.settings import SETTINGS, Field
from cnn_cli.values import Flag, Integer, ListOf, Number, Text

_SHORT = {"batch_size": "-b", "workers": "-j"}
_METAVARS = {
    "data": "NAME_OR_FOLDER",
    "weights": "SOURCE",
    "freeze": "GLOB",
    "groups": "LIST",
    "init": "MAPPING",
    "normalize": "MAPPING",
    "class_weights": "balanced|sqrt|LIST",
    "fast": "NAMES",
}


def _field(name: str, row: Field) -> tuple[str, Any, Any]:
    help_text = row.help[0].upper() + row.help[1:] + "."
    long = name.replace("_", "-")
    if isinstance(row.kind, Flag):
        return name, bool | None, field(default=option(row.group, "", help_text, f"--{long}/--no-{long}"))
    names = [_SHORT[name]] if name in _SHORT else []
    repeated = isinstance(row.kind, ListOf) and row.kind.single and isinstance(row.kind.item, Text)
    description = option(row.group, _METAVARS.get(name, _metavar(row)), help_text, *names, f"--{long}")
    return name, (list[str] if repeated else str) | None, field(default=description)


def _metavar(row: Field) -> str:
    kinds = getattr(row.kind, "kinds", (row.kind,))
    if any(isinstance(kind, Integer) for kind in kinds):
        return "N"
    return "NUMBER" if any(isinstance(kind, Number) for kind in kinds) else "NAME"


def _given(settings: Any) -> dict[str, Any]:
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}
    return {name: value for name, value in values.items() if value not in (None, [])}


def settings_group(names: Iterable[str]) -> Any:
    """A group of these settings; `given` holds those on the command line, as text, {name: value}, for
    settings.resolve()."""
    rows = [_field(name, SETTINGS[name]) for name in names]
    return make_dataclass("Settings", rows, frozen=True, namespace={"given": property(_given)})


Settings: Any = settings_group(SETTINGS)
