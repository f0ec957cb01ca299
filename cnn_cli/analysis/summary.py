"""What `cnn summary` and `cnn list` print: rows as a table, and what the totals mean. No torch."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnn_cli.analysis import memory as mem
from cnn_cli.analysis.receptive_field import Field
from cnn_cli.analysis.rows import Row, auxiliary, relative, rows, totals
from cnn_cli.errors import UsageError, closest
from cnn_cli.language.freeze import patterns_of, trained
from cnn_cli.language.plan import Plan
from cnn_cli.layers import sizes
from cnn_cli.tables import Column, Table, memory, short, terminal_width

COUNTED = (
    "MACs: multiplications by weights, in convolutions and Linear layers, for one image; biases, normalisation, "
    "activations, pooling and joins are not counted. FLOPs = 2·MACs."
)
SEEN = "Sees: the pixels that a value depends on, as if the image went on beyond its border; all: every pixel there is."
ESTIMATED = "Memory: an estimate, without what PyTorch and the device's libraries take for themselves."


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def _sides(values: Sequence[Any]) -> str:
    return "x".join("?" if v is None else f"{v:g}" for v in values)


COLUMNS = {
    c.key: c
    for c in (
        Column("name", "name"),
        Column("type", "type"),
        Column("layer", "layer", wraps=True),
        Column("from", "takes", wraps=True),
        Column("input", "input", wraps=True),
        Column("output", "output"),
        Column("params", "parameters", number=True),
        Column("trainable", "trainable", number=True),
        Column("buffers", "buffers", number=True),
        Column("macs", "MACs", number=True, brief=short),
        Column("flops", "FLOPs", number=True, brief=short),
        Column("rf", "sees", number=True),
        Column("rf-stride", "moves by", number=True),
        Column("rf-offset", "begins at", number=True),
        Column("memory", "memory", number=True, show=memory),
        Column("forward", "forward ms", number=True, show=_milliseconds),
        Column("backward", "backward ms", number=True, show=_milliseconds),
    )
}
DEFAULT = ("name", "layer", "output", "params", "macs")


@dataclass(frozen=True)
class Setup:
    """What the memory estimate is for; `frozen` are patterns of layers that are not trained, as for `rows`."""

    batch: int
    optimizer: str
    precision: str
    frozen: tuple[str, ...] = ()


def setup(
    plan: Plan, batch: int | None, optimizer: str | None, precision: str | None, freeze: Sequence[str] | None = None
) -> Setup:
    """As asked for, else as the spec's `train:` block says, else as `cnn train` would; UsageError for what there is
    not."""
    from cnn_cli.settings import SETTINGS

    def chosen(name: str, value: Any) -> Any:
        try:
            return SETTINGS[name].kind.read(plan.train.get(name, SETTINGS[name].default) if value is None else value)
        except ValueError as error:
            raise UsageError(f"--{name.replace('_', '-')} {error}") from None

    if precision not in (None, *mem.BYTES):
        raise UsageError(
            f"--precision must be {', '.join(mem.BYTES)}, not {precision!r}.{closest(str(precision), mem.BYTES)}"
        )
    return Setup(
        chosen("batch_size", batch), chosen("optimizer", optimizer), precision or "float32", patterns_of(plan, freeze)
    )


def columns(text: str | None, timed: bool = False, frozen: bool = False) -> tuple[str, ...]:
    """`name,params,rf` as keys; UsageError for a column that there is not."""
    default = (*DEFAULT[:-1], "trainable", *DEFAULT[-1:]) if frozen else DEFAULT
    keys = tuple(part.strip() for part in text.split(",") if part.strip()) if text else default
    for key in keys:
        if key not in COLUMNS:
            raise UsageError(
                f"--columns: there is no column {key!r}.{closest(key, COLUMNS)} Known: {', '.join(COLUMNS)}"
            )
    times = ("forward", "backward")
    if not timed and (asked := [key for key in keys if key in times]):
        raise UsageError(f"--columns: {asked[0]} is measured; add --time")
    return keys + tuple(key for key in times if timed and key not in keys)


def table(
    found: Sequence[Row], total: Mapping[str, Any], keys: Sequence[str], times: Mapping[str, Any] | None = None
) -> Table:
    """The rows in these columns, with their sums. times: row name → (forward, backward) in milliseconds."""
    before = ["input", *(row.name for row in found)]
    lines = []
    for row, previous in zip(found, before, strict=False):
        forward, backward = (times or {}).get(row.name, (None, None))
        takes = ", ".join(relative(name, row.name) for name in row.takes)
        joins = row.type != "" and row.layers[0].rule.joins
        follows = row.takes in ((previous,), ())
        lines.append(
            {
                "name": row.name,
                "type": row.type,
                "layer": row.text
                if "from" in keys or (follows and not joins)
                else f"{row.text} {takes}"
                if joins
                else f"{row.text} ← {takes}",
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
                **_field(row.field),
            }
        )
    sums = {key: sum(line[key] or 0 for line in lines) for key in ("forward", "backward") if times}
    bottom = {"params": total["params"], "trainable": total["trainable_params"], "memory": total["activation_bytes"]}
    bottom |= {key: total[key] for key in ("buffers", "macs", "flops")} | sums
    summed = any(key in bottom for key in keys[1:])
    return Table(tuple(COLUMNS[key] for key in keys), lines, bottom | {keys[0]: "total"} if summed else None)


def _field(field: Field | None) -> dict[str, str]:
    if field is None:
        return {}
    if field.whole:
        return {"rf": "all"}
    if field.stride == (0, 0):
        return {"rf": sizes(field.size), "rf-offset": _sides(field.offset)}
    return {"rf": sizes(field.size), "rf-stride": _sides(field.stride), "rf-offset": _sides(field.offset)}


def notes(plan: Plan, total: Mapping[str, int], given: Setup, keys: Sequence[str] = ()) -> str:
    """What stands under a table with columns `keys`: what the totals are and leave out, and what the network needs."""
    frozen = total["params"] - total["trainable_params"]
    trained = "all trainable" if not frozen else f"{total['trainable_params']:,} trainable, {frozen:,} frozen"
    buffers = f"; {total['buffers']:,} values in buffers" if total["buffers"] else ""
    lines = [
        f"{total['params']:,} parameters, {trained}{buffers}; {memory(total['bytes'])} as float32",
        f"{total['macs']:,} MACs = {total['flops']:,} FLOPs for an image of {sizes(plan.input)}",
    ]
    if aside := auxiliary(plan):
        heads = ", ".join(list(plan.outputs)[1:])
        params, macs = total["params"] - aside["params"], total["macs"] - aside["macs"]
        lines.append(f"without {heads}, which work only in training: {params:,} parameters, {macs:,} MACs")
    lines += memory_lines(plan, given)
    seen = [SEEN] if any(key.startswith("rf") for key in keys) else []
    return "\n".join(wrapped(line) for line in [*lines, "", *seen, COUNTED, ESTIMATED])


def memory_lines(plan: Plan, given: Setup) -> list[str]:
    """The estimate for inference and for training, with its parts."""
    once, step = estimates(plan, given)
    kept = {"buffers": step.buffers, "batch": step.batch, "activations": step.activations, "gradients": step.gradients}
    kept |= {given.optimizer: step.optimizer, "gradients of activations": step.activation_gradients}
    parts = {"weights": step.weights, **kept}
    first = {"weights": once.weights, "buffers": once.buffers, "batch": once.batch, "activations": once.activations}
    return [
        f"memory for {given.batch} images in {given.precision}",
        f"  inference  {memory(once.total)} = {_sum(first)}",
        f"  training   {memory(step.total)} = {_sum(parts)}",
    ]


def _sum(parts: Mapping[str, int]) -> str:
    return " + ".join(f"{name} {memory(count)}" for name, count in parts.items() if count)


def estimates(plan: Plan, given: Setup) -> tuple[mem.Memory, mem.Memory]:
    """Inference, and a step of training."""
    frozen = frozenset(layer.name for layer in plan.layers if layer.params and not trained(layer, given.frozen))
    once = mem.inference(plan, given.batch, given.precision)
    return once, mem.training(plan, given.batch, given.optimizer, given.precision, frozen)


def document(
    plan: Plan,
    *,
    frozen: Sequence[str] = (),
    depth: int | None = None,
    given: Setup | None = None,
    times: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON document of `summary` and `shapes`. Shapes are without the batch, bytes for one image in float32."""
    found = rows(plan, frozen=frozen, depth=depth)
    layers = [row.document() for row in found]
    for layer in layers:
        if times:
            layer["forward_ms"], layer["backward_ms"] = times.get(layer["name"], (None, None))
    result: dict[str, Any] = {
        "network": plan.network,
        "description": plan.description,
        "reference": plan.reference,
        "input": list(plan.input),
        "output": list(plan.output),
        "layers": layers,
        "total": totals(plan, found),
    }
    if aside := auxiliary(plan):
        result["only_in_training"] = aside
    if given:
        once, step = estimates(plan, given)
        about = {"batch": given.batch, "optimizer": given.optimizer, "precision": given.precision}
        result["memory"] = {**about, "inference": once.document(), "training": step.document()}
    return result


def title(plan: Plan) -> str:
    """Name, description and input, above a table."""
    text = f"{plan.network}: {plan.description}" if plan.description else plan.network
    return f"{wrapped(text)}\ninput {sizes(plan.input)}"


def wrapped(line: str) -> str:
    """A line in as many as the terminal needs, those below set in."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(
        line, terminal_width(), subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def sentence(plan: Plan) -> str:
    """What a drawing says under the name."""
    return f"{sizes(plan.input)} → {sizes(plan.output)}, {plan.params:,} parameters, {short(plan.macs)}MACs".replace(
        "  ", " "
    )


def network_table(plans: Sequence[Plan]) -> Table:
    """A row for each network: what `cnn list` prints."""
    found = [
        {"name": p.network, "input": sizes(p.input), "params": p.params, "description": p.description} for p in plans
    ]
    keys = (
        Column("name", "name"),
        Column("input", "input"),
        Column("params", "parameters", number=True, brief=short),
        Column("description", "description", wraps=True),
    )
    return Table(keys, found)
