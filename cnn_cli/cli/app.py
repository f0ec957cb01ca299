"""The Typer app that the files of commands add to.

A command parses its options, makes one call and prints the result. Heavy imports (torch, torchvision, matplotlib) are
inside the commands, so that `cnn --help` is fast.

A command declares groups of options: frozen dataclasses with an option's description as the default of each field.
`command` expands a group into options and passes the filled group to the function.
"""

import dataclasses
import inspect
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from cnn_cli import __version__
from cnn_cli.cli.commands import COMMANDS, FUNCTIONS, HELP, Commands
from cnn_cli.errors import UsageError

_FIRST, _LAST = ("Arguments", "Network", "Data"), ("Speed", "Run", "Output", "Other")  # sections of a command's help


class _Command(TyperCommand):
    """Help in titled sections: shared ones first and last, the command's own in between."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in _FIRST}
        for param in self.get_params(ctx):
            argument = param.param_type_name == "argument"
            title = "Arguments" if argument else getattr(param, "rich_help_panel", None) or "Other"
            sections.setdefault(title, []).append(_help_record(param, ctx))
        for title in sorted(sections, key=lambda title: title in _LAST and 1 + _LAST.index(title)):
            if sections[title]:
                with formatter.section(title):
                    formatter.write_dl(sections[title], col_max=26)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(_metavar(p) for p in self.get_params(ctx) if p.param_type_name == "argument")]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing and args and args[-1].startswith("-"):  # its value is what the shell completes
            args = args[:-1]
        _convert_lazily(self.get_params(ctx))
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if not (name := getattr(error, "option_name", "")) or not hasattr(error, "possibilities"):
                raise _reworded(error, ctx) from None
            options = [option for param in self.get_params(ctx) for option in (*param.opts, *param.secondary_opts)]
            near = get_close_matches(name.lstrip("-"), [option.lstrip("-") for option in options], n=1, cutoff=0.7)
            hint = f" Did you mean --{near[0]}?" if near else f" `{ctx.command_path} --help` lists all options"
            raise UsageError(f"{ctx.command_path} has no option {name}.{hint}") from None


_BOUNDS = {"greater than or equal to": "at least", "less than or equal to": "at most", "a valid integer": "an integer"}
_REWORDED = (  # messages of the library, and their replacements
    (r"Invalid value for (?:'.+' / )?'(.+?)': Input should be (.+?)(?:, unable .*)?", r"\1 must be \2"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"unexpected argument \1"),
    (r"Missing argument '(.+)'", r"\1 is missing"),
    (r"Option '(.+)' requires an argument", r"\1 needs a value"),
    (r"Option '(.+)' does not take a value", r"\1 takes no value"),
    (r"No such option: (.+)", r"no option \1"),
    (r"No such command (.+)", r"no command \1"),
)


def _reworded(error: Any, ctx: Any) -> UsageError:
    """The error in a command line, as one line: `cnn predict: --top must be a valid integer. …`."""
    text = error.format_message().rstrip(".")
    for theirs, ours in _REWORDED:
        text = re.sub(f"^{theirs}$", ours, text)
    for theirs, ours in _BOUNDS.items():
        text = text.replace(f" must be {theirs}", f" must be {ours}")
    hint = "" if text.endswith("?") else f". `{ctx.command_path} --help` shows the usage"
    return UsageError(f"{ctx.command_path}: {text}{hint}")


def _help_record(param: Any, ctx: Any) -> tuple[str, str]:
    """The names of an option and its help, ending with the default and the environment variable in brackets."""
    if param.param_type_name == "argument":
        return _metavar(param), param.help
    names, text = param.get_help_record(ctx)
    if param.name == "help":
        return names, text
    default = "" if "[" in param.help or isinstance(param.default, bool | None) else str(param.default)
    text, variable = param.help.removesuffix("."), f"env var {param.envvar}" if param.envvar else ""
    if extra := "; ".join(part for part in (default, variable) if part):
        text = f"{text[:-1]}; {extra}]" if text.endswith("]") else f"{text} [{extra}]"
    return names, f"{text}."


def _metavar(argument: Any) -> str:
    return argument.metavar or (argument.name or "").upper()


def _convert_lazily(params: list[Any]) -> None:
    """Do not convert values that need no conversion: Typer uses pydantic for all, which is slow to import."""
    for param in params:
        if getattr(param, "_runtime_param", ...) is None:
            param._runtime_param = _Conversion()


class _Conversion:
    """Replaces Typer's conversion of a parameter until it is needed."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        several, kind = param.multiple or param.nargs == -1, param.type_descriptor
        if value is None:
            return () if several else None
        try:
            if several:
                return [_simple(v, get_args(kind.annotation)[0], kind.parameter_info) for v in value]
            return _simple(value, kind.annotation, kind.parameter_info)
        except ValueError:  # then Typer reports the error
            param._runtime_param = None
            return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _simple(value: Any, kind: Any, bounds: Any) -> Any:
    """A text, path or number in its usual notation; ValueError for anything else."""
    if type(value) is kind:
        return value
    if kind is Path and type(value) is str:
        return Path(value)
    if kind not in (int, float) or not re.fullmatch(r"\d{1,9}" if kind is int else r"\d{1,9}(\.\d{1,9})?", value, re.A):
        raise ValueError
    if not (bounds.min is None or kind(value) >= bounds.min) or not (bounds.max is None or kind(value) <= bounds.max):
        raise ValueError
    return kind(value)


class _Group(TyperGroup):
    """Commands in titled sections."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": None})
        self.commands = Commands(_built)  # type: ignore[assignment]  # none is added later

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        empty = not args  # then this is the help, not an error
        _convert_lazily(self.get_params(ctx))
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            raise error if empty else _reworded(error, ctx) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Resolve also commands of two words, such as `data preview` besides `data`."""
        if (words := " ".join(args[:2])) in self.commands:
            return words, self.commands[words], args[2:]
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as error:
            raise _reworded(error, ctx) from None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, HELP))
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in commands.items()])
        records = [record for param in self.get_params(ctx) if (record := param.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl(records)


app = typer.Typer(
    name="cnn",
    cls=_Group,
    help="Train and inspect convolutional networks. Each network is a YAML text, its spec, which all commands read.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 failure, 2 usage or spec error, 3 training diverged, 70 internal error, "
    "130 or 143 stopped by a signal.",
)


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: register a function as the command of this name, which has a row in `COMMANDS`."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        FUNCTIONS[name] = function
        return function

    return add


def _built(name: str, function: Callable[..., None]) -> Any:
    """The command, with the option groups of its function expanded."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(name, cls=_Command)(_expanded(function))
    return typer.main.get_command(single)


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

    completions = _completions()
    parameters = [expanded for p in own for expanded in (_fields(groups[p.name]) if p.name in groups else [p])]
    for parameter in parameters:
        info = _info(parameter)
        info.autocompletion = completions.get(parameter.name)
        if _is_option(parameter) and not info.param_decls:  # also for a flag, which would else get a --no-…
            info.param_decls = ["--" + parameter.name.replace("_", "-")]
    parameters.sort(key=_is_option)  # arguments first, in order
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _completions() -> dict[str, Any]:
    """Completion functions by parameter name; empty unless the shell asks for completions."""
    if "_CNN_COMPLETE" not in os.environ:
        return {}
    from cnn_cli.cli.completion import COMPLETIONS

    return COMPLETIONS


def _fields(group: Any) -> list[inspect.Parameter]:
    kind, missing = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return [
        inspect.Parameter(
            f.name, kind, default=missing if f.default is dataclasses.MISSING else f.default, annotation=f.type
        )
        for f in dataclasses.fields(group)
    ]


def _info(parameter: inspect.Parameter) -> Any:
    """Typer's description of an argument or option: in the default, or in the annotation if there is no default."""
    if isinstance(parameter.default, typer.models.ParameterInfo):
        return parameter.default
    return parameter.annotation.__metadata__[0]


def _is_option(parameter: inspect.Parameter) -> bool:
    return not isinstance(_info(parameter), typer.models.ArgumentInfo)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"cnn {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere.")] = False,
) -> None: ...
