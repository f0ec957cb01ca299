"""Input sizes that fit a network, found by planning it at other sizes, which takes about a millisecond each."""

import time
from collections.abc import Callable

from cnn_cli.layers import Shape, sizes

LARGEST, LONGEST = 2048, 65536  # sides of images, and lengths of one-dimensional inputs, that are tried
SECONDS = 0.4  # of CPU time that a hint may take


def is_flat(shape: Shape) -> bool:
    """Whether an input is one-dimensional, CxL or Cx1xL, so that only its length can change."""
    return len(shape) == 2 or shape[1] == 1 < shape[2]


def with_side(shape: Shape, side: int) -> Shape:
    """The same input as a square of this side, or with this length."""
    return (*shape[:-1], side) if is_flat(shape) else (shape[0], side, side)


def smallest(fits: Callable[[Shape], bool], shape: Shape) -> Shape | None:
    """The smallest input for which `fits` holds: a square (channels, s, s) up to 2048, or a length up to 65536."""
    most = LONGEST if is_flat(shape) else LARGEST
    top = next((1 << n for n in range(most.bit_length()) if fits(with_side(shape, 1 << n))), None)
    if top is None:
        return None
    low, high = top // 2 + 1, top
    while low < high:
        middle = (low + high) // 2
        if fits(with_side(shape, middle)):
            high = middle
        else:
            low = middle + 1
    return with_side(shape, high)


def multiple(fits: Callable[[Shape], bool], shape: Shape) -> int | None:
    """The smallest power of two up to 256 such that inputs whose sides are multiples of it fit."""
    for m in (2, 4, 8, 16, 32, 64, 128, 256):
        if fits(_rounded_up(shape, m)) and fits(_rounded_up(shape, m, m)):
            return m
    return None


def _rounded_up(shape: Shape, m: int, more: int = 0) -> Shape:
    """The shape with its sides (or its length) rounded up to multiples of m, plus `more`."""
    fixed = len(shape) - 1 if is_flat(shape) else 1
    return (*shape[:fixed], *(-(-n // m) * m + more for n in shape[fixed:]))


def suggest_input(fits: Callable[[Shape], bool], shape: Shape, small: bool, fix: str) -> str:
    """What to write instead of an input of `shape`: the smallest that fits, or a multiple; `fix` if none is known."""
    fits = _within_time(fits)
    if small:
        best = smallest(fits, shape)
        return f"{fix} (the smallest that fits is {sizes(best)})" if best else fix
    m = multiple(fits, shape)
    if m is None:
        return fix
    sides = "length is a multiple" if is_flat(shape) else "sides are multiples"
    return f"write an input whose {sides} of {m}, such as {sizes(_rounded_up(shape, m))}"


def _within_time(fits: Callable[[Shape], bool]) -> Callable[[Shape], bool]:
    """`fits` until the time limit, then False: a message without a hint is better than a late one."""
    end = time.process_time() + SECONDS
    return lambda shape: time.process_time() < end and fits(shape)
