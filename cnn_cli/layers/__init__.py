"""The closed layer table: every capitalized name that a spec may use, with its settings and its rules. No torch."""

from cnn_cli.layers import activation, convolution, joins, linear, normalization, padding, parts, pooling, reshaping
from cnn_cli.layers.base import (
    JOINS,
    LAYERS,
    REQUIRED,
    LayerType,
    Saved,
    Setting,
    Settings,
    Shape,
    ShapeError,
    SizeOf,
    Tensor,
    TooSmall,
    Uneven,
    parameters,
    sizes,
)

__all__ = [
    "JOINS",
    "LAYERS",
    "REQUIRED",
    "LayerType",
    "Saved",
    "Setting",
    "Settings",
    "Shape",
    "ShapeError",
    "SizeOf",
    "Tensor",
]
__all__ += ["TooSmall", "Uneven", "parameters", "sizes"]
__all__ += ["activation", "convolution", "joins", "linear", "normalization", "padding", "parts", "pooling", "reshaping"]
