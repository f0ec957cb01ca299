"""Colors on a terminal: errors, warnings, headings and best values. None in files and pipes, or with NO_COLOR."""

import os
import re
from typing import TextIO

RED, GREEN, YELLOW, BOLD = "1;31", "32", "33", "1"
_ERROR = re.compile(r"^(?:internal )?error:", re.M)
_WARNING = re.compile(r"^(?:[^\s:]+:\d+:\d+: )?warning:", re.M)
_HEADING = re.compile(r"(?:\A|(?<=\n\n))(?:.+\n)+?(?=─{4,}$)", re.M)  # the lines above the first rule of a table


def has_color(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colors (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colored(text: str, color: str, stream: TextIO) -> str:
    """The text in a color, line by line, if the stream shows colors."""
    if not has_color(stream):
        return text
    return "\n".join(f"\x1b[{color}m{line}\x1b[0m" if line else line for line in text.split("\n"))


def highlighted(text: str, stream: TextIO) -> str:
    """The text with `error:` in red, `warning:` in yellow and titles of tables in bold, if the stream shows colors."""
    for pattern, color in ((_ERROR, RED), (_WARNING, YELLOW), (_HEADING, BOLD)):
        text = pattern.sub(lambda match, color=color: colored(match[0], color, stream), text)  # type: ignore[misc]
    return text
