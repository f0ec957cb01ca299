"""A picture in the terminal: two pixels per character, as an upper half block and its background."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

_WIDEST = 160  # characters; a taller preview would scroll


def can_preview() -> bool:
    """Whether standard error is a color terminal. Respects NO_COLOR and TERM=dumb."""
    console = _console()
    return sys.stderr.isatty() and console.color_system is not None and not console.no_color


def print_preview(path: Path, box: tuple[int, int, int, int] | None = None) -> None:
    """Print a written picture, or the part of it within `box` (x0, y0, x1, y1), to the terminal."""
    from PIL import Image

    columns, lines = shutil.get_terminal_size((80, 24))
    with Image.open(path) as picture:
        part = picture.convert("RGB").crop(box) if box else picture.convert("RGB")
    _console().print(half_blocks(part, min(columns, _WIDEST), max(2, lines - 2)), end="")


def half_blocks(picture: "Image.Image", columns: int, lines: int) -> object:
    """The picture as text of at most `columns` x `lines` characters, keeping its aspect ratio; never enlarged.

    Downsampled by averaging. A terminal of 256 or 16 colors shows the nearest color.
    """
    from PIL import Image
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    share = min(columns / picture.width, 2 * lines / picture.height, 1)
    size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    small = picture.convert("RGB").resize(size, Image.Resampling.BOX)
    text = Text(no_wrap=True)
    for y in range(0, small.height, 2):
        for x in range(small.width):
            upper, lower = ((small.getpixel((x, v)) if v < small.height else None) for v in (y, y + 1))
            back = Color.from_rgb(*lower) if isinstance(lower, tuple) else None
            text.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=back))  # type: ignore[misc]
        text.append("\n")
    return text


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)
