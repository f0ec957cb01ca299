"""A plan becomes an nn.Module whose state_dict() keys are the paths in the spec."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnn_cli.language.plan import Group, Layer, Plan
from cnn_cli.language.registry import find
from cnn_cli.network import modules


def build(
    network: str, *, input: tuple[int, int, int] | None = None, models: tuple[Path, ...] = (), **args: Any
) -> nn.Module:
    """The network by its name, `FILE.yaml` or `FILE.yaml:NAME`, with fresh weights; `build("resnet50", classes=10)`.

    It takes (N, channels, height, width) and gives what the spec's last layer puts out. The weights are drawn from
    PyTorch's global generator in the order of the spec: after `torch.manual_seed(s)` they equal those of the same
    layers written by hand. UsageError for an unknown name or argument, SpecError for a spec with mistakes.
    """
    return build_plan(find(network, models=models, args=args, input=input))


def build_plan(plan: Plan) -> nn.Module:
    """The module of a plan, with fresh weights, in training mode."""
    module = _module(plan.checked().root, tuple(plan.named_outputs))
    assert isinstance(module, nn.Module)
    if plan.named_outputs:
        assert isinstance(module, modules.Graph)
        module.give_exports()
    if plan.outputs:
        assert isinstance(module, modules.Graph)
        module.set_auxiliary(tuple(plan.outputs), plan.only_in_training)
    return module


def _module(part: Layer | Group, exports: tuple[str, ...] = ()) -> nn.Module | nn.Parameter:
    """The module of a part; `exports` are the values inside of it that are taken from outside."""
    if isinstance(part, Layer):
        return _layer(part)
    inside = part.inside(exports)
    children = {child.key: _module(child.part, inside.get(child.key, ())) for child in part.children}
    takes = {child.key: child.takes for child in part.children}
    if not part.named and not inside and not exports and all(len(names) == 1 for names in takes.values()):
        return nn.Sequential(*children.values())  # type: ignore[arg-type]
    return modules.Graph(children, takes, part.output, exports)


def _layer(layer: Layer) -> nn.Module | nn.Parameter:
    if layer.type == "Parameter":
        return _parameter(layer)
    source = importlib.import_module(layer.rule.module)  # the table's word, never the spec's
    if "takes a number" in layer.rule.traits:
        return getattr(source, layer.type)(layer.settings["numbers"])  # type: ignore[no-any-return]
    rules = layer.rule.settings.items()
    keywords = {k: getattr(nn, layer.settings[k]) if rule.is_class else layer.settings[k] for k, rule in rules}
    if layer.size_of:  # read from a sibling at run time
        source = modules
        del keywords[layer.size_of]
    return getattr(source, layer.type)(**keywords)  # type: ignore[no-any-return]


def _parameter(layer: Layer) -> nn.Parameter:
    shape, init = layer.settings["shape"], layer.settings["init"]
    if init == "normal":
        return nn.Parameter(torch.randn(shape))
    return nn.Parameter(torch.full(shape, {"zeros": 0.0, "ones": 1.0}.get(init, init)))
