"""A progress bar for long computations, on a terminal only."""

import sys
import time
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
_REFRESH = 0.1  # seconds


def progress_bar(items: Iterable[T], total: int, description: str) -> Generator[T]:
    """The items one by one, with a bar on stderr where that is a terminal and there is more than one item."""
    if total < 2 or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    # No refresh thread: it could hold a lock while data-loading workers are forked.
    with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        task = bar.add_task(description, total=total)
        bar.refresh()
        shown = time.monotonic()
        for item in items:
            yield item
            bar.advance(task)
            if time.monotonic() - shown > _REFRESH:
                bar.refresh()
                shown = time.monotonic()
