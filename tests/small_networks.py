"""Small networks of many kinds, as runs with fresh weights, and what the tests of explaining pictures share."""

import gc
from pathlib import Path

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, Metadata, load_network, save_weights
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.interpret.scores import Scores, scores_of
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan

SPECS = """
gray: {input: [1, 8, 8], layers: [{Conv2d: {out_channels: 4, kernel_size: 3}}, ReLU, {Conv2d: {out_channels: 6,
  kernel_size: 3}}, ReLU, {MaxPool2d: 2}, Flatten, {Linear: 10}, ReLU, {Linear: 10}]}
color: {input: [3, 8, 8], layers: {conv1: {Conv2d: {out_channels: 4, kernel_size: 3, padding: 1}}, norm: BatchNorm2d,
  relu1: ReLU, conv2: {Conv2d: {out_channels: 4, kernel_size: 3, padding: 1}}, add: {Add: [conv2, relu1]}, relu2: ReLU,
  pool: {AdaptiveAvgPool2d: 1}, flat: Flatten, head: {Linear: 5}}}
one: {input: [3, 8, 8], layers: [{Conv2d: {out_channels: 4, kernel_size: 3}}, ReLU, Flatten, {Linear: 1}]}
sigmoid: {input: [3, 8, 8], layers: [{Conv2d: {out_channels: 4, kernel_size: 3}}, ReLU, Flatten, {Linear: 1}, Sigmoid]}
logs: {input: [1, 8, 8], layers: [{Conv2d: {out_channels: 4, kernel_size: 3}}, ReLU, Flatten, {Linear: 10}, LogSoftmax]}
shares: {input: [1, 8, 8], layers: [{Conv2d: {out_channels: 4, kernel_size: 3}}, ReLU, Flatten, {Linear: 10}, Softmax]}
tanh: {input: [1, 8, 8], layers: [{Conv2d: {out_channels: 4, kernel_size: 3}}, Tanh, Flatten, {Linear: 10}]}
mixed: {input: [1, 8, 8], layers: [{Conv2d: {out_channels: 4, kernel_size: 3}}, ReLU, Flatten, {Linear: 8}, SiLU,
  {Linear: 10}]}
linear: {input: [1, 8, 8], layers: [Flatten, {Linear: 10}]}
dense: {input: [1, 8, 8], layers: [{Conv2d: {out_channels: 8, kernel_size: 1}}, ReLU, {Conv2d: {out_channels: 3,
  kernel_size: 1}}]}
maps: {input: [1, 8, 8], layers: [{Conv2d: {out_channels: 4, kernel_size: 3}}]}
"""


def loaded(folder: Path, name: str, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> LoadedNetwork:
    """A run of one of SPECS as training leaves it, its weights drawn from seed 0."""
    folder.mkdir(exist_ok=True)
    file = folder / "specs.yaml"
    file.write_text(SPECS)
    plan = find(f"{file}:{name}")
    run = folder / "runs" / f"{name}-1"
    if not run.is_dir():
        run.mkdir(parents=True)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = build_plan(plan)
        count = max(2, plan.output[0])
        how = Preprocessing(plan.input, "stretch", mean, std)
        facts = Metadata(plan.document(), tuple("abcdefghij"[:count]), how, {"name": "digits"}, {"epoch": 1})
        save_weights(run / "best.safetensors", network, facts)
    return load_network(str(run))


def scored(folder: Path, name: str, **normalize: tuple[float, ...]) -> Scores:
    return scores_of(loaded(folder, name, **normalize))


def images(count: int, channels: int = 1, seed: int = 1) -> Tensor:
    """(count, channels, 8, 8) in [0, 1]."""
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def photograph(network: nn.Module) -> tuple[object, ...]:
    """Everything about a network that a look at it must not change."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in network.modules()]
    modes = [m.training for m in network.modules()]
    wanted = [(p.requires_grad, p.grad is None) for p in network.parameters()]
    values = {k: v.tolist() for k, v in network.state_dict().items()}
    return hooks, modes, wanted, values, torch.random.get_rng_state().tolist()


def living() -> int:
    """How many tensors there are in memory, beside those before the first call of a process."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()  # PyTorch's own objects, which take half a second to go through
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


# A cell of 4x4 pixels detects what is bright in it: a box of 8x8 pixels around its center.
BRIGHT = """
bright:
  input: [1, 32, 32]
  detects: {scores: cls, boxes: box}
  layers:
    mean: {AvgPool2d: 4}
    cls: {Conv2d: {out_channels: 2, kernel_size: 1}}
    box: {from: mean, layers: {Conv2d: {out_channels: 4, kernel_size: 1}}}
"""


def bright_cells(folder: Path, bias: float = -10.0) -> tuple[Plan, nn.Module]:
    """A detector of bright cells, and its plan, whose spec is written to bright.yaml; bias: of the first class."""
    (folder / "bright.yaml").write_text(BRIGHT)
    plan = find(str(folder / "bright.yaml"))
    network = build_plan(plan)
    weights = {"cls.weight": [20.0, 0.0], "cls.bias": [bias, -10.0], "box.weight": [0.0] * 4, "box.bias": [0.0] * 4}
    network.load_state_dict(
        {k: torch.tensor(v).view(-1, 1, 1, 1) if "weight" in k else torch.tensor(v) for k, v in weights.items()}
    )
    return plan, network
