"""`cnn diff NETWORK --dense`: a network and the fully connected one that computes the same, with each convolution as a
matrix."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from cnn_cli.device import free_memory
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import sizes
from cnn_cli.tables import Column, Table, format_bytes, format_count, render, wrapped

_MOST_PARAMS = 10**8  # a larger fully connected network is not built for comparison
_BYTES = 4  # float32
_IMAGES = 4


@dataclass(frozen=True)
class DenseLayer:
    """A convolution, and the parameters and multiply-accumulate operations of its matrix."""

    layer: Layer
    params: int
    macs: int

    @property
    def factor(self) -> float:
        return self.params / self.layer.params

    def document(self) -> dict[str, Any]:
        layer = self.layer
        return {
            "name": layer.name,
            "type": layer.type,
            "input_shape": layer.input_shape,
            "output_shape": layer.output_shape,
            "params": layer.params,
            "dense_params": self.params,
            "factor": self.factor,
            "bytes": _BYTES * layer.params,
            "dense_bytes": _BYTES * self.params,
            "macs": layer.macs,
            "dense_macs": self.macs,
            "weight_shape": (prod(layer.output_shape), prod(layer.input_shape)),
        }


@dataclass(frozen=True)
class DenseEquivalent:
    """A network and its convolutions as matrices. `difference`: the largest one between the outputs of both for random
    images; None if the fully connected network is too large to be built."""

    plan: Plan
    layers: tuple[DenseLayer, ...]
    difference: float | None = None

    @property
    def totals(self) -> dict[str, Any]:
        """Sums over the whole networks, with all other layers."""
        params = self.plan.params + sum(dense.params - dense.layer.params for dense in self.layers)
        macs = self.plan.macs + sum(dense.macs - dense.layer.macs for dense in self.layers)
        sums = {"params": self.plan.params, "dense_params": params, "factor": params / max(self.plan.params, 1)}
        sums |= {"bytes": _BYTES * self.plan.params, "dense_bytes": _BYTES * params}
        return sums | {"macs": self.plan.macs, "dense_macs": macs}

    def document(self) -> dict[str, Any]:
        return {
            "network": self.plan.network,
            "input": list(self.plan.input),
            "layers": [layer.document() for layer in self.layers],
            "total": self.totals,
            "largest_difference": self.difference,
        }

    def table(self) -> Table:
        factor = "×{:,.0f}".format
        columns = (
            Column("name", "layer", wraps=True),
            Column("weight_shape", "as a matrix", show=sizes),
            Column("params", "parameters", number=True, brief=format_count),
            Column("dense_params", "fully connected", number=True, brief=format_count),
            Column("factor", "factor", number=True, show=factor),
            Column("dense_bytes", "memory", number=True, show=format_bytes),
        )
        return Table(columns, [layer.document() for layer in self.layers], {"name": "whole network"} | self.totals)

    def text(self) -> str:
        total = self.totals
        costs = [format_count(total[key], "MACs") for key in ("macs", "dense_macs")]
        lines = [
            "Each matrix is mostly zeros; its rows repeat the kernel, each shifted by the stride.",
            f"One image costs {costs[0]} in {self.plan.network} and {costs[1]} in the fully connected network.",
            self.verdict(),
        ]
        return "\n\n".join([render(self.table()), "\n".join(map(wrapped, lines))])

    def verdict(self) -> str:
        if self.difference is None:
            need = format_bytes(self.totals["dense_bytes"])
            return f"Not built: the fully connected network needs {need}."
        return f"Both were built: for {_IMAGES} random images their outputs differ by at most {self.difference:.1e}."


def count_dense(plan: Plan) -> DenseEquivalent:
    """Count parameters and MACs of the convolutions as matrices. UsageError for a network without convolutions."""
    layers = []
    for layer in plan.layers:
        if "convolution" in layer.rule.traits:
            values, weights = prod(layer.output_shape), prod(layer.output_shape) * prod(layer.input_shape)
            layers.append(DenseLayer(layer, weights + values * bool(layer.settings["bias"]), weights))
    if not layers:
        raise UsageError(f"{plan.network} has no convolutions; --dense compares convolutions with their matrices")
    return DenseEquivalent(plan, tuple(layers))


def compare_by_building(result: DenseEquivalent) -> DenseEquivalent:
    """Add the largest difference between the outputs of both networks, if the fully connected one is small enough."""
    params = result.totals["dense_params"]
    if params > _MOST_PARAMS or 3 * _BYTES * params > free_memory():
        return result
    import torch

    from cnn_cli.network.builder import build_plan
    from cnn_cli.network.dense import dense_network

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build_plan(result.plan).eval()
        images = torch.rand(_IMAGES, *result.plan.input)
        ours, theirs = network(images), dense_network(network, result.plan).eval()(images)
    pairs = [(ours[name], theirs[name]) for name in ours] if isinstance(ours, dict) else [(ours, theirs)]
    return replace(result, difference=max(float((a - b).abs().max()) for a, b in pairs))
