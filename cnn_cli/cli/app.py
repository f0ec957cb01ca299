"""The Typer app that the files of commands add to.

A command parses, makes one call and prints; everything it can do exists without it. Heavy imports (torch, torchvision,
matplotlib) are inside the commands, so that `cnn --help` answers at once.

A command declares groups of options, frozen dataclasses whose fields carry the option's type, names and help; `command`
expands each into the command's own options and hands the filled group to the function.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cnn_cli import __version__

SECTIONS = ("Networks", "Training", "Interpretation", "Documentation")  # of `cnn --help`


class _Command(TyperCommand):
    """Help in titled sections: the arguments, then the options of each panel in the order of their declaration."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                sections.setdefault("Arguments", []).append((_metavar(param), getattr(param, "help", "") or ""))
            elif record := param.get_help_record(ctx):
                sections.setdefault(getattr(param, "rich_help_panel", None) or "Other", []).append(record)
        for last in ("Output", "Other"):
            sections[last] = sections.pop(last, [])
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=26)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(_metavar(p) for p in self.get_params(ctx) if p.param_type_name == "argument")]


class _Group(TyperGroup):
    """Commands in titled sections."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for section in SECTIONS:
            commands = [c for c in self.commands.values() if getattr(c, "rich_help_panel", None) == section]
            with formatter.section(section):
                formatter.write_dl([(c.name or "", c.get_short_help_str(200)) for c in commands])
        records = [record for param in self.get_params(ctx) if (record := param.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl(records)


def _metavar(argument: Any) -> str:
    return argument.metavar or (argument.name or "").upper()


app = typer.Typer(
    name="cnn",
    cls=_Group,
    help="Train and inspect convolutional networks. A network is a short YAML text, and every command works from it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or spec, 3 training diverged, 70 a bug, 130/143 stopped.",
)


def command(name: str, section: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the app, with its groups of options expanded."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, cls=_Command, rich_help_panel=section)(_expanded(function))
        return function

    return add


def _expanded(function: Callable[..., None]) -> Callable[..., None]:
    own = inspect.signature(function).parameters.values()
    groups: dict[str, Any] = {p.name: p.annotation for p in own if dataclasses.is_dataclass(p.annotation)}

    @wraps(function)
    def call(**values: Any) -> None:
        filled = {
            name: group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        function(**values, **filled)

    parameters = [expanded for p in own for expanded in (_fields(groups[p.name]) if p.name in groups else [p])]
    parameters.sort(key=_is_option)  # arguments first, in their order
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _fields(group: Any) -> list[inspect.Parameter]:
    kind, missing = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return [
        inspect.Parameter(
            f.name, kind, default=missing if f.default is dataclasses.MISSING else f.default, annotation=f.type
        )
        for f in dataclasses.fields(group)
    ]


def _is_option(parameter: inspect.Parameter) -> bool:
    metadata = getattr(parameter.annotation, "__metadata__", ())
    return not any(isinstance(m, typer.models.ArgumentInfo) for m in metadata)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"cnn {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error; goes anywhere.")] = False,
) -> None: ...
