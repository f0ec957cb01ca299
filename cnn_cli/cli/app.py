"""The Typer app that the files of commands add to.

A command parses, makes one call and prints; everything it can do exists without it. Heavy imports (torch, torchvision,
matplotlib) stand inside the commands, so that `cnn --help` answers at once.
"""

from typing import Annotated

import typer

from cnn_cli import __version__

app = typer.Typer(
    name="cnn",
    help="Train and inspect convolutional networks. A network is a short YAML text; every command works from it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or spec, 3 training diverged, 70 a bug, 130/143 stopped.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cnn {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error; goes anywhere.")] = False,
) -> None: ...
