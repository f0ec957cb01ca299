"""A second reading of the spec language, in plain PyTorch: an oracle for random specs. It shares no code with cnn_cli.

A network is run layer by layer while its text is followed: each layer is made of the class of torch.nn that it names,
with the sizes of the tensor that arrives. What the language forbids raises Refused; what PyTorch forbids raises
whatever PyTorch raises.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch_groups import ListRun, MappingRun
from torch_values import (
    CLASSES,
    INFERRED,
    JOINS,
    OPERATIONS,
    SIZES,
    SPLITS,
    Arithmetic,
    Closure,
    Refused,
    Scope,
    Value,
    bounded,
    find,
    first_setting,
    is_number,
    settings_of,
)


class Interpreter:
    """Runs networks of a file. Modules are made at the first run, and used again by further ones."""

    def __init__(self, networks: Mapping[str, Any], blocks: Mapping[str, Any]) -> None:
        self.networks, self.blocks = networks, blocks
        self.modules: dict[str, nn.Module] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.replays: dict[str, Callable[[Value], Value]] = {}  # by path: the part once more, on other values
        self.arity: dict[str, int] = {}  # by path: how many values it takes
        self.operations: set[str] = set()  # the paths of operations with a number
        self.training = False
        self.running: list[str] = []  # the networks around
        self.until: str | None = None
        self.ended = False

    def run(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """The outputs of a network by name, the main one first; a single one is called ""."""
        spec, value = self.networks[name], Value(x)
        if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", str(other)) for other in self.networks):
            raise Refused("the name of a network")
        check_blocks(self.blocks)
        unknown = set(spec) - {"description", "reference", "input", "args", "blocks", "layers", "outputs", "train"}
        if unknown or spec.get("layers") is None:
            raise Refused("keys of a network")
        check_args(spec.get("args"))
        check_blocks(spec.get("blocks"))
        scope = self.bound(spec.get("args") or {}, {}, self.scope_of(spec), value)
        self.running = [name]
        result = self.part(spec["layers"], value, "", scope)
        self.running = []
        outputs = spec.get("outputs") or {}
        found = {name: find(result.inside, name) for name in outputs}
        if isinstance(outputs, dict) and outputs:
            if any(name not in result.inside for name in outputs) or not result.named:
                raise Refused("outputs with weights are children")
            if len({v.one.shape for v in found.values() if v is not None}) > 1:
                raise Refused("outputs with weights have one shape")
        if isinstance(spec.get("outputs"), list) and (not outputs or len(found) < len(outputs)):
            raise Refused("outputs")
        if any(v is None or v.bare or v.pieces for v in found.values()):
            raise Refused("an output")
        return {name: v.one for name, v in found.items() if v} if outputs else {"": result.one}

    def state(self) -> dict[str, Tensor]:
        """What state_dict() must have."""
        tensors = {f"{p}.{k}".strip("."): v for p, m in self.modules.items() for k, v in m.state_dict().items()}
        return tensors | {k: v.data for k, v in self.parameters.items()}

    def scope_of(self, spec: Mapping[str, Any]) -> Scope:
        return Scope({**self.blocks, **(spec.get("blocks") or {})})

    # parts

    def part(self, node: Any, x: Value, path: str, scope: Scope, item: bool = False) -> Value:
        """A list, a mapping, a layer or block."""
        if isinstance(node, dict) and not item and set(node) & {"from", "repeat"}:
            raise Refused("from and repeat belong to an item")
        if isinstance(node, list):
            value = self.items(node, x.closed, path, scope)
        elif isinstance(node, dict):
            value = self.mapping(node, x.closed, path, scope)
        else:
            value = self.word(node, x.closed, path, scope)
        if value.inputs:
            raise Refused("several inputs are not joined")
        self.arity[path] = len(x.inputs) or 1
        return value

    def word(self, node: Any, x: Value, path: str, scope: Scope) -> Value:
        word = self.evaluate(node, scope, x)
        if isinstance(word, Closure):
            return self.part(word.node, x, path, word.scope)
        if not isinstance(word, str) or not word:
            raise Refused("not a layer")
        return self.call(word, None, x, path, scope)

    def mapping(self, node: dict[Any, Any], x: Value, path: str, scope: Scope) -> Value:
        own = [key for key in node if key not in ("from", "repeat")]
        if own == ["layers"] and len(node) > 1:
            return self.part(node["layers"], x, path, scope)
        if "Network" in own:
            return self.network(node, x, path, scope)
        if len(own) == 1 and str(own[0])[:1].isupper():
            return self.call(str(own[0]), node[own[0]], x, path, scope)
        layers = [key for key in own if key in CLASSES]
        settings = settings_of(layers[0]) if len(layers) == 1 else []
        if not own or len(own) < len(node) or len(layers) > 1 or (layers and {*own} - {*layers} <= {*settings}):
            raise Refused("not children")
        run = MappingRun(self, x, path, scope, {str(key) for key in own})
        for key, child in node.items():
            run.add(str(key), child)
            if self.ended:
                break
        return run.result()

    def items(self, node: list[Any], x: Value, path: str, scope: Scope) -> Value:
        run = ListRun(self, x, path, scope)
        for item in node:
            run.add(item)
            if self.ended:
                break
        return run.result()

    def call(self, name: str, argument: Any, x: Value, path: str, scope: Scope) -> Value:
        if name in scope.blocks:
            return self.block(scope.blocks[name], argument, x, path, scope)
        if name in OPERATIONS and is_number(argument):
            number = self.evaluate(argument, scope, x)
            if type(number) not in (int, float) or (name == "Divide" and number == 0):
                raise Refused("not a number")
            self.operations.add(path)
            return self.replayed(path, x, lambda x: Value(OPERATIONS[name](x.one, number)))
        if name not in CLASSES:
            raise Refused(f"{name} is not a layer")
        return Value(self.layer(name, argument, x, path, scope))

    def replayed(self, path: str, x: Value, function: "Callable[[Value], Value]") -> Value:
        """The value of a function of what arrives, which is kept for `Again`."""
        self.replays[path] = function
        return function(x)

    def block(self, block: dict[str, Any], argument: Any, x: Value, path: str, scope: Scope) -> Value:
        args = block.get("args") or {}
        if isinstance(argument, dict) and args:
            passed = {name: self.evaluate(node, scope, x) for name, node in argument.items()}
        elif argument is not None and args:
            passed = {next(iter(args)): self.evaluate(argument, scope, x)}
        else:
            passed = {}
            if argument is not None:
                raise Refused("arguments of a block without any")
        return self.part(block["layers"], x, path, self.bound(args, passed, Scope(scope.blocks), x))

    def bound(self, args: dict[str, Any], passed: dict[str, Any], scope: Scope, x: Value) -> Scope:
        """The scope of a block or network with its arguments."""
        if set(passed) - set(args):
            raise Refused("an unknown argument")
        for name, default in args.items():
            if name in passed:
                scope.args[name] = passed[name]
            elif default is None:
                raise Refused("an argument without a value")
            else:
                own = replace(scope, args=dict(scope.args)) if isinstance(default, dict | list) else scope
                scope.args[name] = self.evaluate(default, own, x)
        return scope

    def network(self, node: dict[str, Any], x: Value, path: str, scope: Scope) -> Value:
        """A network as a part, up to a value of it."""
        if set(node) - {"Network", "until", "args", "from", "repeat"}:
            raise Refused("keys of a part")
        name, until = self.evaluate(node["Network"], scope, x), self.evaluate(node.get("until"), scope, x)
        args = node.get("args", {})
        if not isinstance(name, str) or name not in self.networks or name in self.running:
            raise Refused("not a network")
        if not isinstance(args, dict) or ("until" in node and until is not None and not (until and type(until) is str)):
            raise Refused("args or until")
        spec = self.networks[name]
        if not is_input(spec.get("input")) or spec.get("layers") is None or not are_outputs(spec.get("outputs")):
            raise Refused("the part has mistakes")
        passed = {
            k: Closure(v, scope) if isinstance(v, str) and v in scope.blocks else self.evaluate(v, scope, x)
            for k, v in args.items()
        }
        inner = self.bound(spec.get("args") or {}, passed, self.scope_of(spec), x)
        outputs = spec.get("outputs") or {}
        saved, self.until, self.ended = (self.until, self.ended), f"{path}.{until}".strip(".") if until else None, False
        self.running.append(name)
        layers = spec["layers"]
        if isinstance(outputs, dict) and outputs and isinstance(layers, dict):
            layers = without_heads(layers, until or next(iter(outputs)))
        value = self.part(layers, x, path, inner)
        self.running.pop()
        self.until, self.ended = saved
        if until is None:
            main = next(iter(outputs)) if isinstance(outputs, dict) and outputs else ""
            if main and (main not in value.inside or not value.named):
                raise Refused("the main output")
            run = self.replays.get(path)
            if main in value.inside and run is not None:
                self.replays[path] = lambda x: replace((again := run(x)).inside[main], inside=again.inside)
            return replace(value.inside.get(main, value), inside=value.inside, named=value.named)
        ending, around = find(value.inside, until), find(value.inside, until.rpartition(".")[0])
        if around is not None and around.pieces:
            raise Refused("a piece")
        if ending is None or ending.pieces or ending.bare:
            raise Refused("not a value of the part")
        return Value(ending.one, inside=value.inside, named=value.named)

    # layers

    def layer(self, name: str, argument: Any, x: Value, path: str, scope: Scope, size: Tensor | None = None) -> Tensor:
        """The output of a layer of PyTorch; `size` has the height and width that it is to have."""
        tensor = x.one
        if x.bare:
            raise Refused("a parameter enters a layer")
        first = first_setting(name)
        given = dict(argument) if isinstance(argument, dict) else {} if argument is None else {first: argument}
        sized = next((key for key in given if size is not None and key == "size"), None)
        given = {
            k: size.shape[2:] if k == sized and size is not None else self.deep(v, scope, x) for k, v in given.items()
        }
        if set(given) - set(settings_of(name)) or "inplace" in given or "return_indices" in given:
            raise Refused("an unknown setting")
        if sized:
            assert size is not None
            return bounded(made(name, {**given, "size": size.shape[2:]}, tensor)(tensor))
        if path not in self.modules:
            self.modules[path] = made(name, given, tensor)
        axes = [axis for key, axis in INFERRED.items() if key in settings_of(name)]
        wanted = [tensor.shape[axis] for axis in axes]

        def run(x: Value) -> Value:
            if x.bare or [x.one.shape[axis] for axis in axes] != wanted:
                raise Refused("other sizes than at the first use")
            module = self.modules[path].train(self.training)
            out = module(x.one)
            if name in ("Flatten", "Unflatten", "Permute") and out.shape[0] != x.one.shape[0]:
                raise Refused("the batch is mixed")
            return Value(bounded(out))

        return self.replayed(path, x, run).one

    # text

    def evaluate(self, node: Any, scope: Scope, x: Value) -> Any:
        if isinstance(node, dict | list):
            return Closure(node, scope)
        if not isinstance(node, str) or not node.startswith("$"):
            return node
        if not node.startswith("${"):
            return self.look_up(node[1:], scope, x)
        if not node.endswith("}"):
            raise Refused("a brace")
        return Arithmetic(node[2:-1], lambda name: self.look_up(name, scope, x)).value

    def deep(self, node: Any, scope: Scope, x: Value) -> Any:
        value = self.evaluate(node, scope, x)
        if not isinstance(value, Closure):
            return value
        if isinstance(value.node, list):
            return tuple(self.deep(item, value.scope, x) for item in value.node)
        return {key: self.deep(item, value.scope, x) for key, item in value.node.items()}

    def look_up(self, name: str, scope: Scope, x: Value) -> Any:
        path, _, size = name.rpartition(".")
        if name in ("in_channels", "in_height", "in_width") or (path and size in SIZES and size.startswith("out")):
            value = x if not path else scope.around and find(scope.around.values, path)
            if value is None:
                raise Refused("a size of nothing known")
            index = SIZES[size if path else name] - value.bare
            if index + value.bare > 1 and value.one.ndim != 4 - value.bare:
                raise Refused("height and width of what has none")
            return value.one.shape[index]
        if name == "index" and scope.index is not None:
            return scope.index
        if name not in scope.args:
            raise Refused(f"${name}")
        return scope.args[name]


def check_args(args: Any) -> None:
    names = args if isinstance(args, dict) else {} if args is None else {"": 0}
    reserved = ("in_channels", "in_height", "in_width", "index")
    if any(not re.fullmatch(r"[a-z_][a-z0-9_]{0,63}", str(name)) or name in reserved for name in names):
        raise Refused("arguments")


def are_outputs(outputs: Any) -> bool:
    if isinstance(outputs, dict):
        return all(type(weight) in (int, float) and weight >= 0 for weight in outputs.values())
    return outputs is None or all(isinstance(name, str) for name in outputs)


def check_blocks(blocks: Any) -> None:
    for name, block in (blocks or {}).items():
        taken = (*CLASSES, *JOINS, *SPLITS, "Parameter", "Network", "Again")
        if not re.fullmatch(r"[A-Z][A-Za-z0-9_]{0,63}", str(name)) or name in taken:
            raise Refused("the name of a block")
        if not isinstance(block, dict) or set(block) - {"args", "layers"} or "layers" not in block:
            raise Refused("a block")
        check_args(block.get("args"))


def is_input(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) in (2, 3) and all(type(n) is int and 0 < n <= 100_000 for n in shape)


GATES = ("ReLU", "ReLU6", "SiLU", "GELU", "Hardswish", "Sigmoid", "Hardsigmoid", "Tanh")


def made(name: str, given: dict[str, Any], x: Tensor) -> nn.Module:
    """The module with the settings that are given, and those that follow from what arrives."""
    for key, axis in INFERRED.items():
        if key in settings_of(name):
            if given.get(key, x.shape[axis]) != x.shape[axis] or x.ndim < 2:
                raise Refused(f"{key} contradicts what arrives")
            given = {**given, key: x.shape[axis]}
    if name in ("Softmax", "Softmin", "LogSoftmax"):
        given = {"dim": 1, **given}
    if name == "SqueezeExcitation":
        if any(given.get(key, "ReLU") not in GATES for key in ("activation", "scale_activation")):
            raise Refused("an activation")
        given = {k: getattr(nn, v) if k.endswith("activation") else v for k, v in given.items()}
    return CLASSES[name](**given)  # type: ignore[no-any-return]


def without_heads(layers: dict[str, Any], until: str) -> dict[str, Any]:
    """The children that a value depends on, where what others are for is only training; without `repeat`."""
    takes: dict[str, list[str]] = {}
    last = "input"
    for key, node in layers.items():
        parts = node if isinstance(node, dict) else {}
        own = [k for k in parts if k not in ("from", "repeat")]
        join = parts[own[0]] if len(own) == 1 and own[0] in JOINS and isinstance(parts[own[0]], list) else None
        named = join if join is not None else parts.get("from", last)
        takes[key] = [str(n) for n in (named if isinstance(named, list) else [named])]
        for text in re.findall(r"[A-Za-z_][\w.]*", str(parts.get(own[0]) if own else "")):
            takes[key] += [text]
        last = last if own == ["Parameter"] else key
    needed, waiting = set[str](), [until]
    while waiting:
        head = waiting.pop().partition(".")[0]
        if head in takes and head not in needed:
            needed.add(head)
            waiting += takes[head]
    return {key: node for key, node in layers.items() if key in needed}
