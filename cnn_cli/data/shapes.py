"""`shapes`: pictures of six kinds of shapes with exact masks and boxes, generated with integer arithmetic.

The same seed gives the same bytes on every machine: nothing is rounded, and the random numbers are our own. Shapes of
any color overlap on textures of five kinds, with noise.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn_cli.data.generated import read_or_make
from cnn_cli.data.textures import SIDE, Array, contrasting_color, random_color, random_integers, texture, with_noise

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = ("background", "circle", "square", "triangle", "star", "cross", "ring")
TRAIN, TEST = 4_000, 500
_FILE = "shapes-2.safetensors"  # the number changes with the pictures
_SEED = 20_261_127
_MOST = 5  # shapes in an image
_LEAST_VISIBLE = 30  # pixels of each shape, whatever covers it

# Corners in units of 1/1024 of the radius.
_CORNERS = {
    "square": [(-724, -724), (724, -724), (724, 724), (-724, 724)],
    "triangle": [(0, -1024), (887, 512), (-887, 512)],
    "star": [
        *((0, -1024), (241, -331), (974, -316), (389, 127), (602, 828)),
        *((0, 410), (-602, 828), (-389, 127), (-974, -316), (-241, -331)),
    ],
    "cross": [
        *((-300, -970), (300, -970), (300, -300), (970, -300), (970, 300), (300, 300)),
        *((300, 970), (-300, 970), (-300, 300), (-970, 300), (-970, -300), (-300, -300)),
    ],
}
_ROUND = ("circle", "ring")
_ROTATIONS = ((1, 0, 1), (15, 8, 17), (12, 5, 13), (4, 3, 5), (3, 4, 5), (5, 12, 13), (8, 15, 17))  # cos, sin, unit


@dataclass(frozen=True)
class Shapes:
    """images (n, 3, 64, 64) and masks (n, 64, 64), uint8; a box of `boxes` (m, 4) is x0, y0, x1, y1 around the visible
    part of a shape of class `labels` (m,) in image `owners` (m,), all int64; x1 and y1 are the first pixels beyond."""

    images: "Tensor"
    masks: "Tensor"
    boxes: "Tensor"
    labels: "Tensor"
    owners: "Tensor"


def read_shapes(data_dir: Path) -> Shapes:
    """The 4,000 training and then the 500 test images, generated once and stored in `data_dir` if that is writable."""
    return read_or_make(data_dir / "shapes" / _FILE, Shapes, lambda: make_shapes(TRAIN + TEST, _SEED))


def make_shapes(n: int, seed: int) -> Shapes:
    """`n` images; each depends only on the seed and its own number."""
    import torch

    images, masks = np.empty((n, SIDE, SIDE, 3), np.uint8), np.empty((n, SIDE, SIDE), np.uint8)
    boxes: list[tuple[int, ...]] = []
    for i in range(n):
        images[i], masks[i], objects = _scene(i, seed)
        boxes += [(i, *box) for box in objects]
    table = torch.tensor(boxes, dtype=torch.int64)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Shapes(pixels, torch.from_numpy(masks), table[:, 2:].contiguous(), table[:, 1].clone(), table[:, 0].clone())


def _scene(number: int, seed: int) -> tuple[Array, Array, list[tuple[int, ...]]]:
    """(64, 64, 3) pixels, (64, 64) classes, and [(class, x0, y0, x1, y1)] of the shapes, the lowest first."""
    random = random_integers(number, seed)
    ground = [random_color(random), random_color(random)]
    canvas = texture(next(random) % 5, ground, random)
    kinds, owners = [0], np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(1 + next(random) % _MOST):
        kind, radius, turn = 1 + next(random) % 6, 7 + next(random) % 11, next(random) % 28
        x, y = 4 + next(random) % (SIDE - 8), 4 + next(random) % (SIDE - 8)
        color = contrasting_color(ground, random)
        inside = _placed(_stamp(CLASSES[kind], radius, 0 if CLASSES[kind] in _ROUND else turn), x, y)
        if _all_visible(after := np.where(inside, np.uint8(len(kinds)), owners), len(kinds)):
            np.copyto(canvas, color, where=inside[..., None])
            owners = after
            kinds.append(kind)
    pixels = with_noise(canvas, next(random) % 20, number, seed)
    return (
        pixels,
        np.array(kinds, np.uint8)[owners],
        [(kinds[i], *box_around(owners == i)) for i in range(1, len(kinds))],
    )


def _all_visible(owners: Array, newest: int) -> bool:
    counts = np.bincount(owners.ravel(), minlength=newest + 1)
    return bool((counts[1:] >= _LEAST_VISIBLE).all())


def box_around(inside: Array) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@cache
def _stamp(kind: str, radius: int, turn: int) -> Array:
    """(2r + 1, 2r + 1) bool: the pixels within a shape, turned by one of 28 angles."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    if kind in _ROUND:
        distance = x * x + y * y
        disk: Array = distance <= radius * radius
        return disk if kind == "circle" else disk & (4 * distance >= radius * radius)
    cosine, sine, unit = _ROTATIONS[turn % 7]
    for _ in range(turn // 7):
        cosine, sine = -sine, cosine
    turned = [
        ((cosine * u - sine * v) * radius // unit, (sine * u + cosine * v) * radius // unit) for u, v in _CORNERS[kind]
    ]
    inside = np.zeros((2 * radius + 1, 2 * radius + 1), bool)
    px, py = 1024 * x, 1024 * y + 1  # offset, so that no pixel is exactly at the height of a corner
    for (x0, y0), (x1, y1) in zip(turned, [*turned[1:], turned[0]], strict=True):
        crosses = (y0 <= py) != (y1 <= py)
        right = (px - x0) * (y1 - y0) < (x1 - x0) * (py - y0)
        inside ^= crosses & (right if y1 > y0 else (px - x0) * (y1 - y0) > (x1 - x0) * (py - y0))
    return inside


def _placed(stamp: Array, x: int, y: int) -> Array:
    """(64, 64) bool: the stamp with its center at (x, y), cropped at the borders."""
    radius = len(stamp) // 2
    padded = np.zeros((SIDE + 2 * radius, SIDE + 2 * radius), bool)
    padded[y : y + len(stamp), x : x + len(stamp)] = stamp
    window: Array = padded[radius : radius + SIDE, radius : radius + SIDE]
    return window
