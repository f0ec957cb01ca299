"""The rows of the layer table: the settings of a layer type, and its rules on shapes and integers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from cnn_cli.layers.formulas import Formula, Line
from cnn_cli.layers.taps import Taps
from cnn_cli.values import Kind

Shape = tuple[int, ...]  # without the batch: (channels, height, width) or (features,)
Settings = Mapping[str, Any]
REQUIRED: Any = object()


class ShapeError(ValueError):
    """An input of the wrong shape: `need` says what the layer takes, `fix` what to write."""

    def __init__(self, need: str, fix: str) -> None:
        super().__init__(f"{need}; {fix}")
        self.need, self.fix = need, fix


class TooSmall(ShapeError):
    """A larger input of the network would fit."""


class Uneven(ShapeError):
    """An input of the network whose sides are multiples of some number would fit."""


class SizeOf(tuple[int, ...]):
    """The height and width of another value, called `name`, from which they are read at run time."""

    name: str

    def __new__(cls, shape: Shape, name: str) -> "SizeOf":
        size = super().__new__(cls, shape[1:])
        size.name = name
        return size


@dataclass(frozen=True)
class Setting:
    """A keyword argument of the PyTorch class. An `inferred` one follows from the input and need not be written."""

    kind: Kind
    default: Any = REQUIRED
    inferred: bool = False
    is_class: bool = False  # the value names a class of torch.nn, which the layer takes
    sibling: bool = False  # the value may name a sibling, whose height and width are then used


@dataclass(frozen=True)
class Tensor:
    """A parameter or buffer of a layer, by its name in state_dict() below the layer."""

    name: str
    shape: Shape
    buffer: bool = False


@dataclass(frozen=True)
class Saved:
    """What PyTorch saves of a layer's forward pass for the backward pass: its input, its output, or neither.

    `values(settings, in, out)` are further values for each image, in the precision of the network.
    """

    input: bool = True
    output: bool = False
    values: Callable[[Settings, Shape, Shape], int] = lambda s, i, o: 0
    indices: bool = False  # an int64 for each value of the output


NOTHING = Saved(input=False)
OUTPUT = Saved(input=False, output=True)
MASK = Saved(input=False, values=lambda s, i, o: prod(o))  # one for each value of the output


@dataclass(frozen=True)
class LayerType:
    """A row of the layer table: a class of torch.nn, torchvision.ops or cnn_cli.network.modules, and its rules.

    The rules take the settings, the input shape (of a join: all input shapes) and the output shape:
    output    the output shape; raises ShapeError for an input that PyTorch's own kernel would refuse
    explain   what the layer does, in a sentence or two; {name} stands for a setting
    infer     the settings that follow from the input shape
    sizes     how the output size is computed
    tensors   its parameters and buffers, in the order of state_dict()
    applied   the positions at which every weight is multiplied with a value, for one image: a multiply-accumulate
              operation each (bias not counted), as FlopCounterMode counts them (FLOPs = 2·MACs); None if there are none
    taps      receptive field: by axis of the output, the positions of the input that it reads; None: all of them.
              An axis that is missing is read value by value
    grid      the input and output shapes that the taps refer to, if the layer reshapes its input or output
    pieces    the shapes of its pieces, if it has several outputs; `output` is the first
    saved     what PyTorch saves for the backward pass
    check     raises ValueError for settings that contradict each other
    schemes   the sizes that other padding schemes would give
    bounds    the values at which an activation saturates, so that no gradient passes
    as_last   why it should not be the last layer before a classification loss, from the number of outputs
    warning   why a valid use is probably unintended, from the input shape and the types of earlier layers
    traits    properties that other parts of the tool ask for, such as "join", "pooling" or "view"
    """

    name: str
    module: str
    settings: Mapping[str, Setting]
    output: Callable[[Settings, Any], Shape]
    explain: str | Callable[[Settings, Any, Shape], str]
    infer: Callable[[Shape], dict[str, Any]] = lambda shape: {}
    tensors: Callable[[Settings], tuple[Tensor, ...]] = lambda s: ()
    applied: Callable[[Shape, Shape], Shape | None] = lambda i, o: None
    check: Callable[[Settings], None] = lambda s: None
    sizes: Callable[[Settings, Any, Shape], Sequence[Line]] = lambda s, i, o: ()
    taps: Callable[[Settings, Shape, Shape], Mapping[int, Taps | None]] = lambda s, i, o: {}
    grid: Callable[[Settings, Shape, Shape], tuple[Shape, Shape]] = lambda s, i, o: (i, o)
    pieces: Callable[[Settings, Shape], tuple[Shape, ...]] | None = None
    saved: Saved | Callable[[Settings], Saved] = Saved()
    schemes: Callable[[Settings, Shape], str] = lambda s, shape: ""
    bounds: Callable[[Settings], tuple[float, ...]] = lambda s: ()
    warning: Callable[[Shape, Collection[str]], str] = lambda shape, before: ""
    as_last: Callable[[int], str] = lambda outputs: ""
    traits: frozenset[str] = frozenset()

    @cached_property
    def first(self) -> str | None:
        """The setting that a bare value stands for: the first that is not inferred."""
        return next((name for name, s in self.settings.items() if not s.inferred), None)

    @cached_property
    def required(self) -> tuple[str, ...]:
        """The settings that must be written."""
        return tuple(name for name, s in self.settings.items() if s.default is REQUIRED and not s.inferred)

    @cached_property
    def joins(self) -> bool:
        """Whether the layer takes several inputs."""
        return "join" in self.traits

    @property
    def elementwise(self) -> bool:
        """Whether each output value depends only on the input value at its position, in training too."""
        return self.traits & {"activation", "random"} == {"activation"} and self.taps is LayerType.taps

    def parameters(self, settings: Settings) -> Formula:
        """The number of parameters, tensor by tensor."""
        weights = {t.name.replace(".", " "): t.shape for t in self.tensors(settings) if not t.buffer}
        return Formula(lambda *values: sum(values[1:], values[0]) if values else 0, weights)

    def macs(self, settings: Settings, i: Shape, o: Shape) -> Formula:
        """Multiply-accumulate operations for one image."""
        positions = self.applied(i, o)
        if positions is None:
            return Formula(lambda: 0, {})
        weights = {t.name.replace(".", " "): t.shape for t in self.tensors(settings) if t.name.endswith("weight")}
        if not positions:
            return Formula(lambda *values: sum(values[1:], values[0]), weights)
        return Formula(lambda positions, weight: positions * weight, {"positions": positions, **weights})


LAYERS: dict[str, LayerType] = {}
JOINS: dict[str, LayerType] = {}  # operations of the language itself: several inputs or outputs, or a bare tensor


def register(layer: LayerType, table: dict[str, LayerType] = LAYERS) -> None:
    """Add a row to a table. ValueError for a name that is already there."""
    if layer.name in table:
        raise ValueError(f"layer {layer.name} is in the table already")
    table[layer.name] = layer


_FORMS = {1: "channels x length", 2: "channels x height x width"}


def grid(shape: Shape, axes: int) -> Shape:
    """`shape` if it is channels with `axes` more axes, else ShapeError: 2 for images, 1 for sequences."""
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
        raise ShapeError(f"needs an axis {dim} (0 is the batch)", f"write one from 1 to {len(shape)}")
    return index


def parameters(tensors: tuple[Tensor, ...]) -> int:
    """The number of parameters in these tensors, without buffers."""
    return sum(prod(t.shape) for t in tensors if not t.buffer)
