"""`cnn shapes`: every layer with its input and output shapes, and the arithmetic of its sizes."""

from dataclasses import dataclass
from typing import Any

from cnn_cli.analysis.rows import described, layer_rows, network_document, with_inputs
from cnn_cli.analysis.summary import title
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import sizes
from cnn_cli.layers.formulas import numbers
from cnn_cli.tables import Column, Table, terminal_width


@dataclass(frozen=True)
class ShapeDerivation:
    """The layers of a plan, up to its first mistake, each with the arithmetic of its sizes and parameters."""

    plan: Plan

    def document(self) -> dict[str, Any]:
        document = network_document(self.plan.checked(), layer_rows(self.plan))
        for row, layer in zip(document["layers"], self.plan.layers, strict=True):
            row["arithmetic"] = arithmetic(layer)
        return document

    def table(self) -> Table:
        lines = [
            {
                "name": layer.name,
                "layer": described(layer),
                "input": " and ".join(sizes(shape) for shape in layer.input_shapes),
                "output": outputs(layer),
                "arithmetic": "\n".join(arithmetic(layer)),
            }
            for layer in self.plan.layers
        ]
        keys = ("name", "layer", "input", "output", "arithmetic")
        return Table(tuple(Column(key, key, wraps=True) for key in keys), lines)

    def text(self) -> str:
        """A line for each layer, and below it its arithmetic; in columns if they fit the terminal."""
        heads = [(layer.name, with_inputs(layer), passage(layer)) for layer in self.plan.layers]
        name, kind, shapes = (max((len(head[n]) for head in heads), default=0) for n in range(3))
        fits = name + kind + shapes + 4 <= terminal_width()
        lines = [title(self.plan), ""]
        for layer, head in zip(self.plan.layers, heads, strict=True):
            if fits:
                lines.append(f"{head[0]:<{name}}  {head[1]:<{kind}}  {head[2]}")
            else:
                lines += [f"{head[0]}  {head[1]}", f"    {head[2]}"]
            lines += [f"{'':<{name if fits else 0}}    {line}" for line in arithmetic(layer)]
        if not heads and not self.plan.errors:
            lines.append("no layers: the output is the input")
        return "\n".join(lines)


def arithmetic(layer: Layer) -> list[str]:
    """How the sizes and the number of parameters are computed, one line each; may be empty."""
    count = [f"{layer.rule.parameters(layer.settings).numbers} parameters"] if layer.params else []
    return [*numbers(layer.sizes), *count]


def passage(layer: Layer) -> str:
    """`64x8x8 and 32x8x8 → 96x8x8`."""
    inputs = " and ".join(sizes(shape) for shape in layer.input_shapes)
    return f"{inputs} → {outputs(layer)}" if inputs else outputs(layer)


def outputs(layer: Layer) -> str:
    """The output shape; those of all pieces if they differ."""
    pieces = layer.pieces if len(set(layer.pieces)) > 1 else (layer.output_shape,)
    return " and ".join(sizes(shape) for shape in pieces)
