"""Run folders, runs/<network>-1, runs/<network>-2, …: the names of their files, and the lock on a run in progress."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cnn_cli.errors import CnnError, UsageError
from cnn_cli.files import holds_files, locked, make_folder, make_numbered_folder, number_of, remove_leftovers
from cnn_cli.language.registry import load_registry

RUNS = Path("runs")
BEST, LAST = "best.safetensors", "last.pt"
PREVIOUS = "previous.pt"  # the state that last.pt replaced
CONFIG = "config.yaml"
RESULT = "eval.json"
LOG = "metrics.jsonl"  # a JSON object per epoch
CURVES = "curves.png"  # the last file of a run: if it exists, the run is finished
DIVERGED = "diverged.txt"  # why training diverged; removed when the run is resumed
SUFFIXES = (".safetensors", ".pt", ".pth")

LogRow = dict[str, Any]  # `epoch`, `lr`, `seconds`, and figures such as `train_loss` and `val_accuracy`


def find_run(name: str, models: Sequence[Path] = ()) -> str:
    """`runs/NAME` if NAME is the name of a run in ./runs, and neither a path nor a network; else NAME itself."""
    run = RUNS / name
    if Path(name).name != name or Path(name).exists() or not run.is_dir():
        return name
    is_run = any((run / file).is_file() for file in (BEST, LAST)) or any(run.glob("seed-*"))
    return str(run) if is_run and name not in load_registry(models) else name


def is_stored(network: str) -> bool:
    """Whether a NETWORK argument is a run folder or a checkpoint, which has its own spec."""
    return bool(network.strip()) and (Path(network).is_dir() or Path(network).suffix in SUFFIXES)


def weights_of(run: Path) -> Path:
    """The file with the weights of a run: the best, or the last if no epoch is complete. CnnError without either."""
    for name in (BEST, LAST):
        if (run / name).is_file():
            return run / name
    if seeds := sorted(run.glob("seed-*")):
        raise UsageError(f"{run} holds runs with several seeds; name one of them, such as {seeds[0]}")
    raise CnnError(f"{run} is not a run folder: it has neither {BEST} nor {LAST}")


def newest_run(network: str, file: str) -> Path | None:
    """The run of that network in ./runs with the highest number that has this file; None without one."""
    folders = RUNS.iterdir() if RUNS.is_dir() else ()
    runs = [p for p in folders if number_of(p, network) and (p / file).is_file()]
    return max(runs, key=lambda p: number_of(p, network), default=None)


def read_log(run: Path) -> tuple[list[LogRow], int]:
    """The rows of a run's log, one per epoch, and the number of damaged lines, which are skipped."""
    rows, damaged = [], 0
    lines = (run / LOG).read_text(encoding="utf-8", errors="replace").splitlines() if (run / LOG).is_file() else []
    for line in lines:
        row = None
        with suppress(ValueError):
            row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("epoch"), int | float):
            rows.append(row)
        else:
            damaged += 1
    return rows, damaged


@contextmanager
def new_run(network: str, output: Path | None) -> Iterator[Path]:
    """A new, locked folder for a run: `output` exactly, or the next number. UsageError if it is not empty.

    If the folder is still empty at the end of the `with`, as when the data are missing, it is removed.
    """
    is_new = output is None or not output.exists()
    if output is None:
        folder = make_numbered_folder(RUNS, network)
    else:
        if output.is_dir() and holds_files(output):
            if (output / LAST).is_file():
                raise UsageError(f"{output} already contains a run; resume it with --resume, or choose another -o")
            raise UsageError(f"{output} is not empty; choose another folder with -o")
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file; choose a folder with -o")
        make_folder(folder := output)
    try:
        with existing_run(folder):
            yield folder
    finally:
        if is_new and not any(folder.iterdir()):
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def existing_run(folder: Path) -> Iterator[None]:
    """Lock an existing run inside the `with`, and remove what a killed process may have left in it."""
    make_folder(folder)
    with locked(folder):
        remove_leftovers(folder)
        with suppress(OSError):
            (folder / DIVERGED).unlink()
        yield
