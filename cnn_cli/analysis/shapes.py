"""What plain `cnn shapes` prints: every layer with what comes in, what goes out, and the arithmetic between the two."""

from cnn_cli.analysis.rows import described, relative
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import sizes
from cnn_cli.tables import Column, Table, terminal_width


def arithmetic(layer: Layer) -> list[str]:
    """How the sizes and the number of parameters come about, a line each; empty where nothing is computed."""
    shapes = layer.input_shapes if layer.rule.joins else layer.input_shape
    words = list(layer.rule.words(layer.settings, shapes, layer.output_shape))  # type: ignore[arg-type]
    count = layer.rule.count(layer.settings)
    return words + ([f"{count} parameters"] if count else [])


def passage(layer: Layer) -> str:
    """`64x8x8 and 32x8x8 → 96x8x8`."""
    came = " and ".join(sizes(shape) for shape in layer.input_shapes)
    return f"{came} → {sizes(layer.output_shape)}" if came else sizes(layer.output_shape)


def text(plan: Plan) -> str:
    """A line for each layer, and below it its arithmetic; in columns where they fit the terminal."""
    names = max((len(layer.name) for layer in plan.layers), default=0)
    kinds = max((len(_full(layer)) for layer in plan.layers), default=0)
    ways = max((len(passage(layer)) for layer in plan.layers), default=0)
    fits = names + kinds + ways + 4 <= terminal_width()
    lines = []
    for layer in plan.layers:
        if fits:
            lines.append(f"{layer.name:<{names}}  {_full(layer):<{kinds}}  {passage(layer)}")
        else:
            lines += [f"{layer.name}  {_full(layer)}", f"    {passage(layer)}"]
        lines += [f"{'':<{names if fits else 0}}    {line}" for line in arithmetic(layer)]
    return "\n".join(lines)


def table(plan: Plan) -> Table:
    """The same as a table, for CSV and Markdown."""
    found = [
        {
            "name": layer.name,
            "layer": described(layer),
            "input": " and ".join(sizes(shape) for shape in layer.input_shapes),
            "output": sizes(layer.output_shape),
            "arithmetic": "\n".join(arithmetic(layer)),
        }
        for layer in plan.layers
    ]
    keys = ("name", "layer", "input", "output", "arithmetic")
    return Table(tuple(Column(key, key, wraps=True) for key in keys), found)


def _full(layer: Layer) -> str:
    """The layer with what it joins: `Add bn3, downsample.1`."""
    joined = ", ".join(relative(name, layer.name) for name in layer.takes) if layer.rule.joins else ""
    return f"{described(layer)} {joined}".strip()
