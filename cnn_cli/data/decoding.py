"""Image files as bytes (c, h, w): common formats only, limited in size, complete, and turned upright."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cnn_cli.errors import CnnError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class ReadImageError(CnnError):
    """A file is not an image that can be read; the message names it."""


# Pillow goes by the content, not the name, and starts other programs for some formats (EPS: Ghostscript).
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
_MAX_PIXELS = 50_000_000  # an 11 kB file can hold more, and would take 400 MB of memory per worker
ORIENTATION = 274  # the EXIF tag
GRAY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I", "F")


def decode_image(path: Path, channels: int) -> "Tensor":
    """The image as (channels, h, w) bytes, turned upright as its EXIF says. ReadImageError names a bad file.

    `channels` is 1 or 3. Transparency is dropped; animations give their first frame, 16-bit values their high byte.
    """
    import torch
    from PIL import ImageOps

    with open_image(path) as image, errors_naming(path):
        ImageOps.exif_transpose(image, in_place=True)  # otherwise it copies images that are upright
        array = np.array(to_bytes(image, channels))
    return torch.from_numpy(array).view(*array.shape[:2], channels).permute(2, 0, 1)


def read_shape(path: Path) -> tuple[int, int, int]:
    """(channels, h, w) as decode_image() would give them, from the header only. ReadImageError names a bad file."""
    with open_image(path) as image, errors_naming(path):
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        width, height = image.size
        return 1 if image.mode in GRAY_MODES else 3, *((width, height) if turned else (height, width))


def decode_mask(path: Path, colors: bool) -> "np.ndarray[Any, np.dtype[Any]]":
    """A mask's pixels as they are stored, (h, w): its values, or its `colors` as 0xRRGGBB int32. Never turned."""
    with open_image(path) as file, errors_naming(path):
        image = without_opaque_alpha(file)
        if not colors:
            return np.array(image.convert("L") if image.mode in ("1", "RGB") else image)
        rgb: np.ndarray[Any, np.dtype[Any]] = np.array(image.convert("RGB")).astype(np.int32)
        codes: np.ndarray[Any, np.dtype[Any]] = (rgb[..., 0] << 16) + (rgb[..., 1] << 8) + rgb[..., 2]
        return codes


def without_opaque_alpha(image: "Image.Image") -> "Image.Image":
    """RGB or gray for an image whose alpha channel is 255 everywhere; any other image itself."""
    if image.mode not in ("RGBA", "LA") or image.getchannel("A").getextrema() != (255, 255):
        return image
    return image.convert(image.mode.removesuffix("A"))


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Whatever Pillow raises for a truncated or corrupt file, as one error that names it."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, MemoryError) as error:
        raise ReadImageError(f"{path} cannot be read as an image ({error}); repair it or leave it out") from None


def open_image(path: Path, content: BinaryIO | None = None) -> "Image.Image":
    """The image with its header read, from the file or its content. ReadImageError names a bad file."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit on the size is far below Pillow's
            image = Image.open(content or path, formats=_FORMATS)
    except UnidentifiedImageError:
        raise ReadImageError(f"{path} is not an image (PNG, JPEG, BMP, GIF, WebP, TIFF or PPM); leave it out") from None
    except FileNotFoundError:
        raise ReadImageError(f"{path}: no such file; looked in {path.absolute().parent}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ReadImageError(f"{path} cannot be read as an image ({error}); repair it or leave it out") from None
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        image.close()
        raise ReadImageError(f"{path} has 32-bit pixels of unknown range; save it with 8 or 16 bits per channel")
    if image.width * image.height > _MAX_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        image.close()
        raise ReadImageError(
            f"{path} has {size}, more than the limit of {_MAX_PIXELS // 10**6} million; make it smaller"
        )
    return image


def to_bytes(image: "Image.Image", channels: int) -> "Image.Image":
    """The image in gray (channels: 1) or RGB (3), 8 bits per channel."""
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow would clip 16-bit values at 255
        high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        image = Image.fromarray(high.astype(np.uint8))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)
