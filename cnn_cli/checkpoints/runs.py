"""Run folders: runs/<network>-1, runs/<network>-2, …"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cnn_cli.errors import UsageError
from cnn_cli.files import holds_files, locked, make_folder, make_numbered_folder, number_of, remove_leftovers

ROOT = Path("runs")


def newest_run(network: str, holding: str, root: Path = ROOT) -> Path | None:
    """The run of that network with the highest number that has the file `holding`; None without one."""
    runs = [p for p in root.glob(f"{network}-*") if number_of(p, network) and (p / holding).is_file()]
    return max(runs, key=lambda p: number_of(p, network), default=None)


@contextmanager
def new_run(network: str, output: Path | None) -> Iterator[Path]:
    """A new folder for a run, held against others: `output` exactly, or the next number. UsageError if it is not empty.

    If the `with` ends with the folder still empty, as when the data turn out to be missing, it is removed again.
    """
    made = output is None or not output.exists()
    if output is None:
        folder = make_numbered_folder(ROOT, network)
    else:
        if output.is_dir() and holds_files(output):
            way = "continue it with --resume, or name" if (output / "last.pt").is_file() else "name"
            raise UsageError(
                f"{output} holds {'a run' if 'continue' in way else 'files'} already; {way} another folder with -o"
            )
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file; name a folder with -o")
        make_folder(folder := output)
    try:
        with locked(folder):
            remove_leftovers(folder)
            yield folder
    finally:
        if made and not any(folder.iterdir()):
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def held_run(folder: Path) -> Iterator[Path]:
    """An existing run, held against others."""
    make_folder(folder)
    with locked(folder):
        remove_leftovers(folder)
        yield folder
