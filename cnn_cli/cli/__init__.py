"""The command line: `cnn` with its exit codes."""

import atexit
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

from cnn_cli.cli.output import note
from cnn_cli.distributed.world import REPORT_DELAY, current_world, should_report
from cnn_cli.errors import CnnError

__all__ = ["main", "run_program"]


def run_program() -> None:
    """main() as the program itself: the process ends without the destructors of PyTorch's libraries.

    They take 0.3 CPU seconds and 125 MB, which would be the peak of most commands. Exit handlers run in the reverse
    order in which they were registered, so those registered after this call, PyTorch's included, still run.
    """
    codes = [0]
    atexit.register(lambda: _end_process(codes[-1]))
    try:
        main()
    except SystemExit as end:
        codes.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except BaseException:  # with --debug: Python shows the traceback
        codes.append(1)
        raise


def _end_process(code: int) -> None:
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except (OSError, ValueError):  # closed, or a full disk: Python reports it
        return
    os._exit(code)


def main() -> None:
    """The console command: run the app, and turn every failure into a short message and an exit code."""
    gc.set_threshold(20_000)  # imports, mostly PyTorch's, create a million objects, none of them garbage
    atexit.register(gc.freeze)  # no collection at exit, which would take longer than the rest of the exit
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as `>&-` does
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        with _one_voice():
            if sys.stderr.isatty():
                from cnn_cli.cli.loading import announce_loading

                announce_loading()
            from cnn_cli.cli.app import app

            app(arguments, prog_name="cnn")
    except CnnError as error:
        if debug:
            raise
        if should_report(error):
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


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes only the first prints messages; the others print only why they failed, if they can."""
    world = current_world()
    if world.size > 1:  # before PyTorch is loaded, which writes forty lines about a lost connection
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if world.is_main:
        yield
        return
    messages = StringIO()
    try:
        with redirect_stdout(messages), redirect_stderr(messages):
            yield
    except SystemExit as end:  # a wrong option, which the app has reported
        if end.code:
            time.sleep(REPORT_DELAY)
            note(messages.getvalue())
        raise
