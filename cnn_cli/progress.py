"""A progress bar on the terminal for what takes long; nothing in a log."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress_bar(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """The items one by one, with a bar on stderr where that is a terminal and there is more than one item."""
    if total < 2 or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=description, total=total, console=Console(stderr=True), transient=True)
