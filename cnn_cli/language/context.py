"""The state of expanding a spec: what is collected, the site of the current part, and the values of arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnn_cli.errors import Problem, closest
from cnn_cli.language.arithmetic import calculate
from cnn_cli.language.plan import Layer
from cnn_cli.language.spec import Spec
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import Shape, ShapeError, TooSmall, Uneven, sizes
from cnn_cli.values import shown

MOST_NESTED = 64  # levels: blocks that use themselves end here
MOST_STEPS = 20_000  # layers, groups and block uses in one network
UNKNOWN: Any = object()  # a value that cannot be determined: its problem is noted, or it depends on an unknown shape


class LimitReached(Exception):
    """A limit is reached; the problem is already noted."""


class _Undetermined(Exception):
    """A value depends on something UNKNOWN."""


@dataclass(frozen=True)
class Scope:
    """The names that a text may use: arguments of its block (or network: owner ""), `$index` in a repeat, siblings."""

    spec: Spec  # whose text it is
    owner: str
    values: dict[str, Any]
    index: int | None = None
    sibling: "Callable[[str], Output | None]" = lambda name: None  # an earlier value of the mapping by its name
    cache: dict[str, int | None] = field(default_factory=dict, init=False, compare=False, repr=False)


@dataclass(frozen=True)
class Closure:
    """An argument that holds layers or a list: its text, and the scope in which it was written."""

    node: Node
    scope: Scope


@dataclass(frozen=True)
class Output:
    """A value that passes from one part to the next: its shape (None if unknown), and the row that computes it."""

    shape: Shape | None
    row: str
    pieces: tuple[Shape | None, ...] = ()  # of a Chunk or Split, whose pieces are taken one by one
    bare: bool = False  # of a Parameter: without a batch dimension
    inside: Mapping[str, "Output"] = field(default_factory=dict, compare=False)  # of a group, by name
    inputs: tuple["Output", ...] = ()  # where several values enter a group together

    @property
    def source(self) -> str:
        """Where it comes from, as messages name it."""
        return "the input" if self.row == "input" else f"layers.{self.row}"

    @property
    def closed(self) -> "Output":
        """The same value where it enters another part, in which the values inside of its group have no names."""
        return Output(self.shape, self.row, self.pieces, self.bare, {}, self.inputs) if self.inside else self


@dataclass(frozen=True)
class Site:
    """Where a part is used: its path in the network, its input, and the scope of its text."""

    path: str
    input: Output
    scope: Scope

    @property
    def label(self) -> str:
        path = self.path if len(self.path) <= 100 else f"{self.path[:50]}…{self.path[-50:]}"
        return f"layers.{path}" if path else "layers"

    def child(self, key: str, output: Output, scope: Scope) -> "Site":
        return Site(f"{self.path}.{key}" if self.path else key, output.closed, scope)

    def beside(self, name: str) -> str:
        """The path of a sibling, or of a value inside of one."""
        group = self.path.rpartition(".")[0]
        return f"{group}.{name}" if group else name

    def at(self, scope: Scope) -> "Site":
        return Site(self.path, self.input, scope)


@dataclass
class Context:
    """What the expansion of a spec collects. `warnings` are reported only if there are no mistakes."""

    root: Spec
    spec: Spec  # whose text is being followed: that of `root`, or of a network that is a part of it
    problems: list[Problem]
    warnings: list[Problem] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    types: set[str] = field(default_factory=set)  # of the layers so far
    steps: int = 0
    nested: int = 0
    params: int = 0
    shape_error: tuple[Problem, bool] | None = None  # the first that another input size may fix; if a larger one
    blocks: set[str] = field(default_factory=set)
    enclosing: list[Any] = field(default_factory=list)  # the Siblings of the mappings around, the innermost last
    unused: dict[str, tuple[tuple[int, int], str, str]] = field(default_factory=dict)  # path → place, label, row
    taken: set[str] = field(default_factory=set)  # the paths of values that are taken from outside of their group
    networks: list[str] = field(default_factory=list)  # those around, the innermost last
    parts: dict[str, str] = field(default_factory=dict)  # path → the network that is a part there
    part_place: tuple[int, int] | None = None  # where the outermost of them is written
    until: str | None = None  # the path of the last value of a part
    until_reached: bool = False
    uses_in_channels: bool = False  # whether a layer inside a block reads $in_channels
    reported: dict[tuple[str, int, int, bool], str] = field(default_factory=dict)  # place → where of its first problem
    noted: int = 0  # mistakes, including further ones at the same place

    def problem(self, place: Node | tuple[int, int], where: str, message: str, warning: bool = False) -> bool:
        """Note a mistake, and return whether it is new: a block that is used ten times reports its mistakes once."""
        at = place if isinstance(place, tuple) else place.place
        self.noted += 1
        new = self.reported.setdefault((self.spec.origin, *at, warning), where) == where
        if new:
            self.problems.append(Problem(self.spec.origin, *at, f"{self.root.name}, {where}", message, warning))
        return new

    def warn(self, place: tuple[int, int], where: str, message: str) -> None:
        """Note what is valid, but probably unintended."""
        self.warnings.append(Problem(self.root.origin, *place, f"{self.root.name}, {where}", message, True))

    def shape_problem(self, place: tuple[int, int], where: str, error: ShapeError, inputs: Sequence[Output]) -> None:
        """Note inputs of the wrong shape: the required shape, the actual ones and their sources, and what to write."""
        actual = " and ".join(f"{sizes(x.shape or ())} from {x.source}" for x in inputs)
        fix = error.fix
        if len(self.root.input) == 2 and inputs[0].row == "input" and "height" in error.need:
            image = [1, *self.root.input]
            fix = f"write the input as {image} if it is an image, or use the layer …1d"
        if self.uses_in_channels and len({(x.shape or ())[:1] for x in inputs}) > 1:
            fix += ". Inside a block, $in_channels is that of the input of that layer; for the channels of the block's"
            fix += " input, write an argument, `args: {channels: $in_channels}`"
        new = self.problem(place, where, f"{error.need}, but got {actual}; {fix}")
        if new and self.shape_error is None and isinstance(error, TooSmall | Uneven):
            self.shape_error = (self.problems[-1], isinstance(error, TooSmall))

    def has_room(self, count: int) -> bool:
        """Whether `count` more parts are allowed."""
        return self.steps + count <= MOST_STEPS

    def step(self, node: Node, site: Site, count: int = 1) -> None:
        """Count parts of the network; LimitReached if there are too many."""
        self.steps += count
        if not self.has_room(0):
            self.problem(node, site.label, f"the network has more than {MOST_STEPS:,} parts; reduce its repeats")
            raise LimitReached

    def enter(self, node: Node, site: Site, count: int = 1) -> None:
        """Count parts, and a level that `leave` ends; LimitReached if there are too many."""
        self.step(node, site, count)
        self.nested += 1
        if self.nested > MOST_NESTED:
            message = f"nested more than {MOST_NESTED} levels deep; reduce the nesting, and let no block contain itself"
            self.problem(node, site.label, message)
            raise LimitReached

    def leave(self) -> None:
        self.nested -= 1


def evaluate(context: Context, node: Node, site: Site) -> Any:
    """The value of an argument: a plain one, or a Closure for lists and mappings, which may hold layers."""
    text = node.value
    if isinstance(text, dict | list):
        return Closure(node, site.scope)
    if not isinstance(text, str) or not text.startswith("$"):
        return text
    try:
        if not text.startswith("${"):
            return _look_up(context, text[1:], site)
        if not text.endswith("}"):
            raise ValueError(f"the brace of {shown(text)} is never closed; write }} at its end")
        return calculate(text[2:-1], lambda name: _number(context, name, site))
    except _Undetermined:
        return UNKNOWN
    except ValueError as error:
        context.problem(node, site.label, str(error))
        return UNKNOWN


def evaluate_deep(context: Context, node: Node, site: Site) -> Any:
    """The value of a layer's setting: plain data, with every argument in it replaced by its value."""
    value = evaluate(context, node, site)
    if not isinstance(value, Closure):
        return value
    inside, items = site.at(value.scope), value.node.value
    context.enter(node, site, 1 + len(items))  # arguments may hold arguments, endlessly without a count
    plain: Any
    if isinstance(items, list):
        values = plain = [evaluate_deep(context, n, inside) for n in items]
    else:
        plain = {k: evaluate_deep(context, n, inside) for k, n in items.items()}
        values = list(plain.values())
    context.leave()
    return UNKNOWN if any(v is UNKNOWN for v in values) else plain


def bind_arguments(context: Context, owner: str, args: dict[str, Node], passed: dict[str, Any], site: Site) -> Scope:
    """The scope of a block or network: the arguments passed to it, else the defaults, which see those before them."""
    values: dict[str, Any] = {}
    for name, default in args.items():
        earlier = Scope(context.spec, owner, dict(values))  # a copy: a list with $name in it must not contain itself
        before = context.uses_in_channels
        values[name] = passed[name] if name in passed else evaluate(context, default, site.at(earlier))
        context.uses_in_channels = before  # here it is the input of the block
        if default.value is None and name not in passed:
            context.problem(default, f"args.{name}", f"has no value; write one, or pass it with --set {name}=…")
            values[name] = UNKNOWN
    return Scope(context.spec, owner, values)


_SIZES = {"in_channels": "out_channels", "in_height": "out_height", "in_width": "out_width"}


def _size(output: Output, name: str) -> int:
    """The channels, height or width of the input or of a sibling."""
    if output.inputs:
        fix = f"write it after the join, or $input.0.{_SIZES.get(name, name)}"
        raise ValueError(f"${name} is the size of a single input, but there are several here; {fix}")
    if output.shape is None:
        raise _Undetermined
    if output.pieces:
        split = output.row.rpartition(".")[2]
        fix = f"write ${split}.0.{_SIZES.get(name, name)} for the first"
        raise ValueError(f"${name} is the size of a single value, but {split} is split into pieces; {fix}")
    index = ("channels", "height", "width").index(name.partition("_")[2])
    if index and len(output.shape) != 3:
        raise ValueError(f"${name} needs channels x height x width, but got {sizes(output.shape)}; write a number")
    return output.shape[index]


def _look_up(context: Context, name: str, site: Site) -> Any:
    scope = site.scope
    if name in _SIZES:
        context.uses_in_channels |= bool(scope.owner)
        return _size(site.input, name)
    path, _, size = name.rpartition(".")
    if size in _SIZES.values():
        output = scope.sibling(path)
        if output is None:
            raise ValueError(f"{path[:60]!r} is not an earlier sibling; write one, or ${size.replace('out', 'in')}")
        return _size(output, size)
    if name == "index":
        if scope.index is None:
            raise ValueError(
                "$index is defined only where `repeat` makes copies (0, 1, …); add `repeat`, or write a number"
            )
        return scope.index
    if name not in scope.values:
        owner = f"the block {scope.owner}" if scope.owner else "the network"
        declare = f" Declare it: `args: {{{name[:60]}: {10 if name == 'classes' else '…'}}}`"
        fix = closest(name[:60], [*scope.values, *_SIZES]) or declare
        raise ValueError(f"${name[:60]} is not an argument of {owner}.{fix}")
    if scope.values[name] is UNKNOWN:
        raise _Undetermined
    return scope.values[name]


def _number(context: Context, name: str, site: Site) -> int | float:
    number = _look_up(context, name, site)
    if isinstance(number, bool) or not isinstance(number, int | float):
        plain = number.node.plain if isinstance(number, Closure) else number
        raise ValueError(f"arithmetic needs numbers, but ${name} is {shown(plain)}; set it to a number")
    return number
