"""A cache of expanded blocks: for equal arguments and input shapes, their layers are copied instead of expanded anew.

Only blocks without mistakes and warnings are cached, so that each of these is noted at every place where it occurs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

from cnn_cli.language.context import UNKNOWN, Closure, Context, Output, Scope, Site
from cnn_cli.language.layer_call import MOST_VALUES
from cnn_cli.language.plan import Child, Group, Layer
from cnn_cli.language.spec import Block, words
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import LayerType, SizeOf

MOST_LAYERS = 50_000  # in the cache
Part = tuple[Layer | Group, Output]
Key = tuple[Any, ...]
_numbers = count()


@dataclass(frozen=True)
class _Expansion:
    """The result of expanding a block, and what else that changed in the context."""

    site: Site  # keeps the nodes alive whose id() is in the key
    part: Layer | Group
    output: Output
    layers: int
    steps: int
    params: int
    types: frozenset[str]
    averts: frozenset[str]  # layer types before it that prevent a warning
    blocks: frozenset[str]
    uses_in_channels: bool


@dataclass
class _Kept:
    expansions: dict[Key, _Expansion] = field(default_factory=dict)
    scopes: dict[Key, tuple[int, Scope]] = field(default_factory=dict)
    layers: int = 0

    def clear(self) -> None:
        self.expansions.clear()
        self.scopes.clear()
        self.layers = 0


KEPT = _Kept()


def expand_block(context: Context, block: Block, site: Site, expand: Callable[[], Part]) -> Part:
    """The result of `expand` for a block at `site`, whose scope has the arguments, from the cache if possible."""
    key = _key(context, block, site)
    if key is None:
        return expand()
    known = KEPT.expansions.get(key)
    if known is not None and _applies(context, known):
        return _used_again(context, known, site)
    return _kept(context, key, site, expand)


def _key(context: Context, block: Block, site: Site) -> Key | None:
    """All that the expansion depends on; None if some of it is unknown, or is outside of the block."""
    inside = f"{site.path}."
    entering, scope = site.input.inputs or (site.input,), _scope_number(site.scope)
    shapes = tuple((x.shape, x.bare) for x in entering)
    if scope is None or not site.path or (context.until or "").startswith(inside):
        return None
    if any(x.shape is None or x.pieces or x.inputs for x in entering):
        return None
    rows = [x.row for x in entering]
    same = tuple(rows.index(row) for row in rows)  # which of them are the same value
    return id(block), scope, shapes, same, len(site.input.inputs), context.nested


def _scope_number(scope: Scope) -> int | None:
    """A number that scopes with equal contents share; None if a value is unknown or may change."""
    if "number" not in scope.cache:
        values = tuple((name, _value(value)) for name, value in scope.values.items())
        key = id(scope.spec.blocks), scope.owner, scope.index, values
        known = not any(value is None for _, value in values)
        if len(KEPT.scopes) > MOST_LAYERS:
            KEPT.clear()
        number, _ = KEPT.scopes.setdefault(key, (next(_numbers), scope)) if known else (None, scope)
        scope.cache["number"] = number
    return scope.cache["number"]


def _value(value: Any) -> Any:
    """An argument as a part of a key; None if it is unknown, or reads the sizes of siblings."""
    if not isinstance(value, Closure):
        return None if value is UNKNOWN else repr(value)  # 1, 1.0 and True differ
    scope = _scope_number(value.scope)
    return None if scope is None or _reads_siblings(value.node) else (id(value.node), scope)


def _reads_siblings(node: Node) -> bool:
    return any(".out_" in word for word in words(node))


def _applies(context: Context, known: _Expansion) -> bool:
    """Whether a copy needs no message here: no limit is reached, and no layer type before it is missing."""
    fits = context.has_room(known.steps) and context.params + known.params <= MOST_VALUES
    return fits and known.averts <= context.types


def _kept(context: Context, key: Key, site: Site, expand: Callable[[], Part]) -> Part:
    """Expand a block, and cache the result if it depends on nothing outside of the block."""
    before, notes, types = context.steps, _notes(context), frozenset(context.types)
    params, first, around = context.params, len(context.layers), (context.blocks, context.uses_in_channels)
    context.blocks, context.uses_in_channels = set(), False
    try:
        part, output = expand()
    finally:
        blocks, uses_in_channels = context.blocks, context.uses_in_channels
        context.blocks, context.uses_in_channels = around[0] | blocks, around[1] or uses_in_channels
    layers = context.layers[first:]
    if _notes(context) == notes and _stands_alone(site, part, layers):
        if KEPT.layers + len(layers) > MOST_LAYERS:
            KEPT.clear()
        KEPT.layers += len(layers)
        KEPT.expansions[key] = _Expansion(
            site,
            part,
            output,
            layers=len(layers),
            steps=context.steps - before,
            params=context.params - params,
            types=frozenset(layer.type for layer in layers),
            averts=types if any(_may_warn(layer) for layer in layers) else frozenset(),
            blocks=frozenset(blocks),
            uses_in_channels=uses_in_channels,
        )
    return part, output


def _notes(context: Context) -> tuple[int, ...]:
    """Counts of all notes: mistakes, warnings, unused outputs, values taken by path, networks used as parts."""
    others = context.warnings, context.unused, context.taken, context.parts
    return context.noted, *map(len, others)


def _stands_alone(site: Site, part: Layer | Group, layers: list[Layer]) -> bool:
    """Whether the part is the only one built, and takes only its input and its own layers."""
    own = list(_layers(part))
    if len(own) != len(layers) or any(a is not b for a, b in zip(own, layers, strict=True)):
        return False
    rows = {x.row for x in site.input.inputs or (site.input,)}
    named = {row for layer in layers for row in (layer.name, layer.shared_with, *layer.takes) if row}
    return all(row in rows or row == site.path or row.startswith(f"{site.path}.") for row in named)


def _layers(part: Layer | Group) -> Iterator[Layer]:
    if isinstance(part, Layer):
        yield part
    else:
        for child in part.children:
            yield from _layers(child.part)


def _may_warn(layer: Layer) -> bool:
    rule = layer.rule
    return rule.warning is not LayerType.warning and bool(rule.warning(layer.input_shape, ()))


def _used_again(context: Context, known: _Expansion, site: Site) -> Part:
    context.steps += known.steps
    context.params += known.params
    context.types |= known.types
    context.blocks |= known.blocks
    context.uses_in_channels |= known.uses_in_channels
    move = _Move.between(known.site, site)
    return move.part(known.part, context.layers), move.output(known.output)


@dataclass(frozen=True)
class _Move:
    """Moves layers from the place where a block was expanded to another; `rows` maps the names of the inputs."""

    path: str
    cut: int
    rows: dict[str, str]

    @classmethod
    def between(cls, source: Site, target: Site) -> "_Move":
        rows = {source.input.row: target.input.row}
        rows |= {a.row: b.row for a, b in zip(source.input.inputs, target.input.inputs, strict=True)}
        return cls(target.path, len(source.path), rows)

    def row(self, name: str) -> str:
        return self.rows[name] if name in self.rows else self.path + name[self.cut :]

    def part(self, part: Layer | Group, layers: list[Layer]) -> Layer | Group:
        """The moved copy of a part; its layers are appended to `layers` in order."""
        if isinstance(part, Layer):
            layer = part.moved(self.path + part.name[self.cut :], tuple([self.row(name) for name in part.takes]))
            if part.shared_with or part.size_of:
                layer = self.named(layer)
            layers.append(layer)
            return layer
        children = tuple([Child(child.key, self.part(child.part, layers), child.takes) for child in part.children])
        return Group(self.path + part.name[self.cut :], part.named, children, part.output)

    def named(self, layer: Layer) -> Layer:
        """A layer that takes the size of another row or shares its weights, with the row renamed."""
        settings = {
            key: SizeOf((0, *value), self.row(value.name)) if isinstance(value, SizeOf) else value
            for key, value in layer.settings.items()
        }
        shared_with = layer.shared_with and self.row(layer.shared_with)
        return layer.moved(layer.name, layer.takes, settings=settings, shared_with=shared_with)

    def output(self, output: Output) -> Output:
        inside = _Inside(output.inside, self) if output.inside else output.inside
        inputs = tuple([self.output(one) for one in output.inputs])
        return Output(output.shape, self.row(output.row), output.pieces, output.bare, inside, inputs)


class _Inside(Mapping[str, Output]):
    """The values inside of a moved group, computed only when one is read."""

    def __init__(self, original: Mapping[str, Output], move: _Move) -> None:
        self.original, self.move = original, move

    @cached_property
    def moved(self) -> dict[str, Output]:
        return {name: self.move.output(output) for name, output in self.original.items()}

    def __getitem__(self, name: str) -> Output:
        return self.moved[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.original)

    def __len__(self) -> int:
        return len(self.original)
