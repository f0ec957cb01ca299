"""A network in the form that the page's JavaScript reads: rows in order of computation, and weights as bytes.

`network.js` runs it with the results of PyTorch; the table in `layers.js` has a function for every type of row.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cnn_cli.analysis.explanation import Explanation, explain
from cnn_cli.analysis.receptive_field import Field, field, producer, sights
from cnn_cli.analysis.rows import described
from cnn_cli.language.detection_scales import infer_scales
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.tasks.detection import detection_task

HALF_FROM = 4_000_000  # networks with more weights store them in 16 bits


@dataclass(frozen=True)
class Description:
    """`network` is a JSON document; `weights` are the concatenated tensors, little-endian, 2 or 4 bytes per value."""

    network: dict[str, Any]
    weights: bytes
    half: bool

    def document(self) -> dict[str, Any]:
        return {"network": self.network, "half": self.half, "weights": base64.b64encode(self.weights).decode()}


def describe(
    plan: Plan, tensors: Mapping[str, Tensor], mean: Sequence[float] = (), std: Sequence[float] = ()
) -> Description:
    """The rows that a network computes in evaluation, and their weights.

    tensors: its state_dict. mean, std: per channel, from the preprocessing.
    """
    layers = [layer for layer in plan.layers if layer.name.split(".")[0] not in plan.only_in_training]
    numbers = {layer.name: n for n, layer in enumerate(layers)} | {"input": -1}
    explained = {e.layer.name: e for e in explain(plan)}
    seen = sights(plan)
    rows = [_row(layer, explained[layer.name], field(seen[layer.name], plan.input[1:]), numbers) for layer in layers]
    names = [name for row in rows for name in row["tensors"].values()]
    chosen = {name: tensors[name].detach().cpu().float() for name in dict.fromkeys(names)}
    places = np.cumsum([0, *(t.numel() for t in chosen.values())]).tolist()
    buffers = {name for name, tensor in plan.tensors.items() if tensor.buffer}
    half = places[-1] > HALF_FROM
    network = {
        "name": plan.network,
        "description": plan.description,
        "input": list(plan.input),
        "rows": rows,
        "output": _source(plan.ends[0], numbers),
        "ends": _ending(plan),
        "detects": _scales(plan, numbers),
        "mean": list(mean),
        "std": list(std),
        "parameters": plan.params,
        "macs": plan.macs,
        "tensors": {
            name: {"shape": list(t.shape), "at": at, "buffer": name in buffers}
            for (name, t), at in zip(chosen.items(), places, strict=False)
        },
    }
    kind = "<f2" if half else "<f4"
    return Description(network, b"".join(t.numpy().astype(kind).tobytes() for t in chosen.values()), half)


def _row(layer: Layer, explained: Explanation, seen: Field | None, numbers: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": layer.type,
        "title": described(layer),
        "settings": {name: _plain(value) for name, value in layer.settings.items()},
        "traits": sorted(layer.rule.traits),
        "takes": [_source(name, numbers) for name in layer.reads],
        "shape": list(layer.output_shape),
        "pieces": [list(shape) for shape in layer.pieces],
        "tensors": {
            t.name: f"{layer.owner}.{t.name}".strip(".")
            for t in layer.used_tensors
            if t.name != "num_batches_tracked"  # auxiliary outputs do not run in evaluation
        },
        "parameters": layer.params,
        "macs": layer.macs,
        "what": explained.what,
        "lines": {heading: list(lines) for heading, lines in explained.parts.items()},
        "sees": None if seen is None else {"size": seen.size, "stride": seen.stride, "offset": seen.offset},
    }


def _source(name: str, numbers: Mapping[str, int]) -> list[int | None]:
    """[row, piece]: row −1 is the network's input; piece is None unless the row has several outputs."""
    row = producer(name, numbers)
    return [numbers[row], None if row == name else int(name.removeprefix(f"{row}."))]


def _scales(plan: Plan, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """The scales of a detector: the rows of its scores and boxes; `exponential` if distances are logarithms."""
    scales = infer_scales(plan)
    classes = tuple(str(n) for n in range(scales[0].classes)) if scales else ()
    positive = detection_task(plan, classes).positive if scales else {}
    rows = dict(zip(plan.named_outputs, plan.ends, strict=True)) if scales else {}
    return [
        {
            "scores": _source(rows[scale.scores], numbers),
            "boxes": _source(rows[scale.boxes], numbers),
            "stride": scale.stride,
            "exponential": scale.boxes in positive,
        }
        for scale in scales
    ]


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _ending(plan: Plan) -> str:
    """The kind of outputs: `score`, `probability`, or `logarithm` of a probability."""
    last = plan.last.type if plan.last else ""
    if (last in ("Softmax", "Softmax2d") and plan.output[0] > 1) or (last == "Sigmoid" and plan.output[0] == 1):
        return "probability"
    return "logarithm" if last == "LogSoftmax" else "score"
