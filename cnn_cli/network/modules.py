"""Modules that neither torch.nn nor torchvision.ops has: the graphs and joins of a spec, and LayerNorm2d."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Graph(nn.Module):
    """Named children, each taking the outputs of siblings: a mapping of the spec.

    `takes[key]` are the values that child `key` takes: "input" for the input of the graph ("input.0", "input.1", … if
    it has several), a sibling's name, "name.1" for a piece of a Chunk, or "name.path" for a value inside of a sibling.
    The forward pass returns the value called `output`, or, with auxiliary outputs in training or after `give_exports`,
    {name: tensor}. It also writes the values of the names in `exports` to the dictionary `exported`.
    """

    def __init__(
        self,
        children: dict[str, nn.Module | nn.Parameter],
        takes: dict[str, tuple[str, ...]],
        output: str,
        exports: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._takes = takes
        self._output = output
        self._exports = exports
        self._auxiliary: tuple[str, ...] = ()
        self._only_training: frozenset[str] = frozenset()
        self._gives_exports = False
        for key, child in children.items():
            if isinstance(child, nn.Parameter):
                self.register_parameter(key, child)
            else:
                self.add_module(key, child)
        self._inside = frozenset(key for key, child in children.items() if isinstance(child, Graph) and child._exports)
        self._done = self._last_uses()

    def give_exports(self) -> None:
        """Return {name: tensor} of the exported values instead of the output, for a network with several outputs."""
        self._gives_exports = True

    def set_auxiliary(self, names: Sequence[str], only_training: frozenset[str]) -> None:
        """In training, return all of `names`, the main one first; in evaluation, skip the children `only_training`.

        These children are computed as soon as their inputs are available, as one would write it by hand: the order of
        computation is the order in which the gradients of a shared input are added.
        """
        self._auxiliary, self._only_training = tuple(names), only_training
        order = [key for key in self._takes if key not in only_training]
        for key in (key for key in self._takes if key in only_training):
            place = max(
                (order.index(name.split(".")[0]) + 1 for name in self._takes[key] if name != "input"), default=0
            )
            while place < len(order) and order[place] in only_training:
                place += 1
            order.insert(place, key)
        self._takes = {key: self._takes[key] for key in order}
        self._done = self._last_uses()

    def _last_uses(self) -> dict[str, list[str]]:
        """Child → the values that no later child needs, so that their memory can be freed."""
        last = {name: key for key, takes in self._takes.items() for name in takes}
        done: dict[str, list[str]] = {}
        for name, key in last.items():
            if name not in (self._output, *self._auxiliary, *self._exports):
                done.setdefault(key, []).append(name)
        return done

    def forward(self, *inputs: Tensor, exported: dict[str, Tensor] | None = None) -> Tensor | dict[str, Tensor]:
        values = {"input": inputs[0]} if len(inputs) == 1 else {f"input.{i}": x for i, x in enumerate(inputs)}
        for key, takes in self._takes.items():
            if not self.training and key in self._only_training:
                continue
            child = self._modules.get(key)
            if child is None:
                values[key] = self._parameters[key]  # type: ignore[assignment]
                continue
            inside: dict[str, Tensor] = {}
            result = child(*(values[name] for name in takes), **({"exported": inside} if key in self._inside else {}))
            values.update((f"{key}.{path}", value) for path, value in inside.items())
            if isinstance(result, tuple):
                values.update((f"{key}.{i}", piece) for i, piece in enumerate(result))
            else:
                values[key] = result
            for name in self._done.get(key, ()):
                values.pop(name, None)
        if exported is not None:
            exported.update((name, values[name]) for name in self._exports)
        if self._auxiliary and self.training:
            return {name: values[name] for name in self._auxiliary}
        return {name: values[name] for name in self._exports} if self._gives_exports else values[self._output]


def chains(graph: Graph) -> list[tuple[str, str]]:
    """Pairs of children of which the second alone takes the output of the first."""
    taken = [name for takes in graph._takes.values() for name in takes]
    taken += [graph._output, *graph._auxiliary, *graph._exports]
    pairs = [(takes[0], key) for key, takes in graph._takes.items() if len(takes) == 1]
    return [(first, key) for first, key in pairs if first in graph._takes and taken.count(first) == 1]


class Operation(nn.Module):
    """An operation on operands from left to right, value by value; sizes of 1 are broadcast.

    numbers: the operands, None for each input; empty if all of them are inputs.
    """

    def __init__(self, numbers: tuple[float | None, ...] = ()) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, *inputs: Tensor) -> Tensor:
        waiting = iter(inputs)
        operands = [next(waiting) if n is None else n for n in self.numbers] if self.numbers else inputs
        return functools.reduce(self.apply_to, operands)  # type: ignore[return-value]

    def apply_to(self, a: Any, b: Any) -> Any:
        raise NotImplementedError


class Add(Operation):
    def apply_to(self, a: Any, b: Any) -> Any:
        return a + b


class Subtract(Operation):
    def apply_to(self, a: Any, b: Any) -> Any:
        return a - b


class Multiply(Operation):
    def apply_to(self, a: Any, b: Any) -> Any:
        return a * b


class Divide(Operation):
    def apply_to(self, a: Any, b: Any) -> Any:
        return a / b


class Maximum(Operation):
    def apply_to(self, a: Any, b: Any) -> Any:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.maximum(a, b)
        return a.clamp(min=b) if isinstance(a, Tensor) else b.clamp(min=a)


class Minimum(Operation):
    def apply_to(self, a: Any, b: Any) -> Any:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.minimum(a, b)
        return a.clamp(max=b) if isinstance(a, Tensor) else b.clamp(max=a)


class Mean(Add):
    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(*inputs) / len(inputs)


class Concat(nn.Module):
    """(N, C1, …), (N, C2, …), … → (N, C1 + C2 + …, …)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 1)


class Chunk(nn.Module):
    """(N, C, …) → `chunks` pieces of (N, C / chunks, …)."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.chunk(x, self.chunks, 1)


class Split(nn.Module):
    """(N, C, …) → pieces along the channels, of these sizes, or of one size."""

    def __init__(self, sizes: int | tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, self.sizes if isinstance(self.sizes, int) else list(self.sizes), 1)


class Slice(nn.Module):
    """x[start:end:step] along one axis."""

    def __init__(self, dim: int, start: int, end: int | None, step: int) -> None:
        super().__init__()
        self.dim, self.range = dim, slice(start, end, step)

    def forward(self, x: Tensor) -> Tensor:
        before = self.dim if self.dim >= 0 else x.ndim + self.dim
        return x[(slice(None),) * before + (self.range,)]


class CenterCrop(nn.Module):
    """(N, C, H, W) → the center of a size, or of that of another tensor, as torchvision's center_crop."""

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        height, width = other.shape[2:] if other is not None else self.size or x.shape[2:]
        top, left = round((x.shape[2] - height) / 2), round((x.shape[3] - width) / 2)
        return x[:, :, top : top + height, left : left + width]


class Upsample(nn.Upsample):
    """Resizes to the height and width of another tensor, read at run time."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        return nn.functional.interpolate(x, other.shape[2:], mode=self.mode, align_corners=self.align_corners)


class Again(nn.Module):
    """A layer, or a parameter of it by name, used again. It registers neither, so that state_dict() has them once.

    Hooks of the layer belong to its first use, and do not run here.
    """

    def __init__(self, layer: nn.Module, parameter: str = "") -> None:
        super().__init__()
        self._shared = (layer, parameter)  # a module in a tuple is not registered

    @property
    def shared(self) -> nn.Module:
        return self._shared[0]

    def forward(self, *inputs: Tensor) -> Any:
        layer, parameter = self._shared
        return getattr(layer, parameter) if parameter else layer.forward(*inputs)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W), as in torchvision's ConvNeXt."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
