"""Textures, colors and random numbers for generated pictures, in integers, with the same bytes on every machine."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

SIDE = 64
_CONTRAST = 90  # least sum of differences of red, green and blue between a shape and the colors of the background
_TRIES = 6  # colors drawn until one has that contrast
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.int16)

Array = np.ndarray[Any, np.dtype[Any]]


def random_color(random: Iterator[int]) -> Array:
    return np.array([next(random) % 256 for _ in range(3)], np.int16)


def contrasting_color(ground: Sequence[Array], random: Iterator[int]) -> Array:
    """A random color that differs from those of the background, or the last one drawn."""
    for _ in range(_TRIES):
        color = random_color(random)
        if all(int(np.abs(color - other).sum()) >= _CONTRAST for other in ground):
            break
    return color


def texture(kind: int, colors: Sequence[Array], random: Iterator[int]) -> Array:
    """(64, 64, 3) int16 in two colors: plain, stripes, a checkerboard, a gradient, clouds."""
    a, b, period = 1 + next(random) % 3, next(random) % 7 - 3, 6 + next(random) % 9
    slope = a * _X + b * _Y
    if kind == 0:
        index: Array = np.zeros_like(slope)
    elif kind == 1:
        index = slope // np.int16(period) & 1
    else:
        index = (_X // np.int16(period) + _Y // np.int16(period)) & 1
    if kind < 3:
        chosen: Array = np.stack(colors).take(index, 0)
        return chosen
    if kind == 3:
        share: Array = (slope - slope.min()).astype(np.int32) * 256 // np.int32(max(1, int(slope.max() - slope.min())))
    else:
        share = _clouds(random)
    first, second = (color.astype(np.int32) for color in colors)
    blend: Array = ((first * 256 + (second - first) * share[..., None]) >> 8).astype(np.int16)
    return blend


def _clouds(random: Iterator[int]) -> Array:
    """(64, 64) int32 from 0 to 256: a lattice of 9x9 random values with bilinear interpolation between them."""
    lattice: Array = np.array([next(random) % 257 for _ in range(81)], np.int32).reshape(9, 9)
    cell, within = np.arange(SIDE) // 8, np.arange(SIDE, dtype=np.int32) % 8
    rows: Array = lattice[cell] * (8 - within)[:, None] + lattice[cell + 1] * within[:, None]  # (64, 9), times 8
    values: Array = rows[:, cell] * (8 - within) + rows[:, cell + 1] * within
    return values >> 6


def random_integers(number: int, seed: int) -> Iterator[int]:
    """Random integers below 2^31 for an image."""
    yield from (_random(2 * number, 1_024, seed) >> np.uint64(33)).tolist()


def with_noise(canvas: Array, level: int, number: int, seed: int) -> Array:
    """(64, 64, 3) integers → bytes, each changed by up to `level`; every image has its own noise."""
    pixels: Array = np.clip(canvas + _noise(number, seed) % np.int16(2 * level + 1) - np.int16(level), 0, 255)
    return pixels.astype(np.uint8)


def _noise(number: int, seed: int) -> Array:
    """(64, 64, 3) random bytes."""
    words = _random(2 * number + 1, SIDE * SIDE * 3 // 8, seed).astype("<u8")
    return np.frombuffer(words.tobytes(), np.uint8).reshape(SIDE, SIDE, 3).astype(np.int16)


def _random(stream: int, count: int, seed: int) -> Array:
    """(count,) uint64 by SplitMix64 (Steele et al. 2014), modulo 2^64; `stream` numbers independent sequences."""
    with np.errstate(over="ignore"):
        start = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(stream) * np.uint64(1 << 20)
        z = (start + np.arange(count, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
