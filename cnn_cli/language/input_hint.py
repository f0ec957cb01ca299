"""Which input sizes a network takes: found by planning it at other sizes, which costs a millisecond each."""

import time
from collections.abc import Callable, Iterator

from cnn_cli.layers import Shape, sizes

LARGEST = 2048
SECONDS = 0.4  # what a hint may cost


def smallest(fits: Callable[[Shape], bool], channels: int) -> Shape | None:
    """The smallest square input (channels, s, s) for which `fits` holds, if one up to 2048 does."""
    top = next((s for s in _doubled() if fits((channels, s, s))), None)
    if top is None:
        return None
    low, high = top // 2 + 1, top
    while low < high:
        middle = (low + high) // 2
        if fits((channels, middle, middle)):
            high = middle
        else:
            low = middle + 1
    return (channels, high, high)


def multiple(fits: Callable[[Shape], bool], shape: Shape) -> int | None:
    """The smallest power of two up to 256 such that inputs whose sides are multiples of it fit."""
    for m in (2, 4, 8, 16, 32, 64, 128, 256):
        up = tuple(-(-n // m) * m for n in shape[1:])
        if fits((shape[0], *up)) and fits((shape[0], up[0] + m, up[1] + m)):
            return m
    return None


def suggest_input(fits: Callable[[Shape], bool], shape: Shape, small: bool, fix: str) -> str:
    """What to write instead of an input of `shape`: the smallest that fits, or a multiple; else `fix` alone."""
    fits = _within_time(fits)
    if small:
        best = smallest(fits, shape[0])
        return f"{fix} (the smallest that fits is {sizes(best)})" if best else fix
    m = multiple(fits, shape)
    if m is None:
        return fix
    near = sizes((shape[0], *(-(-n // m) * m for n in shape[1:])))
    return f"write an input whose sides are multiples of {m}, such as {near}"


def _doubled() -> Iterator[int]:
    s = 1
    while s <= LARGEST:
        yield s
        s *= 2


def _within_time(fits: Callable[[Shape], bool]) -> Callable[[Shape], bool]:
    """`fits` until the time for hints is over, then False: better no hint than a slow error."""
    end = time.perf_counter() + SECONDS
    return lambda shape: time.perf_counter() < end and fits(shape)
