"""Optimizers by name and parameter, and learning-rate schedules, which are pure functions of the step.

The steps are PyTorch's functional optimizers, bitwise equal to its optimizer classes. The classes themselves would
import PyTorch's compiler, which takes a second or more at every start.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from cnn_cli.device import fast_bf16
from cnn_cli.errors import UsageError
from cnn_cli.language.freezing import is_frozen
from cnn_cli.settings import BY_OPTIMIZER, by_optimizer
from cnn_cli.tables import counted
from cnn_cli.training.muon import muon_step

_ADAM = ("exp_avg", "exp_avg_sq")
_BUFFERS = {
    "sgd": ("momentum",),
    "adam": _ADAM,
    "adamw": _ADAM,
    "muon": ("momentum",),
}


@dataclass
class Group:
    """Parameters with the same settings. `lr` is the setting, `rate` the scheduled learning rate of this step.

    `epochs`: the number of epochs for which they are trained, None for all. `buffers`: by name, a tensor for each
    parameter; `steps` counts the steps of each parameter.
    """

    optimizer: str
    names: tuple[str, ...]
    parameters: list[nn.Parameter]
    lr: float
    weight_decay: float
    momentum: float
    nesterov: bool
    ns_steps: int
    epochs: int | None = None
    rate: float = 0.0
    buffers: dict[str, list[Tensor]] = field(default_factory=dict)
    steps: list[Tensor] = field(default_factory=list)
    rate_tensor: Tensor | None = None

    @property
    def step_size(self) -> float | Tensor:
        """The rate as an argument of the kernels: a tensor if the step can be recorded as a CUDA graph."""
        return self.rate if self.rate_tensor is None else self.rate_tensor

    def __str__(self) -> str:
        values = sum(p.numel() for p in self.parameters)
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        only = f" in the first {counted(self.epochs, 'epoch')}" if self.epochs else ""
        size = f"{counted(len(self.parameters), 'tensor')} ({counted(values, 'parameter')})"
        return f"{self.optimizer}, lr {self.lr:g}{decay}{only} for {size}"


class Optimizer:
    """All parameter groups. The first has the main settings, and its learning rate is printed.

    `capturable`: a step can be recorded as a CUDA graph, since learning rates are passed as tensors.
    """

    def __init__(self, groups: Sequence[Group], fused: bool) -> None:
        """fused: one kernel per step, if PyTorch has it."""
        self.groups, self.fused = list(groups), fused
        self.capturable = fused and all(p.is_cuda for group in groups for p in group.parameters)
        for group in self.groups:
            group.buffers = {n: [torch.zeros_like(p) for p in group.parameters] for n in _BUFFERS[group.optimizer]}
            group.steps = [torch.zeros((), device=p.device if fused else "cpu") for p in group.parameters]

    def rate(self, schedule: Callable[[float], float]) -> None:
        """Set the rate of every group to the schedule of its lr."""
        for group in self.groups:
            group.rate = schedule(group.lr)
            if self.capturable:
                if group.rate_tensor is None:
                    group.rate_tensor = torch.zeros((), device=group.parameters[0].device)
                group.rate_tensor.fill_(group.rate)

    def freeze_finished(self, epoch: int) -> bool:
        """Freeze the groups whose epochs are over in epoch 1, 2, …, and return whether that changed anything."""
        finished = [g for g in self.groups if g.epochs is not None and epoch > g.epochs]
        changed = [p for group in finished for p in group.parameters if p.requires_grad]
        for parameter in changed:
            parameter.requires_grad_(False)
            parameter.grad = None
        return bool(changed)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.groups for p in group.parameters]

    def zero_grad(self) -> None:
        for group in self.groups:
            for p in group.parameters:
                p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Step every parameter that has a gradient, at its group's rate."""
        for group in self.groups:
            chosen = [i for i, p in enumerate(group.parameters) if p.grad is not None]
            if chosen:
                _STEP[group.optimizer](group, chosen, self.fused)

    def state_dict(self) -> list[dict[str, Any]]:
        """Plain values and tensors, a dictionary per group."""
        return [{"names": list(g.names), "rate": g.rate, "steps": g.steps, **g.buffers} for g in self.groups]

    def load_state_dict(self, document: Sequence[Mapping[str, Any]]) -> None:
        """Restore what state_dict() returned, in an optimizer with the same settings."""
        for group, saved in zip(self.groups, document, strict=True):
            assert saved["names"] == list(group.names)
            group.rate = saved["rate"]
            for name, tensors in (("steps", group.steps), *group.buffers.items()):
                for mine, theirs in zip(tensors, saved[name], strict=True):
                    mine.copy_(theirs)


def _adam(group: Group, chosen: list[int], fused: bool) -> None:
    """Adam, and AdamW, with decoupled weight decay; PyTorch's defaults for other arguments."""
    parameters, gradients, means, squares = _tensors(group, chosen, *_ADAM)
    adam(
        parameters,
        gradients,
        means,
        squares,
        max_exp_avg_sqs=[],
        state_steps=[group.steps[i] for i in chosen],
        fused=fused or None,
        decoupled_weight_decay=group.optimizer == "adamw",
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=group.step_size,
        weight_decay=group.weight_decay,
        eps=1e-8,
        maximize=False,
    )


def _sgd(group: Group, chosen: list[int], fused: bool) -> None:
    """SGD. A buffer of zeros is equal to PyTorch's, which starts with the first gradient, without dampening."""
    parameters, gradients, momenta = _tensors(group, chosen, "momentum")
    sgd(
        parameters,
        gradients,
        list(momenta) if group.momentum else [None] * len(chosen),
        fused=fused or None,
        weight_decay=group.weight_decay,
        momentum=group.momentum,
        lr=group.step_size,
        dampening=0,
        nesterov=group.nesterov,
        maximize=False,
    )


def _muon(group: Group, chosen: list[int], fused: bool) -> None:
    """Muon; with `fused`, in float32 on a CPU that is slow at bfloat16."""
    device = group.parameters[0].device
    dtype = torch.float32 if fused and device.type == "cpu" and not fast_bf16(device) else torch.bfloat16
    for parameter, gradient, momentum in zip(*_tensors(group, chosen, "momentum"), strict=True):
        beta, decay, steps = group.momentum, group.weight_decay, group.ns_steps
        muon_step(parameter, gradient, momentum, group.step_size, beta, group.nesterov, decay, steps, dtype=dtype)


def _tensors(group: Group, chosen: list[int], *buffers: str) -> list[list[Tensor]]:
    gradients = [p.grad for p in (group.parameters[i] for i in chosen) if p.grad is not None]
    return [[group.parameters[i] for i in chosen], gradients, *([group.buffers[n][i] for i in chosen] for n in buffers)]


_STEP = {"sgd": _sgd, "adam": _adam, "adamw": _adam, "muon": _muon}


def make_optimizer(network: nn.Module, settings: Mapping[str, Any], last: str = "") -> Optimizer:
    """The optimizer of all parameters that are not frozen, each in the first group that matches it.

    last: the name of the layer that computes the output. Muon is for matrices; biases, normalization layers and the
    last layer are optimized by AdamW, as its author recommends. UsageError for a group that matches nothing.
    """
    free = {name: p for name, p in network.named_parameters() if p.requires_grad}
    groups = []
    for entry in settings["groups"]:
        names = [n for n in free if is_frozen(n, entry["parameters"])]
        if not names:
            patterns = ", ".join(entry["parameters"])
            raise UsageError(f"groups: {patterns!r} matches none of the remaining parameters ({', '.join(free)[:200]})")
        groups.append(_group({n: free.pop(n) for n in names}, settings, entry))
    rest = {}
    if settings["optimizer"] == "muon":
        rest = {n: p for n, p in free.items() if p.ndim < 2 or n.rpartition(".")[0] == last}
    main = _group({n: p for n, p in free.items() if n not in rest}, settings, {})
    decay = settings["weight_decay"]
    others = [_group(rest, settings, {"optimizer": "adamw", "weight_decay": decay})] if rest else []
    for group in groups:
        flat = [n for n, p in zip(group.names, group.parameters, strict=True) if p.ndim < 2]
        if group.optimizer == "muon" and flat:
            raise UsageError(f"groups: muon takes tensors of two or more dimensions, but {flat[0]} has fewer")
    if settings["optimizer"] == "muon" and not main.parameters and not groups:
        raise UsageError(
            "muon optimizes matrices, but this network has none outside its last layer; choose another optimizer"
        )
    used = [group for group in (main, *others, *groups) if group.parameters]
    if all(group.epochs is not None and group.epochs < settings["epochs"] for group in used):
        raise UsageError(
            "groups: when their epochs are over, nothing is left to train; leave `epochs` out of one of them"
        )
    return Optimizer(used, "fused-optimizer" in settings["fast"])


def _group(parameters: dict[str, nn.Parameter], settings: Mapping[str, Any], entry: Mapping[str, Any]) -> Group:
    """The group of an entry; further values are the main settings for the same optimizer, else its defaults."""
    optimizer = entry.get("optimizer", settings["optimizer"])
    same = optimizer == settings["optimizer"]
    for name in entry:
        if name in BY_OPTIMIZER and by_optimizer(name, optimizer) is None:
            raise UsageError(f"groups: {name} is not a setting of {optimizer}; leave it out")

    def value(name: str) -> Any:
        return entry.get(name, settings.get(name) if same else by_optimizer(name, optimizer))

    if value("nesterov") and not value("momentum"):
        raise UsageError("groups: nesterov needs a momentum above 0; write momentum 0.9")
    return Group(
        optimizer=optimizer,
        names=tuple(parameters),
        parameters=list(parameters.values()),
        lr=value("lr"),
        weight_decay=value("weight_decay"),
        momentum=value("momentum") or 0.0,
        nesterov=bool(value("nesterov")),
        ns_steps=value("ns_steps") or 0,
        epochs=entry.get("epochs"),
    )


def learning_rate(step: int, total: int, steps: int, settings: Mapping[str, Any], lr: float) -> float:
    """The learning rate of `lr` at step 0, 1, …, total−1, with `steps` per epoch.

    warmup: linearly from lr/n to lr within n steps; the schedule begins after them.
    linear: from lr to 0. cosine: half a cosine from lr to 0 (PyTorch's CosineAnnealingLR with T_max=total, in its
    closed form). onecycle: PyTorch's OneCycleLR with its defaults, except that momentum is constant: from lr/25 to lr
    within 30% of the run, then to lr/250,000. triangular: linearly from lr/5 to lr within 23% of the run, then to
    0.07·lr (cifar10-airbench, Jordan 2024). step: multiplied by gamma after every step_size epochs (PyTorch's StepLR).
    """
    rising = round(float(settings["warmup"]) * steps)
    if step < rising:
        return lr * (step + 1) / rising
    step, total = step - rising, total - rising
    match settings["schedule"]:
        case "linear":
            return lr * (1 - step / total)
        case "cosine":
            return lr * (1 + math.cos(math.pi * step / total)) / 2
        case "onecycle":
            return _one_cycle(step, total, lr)
        case "triangular":
            peak = int(0.23 * total)
            part = step / peak if step < peak else (step - peak) / (total - peak)
            return lr * (0.2 + 0.8 * part if step < peak else 1 - 0.93 * part)
        case "step":
            for _ in range(int(step // (settings["step_size"] * steps))):
                lr *= float(settings["gamma"])
    return lr


def _one_cycle(step: int, total: int, highest: float) -> float:
    peak, last = 0.3 * total - 1, total - 1
    start, lowest = highest / 25, highest / 25 / 1e4
    if step <= peak:
        return _between(start, highest, step / peak)
    return _between(highest, lowest, (step - peak) / (last - peak))


def _between(start: float, end: float, part: float) -> float:
    """Half a cosine from start (part 0) to end (part 1)."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
