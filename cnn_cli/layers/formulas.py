"""Sizes on whole numbers, and the same arithmetic in words.

Source: the shape sections of docs.pytorch.org/docs/stable/nn.html, which follow Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning", arXiv:1603.07285.
"""


def window(i: int, k: int, s: int, p: int, d: int, ceil: bool = False) -> int:
    """Positions of a window of `k` taps, `d` apart, moved by `s` over `i` values with `p` more at both ends.

    >>> window(28, 3, 1, 0, 1)
    26
    """
    span = i + 2 * p - d * (k - 1) - 1
    if not ceil:
        return span // s + 1
    out = -(-span // s) + 1
    return (
        out - 1 if (out - 1) * s >= i + p else out
    )  # the last window must start inside the input or the padding before it


def window_words(i: int, k: int, s: int, p: int, d: int, ceil: bool = False) -> str:
    """`(28 + 2·0 − 3)/1 + 1 = 26`, with ⌊ ⌋ or ⌈ ⌉ where the division leaves a rest."""
    inner = f"{i} + 2·{p} − {k}" if d == 1 else f"{i} + 2·{p} − {d}·({k} − 1) − 1"
    rest = (i + 2 * p - d * (k - 1) - 1) % s
    left, right = ("⌈", "⌉") if ceil else ("⌊", "⌋")
    fraction = f"{left}({inner})/{s}{right}" if rest else f"({inner})/{s}"
    out = window(i, k, s, p, d, ceil)
    plain = -(-(i + 2 * p - d * (k - 1) - 1) // s) + 1 if ceil else out
    dropped = " − 1 (no window may start in the padding behind)" if out != plain else ""
    return f"{fraction} + 1{dropped} = {out}"


def transposed(i: int, k: int, s: int, p: int, d: int, extra: int) -> int:
    """Size after a transposed convolution: the size whose convolution gives `i`, plus `extra` (output_padding)."""
    return (i - 1) * s - 2 * p + d * (k - 1) + extra + 1


def transposed_words(i: int, k: int, s: int, p: int, d: int, extra: int) -> str:
    return f"({i} − 1)·{s} − 2·{p} + {d}·({k} − 1) + {extra} + 1 = {transposed(i, k, s, p, d, extra)}"
