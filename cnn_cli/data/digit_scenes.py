"""`digit-scenes`: handwritten digits of all sizes on textures, with boxes; generated with integer arithmetic.

The digits come with scikit-learn, so that nothing is downloaded; those of the test scenes are by other writers than
those of the training scenes. A box encloses the visible pixels of a digit. Some scenes are empty.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn_cli.data.generated import read_or_make
from cnn_cli.data.shapes import box_around
from cnn_cli.data.textures import SIDE, Array, contrasting_color, random_color, random_integers, texture, with_noise

if TYPE_CHECKING:
    from torch import Tensor

TRAIN, TEST = 4_000, 500
_FILE = "digit-scenes-1.safetensors"  # the number changes with the pictures
_SEED = 20_261_128
_MOST = 5  # digits in a scene
_EMPTY = 20  # one of this many scenes has none
_SIZES = (14, 30)  # of the 8x8 digits in pixels
_INK = 96  # of 256: the least ink of a pixel that belongs to a digit
_HIDDEN = 3  # later digits cover at most a third of a digit's ink
_TEST_DIGITS = 360  # at the end of the data set, by other writers


@dataclass(frozen=True)
class DigitScenes:
    """images (n, 3, 64, 64) uint8; a box of `boxes` (m, 4) is x0, y0, x1, y1 around the visible ink of a digit `labels`
    (m,) in image `owners` (m,), all int64; x1 and y1 are the first pixels beyond."""

    images: "Tensor"
    boxes: "Tensor"
    labels: "Tensor"
    owners: "Tensor"


def read_digit_scenes(data_dir: Path) -> DigitScenes:
    """The 4,000 training and then the 500 test scenes, generated once and stored in `data_dir` if that is writable."""
    return read_or_make(data_dir / "digit-scenes" / _FILE, DigitScenes, lambda: make_digit_scenes(TRAIN, TEST, _SEED))


def make_digit_scenes(train: int, test: int, seed: int) -> DigitScenes:
    """Scenes of the training digits, then of the test digits; each depends only on the seed and its own number."""
    import torch

    digits, labels = _digits()
    last = len(digits) - _TEST_DIGITS
    images = np.empty((train + test, SIDE, SIDE, 3), np.uint8)
    rows: list[tuple[int, ...]] = []
    for i in range(train + test):
        first, count = (0, last) if i < train else (last, _TEST_DIGITS)
        images[i], boxes = _scene(i, seed, digits[first : first + count])
        rows += [(i, int(labels[first + digit]), *box) for digit, box in boxes]
    table = torch.tensor(rows, dtype=torch.int64).view(-1, 6)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return DigitScenes(pixels, table[:, 2:].contiguous(), table[:, 1].clone(), table[:, 0].clone())


@cache
def _digits() -> tuple[Array, Array]:
    """(1797, 8, 8) ink from 0 to 256, and the labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.int32) * 16, digits.target


def _scene(number: int, seed: int, digits: Array) -> tuple[Array, list[tuple[int, tuple[int, int, int, int]]]]:
    """(64, 64, 3) pixels, and for each digit its number among `digits` and its box."""
    random = random_integers(number, seed)
    ground = [random_color(random), random_color(random)]
    canvas = texture(next(random) % 5, ground, random)
    wanted = 0 if next(random) % _EMPTY == 0 else 1 + next(random) % _MOST
    chosen, owners = [-1], np.zeros((SIDE, SIDE), np.uint8)
    inked = [0]
    for _ in range(wanted):
        digit, size = next(random) % len(digits), _SIZES[0] + next(random) % (_SIZES[1] - _SIZES[0] + 1)
        x, y = next(random) % (SIDE - size + 1), next(random) % (SIDE - size + 1)
        color = contrasting_color(ground, random)
        ink = np.zeros((SIDE, SIDE), np.int32)
        ink[y : y + size, x : x + size] = enlarged(digits[digit], size)
        after = np.where(ink >= _INK, np.uint8(len(chosen)), owners)
        counts = np.bincount(after.ravel(), minlength=len(chosen) + 1)
        if all(
            _HIDDEN * visible >= (_HIDDEN - 1) * whole for visible, whole in zip(counts[1:], inked[1:], strict=False)
        ):
            canvas = (canvas + ((color - canvas) * ink[..., None] >> 8)).astype(np.int16)
            owners = after
            chosen.append(digit)
            inked.append(int(counts[-1]))
    boxes = [(digit, box_around(owners == i)) for i, digit in enumerate(chosen) if i]
    return with_noise(canvas, next(random) % 16, number, seed), boxes


def enlarged(digit: Array, size: int) -> Array:
    """(8, 8) → (size, size), bilinearly with integer arithmetic."""
    side = len(digit)
    position = np.clip((2 * np.arange(size, dtype=np.int32) + 1) * side - size, 0, 2 * size * (side - 1))
    low, share = position // (2 * size), position % (2 * size)
    high = np.minimum(low + 1, side - 1)
    rows = digit[low] * (2 * size - share)[:, None] + digit[high] * share[:, None]
    values: Array = rows[:, low] * (2 * size - share) + rows[:, high] * share
    return values // (4 * size * size)
