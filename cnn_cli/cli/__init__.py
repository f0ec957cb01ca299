"""The command line. Importing a file of commands adds them to the app, in the order in which --help lists them."""

import sys

# isort: off
from cnn_cli.cli import inspect, summary, train, predict, visualize, explain  # noqa: F401

# isort: on
from cnn_cli.cli.app import app
from cnn_cli.cli.output import note
from cnn_cli.errors import CnnError

__all__ = ["app", "main"]


def main() -> None:
    """The console command: run, and turn every failure into a short message and its exit code."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(arguments)
    except CnnError as error:
        if debug:
            raise
        note(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        note("stopped")
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        note(f"internal error: {type(error).__name__}: {error}")
        note("This is a bug in cnn. Please report it with the traceback that --debug shows.")
        sys.exit(70)
