"""Lists and mappings of a spec, as the independent interpreter runs them."""

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch_values import (
    JOINS,
    OPERATIONS,
    SPLITS,
    Closure,
    Refused,
    Scope,
    Step,
    Value,
    bounded,
    find,
    is_number,
)

if TYPE_CHECKING:
    from torch_interpreter import Interpreter

MODULE = nn.Module()
NAME = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


def times(interpreter: "Interpreter", node: Any, scope: Scope, x: Value) -> int:
    count = interpreter.evaluate(node, scope, x)
    if type(count) is not int or not 0 <= count <= 1000:
        raise Refused("repeat")
    return count


class ListRun:
    """A list on the way through it."""

    def __init__(self, interpreter: "Interpreter", x: Value, path: str, scope: Scope) -> None:
        self.interpreter, self.value, self.path, self.scope = interpreter, x.closed, path, scope
        self.values: dict[str, Value] = {}

    def add(self, item: Any) -> None:
        for node, scope in self.copies(item, self.scope):
            key = str(len(self.values))
            path = f"{self.path}.{key}".strip(".")
            self.value = self.values[key] = self.interpreter.part(node, self.value, path, scope, item=True)
            self.interpreter.ended |= path == self.interpreter.until
            if self.interpreter.ended:
                return

    def copies(self, item: Any, scope: Scope) -> Iterator[tuple[Any, Scope]]:
        parts = item if isinstance(item, dict) else {}
        if "from" in parts:
            raise Refused("from in a list")
        if "repeat" not in parts:
            yield item, scope
            return
        for index in range(times(self.interpreter, parts["repeat"], scope, self.value)):
            own = replace(scope, index=index)
            layers = parts.get("layers") if set(parts) == {"repeat", "layers"} else None
            if isinstance(layers, str):  # an argument's list, in its own scope
                held = self.interpreter.evaluate(layers, scope, self.value)
                layers, own = (
                    (held.node, held.scope)
                    if isinstance(held, Closure) and isinstance(held.node, list)
                    else (None, own)
                )
            if isinstance(layers, list):
                for inner in layers:
                    yield from self.copies(inner, own)
            else:
                yield item, own

    def result(self) -> Value:
        keys = [*self.values]
        self.interpreter.replays[self.path] = lambda x: self.again(x, keys)
        return replace(self.value, inside=dict(self.values), named=False)

    def again(self, x: Value, keys: list[str]) -> Value:
        value, values = x.closed, {}
        for key in keys:
            value = values[key] = self.interpreter.replays[f"{self.path}.{key}".strip(".")](value.closed)
        return replace(value, inside=values, named=False)


class MappingRun:
    """A mapping on the way through it."""

    def __init__(self, interpreter: "Interpreter", x: Value, path: str, scope: Scope, written: set[str]) -> None:
        self.interpreter, self.path, self.written = interpreter, path, written
        self.scope = replace(scope, around=self)
        self.values = entered(x)
        self.steps: list[tuple[str, Step]] = []
        self.last = "input"

    def add(self, key: str, node: Any) -> None:
        """A child, or the copies that `repeat` makes of it."""
        number = re.findall(r"\{(\d+)\}", key)
        repeated = isinstance(node, dict) and node.get("repeat") is not None
        if key in ("from", "repeat") or bool(number) != repeated or len(number) > 1:
            raise Refused("repeat")
        if not repeated:
            self.child(key, node, self.scope)
            return
        before = node.get("from", self.last)
        x = find(self.values, str(before)) if isinstance(before, int | str) else None
        for index in range(times(self.interpreter, node["repeat"], self.scope, x or Value(None))):
            one = node if index == 0 else {k: v for k, v in node.items() if k != "from"}
            name = re.sub(r"\{\d+\}", str(int(number[0]) + index), key)
            self.child(name, one, replace(self.scope, index=index))
            if self.interpreter.ended:
                return

    def child(self, key: str, node: Any, scope: Scope) -> None:
        if key in self.values or not NAME.fullmatch(key) or hasattr(MODULE, key):
            raise Refused("a name")
        path = f"{self.path}.{key}".strip(".")
        value, again = self.value_of(node, path, scope)
        self.interpreter.ended |= path == self.interpreter.until
        self.steps.append((key, again))
        self.last = self.last if value.bare else key
        note(self.values, key, value)

    def value_of(self, node: Any, path: str, scope: Scope) -> tuple[Value, Step]:
        """The value of a child, and how it is computed from other values of its siblings."""
        parts = node if isinstance(node, dict) else {}
        own = [key for key in parts if key not in ("from", "repeat")]
        kind = str(own[0]) if len(own) == 1 else ""
        number = kind in OPERATIONS and is_number(parts[kind])
        if kind == "Parameter" or (kind in JOINS and not number):
            if "from" in parts:
                raise Refused("a join with from")
            if kind == "Parameter":
                value = self.parameter(parts[kind], path, scope)
                return value, lambda values: value
            return self.both(self.join(kind, parts[kind], scope))
        entering = self.entering(parts.get("from", self.last))
        x = entering(self.values)
        if kind in SPLITS:
            return self.both(self.split(kind, parts[kind], x, scope, entering))
        if kind == "Again":
            run = self.shared(parts[kind], path, scope, x)
            return self.both(lambda values: run(entering(values)))
        name = self.size_name(kind, parts.get(kind), scope, x)
        if name is None:
            value = self.interpreter.part(node, x, path, scope, item=True)
            return value, lambda values: self.interpreter.replays[path](entering(values))

        def sized(values: Mapping[str, Value]) -> Value:
            size = named(values, name)
            if size.bare or size.one.ndim != 4:
                raise Refused("a size of nothing with height and width")
            return Value(self.interpreter.layer(kind, parts[kind], entering(values), path, scope, size.one))

        return self.both(sized)

    def again_of(self, node: Any, path: str) -> Step:
        """How a child that has been run from outside is computed from other values."""
        parts = node if isinstance(node, dict) else {}
        entering = self.entering(parts.get("from", self.last))
        return lambda values: self.interpreter.replays[path](entering(values))

    def both(self, step: Step) -> tuple[Value, Step]:
        return step(self.values), step

    def shared(self, node: Any, path: str, scope: Scope, x: Value) -> Callable[[Value], Value]:
        """`Again`: the earlier part of that name."""
        run, name = self.interpreter, self.interpreter.evaluate(node, scope, x)
        named(self.values, name)
        first = f"{self.path}.{name}".strip(".")
        if first not in run.replays or first not in run.arity or first in run.operations:
            raise Refused("not a part")
        if (run.until or "").startswith(f"{path}."):
            raise Refused("not a part that can be used again")
        if run.arity[first] != (len(x.inputs) or 1):
            raise Refused("other inputs than at the first use")
        return run.replays[first]

    def size_name(self, kind: str, argument: Any, scope: Scope, x: Value) -> str | None:
        if kind not in ("Upsample", "CenterCrop") or kind in scope.blocks or x.inputs:
            return None
        size = argument.get("size") if isinstance(argument, dict) else argument
        name = self.interpreter.evaluate(size, scope, x) if isinstance(size, str) else None
        return name if isinstance(name, str) else None

    def entering(self, names: Any) -> Step:
        """What enters a child that takes these siblings."""
        if not isinstance(names, list):
            return lambda values: checked(named(values, names))

        def several(values: Mapping[str, Value]) -> Value:
            found = [named(values, name) for name in names]
            if len(found) < 2 or any(v.pieces or v.inputs for v in found):
                raise Refused("from of several")
            return Value(None, inputs=tuple(v.closed for v in found))

        return several

    def join(self, kind: str, names: Any, scope: Scope) -> Step:
        if not isinstance(names, list) or len(names) < 2:
            raise Refused("a join of one")
        operands = [self.operand(kind, name, scope) for name in names]
        siblings = [x for x in operands if isinstance(x, str)]
        numbers = [x for x in operands if not isinstance(x, str)]
        if not siblings or len(numbers) > 1 or (kind == "Divide" and 0 in operands[1:]):
            raise Refused("numbers")

        def step(values: Mapping[str, Value]) -> Value:
            found = [named(values, x) if isinstance(x, str) else x for x in operands]
            bare = [x.bare for x in found if isinstance(x, Value)]
            if all(bare) or (kind == "Concat" and any(bare)):
                raise Refused("parameters alone")
            plain = [x.one if isinstance(x, Value) else x for x in found]
            if kind == "Concat":
                return Value(bounded(torch.cat(plain, 1)))
            if kind == "Mean":
                return Value(functools.reduce(operator.add, plain) / len(plain))
            return Value(functools.reduce(OPERATIONS[kind], plain))

        return step

    def operand(self, kind: str, node: Any, scope: Scope) -> str | float:
        """The name of a sibling, or a number."""
        value = self.interpreter.evaluate(node, scope, self.values[self.last])
        sibling = type(node) is int and (str(node) in self.values or str(node) in self.written)
        if kind in OPERATIONS and type(value) in (int, float) and not sibling:
            return value  # type: ignore[no-any-return]
        named(self.values, value if type(value) is str else node)
        return str(value)

    def split(self, kind: str, argument: Any, x: Value, scope: Scope, entering: Step) -> Step:
        key = {"Chunk": "chunks", "Split": "sizes"}[kind]
        given = argument if isinstance(argument, dict) else {key: argument}
        if set(given) != {key}:
            raise Refused("settings of a split")
        sizes = self.interpreter.deep(given[key], scope, x)
        every = sizes if isinstance(sizes, tuple) and kind == "Split" else (sizes,)
        if not every or not all(type(n) is int and n > 0 for n in every):
            raise Refused("sizes of pieces")

        def step(values: Mapping[str, Value]) -> Value:
            x = entering(values).one
            if kind == "Split":
                pieces = torch.split(x, list(sizes) if isinstance(sizes, tuple) else sizes, 1)
            elif x.shape[1] % sizes:
                raise Refused("equal pieces")
            else:
                pieces = torch.chunk(x, sizes, 1)
            return Value(pieces[0], pieces=tuple(pieces))

        return step

    def parameter(self, argument: Any, path: str, scope: Scope) -> Value:
        given = argument if isinstance(argument, dict) else {} if argument is None else {"shape": argument}
        given = {k: self.interpreter.deep(v, scope, self.values[self.last]) for k, v in given.items()}
        shape, init = given.get("shape"), given.get("init", "zeros")
        valid = isinstance(shape, tuple) and 0 < len(shape) <= 8 and all(type(n) is int and n > 0 for n in shape)
        valid = valid and (type(init) in (int, float) or init in ("zeros", "ones", "normal"))
        if set(given) - {"shape", "init"} or not valid:
            raise Refused("a parameter")
        if path not in self.interpreter.parameters:
            if init == "normal":
                data = torch.randn(shape)
            else:
                data = torch.full(shape, float({"zeros": 0, "ones": 1}.get(init, init)))
            self.interpreter.parameters[path] = nn.Parameter(data)
        return Value(self.interpreter.parameters[path], bare=True)

    def result(self) -> Value:
        steps, last = [*self.steps], self.last
        self.interpreter.replays[self.path] = lambda x: again(steps, last, x)
        return closing(self.values, self.last)


def checked(value: Value) -> Value:
    if value.pieces or value.bare:
        raise Refused("pieces or a parameter enter a layer")
    return value.closed


def named(values: Mapping[str, Value], name: Any) -> Value:
    found = find(values, str(name)) if type(name) in (int, str) else None
    if found is None:
        raise Refused(f"no sibling {name}")
    return found


def entered(x: Value) -> dict[str, Value]:
    return {"input": x.closed} | {f"input.{n}": v.closed for n, v in enumerate(x.inputs)}


def note(values: dict[str, Value], key: str, value: Value) -> None:
    """Add the value of a child, and its pieces."""
    values[key] = value
    values.update({f"{key}.{n}": Value(piece) for n, piece in enumerate(value.pieces)})


def closing(values: dict[str, Value], last: str) -> Value:
    value = values[last]
    if value.pieces:
        raise Refused("pieces at the end")
    inside = {name: v for name, v in values.items() if name.partition(".")[0] != "input"}
    return replace(value, inside=inside, named=True)


def again(steps: list[tuple[str, Step]], last: str, x: Value) -> Value:
    """A mapping once more."""
    values = entered(x)
    for key, step in steps:
        note(values, key, step(values))
    return closing(values, last)
