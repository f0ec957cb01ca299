"""The result of expanding a spec: a tree of layers with their shapes and counts, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cnn_cli.errors import Problem, SpecError, UsageError
from cnn_cli.language.spec import ScaleSpec, Spec, used_blocks
from cnn_cli.layers import LayerType, Saved, Shape, SizeOf, Tensor, parameters, sizes
from cnn_cli.layers.formulas import Line
from cnn_cli.layers.taps import Taps


@dataclass(frozen=True)
class Layer:
    """A leaf of the network: a layer, a join or a bare parameter, with everything known about it without weights."""

    name: str  # its path, as in state_dict(): layer1.0.conv1
    type: str
    rule: LayerType
    settings: dict[str, Any]  # complete, PyTorch's own keyword arguments
    written: tuple[str, ...]  # the names of those that the spec writes
    takes: tuple[str, ...]  # the rows whose outputs it takes; "input" is the network's input
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    line: int
    column: int
    shared_with: str = ""  # the row whose weights it shares, with which they are counted

    def moved(self, name: str, takes: tuple[str, ...], **changes: Any) -> "Layer":
        """A copy at another place. A network has thousands, and dataclasses.replace takes five times as long."""
        copy = object.__new__(Layer)
        copy.__dict__.update(self.__dict__, name=name, takes=takes, **changes)
        return copy

    @property
    def input_shape(self) -> Shape:
        return self.input_shapes[0] if self.input_shapes else ()

    @property
    def owner(self) -> str:
        """The row that owns its weights: its own, or the one with which it shares them."""
        return self.shared_with or self.name

    @property
    def shares_weights(self) -> bool:
        """Whether it uses the weights of another row; never for layers without weights, such as ReLU."""
        return bool(self.shared_with and self.used_tensors)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its own parameters and buffers; none if it shares those of another row."""
        return () if self.shared_with else self.used_tensors

    def tensor_name(self, tensor: Tensor) -> str:
        """The name in state_dict(); a network of a single layer and a bare parameter have an empty part."""
        return f"{self.name}.{tensor.name}".strip(".")

    @cached_property
    def used_tensors(self) -> tuple[Tensor, ...]:
        """The parameters and buffers with which it computes."""
        return self.rule.tensors(self.settings)

    @cached_property
    def params(self) -> int:
        return parameters(self.tensors)

    @property
    def macs(self) -> int:
        return self.rule.macs(self.settings, self.input_shape, self.output_shape).value

    @property
    def sizes(self) -> Sequence[Line]:
        """How its output size is computed."""
        return self.rule.sizes(self.settings, self.arrives, self.output_shape)

    @property
    def arrives(self) -> Any:
        """The argument of the rules of its type: the shape of its input, or for a join those of all inputs."""
        return self.input_shapes if self.rule.joins else self.input_shape

    @cached_property
    def size_of(self) -> str:
        """The setting given by the size of the last input, which is used for nothing else; empty if there is none."""
        return next((name for name, value in self.settings.items() if isinstance(value, SizeOf)), "")

    @property
    def reads(self) -> tuple[str, ...]:
        """The rows whose values it takes, without one that only gives a size."""
        return self.takes[:-1] if self.size_of else self.takes

    @property
    def pieces(self) -> tuple[Shape, ...]:
        """The shapes of its pieces, if it has several outputs."""
        return self.rule.pieces(self.settings, self.input_shape) if self.rule.pieces else ()

    @property
    def saved(self) -> Saved:
        """What PyTorch saves for the backward pass."""
        return self.rule.saved if isinstance(self.rule.saved, Saved) else self.rule.saved(self.settings)

    @property
    def taps(self) -> Mapping[int, Taps | None]:
        """By axis of the output: the positions of the input that it reads."""
        return self.rule.taps(self.settings, self.input_shape, self.output_shape)

    @property
    def grid(self) -> tuple[Shape, Shape]:
        """The input and output shapes that the taps refer to."""
        return self.rule.grid(self.settings, self.input_shape, self.output_shape)


@dataclass(frozen=True)
class Child:
    """A part inside a group. `takes` are siblings, "input" (of several "input.0", …) for what enters, "name.1" for a
    piece of a Chunk, and "name.path" for a value inside of a sibling."""

    key: str
    part: "Layer | Group"
    takes: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A list (`named` false: nn.Sequential) or a mapping of parts. Its output is that of the child `output`."""

    name: str
    named: bool
    children: tuple[Child, ...]
    output: str

    def leading_to(self, output: str) -> set[str]:
        """The children that the value `output` depends on, those whose weights it shares among them."""
        takes = {
            child.key: (*child.takes, *_shared(child.part, f"{self.name}.".lstrip("."))) for child in self.children
        }
        needed, waiting = set[str](), [output]
        while waiting:
            key = waiting.pop().partition(".")[0]
            if key in takes and key not in needed:
                needed.add(key)
                waiting += takes[key]
        return needed

    def inside(self, exports: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """Child group → the paths of the values inside of it that its siblings or, as `exports`, outer groups take."""
        names = dict.fromkeys(name for takes in [*(c.takes for c in self.children), exports] for name in takes)
        groups = {c.key for c in self.children if isinstance(c.part, Group)}
        inner: dict[str, list[str]] = {}
        for key, dot, path in (name.partition(".") for name in names):
            if dot and key in groups:
                inner.setdefault(key, []).append(path)
        return {key: tuple(paths) for key, paths in inner.items()}


def _shared(part: Layer | Group, prefix: str) -> list[str]:
    """The rows below `prefix`, and named from there, whose weights a part shares."""
    if isinstance(part, Group):
        return [name for child in part.children for name in _shared(child.part, prefix)]
    return [part.shared_with[len(prefix) :]] if part.shares_weights and part.shared_with.startswith(prefix) else []


@dataclass(frozen=True)
class Plan:
    """A network with all its sizes. If it has `problems`, the layers are those that can be determined nevertheless."""

    spec: Spec
    input: Shape
    shapes: dict[str, Shape]  # of the outputs by name, the main one first; the name of a single one is ""
    ends: tuple[str, ...]  # the rows that compute them
    root: Layer | Group
    layers: tuple[Layer, ...]
    args: dict[str, Any]
    problems: tuple[Problem, ...]
    blocks: frozenset[str]  # those that it uses
    parts: dict[str, str]  # the networks that are parts of it, by the path of the part
    shape_error: tuple[Problem, bool] | None  # the first problem that another input size may fix; if a larger one

    @property
    def network(self) -> str:
        return self.spec.name

    @property
    def description(self) -> str:
        return self.spec.description

    @property
    def reference(self) -> str:
        return self.spec.reference

    @property
    def input_kind(self) -> str:
        """The noun for the input in messages."""
        return "image" if len(self.input) == 3 else "input"

    @property
    def image(self) -> tuple[int, int, int]:
        """The input as channels, height and width; UsageError for one without height."""
        if len(self.input) == 3:
            return self.input[0], self.input[1], self.input[2]
        channels, length = self.input
        fix = f"write its input as [{channels}, 1, {length}], and {{Flatten: 2}} as its first layer"
        raise UsageError(f"{self.network} takes {sizes(self.input)} (channels x length), but images are needed; {fix}")

    @property
    def output(self) -> Shape:
        """The shape of the output, of several that of the main one."""
        return next(iter(self.shapes.values()))

    @property
    def outputs(self) -> dict[str, float]:
        """Auxiliary outputs with their weights in the loss, the main one first; empty where there are none."""
        return self.spec.outputs

    @property
    def named_outputs(self) -> dict[str, Shape]:
        """Several outputs without weights, which the network returns by name; empty if it returns a single one."""
        return self.shapes if self.spec.named_outputs else {}

    @property
    def detects(self) -> tuple[ScaleSpec, ...]:
        """The scales of a detector, as its spec describes them; empty for other networks."""
        return self.spec.detects

    @property
    def output_sizes(self) -> str:
        """`10`, or `p3 256x28x28, p4 256x14x14` of several outputs."""
        named = ", ".join(f"{name} {sizes(shape)}" for name, shape in self.named_outputs.items())
        return named or sizes(self.output)

    @property
    def train(self) -> dict[str, Any]:
        return self.spec.train

    @property
    def recipes(self) -> dict[str, dict[str, Any]]:
        return self.spec.recipes

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by its name in state_dict()."""
        return {layer.tensor_name(t): t for layer in self.layers for t in layer.tensors}

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if not p.warning)

    @property
    def only_in_training(self) -> frozenset[str]:
        """The outermost children that lead to no main output: the heads of auxiliary outputs."""
        if not self.outputs or not isinstance(self.root, Group):
            return frozenset()
        return frozenset(c.key for c in self.root.children) - self.root.leading_to(self.root.output)

    @property
    def last(self) -> Layer | None:
        """The layer that computes the main output; None if there is none."""
        row = self.ends[0]
        return next((layer for layer in self.layers if layer.name in (row, row.rpartition(".")[0])), None)

    def checked(self) -> "Plan":
        """The plan itself if it has no errors, else SpecError with all of them."""
        if self.errors:
            raise SpecError(self.errors)
        return self

    def document(self) -> dict[str, Any]:
        """The network as self-contained plain data: with its input, its arguments and the blocks that it uses."""
        network = {k: n.plain for k, n in self.spec.node.value.items() if k != "blocks"} | {"input": list(self.input)}
        if self.args:
            network["args"] = self.args
        blocks = _blocks(self.spec)
        parts = {name: _part_document(self.spec.networks[name]) for name in self.parts.values()}
        return {self.network: network} | parts | ({"blocks": blocks} if blocks else {})


def _part_document(spec: Spec) -> dict[str, Any]:
    """A network that is a part of another, as plain data with the blocks that it uses."""
    node = spec.node.value
    keys = [k for k in ("input", "args", "layers", "outputs") if k in node]
    return {k: node[k].plain for k in keys} | ({"blocks": blocks} if (blocks := _blocks(spec)) else {})


def _blocks(spec: Spec) -> dict[str, Any]:
    return {
        name: {"args": {k: n.plain for k, n in block.args.items()}, "layers": block.layers.plain}
        for name, block in used_blocks(spec).items()
    }
