"""The rows of summaries, comparisons and graphs: one per layer or folded group, with totals that are their sums."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import Any

from cnn_cli.analysis.memory import output_bytes
from cnn_cli.analysis.receptive_field import Field, field, producer, sights
from cnn_cli.language.detection_scales import infer_scales
from cnn_cli.language.freezing import trainable_params
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import Shape, SizeOf, Tensor


@dataclass(frozen=True)
class Row:
    """A layer, or several folded into one row: then `settings` is empty, and the numbers are sums over `layers`."""

    name: str
    type: str  # "" for a folded group
    settings: dict[str, Any]
    text: str  # type and written settings on one line, or what a folded group holds
    takes: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    params: int
    trainable: int  # of these
    buffers: int  # values in buffers, such as running means
    macs: int
    activation_bytes: int  # of the output, one image, float32; 0 for a view of the input
    field: Field | None
    layers: tuple[Layer, ...]
    shared_with: str | None = None  # the row whose weights it shares, and that counts them

    @property
    def reads(self) -> tuple[str, ...]:
        """The rows whose values it takes, without one that only gives a size."""
        sized = self.type and self.layers[0].size_of and len(self.takes) == len(self.layers[0].takes)
        return self.takes[:-1] if sized else self.takes

    def document(self) -> dict[str, Any]:
        """Plain data; the keys up to `macs` are stable."""
        field = self.field
        return {
            "name": self.name,
            "type": self.type,
            "settings": self.settings,
            "from": list(self.takes),
            "input_shape": list(self.input_shapes[0]) if self.input_shapes else [],
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "output_shape": list(self.output_shape),
            "params": self.params,
            "trainable_params": self.trainable,
            "buffers": self.buffers,
            "macs": self.macs,
            "flops": 2 * self.macs,
            "receptive_field": field and field.document(),
            "activation_bytes": self.activation_bytes,
            "layers": len(self.layers),
            **({"shared_with": self.shared_with} if self.shared_with else {}),
        }


def layer_rows(plan: Plan, *, frozen: Sequence[str] = (), depth: int | None = None) -> list[Row]:
    """A row for each layer, join and parameter, in the order of computation; shapes are without the batch.

    frozen: patterns as in freezing.is_frozen. depth: fold layers whose names have more parts than this.
    """
    seen = sights(plan)
    image = plan.input[1:]
    single = [_row(layer, field(seen[layer.name], image), trainable_params(layer, frozen)) for layer in plan.layers]
    if depth is None:
        return single
    groups = groupby(single, key=lambda row: ".".join(row.name.split(".")[:depth]))
    owner = {row.name: ".".join(row.name.split(".")[:depth]) for row in single}
    return [_folded(name, list(group), owner) for name, group in groups]


def totals(plan: Plan, rows: Sequence[Row]) -> dict[str, int]:
    """Sums over the rows. `bytes` is the size of parameters and buffers as float32 (counters as int64)."""
    return {
        "params": sum(row.params for row in rows),
        "trainable_params": sum(row.trainable for row in rows),
        "buffers": sum(row.buffers for row in rows),
        "macs": sum(row.macs for row in rows),
        "flops": 2 * sum(row.macs for row in rows),
        "bytes": sum(_bytes(t) for layer in plan.layers for t in layer.tensors),
        "activation_bytes": sum(row.activation_bytes for row in rows),
    }


def network_document(plan: Plan, rows: Sequence[Row]) -> dict[str, Any]:
    """The common part of the JSON documents of `summary` and `shapes`."""
    only = auxiliary(plan)
    return {
        "network": plan.network,
        "description": plan.description,
        "reference": plan.reference,
        "input": list(plan.input),
        "output": list(plan.output),
        **({"outputs": {k: list(v) for k, v in plan.named_outputs.items()}} if plan.named_outputs else {}),
        **({"detects": [scale.document() for scale in infer_scales(plan)]} if plan.detects else {}),
        "layers": [row.document() for row in rows],
        "total": totals(plan, rows),
        **({"only_in_training": only} if only else {}),
    }


def auxiliary(plan: Plan) -> dict[str, int]:
    """Parameters and MACs of auxiliary heads, which run only in training; empty if there are none."""
    layers = [layer for layer in plan.layers if layer.name.split(".")[0] in plan.only_in_training]
    return {"params": sum(n.params for n in layers), "macs": sum(n.macs for n in layers)} if layers else {}


def relative(name: str, row: str) -> str:
    """The name of a row as written beside `row`: without the names of the groups that both are in.

    >>> relative("layer1.0.bn3", "layer1.0.add"), relative("layer1.2.relu", "layer2.0.conv1")
    ('bn3', 'layer1.2.relu')
    """
    parts, others = name.split("."), row.split(".")
    while len(parts) > 1 and len(others) > 1 and parts[0] == others[0]:
        parts, others = parts[1:], others[1:]
    return ".".join(parts)


def _row(layer: Layer, seen: Field | None, trainable: int) -> Row:
    return Row(
        name=layer.name,
        type=layer.type,
        settings={k: v for k, v in layer.settings.items() if k not in ("bare", "numbers") or (k == "numbers" and v)},
        text=described(layer),
        takes=layer.takes,
        input_shapes=layer.input_shapes,
        output_shape=layer.output_shape,
        params=layer.params,
        trainable=trainable,
        buffers=sum(prod(t.shape) for t in layer.tensors if t.buffer),
        macs=layer.macs,
        activation_bytes=output_bytes(layer),
        field=seen,
        layers=(layer,),
        shared_with=layer.shared_with if layer.shares_weights else None,
    )


def _folded(name: str, inside: list[Row], owner: dict[str, str]) -> Row:
    """One row for a group: its inputs are those that its layers take from outside, its output that of the last one."""
    last, inputs = inside[-1], _outside(inside, owner, name)
    group: dict[str, Any] = {"name": name, "type": "", "settings": {}, "text": _contents(inside)}
    group |= _shared(inside, owner, name)
    folded = {} if last.name == name else group
    for key in ("params", "trainable", "buffers", "macs", "activation_bytes"):
        folded[key] = sum(getattr(row, key) for row in inside)
    return replace(
        last,
        **folded,
        takes=tuple(inputs),
        input_shapes=tuple(inputs.values()),
        layers=tuple(layer for row in inside for layer in row.layers),
    )


def _shared(inside: list[Row], owner: dict[str, str], name: str) -> dict[str, Any]:
    """The fields of a folded group that shares weights: the group that owns them, if it is a single one."""
    owners = dict.fromkeys(owner[row.shared_with] for row in inside if row.shared_with)
    others = [other for other in owners if other != name]
    text = f"{_contents(inside)}, shared with {', '.join(others)}"
    return {"shared_with": others[0], "text": text} if len(others) == 1 else {"shared_with": None}


def _outside(inside: list[Row], owner: dict[str, str], name: str) -> dict[str, Shape]:
    """The rows from which a group takes its inputs, by folded names, with their shapes."""
    inputs: dict[str, Shape] = {}
    for row in inside:
        for source, shape in zip(row.takes, row.input_shapes, strict=True):
            group = owner.get(producer(source, owner), source)
            if group != name:
                inputs.setdefault(group, shape)
    return inputs


def _contents(inside: list[Row]) -> str:
    """`4 Conv2d, 4 BatchNorm2d, 4 ReLU, 2 Add + 4 more layers`: the most frequent types, those with MACs first."""
    counts = Counter(row.type for row in inside)
    working = {row.type for row in inside if row.macs}
    types = sorted(counts, key=lambda name: (name not in working, -counts[name]))
    shown = types if len(types) <= 5 else types[:4]
    names = ", ".join(f"{counts[name]} {name}" if counts[name] > 1 else name for name in shown)
    more = len(inside) - sum(counts[name] for name in shown)
    return names + (f" + {more} more layers" if more else "")


_BARE = frozenset(  # settings whose value is clear without their name
    ["out_channels", "out_features", "kernel_size", "output_size", "normalized_shape", "chunks", "dims", "num_groups"]
)


def described(layer: Layer) -> str:
    """Type and written settings on one line, without PyTorch's defaults: `Conv2d 64, 7x7, stride 2, no bias`."""
    defaults = {name: setting.default for name, setting in layer.rule.settings.items()}
    written = [name for name in layer.settings if name in layer.written and layer.settings[name] != defaults.get(name)]
    words = [_setting(name, layer.settings[name], layer.name) for name in written]
    if numbers := layer.settings.get("numbers"):
        several = numbers[0] is not None or len(numbers) > 2
        words = list(dict.fromkeys("…" * several if n is None else str(n) for n in numbers))
    if layer.shares_weights:
        words.append(f"shared with {relative(layer.shared_with, layer.name)}")
    return f"{layer.type} {', '.join(w for w in words if w)}".strip()


def with_inputs(layer: Layer) -> str:
    """The same of a join, with what it joins: `Add bn3, downsample.1`, `Multiply branch, 0.17`."""
    numbers = layer.settings.get("numbers", ())
    if not layer.rule.joins or (len(layer.takes) == 1 and numbers[0] is None):
        return described(layer)
    names = iter(relative(name, layer.name) for name in layer.takes)
    operands = [next(names) if n is None else str(n) for n in numbers or (None,) * len(layer.takes)]
    return f"{layer.type} {', '.join(operands)}"


def _setting(name: str, value: Any, row: str) -> str:
    if isinstance(value, SizeOf):
        return f"{name} of {relative(value.name, row)}"
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if name == "sizes":
        return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if isinstance(value, tuple):
        alike = len(set(value)) == 1 and name not in ("kernel_size", "output_size", "normalized_shape", "dims", "shape")
        value = value[0] if alike else "x".join("·" if v is None else str(v) for v in value)
    if isinstance(value, float):
        value = f"{value:.6g}"  # 0.15, not the 0.15000000000000002 of an expression
    return str(value) if name in _BARE else f"{name} {value}"


def _bytes(tensor: Tensor) -> int:
    return prod(tensor.shape) * (8 if tensor.name == "num_batches_tracked" else 4)
