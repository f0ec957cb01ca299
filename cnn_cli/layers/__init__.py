"""The closed layer table: every capitalised name that a spec may use, with its settings and its rules. No torch."""

from cnn_cli.layers import activation, convolution, linear, normalization, padding, pooling, reshaping
from cnn_cli.layers.base import (
    LAYERS,
    REQUIRED,
    LayerType,
    Setting,
    Settings,
    Shape,
    ShapeError,
    Tensor,
    TooSmall,
    Uneven,
    parameters,
    sizes,
)

__all__ = [
    "LAYERS",
    "REQUIRED",
    "LayerType",
    "Setting",
    "Settings",
    "Shape",
    "ShapeError",
    "Tensor",
    "TooSmall",
    "Uneven",
]
__all__ += ["activation", "convolution", "linear", "normalization", "padding", "pooling", "reshaping"]
__all__ += ["TooSmall", "Uneven", "parameters", "sizes"]
