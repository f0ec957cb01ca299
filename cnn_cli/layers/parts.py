"""Parts of a value: pieces along the channels, and regions. All are views: nothing is computed."""

from typing import Any

from cnn_cli.layers.base import (
    JOINS,
    NOTHING,
    LayerType,
    Setting,
    Settings,
    Shape,
    ShapeError,
    SizeOf,
    TooSmall,
    axis,
    image,
    register,
    sizes,
)
from cnn_cli.layers.formulas import Formula, by_axis, ceil_ratio, ratio
from cnn_cli.layers.taps import Reads, Taps, behind_channels, everything
from cnn_cli.values import Integer, ListOf, OneOf, Sizes, maybe

_VIEW: dict[str, Any] = {"saved": NOTHING, "module": "cnn_cli.network.modules", "traits": frozenset({"view"})}
_PIECES = _VIEW | {"taps": lambda s, i, o: everything(0)}


def _chunked(s: Settings, shape: Shape) -> Formula:
    """The channels of a chunk."""
    if shape[0] % s["chunks"]:
        need = f"the channels must be a multiple of {s['chunks']}"
        raise ShapeError(need, f"write a number that divides {shape[0]}")
    return Formula(ratio, {"c": shape[0], "chunks": s["chunks"]}, "channels")


register(
    LayerType(
        "Chunk",
        settings={"chunks": Setting(Integer(1, 1024))},
        output=lambda s, shape: (_chunked(s, shape).value, *shape[1:]),
        explain="Splits the channels into {chunks} chunks of equal size, numbered from 0. Nothing is computed.",
        sizes=lambda s, i, o: [_chunked(s, i)],
        pieces=lambda s, i: ((_chunked(s, i).value, *i[1:]),) * s["chunks"],
        **_PIECES,
    ),
    JOINS,
)


def _split(s: Settings, shape: Shape) -> tuple[Shape, ...]:
    """The shapes of the pieces, as torch.split makes them."""
    own = s["sizes"]
    if isinstance(own, int):
        whole, rest = divmod(shape[0], own)
        if whole + bool(rest) > 1024:
            raise ShapeError("makes at most 1024 pieces", "write a larger size")
        own = (own,) * whole + (rest,) * bool(rest)
    elif sum(own) != shape[0]:
        total = " + ".join(map(str, own))
        raise ShapeError(f"the pieces {total} = {sum(own)} must add up to the channels", f"make the sum {shape[0]}")
    return tuple((n, *shape[1:]) for n in own)


def _split_sizes(s: Settings, i: Shape, o: Shape) -> list[str]:
    return [f"channels {' + '.join(str(shape[0]) for shape in _split(s, i))} = {i[0]}"]


register(
    LayerType(
        "Split",
        settings={"sizes": Setting(OneOf((Integer(1), ListOf(Integer(1), most=1024))))},
        output=lambda s, shape: _split(s, shape)[0],
        explain="Splits the channels into pieces, numbered from 0. Nothing is computed.",
        sizes=_split_sizes,
        pieces=_split,
        **_PIECES,
    ),
    JOINS,
)


def _range(s: Settings, shape: Shape) -> tuple[int, int, int]:
    """The axis, the first position, and the position after the last; negative ones count from the end."""
    index = axis(s["dim"], shape)
    size, start, end = shape[index], s["start"], s["end"]
    for n in (start, end):
        if n is not None and not -size <= n <= size:
            raise TooSmall(
                f"position {n} needs a size of at least {abs(n)} along axis {s['dim']}", f"write {-size} to {size}"
            )
    start, end = start + size * (start < 0), size if end is None else end + size * (end < 0)
    if start >= end:
        raise TooSmall("needs positions between start and end", "write another start or end")
    return index, start, end


def _sliced(s: Settings, shape: Shape) -> tuple[int, Formula]:
    """The axis, and how many of its positions are selected."""
    index, start, end = _range(s, shape)
    inputs = {"end": end, "start": start, "step": s["step"]}
    return index, Formula(lambda end, start, step: ceil_ratio(end - start, step), inputs)


def _slice_output(s: Settings, shape: Shape) -> Shape:
    index, count = _sliced(s, shape)
    return (*shape[:index], count.value, *shape[index + 1 :])


def _slice_taps(s: Settings, i: Shape, o: Shape) -> Reads:
    index, start, _ = _range(s, i)
    return {index: Taps(((start,),), s["step"])}


def _slice(s: Settings, i: Shape, o: Shape) -> str:
    _, start, end = _range(s, i)
    every = f", {s['step']} apart" if s["step"] > 1 else ""
    return f"Positions {start} to {end - 1} along axis {s['dim']}, counted from 0{every}. Nothing is computed."


register(
    LayerType(
        "Slice",
        settings={
            "dim": Setting(Integer(-8, 8), 1),
            "start": Setting(Integer(), 0),
            "end": Setting(maybe(Integer()), None),
            "step": Setting(Integer(1), 1),
        },
        output=_slice_output,
        explain=_slice,
        sizes=lambda s, i, o: [_sliced(s, i)[1]],
        taps=_slice_taps,
        **_VIEW,
    )
)


def _borders(s: Settings, shape: Shape) -> list[int]:
    """Rows and columns cropped at the top and left, rounded half to even as in torchvision."""
    sides, wanted = image(shape)[1:], s["size"]
    if any(n < m for n, m in zip(sides, wanted, strict=True)):
        raise TooSmall(f"a crop of {sizes(wanted)} needs at least {sizes(wanted)}", "write a smaller size")
    return [round((n - m) / 2) for n, m in zip(sides, wanted, strict=True)]


def _cropped(s: Settings, shape: Shape) -> Shape:
    _borders(s, shape)
    return (shape[0], *s["size"])


def _crop_sizes(s: Settings, i: Shape, o: Shape) -> list[Formula]:
    before = _borders(s, i)
    after = [n - m - b for n, m, b in zip(i[1:], o[1:], before, strict=True)]
    return by_axis(lambda n, a, b: n - a - b, "nab", i[1:], before, after)


def _crop(s: Settings, i: Shape, o: Shape) -> str:
    size = s["size"]
    of = f"the size of {size.name}" if isinstance(size, SizeOf) else sizes(size)
    return f"The center of its input, cropped to {of}. Nothing is computed."


register(
    LayerType(
        "CenterCrop",
        settings={"size": Setting(Sizes(Integer(1)), sibling=True)},
        output=_cropped,
        explain=_crop,
        sizes=_crop_sizes,
        taps=lambda s, i, o: behind_channels([Taps(((n,),), 1) for n in _borders(s, i)]),
        **_VIEW,
    )
)
