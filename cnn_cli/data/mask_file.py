"""A mask file: the values or colors of its pixels, and whether it can be a mask."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_cli.data.decoding import errors_naming, open_image, without_opaque_alpha
from cnn_cli.errors import CnnError

if TYPE_CHECKING:
    from PIL import Image

_MOST_COLORS = 256


@dataclass(frozen=True)
class MaskPixels:
    """The number of pixels per value, None if the mask has colors, and per color, 0xRRGGBB. `size`: (width, height)."""

    path: Path
    size: tuple[int, int]
    values: Mapping[int, int] | None
    colors: Mapping[int, int]
    digest: bytes


def read_pixels(path: Path) -> MaskPixels:
    """CnnError for a file that cannot hold labels: JPEG, transparency, 16 bits, or more than 256 colors."""
    with open_image(path) as file, errors_naming(path):
        if file.format == "JPEG":
            raise CnnError(f"{path} is a JPEG, whose compression changes labels; save masks as PNG")
        image = without_opaque_alpha(file)
        if image.mode in ("RGBA", "LA", "PA"):
            raise CnnError(f"{path} has transparent pixels; save it without an alpha channel")
        if image.mode not in ("1", "L", "P", "RGB"):
            raise CnnError(
                f"{path} has 16-bit or other pixels ({image.mode}); save it with 8 bits: gray, palette or RGB"
            )
        counts: Any = image.getcolors(_MOST_COLORS)
        if counts is None:
            raise CnnError(
                f"{path} has more than {_MOST_COLORS} colors: a photo, or a mask that was resized with interpolation; "
                "masks have one color per class"
            )
        by_code = {code: n for n, code in counts}
        digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        if image.mode == "RGB":
            colors = {(r << 16) + (g << 8) + b: n for (r, g, b), n in by_code.items()}
            gray = all(r == g == b for r, g, b in by_code)
            return MaskPixels(
                path, image.size, {r: n for (r, _, _), n in by_code.items()} if gray else None, colors, digest
            )
        return MaskPixels(path, image.size, by_code, _colors(image, by_code), digest)


def _colors(image: "Image.Image", counts: Mapping[int, int]) -> dict[int, int]:
    """The same pixels by their colors, of a palette or gray."""
    palette = image.getpalette("RGB") if image.mode == "P" else None
    colors: dict[int, int] = {}
    for value, n in counts.items():
        r, g, b = palette[3 * value : 3 * value + 3] if palette and len(palette) >= 3 * value + 3 else (value,) * 3
        code = (r << 16) + (g << 8) + b
        colors[code] = colors.get(code, 0) + n
    return colors
