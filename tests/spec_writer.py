"""Writes a random spec piece by piece, each for what arrives, which the independent interpreter tells."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from spec_layers import any_layer, divisor, image_layers, sequence_layers
from torch_groups import ListRun, MappingRun
from torch_interpreter import Interpreter
from torch_values import JOINS, OPERATIONS, Closure, Scope, Value, broadcasts, paths

MOST_LAYERS = 12
MOST_VALUES = 3000  # of a tensor, beyond which layers make it smaller
CHILDREN = [
    "a",
    "b",
    "c",
    "d",
    "conv",
    "skip",
    "up",
    "Mixed_5b",
    "0",
    "1",
    "2",
    "_x",
    "is",
    "layer1",
    "k-1",
    "train",
    "d1",
]
FACTORS: list[Any] = [0.17, 2, 1.0, 0.5, -1, 3, 1e-06, 0]


class Broken(Exception):
    """The spec ends with a mistake here; `node` is what has been written so far."""

    def __init__(self, node: Any) -> None:
        super().__init__("broken")
        self.node = node


@dataclass
class Writer:
    """Writes a spec piece by piece, and runs what it has."""

    r: random.Random
    networks: dict[str, Any] = field(default_factory=dict)
    blocks: dict[str, Any] = field(default_factory=dict)
    layers: int = 0
    mistakes: float = 0.04  # how often a piece that does not fit is kept

    def __post_init__(self) -> None:
        self.run = Interpreter(self.networks, self.blocks)

    def network(self, name: str) -> None:
        """Write a network of that name."""
        r = self.r
        self.run.modules.clear()
        self.run.parameters.clear()
        self.run.running = [name]
        self.layers = 0
        shape = [r.choice([1, 2, 3, 4, 6]), r.randint(3, 12), r.randint(3, 12)][: 2 if r.random() < 0.1 else 3]
        spec: dict[str, Any] = {"input": shape, "args": {}, "layers": []}
        scope = Scope(self.blocks, spec["args"])
        value = Value(torch.randn(1, *shape))
        try:
            if r.random() < 0.45:
                spec["layers"], value = self.items(value, "", scope, 0, r.randint(1, 7))
            else:
                spec["layers"], value = self.mapping(value, "", scope, 0, r.randint(2, 7))
                self.choose_outputs(spec, value)
        except Broken as broken:
            spec["layers"] = broken.node
        if not spec["args"]:
            del spec["args"]
        self.networks[name] = spec

    def choose_outputs(self, spec: dict[str, Any], value: Value) -> None:
        r = self.r
        values = dict(paths(value.inside))
        names = [n for n, v in values.items() if not v.bare and not v.pieces and v.tensor is not None]
        if names and r.random() < 0.12:
            spec["outputs"] = r.sample(names, min(len(names), r.randint(1, 3)))
        elif names and r.random() < 0.12:
            main = r.choice(names)
            shape = values[main].one.shape
            equal = [
                n for n, v in value.inside.items() if not v.pieces and v.tensor is not None and v.tensor.shape == shape
            ]
            spec["outputs"] = {n: r.choice([1.0, 0.3]) for n in dict.fromkeys([main, *equal[:2]])}

    # lists and mappings

    def items(self, x: Value, path: str, scope: Scope, depth: int, count: int) -> tuple[list[Any], Value]:
        nodes: list[Any] = []
        run = ListRun(self.run, x, path, scope)
        for _ in range(count):
            if self.layers > MOST_LAYERS:
                break
            key = str(len(run.values))
            place = f"{path}.{key}".strip(".")
            try:
                made = self.piece(run.value, place, scope, depth)
            except Broken as broken:
                raise Broken([*nodes, broken.node]) from None
            if isinstance(made, tuple):
                nodes.append(made[0])
                run.value = run.values[key] = made[1]
            elif made is not None and self.keep(nodes, made, lambda node=made: run.add(node), place):
                nodes.append(made)
        self.run.arity[path] = 1
        return nodes, run.result()

    def keep(self, nodes: Any, node: Any, run: Any, place: str, key: str = "") -> bool:
        """Whether a node runs. Sometimes one that does not is kept all the same, and is the end of the spec."""
        before = self.run.modules.copy()
        try:
            run()
            return True
        except Exception:
            if self.r.random() < self.mistakes:
                raise Broken({**nodes, key: node} if key else [*nodes, node]) from None
            self.run.modules, self.run.ended = before, False
            return False

    def mapping(self, x: Value, path: str, scope: Scope, depth: int, count: int) -> tuple[dict[str, Any], Value]:
        nodes: dict[str, Any] = {}
        run = MappingRun(self.run, x, path, scope, set())
        for number in range(count * 2):
            if len(nodes) >= count or (self.layers > MOST_LAYERS and nodes):
                break
            names = [n for n in CHILDREN if n not in nodes]
            key = self.r.choice(names or [f"n{number}"])
            place = f"{path}.{key}".strip(".")
            try:
                made = self.child(run, place, depth)
            except Broken as broken:
                raise Broken({**nodes, key: broken.node}) from None
            if made is None:
                continue
            if isinstance(made, dict) and "repeat" in made:
                key = f"{key}{{{self.r.randint(0, 2)}}}"
            run.written.add(key)
            if isinstance(made, tuple):
                nodes[key] = made[0]
                run.steps.append((key, run.again_of(made[0], place)))
                run.values[key], run.last = made[1], key
            elif self.keep(nodes, made, lambda key=key, node=made: run.add(key, node), place, key):
                nodes[key] = made
        if pieces := run.values[run.last].pieces:
            nodes["join"] = {"Concat": [f"{run.last}.{n}" for n in (0, len(pieces) - 1)]}
            run.add("join", nodes["join"])
        if not nodes:
            nodes["last"] = "Identity"
            if x.inputs:
                nodes["last"] = {"Add": ["input.0", "input.0"]}
            run.add("last", nodes["last"])
        self.run.arity[path] = len(x.inputs) or 1
        return nodes, run.result()

    # pieces: a node that is still to be run, or one with its value

    def piece(self, x: Value, path: str, scope: Scope, depth: int) -> Any:
        """An item of a list, or a child that names no siblings."""
        r, chance = self.r, self.r.random()
        if x.inputs or (depth < 3 and chance < 0.12):
            kind = self.items if not x.inputs and r.random() < 0.5 else self.mapping
            return kind(x, path, scope, depth + 1, r.randint(1, 3))
        if depth < 3 and chance < 0.17:
            return self.new_block(x, path, scope, depth)
        if chance < 0.27 and self.blocks:
            return self.block_use(x, scope)
        if chance < 0.31:
            factor = r.choice(FACTORS)
            return {r.choice([*OPERATIONS]): self.told(factor, x, scope) if factor else factor}
        if chance < 0.36:
            layers = [self.layer(x, scope) for _ in range(r.randint(1, 2))]
            same = r.random() < 0.5
            times = self.told(r.choice([0, 1, 2, 2, 3]), x, scope, 0.2)
            node = layers[0]
            if same and isinstance(node, dict):
                return {**node, "repeat": times}
            return {"repeat": times, "layers": layers if r.random() < 0.8 else node}
        if chance < 0.38:
            return r.choice([[], "Identity", {"Identity": None}])
        branches = [name for name in scope.args if name.startswith("branch")]
        if branches and chance > 0.6:
            return f"${r.choice(branches)}"
        if chance < 0.42 and len(self.networks) > 0:
            return self.network_use(x, scope)
        return self.layer(x, scope)

    def layer(self, x: Value, scope: Scope) -> Any:
        """A layer for what arrives; its settings may be written as arguments and arithmetic."""
        r = self.r
        self.layers += 1
        shape = tuple(x.one.shape[1:])
        if 0 in shape:
            return "Identity"
        special = {3: image_layers, 2: sequence_layers}.get(len(shape), any_layer)
        if x.one.numel() > MOST_VALUES and len(shape) == 3:
            return {r.choice(["MaxPool2d", "AvgPool2d"]): 2}
        if r.random() < 0.02:
            special = r.choice([image_layers, sequence_layers])
            shape = (*shape, 4, 4)[: 3 if special is image_layers else 2]
        node = special(r, shape) if r.random() < 0.6 else any_layer(r, shape)
        name, settings = next(iter(node.items()))
        settings = {k: self.told(v, x, scope, 0.12) for k, v in settings.items()}
        if not settings:
            return r.choice([name, {name: None}])
        first = next(iter(settings.values()))
        if len(settings) == 1 and r.random() < 0.6 and (not isinstance(first, list) or name != "ConstantPad2d"):
            return {name: first}
        return {name: settings}

    def told(self, value: Any, x: Value, scope: Scope, share: float = 0.15) -> Any:
        """A number, or a text with its value: an argument, a size, arithmetic."""
        r = self.r
        if isinstance(value, list) and value and r.random() < share:
            return [self.told(v, x, scope, 0.5) for v in value]
        if type(value) not in (int, float) or r.random() > share:
            return value
        if r.random() < 0.3:
            name = f"w{len(scope.args)}"
            scope.args.setdefault(name, value)
            return f"${name}"
        if type(value) is float:
            return f"${{{value} * 1}}" if "e" not in str(value) else value
        known = {n: v for n, v in scope.args.items() if type(v) is int}
        if not x.inputs and x.tensor is not None:
            sizes = x.tensor.shape[1:]
            known["in_channels"] = sizes[0]
            known |= {"in_height": sizes[1], "in_width": sizes[2]} if len(sizes) == 3 else {}
        if scope.index is not None:
            known["index"] = scope.index
        for name, v in [] if scope.around is None else paths(scope.around.values):
            if "-" not in name and not name[0].isdigit() and v.tensor is not None and not v.pieces and r.random() < 0.3:
                known[f"{name}.out_channels"] = v.tensor.shape[0 if v.bare else 1]
        if not known:
            return value
        name, n = r.choice([*known.items()])
        if n == value:
            return r.choice([f"${name}", f"${{{name}}}", f"${{min({name}, {value + 1})}}"])
        if value > n:
            return r.choice([f"${{{name} + {value - n}}}", f"${{max({value}, {name})}}"])
        choices = [f"${{{name} - {n - value}}}", f"${{({name} + 1) % 1 + {value}}}"]
        if value > 0 and n % value == 0:
            choices += [f"${{{name} // {n // value}}}", f"${{round({name} / {n // value})}}"]
        return r.choice(choices)

    def new_block(self, x: Value, path: str, scope: Scope, depth: int) -> Any:
        """A block, and its first use."""
        r = self.r
        name = f"B{len(self.blocks)}"
        args: dict[str, Any] = {"width": r.choice([1, 2, 4])}
        passed = {"width": r.choice([2, 3, 4])} if r.random() < 0.7 else {}
        if x.tensor is not None and r.random() < 0.3:
            passed["branch"] = self.branch(x, scope)
            args["branch"] = r.choice([[], ["ReLU"], "Tanh", None])
        held = {k: Closure(v, scope) if isinstance(v, dict | list) else v for k, v in passed.items()}
        inner = Scope(self.blocks, {**args, **held})
        kind = self.items if not x.inputs and r.random() < 0.4 else self.mapping
        body, value = kind(x.closed, path, inner, depth + 1, r.randint(1, 4))
        args |= {k: v for k, v in inner.args.items() if k not in args}  # those that the body has come to use
        if passed and r.random() < 0.5:
            args = {k: None if k == "width" else v for k, v in args.items()}
        self.blocks[name] = {"args": args, "layers": body}
        return {name: self.call(passed)}, value

    def branch(self, x: Value, scope: Scope) -> Any:
        """Layers as an argument."""
        layer = self.layer(x, scope)
        return self.r.choice([[], [layer], layer, [{"ReLU": None, "repeat": 2}], [layer, "Tanh"]])

    def call(self, passed: dict[str, Any]) -> Any:
        if not passed:
            return None
        return passed if self.r.random() < 0.5 or len(passed) > 1 else next(iter(passed.values()))

    def block_use(self, x: Value, scope: Scope) -> Any:
        r = self.r
        name = r.choice([*self.blocks])
        args = self.blocks[name]["args"]
        passed: dict[str, Any] = {}
        for arg, default in args.items():
            if default is None or r.random() < 0.3:
                channels = x.tensor.shape[1] if x.tensor is not None else 3
                passed[arg] = self.told(r.choice([1, 2, 4, channels]), x, scope)
                if arg == "branch" and x.tensor is not None:
                    passed[arg] = self.branch(x, scope)
        node = {name: passed or None}
        return {**node, "repeat": r.randint(0, 3)} if r.random() < 0.15 else node

    def network_use(self, x: Value, scope: Scope) -> Any:
        """Another network as a part."""
        r = self.r
        name = r.choice([*self.networks])
        spec = self.networks[name]
        node: dict[str, Any] = {"Network": name}
        layers = spec["layers"]
        if r.random() < 0.5:
            keys = [str(k) for k in layers] if isinstance(layers, dict) else [str(n) for n in range(len(layers))]
            node["until"] = r.choice(keys or ["0"])
            if r.random() < 0.3:
                node["until"] += r.choice([".0", ".a", ".conv"])
        args = {k: v for k, v in spec.get("args", {}).items() if type(v) is int and r.random() < 0.3}
        return {**node, "args": args} if args else node

    def child(self, run: MappingRun, path: str, depth: int) -> Any:
        """A child of a mapping, which may name its siblings."""
        r, scope = self.r, replace(run.scope)
        values = [(n, v) for n, v in paths(run.values) if not v.pieces]
        single = [(n, v) for n, v in values if v.tensor is not None and not v.inputs]
        tensors = [(n, v) for n, v in single if not v.bare]
        last, chance = run.values[run.last], r.random()
        if chance < 0.18 and tensors:
            return self.join(single, last, scope)
        if chance < 0.22 and len(tensors) > 1:
            names = [n for n, _ in r.sample(tensors, r.randint(2, min(3, len(tensors))))]
            entering = Value(None, inputs=tuple(dict(values)[n].closed for n in names))
            made = self.several(entering, path, scope, depth)
            node, value = made if isinstance(made, tuple) else (made, None)
            return None if value is None else ({"from": names, **node}, value)
        if chance < 0.27 and not last.pieces and last.tensor is not None:
            channels = max(1, last.tensor.shape[1])
            one = r.randint(1, channels)
            splits = [{"Chunk": divisor(r, channels)}, {"Split": one}, {"Split": [one, channels - one]}]
            return r.choice(splits[: 3 if one < channels else 2])
        if chance < 0.31 and last.tensor is not None and not last.pieces:
            full = [self.told(n, last, scope) for n in last.tensor.shape[1:]]
            shape = r.choice([[full[0], *[1] * (len(full) - 1)], full, full[-1:], [1]])
            node = {"Parameter": {"shape": shape}}
            init = r.choice([None, 0.5, 2, "ones", "zeros", "normal", 1e-06])
            node["Parameter"] |= {} if init is None else {"init": init}
            return node
        if chance < 0.34 and tensors:
            name, _ = r.choice(tensors)
            first = f"{run.path}.{name}".strip(".")
            if self.run.arity.get(first) == 1:
                return {"Again": name} if r.random() < 0.5 else {"from": r.choice(tensors)[0], "Again": name}
        images = [(n, v) for n, v in tensors if v.one.ndim == 4]
        start: dict[str, Any] = {}
        entering = last
        if (chance < 0.5 or last.pieces or last.bare) and (values if not last.pieces else tensors):
            name, entering = r.choice(tensors or values)
            start = {"from": int(name) if name.isdigit() and r.random() < 0.5 else name}
        if entering.bare or entering.pieces:
            return None
        if chance > 0.95 and images and entering.tensor is not None and entering.tensor.ndim == 4:
            size = r.choice(images)[0]
            named: Any = r.choice(
                [{"Upsample": {"size": size, "mode": "bilinear"}}, {"Upsample": size}, {"CenterCrop": size}]
            )
            return {**start, **named}
        made = self.piece(entering, path, scope, depth)
        if not start:
            return made
        if isinstance(made, tuple):
            node = made[0]
            plain = isinstance(node, dict) and len(node) == 1 and next(iter(node)) in self.blocks
            return ({**start, **node} if plain else {**start, "layers": node}), made[1]
        if isinstance(made, dict):
            return {**start, **made}
        return None if made is None else {**start, "layers": made}

    def several(self, entering: Value, path: str, scope: Scope, depth: int) -> Any:
        """A group or block with several inputs."""
        if depth < 3 and self.r.random() < 0.4:
            return self.new_block(entering, path, scope, depth)
        node, value = self.mapping(entering, path, scope, depth + 1, self.r.randint(1, 3))
        return {"layers": node}, value

    def join(self, values: list[tuple[str, Value]], last: Value, scope: Scope) -> Any:
        r = self.r
        name, first = r.choice([(n, v) for n, v in values if not v.bare] or values)
        kind = r.choice([*JOINS])
        shape = first.one.shape
        if kind == "Concat":
            equal = [n for n, v in values if v.one.shape[2:] == shape[2:] and not v.bare and v.one.ndim == len(shape)]
        else:
            equal = [n for n, v in values if broadcasts(v, shape)]
        if r.random() < 0.04:
            equal = [n for n, _ in values]
        names: list[Any] = [name, *(r.choice(equal) for _ in range(r.choice([1, 1, 1, 2])))]
        if kind in OPERATIONS and r.random() < 0.3:
            names[r.randrange(len(names))] = self.told(r.choice(FACTORS), last, scope)
        r.shuffle(names)
        names = [int(n) if isinstance(n, str) and n.isdigit() and r.random() < 0.5 else n for n in names]
        return {kind: names}
