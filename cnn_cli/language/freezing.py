"""Which parts of a network are not trained: globs on the names of its layers and parameters. No torch.

Frozen tensors keep their values: no gradient, no weight decay, and the running statistics of a frozen BatchNorm are not
updated. Dropout remains active in frozen parts.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING

from cnn_cli.errors import Problem, UsageError, closest
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.settings import SETTINGS

if TYPE_CHECKING:
    from torch import nn


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Whether the name of a layer or tensor, or of a group around it, matches one of the patterns.

    >>> is_frozen("features.0.weight", ["features"]), is_frozen("features.0.weight", ["features.*"])
    (True, True)
    >>> is_frozen("layer1.0.conv1", ["layer?"]), is_frozen("fc.weight", ["*.bias"])
    (True, False)
    """
    return bool(patterns) and any(fnmatchcase(around, p) for around in _around(name) for p in patterns)


def freeze_patterns(plan: Plan, requested: Sequence[str] | None = None) -> tuple[str, ...]:
    """The patterns requested for, else those of the spec's `train:` block; UsageError for patterns that do not fit."""
    patterns: tuple[str, ...] = SETTINGS["freeze"].kind.read(requested or plan.train.get("freeze", ()))
    if not plan.errors:  # else some layers are unknown, and the errors come first
        frozen_tensors(plan, patterns)
    return patterns


def frozen_tensors(plan: Plan, patterns: Sequence[str]) -> frozenset[str]:
    """The tensors, by their names in state_dict(), that keep their values.

    UsageError for a pattern that matches none, and if nothing is left to train.
    """
    if problem := _problem(plan, patterns):
        raise UsageError(problem)
    return frozenset(name for name in plan.tensors if is_frozen(name, patterns))


def trainable_params(layer: Layer, patterns: Sequence[str]) -> int:
    """The number of trainable parameters of a layer."""
    return sum(prod(t.shape) for t in layer.tensors if not (t.buffer or is_frozen(layer.tensor_name(t), patterns)))


def freeze_problems(plan: Plan) -> tuple[Problem, ...]:
    """What is wrong with `train: {freeze: …}` of a spec that has no other errors, at its place."""
    if plan.errors or not plan.train.get("freeze"):
        return ()
    patterns = SETTINGS["freeze"].kind.read(plan.train["freeze"])
    node = plan.spec.node.value["train"].value["freeze"]
    where = f"{plan.network}, train"
    problem = _problem(plan, patterns)
    return (Problem(plan.spec.origin, node.line, node.column, where, problem),) if problem else ()


def disable_gradients(network: "nn.Module", patterns: Sequence[str]) -> None:
    """Set requires_grad of the matching parameters to False; backward then ends at the first layer that is trained."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not is_frozen(name, patterns))


def has_frozen_statistics(layer: Layer, patterns: Sequence[str]) -> bool:
    """Whether a layer has running statistics that are frozen: it then uses them in training too."""
    return any(t.buffer and is_frozen(layer.tensor_name(t), patterns) for t in layer.tensors)


def set_training_mode(network: "nn.Module", plan: Plan, patterns: Sequence[str]) -> None:
    """Training mode, except for layers whose running statistics are frozen: these stay in evaluation mode."""
    network.train()
    for layer in plan.layers if patterns else ():
        if has_frozen_statistics(layer, patterns):
            network.get_submodule(layer.name).eval()


def describe_frozen(plan: Plan, patterns: Sequence[str]) -> str:
    """`11,176,512 of 11,181,642 parameters, and the statistics of 20 layers`."""
    names = frozen_tensors(plan, patterns)
    frozen = sum(prod(t.shape) for name, t in plan.tensors.items() if name in names and not t.buffer)
    layers = {name.rpartition(".")[0] for name, t in plan.tensors.items() if name in names and t.buffer}
    statistics = f", and the statistics of {len(layers)} layer{'s' * (len(layers) > 1)}" if layers else ""
    return f"{frozen:,} of {plan.params:,} parameters{statistics}"


def _problem(plan: Plan, patterns: Sequence[str]) -> str:
    """Why these patterns do not fit the network; empty if they do."""
    tensors = plan.tensors
    for pattern in patterns:
        if not any(is_frozen(name, [pattern]) for name in tensors):
            if owner := _shared_with(plan, pattern):
                return f"{pattern} shares its weights with {owner}; freeze those"
            names = list(dict.fromkeys(around for name in tensors for around in _around(name)))
            near = closest(pattern, [n + pattern[len(pattern.rstrip(".*")) :] for n in names])
            more = f" Names begin with {_listed(names)}." if not near else ""
            return f"freeze {pattern!r} matches no parameter of {plan.network}.{near or more}"
    if patterns and all(t.buffer or is_frozen(name, patterns) for name, t in tensors.items()):
        return f"freeze {', '.join(patterns)} leaves nothing of {plan.network} to train; leave the last layer out of it"
    return ""


def _shared_with(plan: Plan, name: str) -> str:
    """The layer or group whose weights the one called `name` shares; empty if there is none."""
    for layer in plan.layers:
        if layer.shares_weights and (layer.name == name or layer.name.startswith(f"{name}.")):
            inside = layer.name[len(name) :]
            return layer.shared_with.removesuffix(inside)
    return ""


def _around(name: str) -> list[str]:
    """`a.b.c` as a, a.b and a.b.c."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _listed(names: Sequence[str], most: int = 8) -> str:
    outermost = [n for n in names if "." not in n]
    return ", ".join(outermost[:most]) + (", …" if len(outermost) > most else "")
