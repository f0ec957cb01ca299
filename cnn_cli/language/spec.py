"""A file of networks, read and checked as far as that goes without sizes: which keys there are, what they may hold."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnn_cli.errors import Problem, closest
from cnn_cli.language.yaml_nodes import Node, read_yaml
from cnn_cli.layers import JOINS, LAYERS
from cnn_cli.settings import read_train
from cnn_cli.values import Integer, shown

NETWORK_KEYS = ("description", "reference", "input", "args", "blocks", "layers", "outputs", "train", "recipes")
SIZE = Integer(1, 100_000)
MOST_NETWORKS = 500  # in a file
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)  # what Windows takes for a device, not a folder
_RECIPE = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_WORD = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_BLOCK = re.compile(r"[A-Z][A-Za-z0-9_]{0,63}")
_RESERVED = ("in_channels", "index")  # what `$name` means of itself


@dataclass(frozen=True)
class Block:
    """A reusable part: `{Name: {args: {width: , stride: 1}, layers: …}}`."""

    name: str
    args: dict[str, Node]
    layers: Node
    line: int
    column: int


@dataclass(frozen=True)
class Spec:
    """One network as it is written; `problems` are the mistakes that need no sizes to be found."""

    name: str
    origin: str
    node: Node
    description: str
    reference: str
    input: tuple[int, ...]
    args: dict[str, Node]
    layers: Node | None
    blocks: dict[str, Block]
    outputs: dict[str, float]
    train: dict[str, Any]
    recipes: dict[str, dict[str, Any]]  # other ways to train it, each laid over `train`
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class SpecFile:
    """All networks of a file. `problems` are those of no single network."""

    origin: str
    networks: dict[str, Spec]
    blocks: dict[str, Block]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Notes:
    """Where problems go, and what they are about."""

    origin: str
    where: str
    problems: list[Problem]

    def add(self, place: tuple[int, int], message: str, under: str = "") -> None:
        where = ", ".join(w for w in (self.where, under) if w)
        self.problems.append(Problem(self.origin, *place, where, message))


def parse(text: bytes | str, origin: str) -> SpecFile:
    """The networks of a file; SpecError only where the text is no YAML at all."""
    root = read_yaml(text, origin)
    notes = _Notes(origin, "", [])
    if problem := _no_file(root):
        notes.add(_place(root), problem)
        return SpecFile(origin, {}, {}, tuple(notes.problems))
    blocks = _blocks(root.value.get("blocks"), notes)
    networks = {}
    for name, node in root.value.items():
        if name == "blocks":
            continue
        if not _NAME.fullmatch(name) or _DEVICE.fullmatch(name):
            message = f"{name[:80]!r} is no name for a network; use letters, digits, '.', '_' and '-', at most 64"
            notes.add(root.keys[name], message)
        else:
            networks[name] = _network(name, node, root.keys[name], blocks, origin)
    return SpecFile(origin, networks, blocks, tuple(notes.problems))


def _no_file(root: Node) -> str:
    """Why this is no file of networks; empty if it is one."""
    form = "write `name: {input: …, layers: …}`"
    if not isinstance(root.value, dict):
        return f"a file of networks is a mapping, not {shown(root.plain)}; {form}"
    if "layers" in root.value and "input" in root.value:
        return "the network has no name; write `my-net:` above and indent the rest"
    if len(root.value) > MOST_NETWORKS:
        return f"{len(root.value):,} networks, and a file has at most {MOST_NETWORKS}; split it"
    return "" if root.value else f"the file has no network; {form}"


def _place(node: Node) -> tuple[int, int]:
    return node.line, node.column


def _network(name: str, node: Node, key: tuple[int, int], shared: dict[str, Block], origin: str) -> Spec:
    notes = _Notes(origin, name, [])
    parts: dict[str, Node] = node.value if isinstance(node.value, dict) else {}
    if not parts:
        notes.add(key, "a network is a mapping; write `input: [channels, height, width]` and `layers:` in it")
    unknown = {part: closest(part, NETWORK_KEYS) for part in parts if part not in NETWORK_KEYS}
    for part, meant in unknown.items():
        fix = meant or f" Write one of {', '.join(NETWORK_KEYS)}"
        notes.add(node.keys[part], f"unknown key {part[:60]!r}.{fix}")
    for part, form in (("input", "`input: [channels, height, width]`"), ("layers", "`layers:` and a list under it")):
        if parts and part not in parts and not any(repr(part) in meant for meant in unknown.values()):
            notes.add(key, f"`{part}` is missing; write {form}")
    train = _train(parts.get("train"), notes)
    return Spec(
        name=name,
        origin=origin,
        node=node,
        description=_text(parts.get("description"), "description", notes),
        reference=_text(parts.get("reference"), "reference", notes),
        input=_input(parts.get("input"), notes),
        args=_args(parts.get("args"), notes, "args"),
        layers=parts.get("layers"),
        blocks=shared | _blocks(parts.get("blocks"), notes),
        outputs=_outputs(parts.get("outputs"), notes),
        train=train,
        recipes=_recipes(parts.get("recipes"), train, notes),
        problems=tuple(notes.problems),
    )


def _text(node: Node | None, key: str, notes: _Notes) -> str:
    if node is None or node.value is None:
        return ""
    if not isinstance(node.value, str):
        notes.add(_place(node), f"must be text, not {shown(node.plain)}; put it in quotes", key)
    return str(node.value)


def _input(node: Node | None, notes: _Notes) -> tuple[int, ...]:
    if node is None:
        return ()
    try:
        return read_input(node.plain)
    except ValueError as error:
        notes.add(_place(node), str(error), "input")
        return ()


def read_input(value: Any) -> tuple[int, ...]:
    """[channels, height, width] as a tuple; ValueError says what it must be."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        numbers = re.findall(r"\d+", str(value)[:80])
        numbers = ["1", *numbers] if len(numbers) == 2 else numbers if len(numbers) == 3 else ["3", "224", "224"]
        raise ValueError(f"must be [channels, height, width], not {shown(value)}; write [{', '.join(numbers)}]")
    return tuple(SIZE.read(v) for v in value)


def _mapping(node: Node | None, notes: _Notes, under: str, form: str) -> dict[str, Node]:
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        notes.add(_place(node), f"must be a mapping, not {shown(node.plain)}; write {form}", under)
        return {}
    return node.value


def _args(node: Node | None, notes: _Notes, under: str) -> dict[str, Node]:
    args = _mapping(node, notes, under, "{width: 64, stride: 1}")
    for name in args:
        assert node is not None
        if not _WORD.fullmatch(name) or name in _RESERVED:
            reason = "has a meaning of its own" if name in _RESERVED else "is no name for an argument"
            notes.add(node.keys[name], f"{name[:60]!r} {reason}; use small letters, digits and _", under)
    return args


def _blocks(node: Node | None, notes: _Notes) -> dict[str, Block]:
    blocks = {}
    for name, body in _mapping(node, notes, "blocks", "{Name: {args: …, layers: …}}").items():
        assert node is not None
        under, place = f"blocks.{name}", node.keys[name]
        if not _BLOCK.fullmatch(name):
            message = f"{name[:60]!r} is no name for a block; begin with a capital, then letters, digits and _"
            notes.add(place, message, "blocks")
        elif name in LAYERS or name in JOINS:
            notes.add(place, f"{name} is a layer already; choose another name", under)
        elif not isinstance(body.value, dict) or "layers" not in body.value:
            notes.add(place, "`layers` is missing; write {args: {…}, layers: …}", under)
        else:
            for key in body.value:
                if key not in ("args", "layers"):
                    fix = closest(key, ("args", "layers")) or " A block has args and layers; write it there"
                    notes.add(body.keys[key], f"unknown key {key[:60]!r}.{fix}", under)
            blocks[name] = Block(name, _args(body.value.get("args"), notes, under), body.value["layers"], *place)
    return blocks


def _outputs(node: Node | None, notes: _Notes) -> dict[str, float]:
    outputs = {}
    for name, weight in _mapping(node, notes, "outputs", "{fc: 1.0, aux: 0.3}").items():
        if isinstance(weight.value, bool) or not isinstance(weight.value, int | float) or weight.value < 0:
            message = f"{name[:60]!r} needs its weight in the loss, not {shown(weight.plain)}; write {name[:60]}: 1.0"
            notes.add(_place(weight), message, "outputs")
        else:
            outputs[name] = float(weight.value)
    return outputs


def _train(
    node: Node | None, notes: _Notes, where: str = "train", under: dict[str, Any] | None = None
) -> dict[str, Any]:
    settings = _mapping(node, notes, where, "{data: digits, epochs: 10}")
    plain = {k: n.plain for k, n in settings.items()}
    for key, message in read_train(plain, under):
        assert node is not None
        notes.add(_place(settings[key]) if key in settings else _place(node), message, where)
    return plain


def _recipes(node: Node | None, train: dict[str, Any], notes: _Notes) -> dict[str, dict[str, Any]]:
    recipes = {}
    for name, body in _mapping(node, notes, "recipes", "{fast: {epochs: 2, lr: 0.01}}").items():
        assert node is not None
        if not _RECIPE.fullmatch(name):
            message = f"{name[:60]!r} is no name for a recipe; use small letters, digits, '-' and '_'"
            notes.add(node.keys[name], message, "recipes")
        recipes[name] = _train(body, notes, f"recipes.{name}", train)
    return recipes


def used_blocks(spec: Spec) -> dict[str, Block]:
    """The blocks that the network names, and those that these name: what must travel with it."""
    found: dict[str, Block] = {}
    waiting = [spec.layers, *spec.args.values()]
    while waiting:
        node = waiting.pop()
        for word in words(node):
            if word in spec.blocks and word not in found:
                found[word] = spec.blocks[word]
                waiting += [found[word].layers, *found[word].args.values()]
    return found


def words(node: Node | None) -> Sequence[str]:
    """All keys and texts of a node."""
    if node is None:
        return ()
    if isinstance(node.value, dict):
        return [w for k, n in node.value.items() for w in (k, *words(n))]
    if isinstance(node.value, list):
        return [w for n in node.value for w in words(n)]
    return (node.value,) if isinstance(node.value, str) else ()
