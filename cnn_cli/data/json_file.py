"""JSON with the lines of the items of its lists, so that errors can name them."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from cnn_cli.errors import CnnError

_SPACE = re.compile(r"[\s,:]*")
_DECODER = json.JSONDecoder()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; CnnError with file and line if there is none."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CnnError(f"{path}:1: cannot be read as text ({error}); save it as UTF-8") from None
    if not text.strip():
        raise CnnError(f"{path}:1: the file is empty; export the annotations again")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise CnnError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); copy or export it again") from None
    except (ValueError, RecursionError):
        raise CnnError(f"{path}:1: nested too deeply, or has numbers that are too long") from None
    if not isinstance(document, dict):
        raise CnnError(f"{path}:1: a {type(document).__name__}, but COCO JSON is an object with images and annotations")
    return document


@cache
def item_lines(path: Path, key: str) -> tuple[int, ...]:
    """The lines on which the items of the list under `key` begin. For a file that read_json() has read."""
    text = path.read_text("utf-8-sig")
    lines: list[int] = []
    position, counted, line = text.index("{") + 1, 0, 1
    while text[position := _after_space(text, position)] != "}":
        name, position = _DECODER.raw_decode(text, position)
        position = _after_space(text, position)
        if name != key or text[position] != "[":
            position = _DECODER.raw_decode(text, position)[1]
            continue
        position, lines = position + 1, []
        while text[position := _after_space(text, position)] != "]":
            line, counted = line + text.count("\n", counted, position), position
            lines.append(line)
            position = _DECODER.raw_decode(text, position)[1]
        position += 1
    return tuple(lines)


def _after_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position
