"""A file of networks, read and checked as far as possible without sizes: its keys and their values."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cnn_cli.errors import Problem, unknown
from cnn_cli.language.yaml_nodes import Node, read_yaml
from cnn_cli.layers import JOINS, LAYERS
from cnn_cli.settings import read_train
from cnn_cli.values import Integer, Number, shown

NETWORK_KEYS = (
    "description",
    "reference",
    "input",
    "args",
    "blocks",
    "layers",
    "outputs",
    "detects",
    "train",
    "recipes",
)
DETECTOR = ("scores", "boxes", "centerness")  # the outputs that `detects` names for each scale, the last optional
ORIGINS = ("center", "corner")
PARTS = ("Network", "Again")  # keywords that are written in place of a layer
SIZE = Integer(1, 100_000)
_LOSS_WEIGHT = Number(0)
MOST_NETWORKS = 500  # in a file
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)  # reserved on Windows: run folders are named so
_RECIPE = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_WORD = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_BLOCK = re.compile(r"[A-Z][A-Za-z0-9_]{0,63}")
_RESERVED = {"in_channels": "the number of input channels", "index": "the number of a copy in a `repeat`"}
_RESERVED |= {"in_height": "the height of the input", "in_width": "the width of the input"}


@dataclass(frozen=True)
class Block:
    """A reusable block: `{Name: {args: {width: , stride: 1}, layers: …}}`."""

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
    outputs: dict[str, float]  # auxiliary outputs and their weights in the loss
    named_outputs: tuple[str, ...]  # several outputs without weights, or those that `detects` names
    detects: tuple["ScaleSpec", ...]  # of a detector
    train: dict[str, Any]
    recipes: dict[str, dict[str, Any]]  # other ways to train it, each overriding some of `train`
    problems: tuple[Problem, ...]
    networks: Mapping[str, "Spec"] = field(default_factory=dict, repr=False, compare=False)  # that it may have as parts


@dataclass(frozen=True)
class ScaleSpec:
    """What `detects` says of a scale: its outputs by their keys, where the origin of a cell is, and its anchors."""

    outputs: dict[str, str]  # of DETECTOR, the optional one only where it is named
    corner: bool = False  # the origin of a cell is its upper left corner
    anchors: tuple[tuple[float, float], ...] = ()  # half the width and half the height of each


@dataclass(frozen=True)
class SpecFile:
    """All networks of a file. `problems` are those of no single network."""

    origin: str
    networks: dict[str, Spec]
    blocks: dict[str, Block]
    problems: tuple[Problem, ...]


Place = tuple[int, int]


@dataclass(frozen=True)
class _Notes:
    """Collects problems, with their file and the part of the spec that they are about."""

    origin: str
    where: str
    problems: list[Problem]

    def add(self, place: Place, message: str, under: str = "", warning: bool = False) -> None:
        where = ", ".join(w for w in (self.where, under) if w)
        self.problems.append(Problem(self.origin, *place, where, message, warning))


def parse(text: bytes | str, origin: str) -> SpecFile:
    """The networks of a file; SpecError only where the text is not valid YAML."""
    root = read_yaml(text, origin)
    notes = _Notes(origin, "", [])
    if problem := _not_networks(root):
        notes.add(root.place, problem)
        return SpecFile(origin, {}, {}, tuple(notes.problems))
    blocks = _blocks(root.value.get("blocks"), notes)
    networks: dict[str, Spec] = {}
    for name, node in root.value.items():
        if name == "blocks":
            continue
        if _DEVICE.fullmatch(name):
            notes.add(root.keys[name], f"{name!r} is a reserved file name on Windows; choose another network name")
        elif not _NAME.fullmatch(name):
            form = "start with a letter or digit, then letters, digits, '.', '_' and '-', at most 64 characters"
            notes.add(root.keys[name], f"invalid network name {name[:80]!r}; {form}")
        else:
            spec = _network(name, node, root.keys[name], blocks, origin)
            networks[name] = replace(spec, networks=networks)
    return SpecFile(origin, networks, blocks, tuple(notes.problems))


def _not_networks(root: Node) -> str:
    """Why this is not a file of networks; empty if it is one."""
    form = "write `name: {input: …, layers: …}`"
    if not isinstance(root.value, dict):
        return f"must be a mapping of networks by name, not {shown(root.plain)}; {form}"
    if "layers" in root.value and "input" in root.value:
        return "the network has no name; write `my-net:` on the first line and indent the rest"
    if len(root.value) > MOST_NETWORKS:
        return f"{len(root.value):,} networks, more than the {MOST_NETWORKS} that a file may have; split it"
    return "" if root.value else f"the file has no networks; {form}"


def _network(name: str, node: Node, key: Place, shared: dict[str, Block], origin: str) -> Spec:
    notes = _Notes(origin, name, [])
    parts: dict[str, Node] = node.value if isinstance(node.value, dict) else {}
    if not parts:
        notes.add(key, "must be a mapping; write `input: [channels, height, width]` and `layers:` under the name")
    meant = _unknown_keys(node, NETWORK_KEYS, notes)
    for part, form in (("input", "`input: [channels, height, width]`"), ("layers", "`layers:` and a list under it")):
        if parts and part not in parts and repr(part) not in meant:
            notes.add(key, f"`{part}` is missing; write {form}")
    train = _train(parts.get("train"), notes)
    outputs, detects = parts.get("outputs"), _detects(parts.get("detects"), notes)
    if outputs is not None and "detects" in parts:
        notes.add(node.keys["outputs"], "`detects` names the outputs of a detector; remove `outputs`", "outputs")
        outputs = None
    several = outputs is not None and isinstance(outputs.value, list)
    own = _blocks(parts.get("blocks"), notes)
    return Spec(
        name=name,
        origin=origin,
        node=node,
        description=_text(parts.get("description"), "description", notes),
        reference=_text(parts.get("reference"), "reference", notes),
        input=_input(parts.get("input"), notes),
        args=_args(parts.get("args"), notes, "args"),
        layers=parts.get("layers"),
        blocks=shared | own if own else shared,
        outputs=_outputs(None if several else outputs, notes),
        named_outputs=_named_outputs(outputs, notes)
        if outputs and several
        else tuple(o for scale in detects for o in scale.outputs.values()),
        detects=detects,
        train=train,
        recipes=_recipes(parts.get("recipes"), train, notes),
        problems=tuple(notes.problems),
    )


def _unknown_keys(node: Node, known: Sequence[str], notes: _Notes, under: str = "") -> str:
    """Note unknown keys; returns the known ones that were suggested for them."""
    others = [k for k in node.keys if k not in known]
    for key in others:
        notes.add(node.keys[key], unknown("key", key, known), under)
    return " ".join(unknown("key", key, known).partition("Did you mean")[2] for key in others)


def _text(node: Node | None, key: str, notes: _Notes) -> str:
    if node is None or node.value is None:
        return ""
    if not isinstance(node.value, str):
        notes.add(node.place, f"must be text, not {shown(node.plain)}; put it in quotes", key)
    return str(node.value)


def _input(node: Node | None, notes: _Notes) -> tuple[int, ...]:
    if node is None:
        return ()
    try:
        size = read_input(node.plain)
    except ValueError as error:
        notes.add(node.place, str(error), "input")
        return ()
    height, width, channels = (*size, 0)[:3]  # as they would be with channels last
    if channels in (1, 3) and height > 4 and width > 4 and (height == width or channels == 3):
        form = f"channels come first; if this is height, width, channels, write [{channels}, {height}, {width}]"
        notes.add(node.place, f"{height} channels of {width}x{channels} pixels: {form}", "input", warning=True)
    return size


def read_input(value: Any) -> tuple[int, ...]:
    """[channels, height, width] or [channels, length] as a tuple; ValueError says what it must be."""
    if not isinstance(value, list | tuple) or len(value) not in (2, 3):
        numbers = re.findall(r"\d+", str(value)[:80])
        numbers = ["1", *numbers] if len(numbers) == 2 else numbers if len(numbers) == 3 else ["3", "224", "224"]
        form = "[channels, height, width] or [channels, length]"
        raise ValueError(f"must be {form}, not {shown(value)}; write [{', '.join(numbers)}]")
    return tuple(SIZE.read(v) for v in value)


def _entries(node: Node | None, notes: _Notes, under: str, form: str) -> Iterator[tuple[str, Node, Place]]:
    """The keys of a mapping with their values and places; none, with a problem, if it is not a mapping."""
    if node is None or node.value is None:
        return
    if isinstance(node.value, dict):
        yield from ((name, child, node.keys[name]) for name, child in node.value.items())
    else:
        notes.add(node.place, f"must be a mapping, not {shown(node.plain)}; write {form}", under)


def _args(node: Node | None, notes: _Notes, under: str) -> dict[str, Node]:
    args = {}
    for name, value, place in _entries(node, notes, under, "{width: 64, stride: 1}"):
        if name in _RESERVED:
            notes.add(place, f"${name} is reserved for {_RESERVED[name]}; choose another argument name", under)
        elif not _WORD.fullmatch(name):
            notes.add(place, f"invalid argument name {name[:60]!r}; use lowercase letters, digits and _", under)
        args[name] = value
    return args


def _blocks(node: Node | None, notes: _Notes) -> dict[str, Block]:
    blocks = {}
    for name, body, place in _entries(node, notes, "blocks", "{Name: {args: …, layers: …}}"):
        under = f"blocks.{name}"
        if not _BLOCK.fullmatch(name):
            form = "start with a capital letter, then letters, digits and _"
            notes.add(place, f"invalid block name {name[:60]!r}; {form}", "blocks")
        elif name in LAYERS or name in JOINS or name in PARTS:
            notes.add(place, f"{name} is already the name of a layer; choose another name", under)
        elif not isinstance(body.value, dict) or "layers" not in body.value:
            notes.add(place, "`layers` is missing; write {args: {…}, layers: …}", under)
        else:
            _unknown_keys(body, ("args", "layers"), notes, under)
            blocks[name] = Block(name, _args(body.value.get("args"), notes, under), body.value["layers"], *place)
    return blocks


def _outputs(node: Node | None, notes: _Notes) -> dict[str, float]:
    outputs = {}
    for name, weight, _ in _entries(node, notes, "outputs", "{fc: 1.0, aux: 0.3}"):
        try:
            outputs[name] = float(_LOSS_WEIGHT.read(weight.plain))
        except ValueError as error:
            notes.add(weight.place, f"the loss weight of {name[:60]!r} {error}; write {name[:60]}: 1.0", "outputs")
    return outputs


def _named_outputs(node: Node, notes: _Notes) -> tuple[str, ...]:
    """The names of several outputs; empty, with a problem reported, if one is wrong."""
    for n, item in enumerate(node.value):
        if not isinstance(item.value, str):
            notes.add(item.place, f"an output must be a name or a path, not {shown(item.plain)}; write p3", "outputs")
        elif item.value in [other.value for other in node.value[:n]]:
            notes.add(item.place, f"duplicate output {item.value[:60]!r}; remove it", "outputs")
        else:
            continue
        return ()
    if not node.value:
        notes.add(node.place, "names no output; write [p3, p4], or remove `outputs`", "outputs")
    return tuple(item.value for item in node.value)


def _detects(node: Node | None, notes: _Notes) -> tuple[ScaleSpec, ...]:
    """The scales that `detects` describes; none, with a problem reported, if one is wrong."""
    form, specs = "write {scores: cls, boxes: box}, or a list of such pairs", list[ScaleSpec]()
    for pair in [] if node is None else scales(node):
        parts = pair.value if isinstance(pair.value, dict) else {}
        if missing := [key for key in DETECTOR[:2] if key not in parts]:
            fact = f"`{missing[0]}` is missing" if parts else f"must name scores and boxes, not {shown(pair.plain)}"
            notes.add(pair.place, f"{fact}; {form}", "detects")
            return ()
        _unknown_keys(pair, (*DETECTOR, "origin", "anchors"), notes, "detects")
        scale = _scale(parts, [o for other in specs for o in other.outputs.values()], notes)
        if scale is None:
            return ()
        specs.append(scale)
    if node is not None and not specs:
        notes.add(node.place, f"names no outputs; {form}", "detects")
    return tuple(specs)


def _scale(parts: Mapping[str, Node], taken: list[str], notes: _Notes) -> ScaleSpec | None:
    """None, with a problem reported, if it has a mistake. taken: the outputs of other scales."""
    outputs = dict[str, str]()
    for key in (key for key in DETECTOR if key in parts):
        name = str(parts[key].value) if type(parts[key].value) is int else parts[key].value
        message = ""
        if not isinstance(name, str):
            message = f"must be a name or a path, not {shown(parts[key].plain)}; write cls"
        elif name in (*taken, *outputs.values()):
            message = f"duplicate output {name[:60]!r}; each scale needs its own outputs"
        if message:
            notes.add(parts[key].place, message, "detects")
            return None
        outputs[key] = name
    origin, anchors = parts.get("origin"), parts.get("anchors")
    if origin and origin.value not in ORIGINS:
        notes.add(origin.place, f"origin must be {' or '.join(ORIGINS)}, not {shown(origin.plain)}", "detects")
    if anchors and "centerness" in parts:
        notes.add(anchors.place, "a scale has either centerness or anchors; remove one of them", "detects")
    halves = _anchors(anchors, notes) if anchors else ()
    return None if halves is None else ScaleSpec(outputs, bool(origin and origin.value == "corner"), halves)


def _anchors(node: Node, notes: _Notes) -> tuple[tuple[float, float], ...] | None:
    """Half the width and height of each, in whole pixels as in torchvision; None, with a problem, if invalid."""
    plain = node.plain if isinstance(node.plain, dict) else {}
    sizes, ratios = (n if isinstance(n, list) else [] for n in (plain.get("sizes"), plain.get("ratios")))
    if len(plain) != 2 or not sizes or not ratios or not all(map(_above_0, [*sizes, *ratios])):
        form = "anchors need sizes (in pixels) and ratios (height divided by width), numbers above 0"
        notes.add(node.place, f"{form}; write {{sizes: [32, 40, 50], ratios: [0.5, 1, 2]}}", "detects")
        return None
    return tuple((max(1, round(s / r**0.5 / 2)), max(1, round(s * r**0.5 / 2))) for r in ratios for s in sizes)


def _above_0(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e6


def scales(node: Node) -> list[Node]:
    """The pairs of a `detects`, which is a single one or a list."""
    return node.value if isinstance(node.value, list) else [node]


def _train(
    node: Node | None, notes: _Notes, where: str = "train", base: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of `train`, or of a recipe that overrides some of `base`."""
    settings = {key: value for key, value, _ in _entries(node, notes, where, "{data: digits, epochs: 10}")}
    plain = {k: n.plain for k, n in settings.items()}
    for key, message in read_train(plain, base):
        assert node is not None
        notes.add(settings.get(key, node).place, message, where)
    return plain


def _recipes(node: Node | None, train: dict[str, Any], notes: _Notes) -> dict[str, dict[str, Any]]:
    recipes = {}
    for name, body, place in _entries(node, notes, "recipes", "{fast: {epochs: 2, lr: 0.01}}"):
        if not _RECIPE.fullmatch(name):
            form = "start with a lowercase letter, then lowercase letters, digits, - and _"
            notes.add(place, f"invalid recipe name {name[:60]!r}; {form}", "recipes")
        recipes[name] = _train(body, notes, f"recipes.{name}", train)
    return recipes


def used_blocks(spec: Spec, within: Node | None = None) -> dict[str, Block]:
    """The blocks that a network, or a part of its text, uses directly or through other blocks."""
    blocks: dict[str, Block] = {}
    waiting = [within] if within else [spec.layers, *spec.args.values()]
    while waiting:
        node = waiting.pop()
        for word in words(node):
            if word in spec.blocks and word not in blocks:
                blocks[word] = spec.blocks[word]
                waiting += [blocks[word].layers, *blocks[word].args.values()]
    return blocks


def words(node: Node | None) -> Sequence[str]:
    """All keys and texts of a node."""
    value: Any = node.value if node else None
    if isinstance(value, dict):
        return [w for k, n in value.items() for w in (k, *words(n))]
    return [w for n in value for w in words(n)] if isinstance(value, list) else [value] * isinstance(value, str)
