"""From a plan to an nn.Module whose state_dict() keys are the paths in the spec."""

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

    It maps (N, channels, height, width) to the output of the spec's last layer. The weights are drawn from PyTorch's
    global generator in the order of the spec: after `torch.manual_seed(s)` they equal those of the same layers written
    by hand. UsageError for an unknown name or argument, SpecError for a spec with mistakes.
    """
    return build_plan(find(network, models=models, args=args, input=input))


def build_plan(plan: Plan) -> nn.Module:
    """The module of a plan, with fresh weights, in training mode."""
    module = _module(plan.checked().root, tuple(plan.named_outputs), {})
    assert isinstance(module, nn.Module)
    if plan.named_outputs:
        assert isinstance(module, modules.Graph)
        module.give_exports()
    if plan.outputs:
        assert isinstance(module, modules.Graph)
        module.set_auxiliary(tuple(plan.outputs), plan.only_in_training)
    return module


def _module(part: Layer | Group, exports: tuple[str, ...], built: dict[str, nn.Module]) -> nn.Module | nn.Parameter:
    """The module of a part; `exports` are the values inside of it that parts outside of it take.

    `built` has the modules so far by their paths: those whose weights are shared come before those that share them.
    """
    if isinstance(part, Layer):
        module = _shared(part, built) if part.shares_weights else _layer(part)
    else:
        inside = part.inside(exports)
        children = {child.key: _module(child.part, inside.get(child.key, ()), built) for child in part.children}
        takes = {child.key: child.takes for child in part.children}
        if not part.named and not inside and not exports and all(len(names) == 1 for names in takes.values()):
            module = nn.Sequential(*children.values())  # type: ignore[arg-type]
        else:
            module = modules.Graph(children, takes, part.output, exports)
    if isinstance(module, nn.Module):
        built[part.name] = module
    return module


def _shared(layer: Layer, built: dict[str, nn.Module]) -> nn.Module:
    if layer.type == "Parameter":
        group, _, name = layer.shared_with.rpartition(".")
        return modules.Again(built[group], name)
    return modules.Again(built[layer.shared_with])


def _layer(layer: Layer) -> nn.Module | nn.Parameter:
    if layer.type == "Parameter":
        return _parameter(layer)
    source = importlib.import_module(layer.rule.module)  # from the layer table, never from the spec
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
    return nn.Parameter(torch.full(shape, float({"zeros": 0, "ones": 1}.get(init, init))))
