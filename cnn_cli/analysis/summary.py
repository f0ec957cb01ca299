"""`cnn summary`: a table of layers, and below it the meaning of the totals and the memory that the network needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnn_cli.analysis.memory import Memory, breakdown_and_peak, inference
from cnn_cli.analysis.rows import Row, auxiliary, layer_rows, network_document, relative, totals, with_inputs
from cnn_cli.errors import UsageError, closest
from cnn_cli.language.detection_scales import infer_scales
from cnn_cli.language.freezing import freeze_patterns, trainable_params
from cnn_cli.language.plan import Plan
from cnn_cli.layers import sizes
from cnn_cli.settings import SETTINGS
from cnn_cli.tables import Column, Table, TableRow, format_bytes, format_count, render, wrapped

if TYPE_CHECKING:  # its module loads torch
    from cnn_cli.analysis.timing import Timing

_MACS = (
    "MACs: multiply-accumulate operations of convolutions and Linear layers per image; biases, normalization, "
    "activations, pooling and joins are not counted. FLOPs = 2·MACs."
)
_RECEPTIVE_FIELD = (
    "Receptive field: the pixels that a value depends on, as if the image had no border; all: the whole image. "
    "Stride (jump): pixels between the receptive fields of neighboring values. Offset: where the first one starts."
)
_ON_AVERAGE = " on average"  # of strides that alternate, as after upsampling
_MEMORY = "Memory is an estimate, without the overhead of PyTorch and of the device's libraries."


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"


COLUMNS = {
    c.key: c
    for c in (
        Column("name", "name"),
        Column("type", "type"),
        Column("layer", "layer", wraps=True),
        Column("from", "from", wraps=True),
        Column("input", "input", wraps=True),
        Column("output", "output"),
        Column("params", "parameters", number=True),
        Column("trainable", "trainable", number=True),
        Column("buffers", "buffers", number=True),
        Column("macs", "MACs", number=True, brief=format_count),
        Column("flops", "FLOPs", number=True, brief=format_count),
        Column("rf", "receptive field", number=True),
        Column("rf-stride", "stride (jump)", number=True),
        Column("rf-offset", "offset", number=True),
        Column("memory", "activations", number=True, show=format_bytes),
        Column("forward", "forward ms", number=True, show=_milliseconds),
        Column("backward", "backward ms", number=True, show=_milliseconds),
    )
}
DEFAULT = ("name", "layer", "output", "params", "macs")
_TIMES = ("forward", "backward")


_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Setup:
    """The setup for estimates of memory; `frozen` are patterns of layers that are not trained, as for `layer_rows`."""

    batch: int
    optimizer: str
    precision: str
    frozen: tuple[str, ...] = ()


def setup(
    plan: Plan,
    batch: int | None = None,
    optimizer: str | None = None,
    precision: str | None = None,
    freeze: Sequence[str] | None = None,
) -> Setup:
    """The values given, else those of the spec's `train:` block, else the defaults of `cnn train`.

    UsageError for a value that does not exist.
    """

    def chosen(name: str, value: Any) -> Any:
        try:
            return SETTINGS[name].kind.read(plan.train.get(name, SETTINGS[name].default) if value is None else value)
        except ValueError as error:
            raise UsageError(f"--{name.replace('_', '-')} {error}") from None

    if precision not in (None, *_PRECISIONS):
        raise UsageError(f"--precision must be fp32, fp16 or bf16, not {precision!r}")
    return Setup(
        chosen("batch_size", batch),
        chosen("optimizer", optimizer),
        _PRECISIONS[precision or "fp32"],
        freeze_patterns(plan, freeze),
    )


@dataclass(frozen=True)
class Summary:
    """The rows of a network in the chosen columns, with their totals, memory and, if measured, times.

    Of a plan with mistakes, the table shows the layers before the first one.
    """

    plan: Plan
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    setup: Setup
    timing: "Timing | None" = None

    def document(self) -> dict[str, Any]:
        """Shapes are without the batch, bytes for one image in float32."""
        document = network_document(self.plan.checked(), self.rows)
        if self.timing:
            for layer in document["layers"]:
                layer["forward_ms"], layer["backward_ms"] = self.timing.rows.get(layer["name"], (None, None))
        memories = dict(zip(("inference", "training"), estimates(self.plan, self.setup), strict=True))
        memories["training_breakdown"] = training_memory(self.plan, self.setup)[0]
        about = {"batch": self.setup.batch, "optimizer": self.setup.optimizer, "precision": self.setup.precision}
        return document | {"memory": about | {name: memory.document() for name, memory in memories.items()}}

    def table(self) -> Table:
        keys, total = self.columns, totals(self.plan, self.rows)
        lines = [self._line(row, previous) for row, previous in zip(self.rows, (None, *self.rows), strict=False)]
        bottom = {key: total[key] for key in ("params", "buffers", "macs", "flops")}
        bottom |= {"trainable": total["trainable_params"], "memory": total["activation_bytes"]}
        if self.timing:
            bottom |= {key: sum(line[key] or 0 for line in lines) for key in _TIMES}
        summed = any(key in bottom for key in keys[1:])
        return Table(tuple(COLUMNS[key] for key in keys), lines, bottom | {keys[0]: "total"} if summed else None)

    def _line(self, row: Row, previous: Row | None) -> TableRow:
        """The cells of a row; `layer` says where its inputs come from, unless that is the previous row."""
        reads, layer = row.reads, row.text
        inputs = ", ".join(relative(name, row.name) for name in reads)
        if "from" not in self.columns:
            if row.type and (text := with_inputs(row.layers[0])) != row.text:
                broadcast = [f"; {line}" for line in row.layers[0].sizes if isinstance(line, str)]
                layer = f"{text}{''.join(broadcast)}"
            elif reads not in ((previous.name if previous else "input",), ()):
                layer = f"{row.text} ← {inputs}"
        forward, backward = self.timing.rows.get(row.name, (None, None)) if self.timing else (None, None)
        return {
            "name": row.name,
            "type": row.type,
            "layer": layer,
            "from": ", ".join(row.takes),
            "input": " and ".join(sizes(shape) for shape in row.input_shapes),
            "output": sizes(row.output_shape),
            "params": row.params,
            "trainable": row.trainable,
            "buffers": row.buffers,
            "macs": row.macs,
            "flops": 2 * row.macs,
            "memory": row.activation_bytes,
            "forward": forward,
            "backward": backward,
            **_receptive_field(row),
        }

    def text(self) -> str:
        parts = [title(self.plan), "", render(self.table())]
        return "\n".join(parts if self.plan.errors else [*parts, "", *self.notes()])

    def notes(self) -> list[str]:
        """The text below the table: parameters, MACs and memory, and what the columns mean."""
        plan, total = self.plan, totals(self.plan, self.rows)
        frozen = total["params"] - total["trainable_params"]
        trainable = f"{total['trainable_params']:,} trainable, {frozen:,} frozen" if frozen else "all trainable"
        buffers = f"; {total['buffers']:,} values in buffers" if total["buffers"] else ""
        lines = [
            f"{total['params']:,} parameters, {trainable}{buffers}; {format_bytes(total['bytes'])} in float32",
            f"{total['macs']:,} MACs = {total['flops']:,} FLOPs per {sizes(plan.input)} {plan.input_kind}",
        ]
        if plan.named_outputs:
            lines.append(f"outputs {plan.output_sizes}")
        for scale in infer_scales(plan):
            cells = f"{sizes(scale.size)} cells, {scale.stride} pixels apart"
            more = f", centerness {scale.centerness}" if scale.centerness else ""
            more += f"; {len(scale.anchors)} anchors per cell" if scale.anchors else ""
            lines.append(
                f"detects {scale.classes} classes in {cells}: scores {scale.scores}, boxes {scale.boxes}{more}"
            )
        if only := auxiliary(plan):
            params, macs = total["params"] - only["params"], total["macs"] - only["macs"]
            names = ", ".join(list(plan.outputs)[1:])
            lines.append(f"in evaluation, without {names}: {params:,} parameters, {macs:,} MACs")
        fields = [_RECEPTIVE_FIELD] if any(key.startswith("rf") for key in self.columns) else []
        times = [self.timing.text()] if self.timing else []
        return [
            wrapped(line) for line in [*lines, *_memory_lines(plan, self.setup), "", *fields, _MACS, _MEMORY, *times]
        ]


def summarize(
    plan: Plan,
    setup: Setup,
    *,
    columns: Sequence[str] = DEFAULT,
    depth: int | None = None,
    timing: "Timing | None" = None,
) -> Summary:
    """depth: fold layers whose names have more parts than this. columns: as `choose_columns` returns them."""
    rows = tuple(layer_rows(plan, frozen=setup.frozen, depth=depth))
    return Summary(plan, rows, tuple(columns), setup, timing.folded(depth) if timing else None)


def choose_columns(text: str | None, timed: bool = False, frozen: bool = False) -> tuple[str, ...]:
    """`name,params,rf` as keys; UsageError for an unknown column."""
    default = (*DEFAULT[:-1], "trainable", *DEFAULT[-1:]) if frozen else DEFAULT
    keys = tuple(part.strip() for part in text.split(",") if part.strip()) if text else default
    for key in keys:
        if key not in COLUMNS:
            hint = closest(key, COLUMNS)
            raise UsageError(f"--columns: unknown column {key!r}.{hint} Choose from {', '.join(COLUMNS)}")
        if key in _TIMES and not timed:
            raise UsageError(f"--columns: {key} is measured; add --time")
    return keys + tuple(key for key in _TIMES if timed and key not in keys)


def estimates(plan: Plan, setup: Setup) -> tuple[Memory, Memory]:
    """The peaks of memory for inference, and for a training step."""
    return inference(plan, setup.batch, setup.precision), training_memory(plan, setup)[1]


def training_memory(plan: Plan, setup: Setup) -> tuple[Memory, Memory]:
    """The memory of training as textbooks add it up, and the peak."""
    frozen = frozenset(
        layer.name for layer in plan.layers if layer.params and not trainable_params(layer, setup.frozen)
    )
    return breakdown_and_peak(plan, setup.batch, setup.optimizer, setup.precision, frozen)


def title(plan: Plan) -> str:
    """Name, description and input, above a table."""
    text = f"{plan.network}: {plan.description}" if plan.description else plan.network
    return f"{wrapped(text)}\ninput {sizes(plan.input)}"


def _memory_lines(plan: Plan, setup: Setup) -> list[str]:
    once, (kept, peak) = inference(plan, setup.batch, setup.precision), training_memory(plan, setup)
    moment = "in the optimizer step"
    if peak.temporary:
        moment += f", with {format_bytes(peak.temporary)} of temporary values"
    if peak.activation_gradients:
        moment = f"in the backward pass, with {format_bytes(peak.activation_gradients)} of gradients of activations"
    return [
        f"memory for a batch of {setup.batch} in {setup.precision}",
        f"  inference  {format_bytes(once.total)} = {_sum(once, setup)}",
        f"  training   {format_bytes(kept.total)} = {_sum(kept, setup)}",
        f"  peak       {format_bytes(peak.total)}, {moment}",
    ]


def _sum(memory: Memory, setup: Setup) -> str:
    parts = {"weights": memory.weights, "gradients": memory.gradients, f"{setup.optimizer} state": memory.optimizer}
    parts |= {"activations": memory.activations, "batch": memory.batch, "buffers": memory.buffers}
    return " + ".join(f"{name} {format_bytes(count)}" for name, count in parts.items() if count)


def _receptive_field(row: Row) -> dict[str, str]:
    if row.field is None:
        return {}
    if row.field.whole:
        return {"rf": "all"}
    stride = _sides(row.field.stride) + _ON_AVERAGE * row.field.average
    strides = {"rf-stride": stride} if any(n != 0 for n in row.field.stride) else {}
    return {"rf": sizes(row.field.size), **strides, "rf-offset": _sides(row.field.offset)}


def _sides(values: Sequence[float | None]) -> str:
    return "x".join("?" if v is None else f"{v:g}" for v in values)
