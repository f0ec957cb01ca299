"""Lessons of layers that compute nothing or next to nothing: joins, and what puts values elsewhere."""

from math import prod

from cnn_cli.analysis.lessons.base import Lesson, Make, times
from cnn_cli.language.plan import Layer
from cnn_cli.layers import sizes


def _joined(layer: Layer) -> Lesson:
    shapes = layer.input_shapes
    names = ", ".join(layer.takes)
    if layer.type == "Concat":
        total = " + ".join(str(shape[0]) for shape in shapes)
        return Lesson(
            f"Stacks the channels of {names}. Height and width must be equal.",
            (f"{total} = {layer.output_shape[0]} channels",),
        )
    sign = "+" if layer.type == "Add" else "·"
    what = f"{'Adds' if sign == '+' else 'Multiplies'} {names}, value by value."
    what += " All sizes are equal." if len(set(shapes)) == 1 else " A size of 1 stretches: one value meets all."
    return Lesson(what, (f" {sign} ".join(sizes(shape) for shape in shapes) + f" → {sizes(layer.output_shape)}",))


def _chunk(layer: Layer) -> Lesson:
    n, c = layer.settings["chunks"], layer.input_shape[0]
    return Lesson(
        f"Splits the channels into {n} pieces, {layer.name}.0 to {layer.name}.{n - 1}. Nothing is computed.",
        (f"{c}/{n} = {c // n} channels each",),
    )


def _flatten(layer: Layer) -> Lesson:
    s, shape = layer.settings, layer.input_shape
    start, end = (d - 1 if d > 0 else len(shape) + d for d in (s["start_dim"], s["end_dim"]))
    merged = shape[start : end + 1]
    what = "All values in one row: channel after channel, row after row. Nothing is computed."
    if (start, end) != (0, len(shape) - 1):
        what = f"Axes {start + 1} to {end + 1} become one. Nothing is computed."
    return Lesson(what, (f"{times(*merged)} = {prod(merged)}",))


def _unflatten(layer: Layer) -> Lesson:
    way = f"{sizes(layer.input_shape)} → {sizes(layer.output_shape)}"
    return Lesson("One axis becomes several. Nothing is computed.", (way,))


def _permute(layer: Layer) -> Lesson:
    order = ", ".join(str(d) for d in layer.settings["dims"])
    return Lesson(
        "Puts the axes in another order. Nothing is computed.",
        (f"axes {order} of (batch, {', '.join(map(str, layer.input_shape))}): {sizes(layer.output_shape)}",),
    )


def _shuffle(layer: Layer) -> Lesson:
    r, i, o = layer.settings["upscale_factor"], layer.input_shape, layer.output_shape
    return Lesson(
        f"Deals groups of {r}·{r} channels out over {r}x{r} pixels.",
        (f"channels {i[0]}/({r}·{r}) = {o[0]}", f"sides {i[1]}·{r} = {o[1]}, {i[2]}·{r} = {o[2]}"),
    )


def _unshuffle(layer: Layer) -> Lesson:
    r, i, o = layer.settings["downscale_factor"], layer.input_shape, layer.output_shape
    return Lesson(
        f"Gathers {r}x{r} pixels into {r}·{r} channels.",
        (f"channels {i[0]}·{r}·{r} = {o[0]}", f"sides {i[1]}/{r} = {o[1]}, {i[2]}/{r} = {o[2]}"),
    )


MOVING: dict[str, Make] = {
    **dict.fromkeys(("Add", "Multiply", "Concat"), _joined),
    "Chunk": _chunk,
    "Flatten": _flatten,
    "Unflatten": _unflatten,
    "Permute": _permute,
    "PixelShuffle": _shuffle,
    "PixelUnshuffle": _unshuffle,
}
