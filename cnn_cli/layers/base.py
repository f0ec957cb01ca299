"""What a layer of the closed table knows: its settings, and its rules on whole numbers."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cnn_cli.values import Kind, product

Shape = tuple[int, ...]  # without the batch: (channels, height, width) or (features,)
Settings = Mapping[str, Any]
REQUIRED: Any = object()


class ShapeError(ValueError):
    """What arrives does not fit: `need` says what was needed, `fix` what to write; the walk adds what arrives."""

    def __init__(self, need: str, fix: str) -> None:
        super().__init__(f"{need}; {fix}")
        self.need, self.fix = need, fix


class TooSmall(ShapeError):
    """A larger input of the network would fit."""


class Uneven(ShapeError):
    """An input of the network whose sides are multiples of some number would fit."""


@dataclass(frozen=True)
class Setting:
    """A keyword argument of the PyTorch class. An `inferred` one follows from the input and need not be written."""

    kind: Kind
    default: Any = REQUIRED
    inferred: bool = False


@dataclass(frozen=True)
class Tensor:
    """A parameter or buffer of a layer, by its name in state_dict() below the layer."""

    name: str
    shape: Shape
    buffer: bool = False


@dataclass(frozen=True)
class LayerType:
    """A row of the layer table: a class of torch.nn or torchvision.ops and its rules.

    `output(settings, shape)` is the shape that comes out; it raises ShapeError for an input that PyTorch's own kernel
    would refuse. `tensors(settings)` are its parameters and buffers in the order of state_dict(). `macs(settings, in,
    out)` are its multiply-accumulate operations for one image, weights only (no bias), as FlopCounterMode counts them
    (FLOPs = 2·MACs). `check(settings)` raises ValueError for settings that contradict each other; `words(settings, in,
    out)` is the arithmetic; `warning(in, types before)` is a warning where the input is legal, but hardly meant.
    """

    name: str
    module: str
    settings: Mapping[str, Setting]
    output: Callable[[Settings, Shape], Shape]
    infer: Callable[[Shape], dict[str, Any]] = lambda shape: {}
    tensors: Callable[[Settings], tuple[Tensor, ...]] = lambda s: ()
    macs: Callable[[Settings, Shape, Shape], int] = lambda s, i, o: 0
    check: Callable[[Settings], None] = lambda s: None
    words: Callable[[Settings, Shape, Shape], list[str]] = lambda s, i, o: []
    count: Callable[[Settings], str] = lambda s: ""
    warning: Callable[[Shape, Collection[str]], str] = lambda shape, before: ""
    traits: frozenset[str] = frozenset()
    joins: bool = False  # takes several inputs: `output` gets all shapes, `words` and `macs` the first

    @property
    def first(self) -> str | None:
        """The setting that a bare value stands for: the first that is not inferred."""
        return next((name for name, s in self.settings.items() if not s.inferred), None)


LAYERS: dict[str, LayerType] = {}


def register(layer: LayerType) -> None:
    """Add a row to the table; a name stands in it once."""
    if layer.name in LAYERS:
        raise ValueError(f"layer {layer.name} is in the table already")
    LAYERS[layer.name] = layer


_FORMS = {1: "channels x length", 2: "channels x height x width"}


def grid(shape: Shape, axes: int) -> Shape:
    """`shape` if it is channels with `axes` more axes, else ShapeError: 2 for images, 1 for what a layer …1d takes."""
    if len(shape) != axes + 1:
        one = "write {Flatten: 2} before it, or use the layer …2d" if len(shape) == 3 else "features have no length"
        two = "put it before Flatten" if len(shape) == 1 else "use the layer …1d, or put it before what flattens"
        raise ShapeError(f"takes {_FORMS[axes]}", one if axes == 1 else two)
    return shape


def image(shape: Shape) -> Shape:
    """`shape` if it is channels x height x width, else ShapeError."""
    return grid(shape, 2)


def sizes(shape: Shape) -> str:
    """A shape as users write it: 64x28x28."""
    return "x".join(str(n) for n in shape) or "a single number"


def axis(dim: int, shape: Shape) -> int:
    """PyTorch's `dim`, where 0 is the batch, as an index into a shape without the batch."""
    index = dim - 1 if dim > 0 else len(shape) + dim
    if dim == 0 or not 0 <= index < len(shape):
        raise ShapeError(f"needs an axis {dim} behind the batch", f"write one from 1 to {len(shape)} (0 is the batch)")
    return index


def parameters(tensors: tuple[Tensor, ...]) -> int:
    """How many trainable values these tensors have."""
    return sum(product(t.shape) for t in tensors if not t.buffer)
