"""The training settings as options: one for each row of the table, with the table's own words."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from cnn_cli.settings import SETTINGS, Field
from cnn_cli.values import Flag, Integer, ListOf, Number

_SHORT = {"batch_size": "-b", "workers": "-j"}
_METAVARS = {
    "data": "NAME_OR_FOLDER",
    "weights": "WHAT",
    "freeze": "GLOB",
    "groups": "LIST",
    "normalize": "MAPPING",
    "class_weights": "balanced|LIST",
    "fast": "NAMES",
}


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting, in place of its parameter `settings`.

    That receives those that were given, as text, {name: value}: recipe.resolve() reads them, as it reads variables.
    """

    @wraps(command)
    def wrapper(**given: Any) -> None:
        settings = {name: given.pop(name) for name in SETTINGS}
        command(settings={name: value for name, value in settings.items() if value not in (None, [])}, **given)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, row))
        for name, row in SETTINGS.items()
    ]
    arguments = [p for p in own if _is_argument(p)]
    parameters = [*arguments, *options, *(p for p in own if p not in arguments)]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _is_argument(parameter: inspect.Parameter) -> bool:
    """Whether it stands on the command line without a name."""
    metadata = getattr(parameter.annotation, "__metadata__", ())
    return any(isinstance(m, typer.models.ArgumentInfo) for m in metadata)


def _option(name: str, row: Field) -> Any:
    words = row.help[0].upper() + row.help[1:] + "."
    spelled = "--" + name.replace("_", "-")
    if isinstance(row.kind, Flag):
        return Annotated[bool | None, typer.Option(f"{spelled}/--no-{spelled[2:]}", help=words)]
    names = [_SHORT[name], spelled] if name in _SHORT else [spelled]
    option = typer.Option(*names, metavar=_METAVARS.get(name, _metavar(row)), help=words)
    many = isinstance(row.kind, ListOf) and row.kind.single
    return Annotated[(list[str] if many else str) | None, option]


def _metavar(row: Field) -> str:
    kinds = getattr(row.kind, "kinds", (row.kind,))
    if any(isinstance(k, Integer) for k in kinds):
        return "INTEGER"
    return "NUMBER" if any(isinstance(k, Number) for k in kinds) else "NAME"
