"""Fonts of pictures: DejaVu Sans, which ships with matplotlib, and an installed font for scripts that it lacks."""

import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

OWN = "DejaVu Sans"  # has the × and − that Pillow's default font lacks
HINT = "no installed font has all characters of these names; Noto Sans CJK has Chinese, Japanese and Korean"


def families(texts: Iterable[str]) -> list[str]:
    """Font families that together cover the characters of these texts, as far as installed fonts do; DejaVu Sans first.

    The list is a value for matplotlib's `font.family`.
    """
    lacking = _letters("".join(texts)) - _coverage(OWN, "".join(texts))
    chosen = [OWN]
    for family in sorted(_files(), key=lambda name: ("Sans" not in name, name)) if lacking else ():
        if covered := _coverage(family, "".join(sorted(lacking))):
            chosen.append(family)
            lacking -= covered
    return chosen


def is_drawable(text: str) -> bool:
    """Whether the installed fonts have every character of a text."""
    return not _letters(text) - {c for family in families([text]) for c in _coverage(family, text)}


@cache
def font(size: int, bold: bool = False, text: str = "") -> "ImageFont.FreeTypeFont":
    """Pillow's font for a text: DejaVu Sans or, if it lacks characters, the installed font that has most of them."""
    from PIL import ImageFont

    if _letters(text) <= _coverage(OWN, text):
        return ImageFont.truetype(_own("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)
    return ImageFont.truetype(_files()[max(families([text]), key=lambda name: len(_coverage(name, text)))], size)


def _letters(text: str) -> set[str]:
    """The characters that a font must have: all but spaces, combining marks and control characters."""
    return {c for c in text if unicodedata.category(c)[0] in "LNPS"}


def _own(name: str) -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@cache
def _files() -> dict[str, str]:
    """The installed upright fonts of regular weight: family → file."""
    from matplotlib.font_manager import fontManager

    upright = {e.name: e.fname for e in fontManager.ttflist if e.style == "normal" and e.weight in (400, "normal")}
    return {name: path for name, path in upright.items() if not name.startswith("Last Resort")} | {
        OWN: _own("DejaVuSans.ttf")
    }


@cache
def _opened(family: str) -> "FT2Font":
    from matplotlib.ft2font import FT2Font

    return FT2Font(_own("DejaVuSans.ttf") if family == OWN else _files()[family])


def _coverage(family: str, text: str) -> set[str]:
    """The characters of a text that a font has; none for a bitmap font, which cannot be scaled."""
    if family == OWN and text.isascii():
        return _letters(text)
    opened = _opened(family)
    return {c for c in _letters(text) if opened.get_char_index(ord(c))} if opened.scalable else set()
