"""Training options, each compared with another implementation: a class of PyTorch, or a few lines by hand."""

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
from torch import nn
from torch.nn import functional as F

from cnn_cli.checkpoints import checkpoint
from cnn_cli.data.augmentation import mix
from cnn_cli.data.batches import balanced_order, epoch_order
from cnn_cli.errors import UsageError
from cnn_cli.settings import resolve
from cnn_cli.training.muon import muon_step, orthogonal
from cnn_cli.training.optimizer import Optimizer, learning_rate, make_optimizer

PLAIN = small.SPEC.replace("    - Dropout: 0.2\n", "").replace("    - BatchNorm2d\n", "")


pytestmark = pytest.mark.usefixtures("quick")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3))


def values(**given: Any) -> dict[str, Any]:
    return {name: setting.value for name, setting in resolve({"fast": "none", **given}, {}, {}).items()}


def steps(net: nn.Module, step: Any, zero: Any, n: int = 5) -> dict[str, torch.Tensor]:
    """The weights after n steps on the same random batches."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(n):
        x, y = torch.randn(7, 2, 4, 4, generator=draw), torch.randint(3, (7,), generator=draw)
        zero()
        F.cross_entropy(net(x), y).backward()
        step()
    return dict(net.state_dict())


def ours(**given: Any) -> tuple[dict[str, torch.Tensor], Optimizer]:
    net = network()
    opt = make_optimizer(net, values(**given), last="5")
    for group in opt.groups:
        group.rate = group.lr
    return steps(net, opt.step, opt.zero_grad), opt


def theirs(*make: Any) -> dict[str, torch.Tensor]:
    net = network()
    opts = [m(net) for m in make]
    return steps(net, lambda: [o.step() for o in opts], lambda: [o.zero_grad() for o in opts])


# --- Optimizers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "make"),
    [
        ({"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
         lambda n: torch.optim.SGD(n.parameters(), 0.1, 0.9, nesterov=True, weight_decay=0.01)),
        ({"optimizer": "sgd", "lr": 0.1, "momentum": 0}, lambda n: torch.optim.SGD(n.parameters(), 0.1)),
        ({"optimizer": "adam", "lr": 0.1, "weight_decay": 0.01},
         lambda n: torch.optim.Adam(n.parameters(), 0.1, weight_decay=0.01)),
        ({"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.1},
         lambda n: torch.optim.AdamW(n.parameters(), 0.1, weight_decay=0.1)),
    ],
    ids=["nesterov", "sgd", "adam", "adamw"],
)  # fmt: skip
@pytest.mark.parametrize("fused", [False, True])
def test_steps_are_pytorchs(given: dict[str, Any], make: Any, fused: bool) -> None:
    weights, _ = ours(**given, fast="fused-optimizer" if fused else "none")
    expected = theirs(make)
    if not fused:
        assert small.same(weights, expected)
    assert all(torch.allclose(weights[k], expected[k], rtol=1e-5, atol=1e-7) for k in expected)


def test_muon_of_matrices_is_pytorchs() -> None:
    groups = [{"parameters": "0", "optimizer": "sgd", "lr": 0.1, "momentum": 0}]
    weights, opt = ours(optimizer="muon", lr=0.05, momentum=0.9, weight_decay=0.1, groups=groups)
    expected = theirs(
        lambda n: torch.optim.Muon([n[3].weight], 0.05, 0.1, 0.9),
        lambda n: torch.optim.AdamW([n[3].bias, n[5].weight, n[5].bias], 0.001, weight_decay=0.1),
        lambda n: torch.optim.SGD(n[0].parameters(), 0.1),
    )
    assert [g.optimizer for g in opt.groups] == ["muon", "adamw", "sgd"]
    assert small.same(weights, expected)


def test_muon_in_float32_differs_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bfloat16 is slow: the update is as close to the nearest orthogonal matrix."""
    draw = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(12, 40, generator=draw) for _ in range(2))
    found = []
    for fast, fused in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr("cnn_cli.training.optimizer.fast_bf16", lambda device, fast=fast: fast)
        net = nn.Sequential(nn.Linear(40, 12, bias=False), nn.Linear(12, 2, bias=False))
        net[0].weight.data.copy_(weight)
        net[0].weight.grad = gradient.clone()
        opt = make_optimizer(net, values(optimizer="muon", lr=0.1, fast="fused-optimizer" if fused else "none"), "1")
        opt.rate(lambda lr: lr)
        opt.step()
        found.append(net[0].weight.detach() - weight)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert (found[0] - found[1]).norm() < 0.05 * found[0].norm()


def test_muon_of_a_convolution_is_that_of_its_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    kernel, gradient = (torch.randn(8, 4, 3, 3, generator=draw) for _ in range(2))
    as_matrix, momentum, flat = kernel.flatten(1).clone(), torch.zeros_like(kernel), torch.zeros(8, 36)
    last = kernel.clone().contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        muon_step(as_matrix, gradient.flatten(1), flat, 0.1, 0.9, True, 0.01)
        muon_step(last, gradient, momentum, 0.1, 0.9, True, 0.01)
    assert torch.equal(last.flatten(1), as_matrix)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_newton_schulz_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix).float()
    assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.4
    assert F.cosine_similarity(found.flatten(), (u @ v).flatten(), 0) > 0.97


def test_groups_take_the_first_that_matches() -> None:
    groups = [{"parameters": ["*.bias"], "lr": 0.5}, {"parameters": "5", "optimizer": "sgd", "momentum": 0.3}]
    net = network()
    opt = make_optimizer(net, values(optimizer="adamw", lr=0.1, groups=groups))
    found = [(g.optimizer, g.lr, g.weight_decay, g.momentum, g.names) for g in opt.groups]
    assert found == [
        ("adamw", 0.1, 0.01, 0.0, ("0.weight", "3.weight")),
        ("adamw", 0.5, 0.01, 0.0, ("0.bias", "3.bias", "5.bias")),
        ("sgd", 0.01, 0, 0.3, ("5.weight",)),
    ]


@pytest.mark.parametrize(
    ("groups", "error"),
    [
        ([{"parameters": "7", "lr": 1}], "'7' matches none of the remaining parameters (0.weight, 0.bias"),
        ([{"parameters": "*", "lr": 1}, {"parameters": "0", "lr": 1}], "'0' matches none of the remaining parameters"),
        (
            [{"parameters": "5", "optimizer": "adamw", "momentum": 0.5}],
            "groups: momentum is not a setting of adamw; leave",
        ),
        (
            [{"parameters": "5", "optimizer": "sgd", "momentum": 0, "nesterov": True}],
            "nesterov needs a momentum above 0",
        ),
        (
            [{"parameters": "*.bias", "optimizer": "muon"}],
            "muon takes tensors of two or more dimensions, but 0.bias has",
        ),
        (
            [{"parameters": "*", "epochs": 3}],
            "groups: when their epochs are over, nothing is left to train; leave `epochs` out",
        ),
    ],
)
def test_groups_that_cannot_be(groups: Any, error: str) -> None:
    with pytest.raises(UsageError, match=re.escape(error)):
        make_optimizer(network(), values(groups=groups))


def test_what_muon_leaves_has_the_decay_that_is_said() -> None:
    for decay in (0, 0.3):
        opt = make_optimizer(network(), values(optimizer="muon", weight_decay=decay), last="5")
        assert [(g.optimizer, g.weight_decay) for g in opt.groups] == [("muon", decay), ("adamw", decay)]
    assert str(opt.groups[1]) == "adamw, lr 0.001, weight decay 0.3 for 4 tensors (57 parameters)"
    assert values(optimizer="muon", momentum=0)["nesterov"] is False


def test_the_rate_that_is_printed_is_that_of_parameters() -> None:
    opt = make_optimizer(network(), values(groups=[{"parameters": "*", "lr": 0.5}]))
    assert [group.lr for group in opt.groups] == [0.5]


def test_the_state_of_groups_comes_back() -> None:
    given = {"optimizer": "muon", "lr": 0.05, "groups": [{"parameters": "*.bias", "optimizer": "adam", "lr": 0.01}]}
    first, second = network(), network()
    opts = [make_optimizer(n, values(**given), "5") for n in (first, second)]
    for group in opts[0].groups + opts[1].groups:
        group.rate = group.lr
    steps(first, opts[0].step, opts[0].zero_grad)
    second.load_state_dict(first.state_dict())
    opts[1].load_state_dict(copy.deepcopy(opts[0].state_dict()))
    assert small.same(*(steps(n, o.step, o.zero_grad) for n, o in zip((first, second), opts, strict=True)))


# --- Rates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "step"])
def test_warm_up_and_then_the_schedule(schedule: str) -> None:
    settings = {"schedule": schedule, "warmup": 1.5, "step_size": 1, "gamma": 0.5}
    steps, total = 10, 47
    rates = [learning_rate(s, total, steps, settings, 0.4) for s in range(total)]
    assert rates[:15] == pytest.approx([0.4 * (s + 1) / 15 for s in range(15)])
    rest = {"schedule": schedule, "warmup": 0, "step_size": 1, "gamma": 0.5}
    assert rates[15:] == [learning_rate(s, 32, steps, rest, 0.4) for s in range(32)]
    if schedule == "linear":
        assert rates[15:] == pytest.approx([0.4 * (1 - s / 32) for s in range(32)])


def test_the_rate_in_the_log_is_the_one_that_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    step = Optimizer.step
    monkeypatch.setattr(Optimizer, "step", lambda self: (used.append(self.groups[0].rate), step(self)))
    run = small.begin(tmp_path, epochs=3, schedule="linear", warmup=0.5)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == [used[11], used[23], used[35]]
    assert used[0] == pytest.approx(0.01 / 6) and used[-1] == pytest.approx(0.01 / 30)
    before = list(used)
    used.clear()
    with small.at_step(20, small.interrupt), pytest.raises(Exception, match="stopped"):
        small.begin(tmp_path, "again", epochs=3, schedule="linear", warmup=0.5)
    small.resume(tmp_path, "again")
    assert used == before  # also the first after the stop


# --- The loss and the images ----------------------------------------------------------------------------------------


def test_label_smoothing_and_class_weights_are_pytorchs(tmp_path: Path) -> None:
    """One step of SGD without momentum moves the weights by the gradient of PyTorch's own loss."""
    weights = [float(w) for w in torch.arange(1, 11)]
    given = {"optimizer": "sgd", "momentum": 0, "lr": 1.0, "batch_size": 2000, "epochs": 1, "fast": "none"}
    run = small.begin(tmp_path, spec=PLAIN, label_smoothing=0.2, class_weights=weights, **given)
    images, labels = digits()
    torch.manual_seed(0)
    net = checkpoint.build_plan(checkpoint.load_network(str(run)).plan)
    order = epoch_order(len(labels), 0, 1)
    F.cross_entropy(net(images[order]), labels[order], torch.tensor(weights), label_smoothing=0.2).backward()
    for p in net.parameters():
        p.data -= p.grad
    found = checkpoint.load(run).state_dict()
    assert all(torch.allclose(found[k], v, atol=1e-6) for k, v in net.state_dict().items())


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    from cnn_cli.data.loading import load_dataset, split_dataset

    train = split_dataset(load_dataset("digits", Path())).splits["train"]
    return train.images.float() / 255, train.targets  # type: ignore[union-attr]


def test_balanced_weights_are_scikit_learns(tmp_path: Path) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    from cnn_cli.language.registry import find
    from cnn_cli.tasks.selection import training_task

    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 1 + list(range(3, 10)))
    settings = {"label_smoothing": 0, "class_weights": "balanced", "mixup": 0, "cutmix": 0}
    classes = tuple("0123456789")
    task: Any = training_task(find("lenet-5"), classes, "classification", settings, labels)
    expected = compute_class_weight("balanced", classes=labels.unique().numpy(), y=labels.numpy())
    assert task.class_weights is not None and task.class_weights.tolist() == pytest.approx(expected)
    assert task.criterion == "cross-entropy, class weights"


def test_balanced_sampling_draws_all_classes_equally_often() -> None:
    labels = torch.tensor([0] * 9000 + [1] * 900 + [2] * 100)
    order = balanced_order(labels, seed=1, epoch=2)
    assert len(order) == len(labels) and order.equal(balanced_order(labels, 1, 2))
    assert not order.equal(balanced_order(labels, 1, 3)) and not order.equal(balanced_order(labels, 2, 2))
    counts = torch.bincount(labels[order])
    assert (counts - 10_000 / 3).abs().max() < 200  # 4 standard deviations
    assert len(order[labels[order] == 0].unique()) > 2500 and len(order[labels[order] == 2].unique()) == 100


def test_mixed_batches_have_mixed_losses(tmp_path: Path) -> None:
    given = {"optimizer": "sgd", "momentum": 0, "lr": 1.0, "batch_size": 2000, "epochs": 1, "fast": "none"}
    run = small.begin(tmp_path, spec=PLAIN, mixup=0.7, **given)
    images, labels = digits()
    torch.manual_seed(0)
    net = checkpoint.build_plan(checkpoint.load_network(str(run)).plan)
    order = epoch_order(len(labels), 0, 1)
    x, others, own = mix(images[order], labels[order], 0.7, 0, 0, 1, 0)
    y = net(x)
    (own * F.cross_entropy(y, labels[order]) + (1 - own) * F.cross_entropy(y, others)).backward()
    for p in net.parameters():
        p.data -= p.grad
    found = checkpoint.load(run).state_dict()
    assert 0 < own < 1 and all(torch.allclose(found[k], v, atol=1e-6) for k, v in net.state_dict().items())


def test_cutmix_boxes_are_of_the_whole_image() -> None:
    """Whether or not the border that a network never sees is left out."""
    x, y = torch.rand(4, 1, 12, 12), torch.arange(4)
    for step in range(20):
        whole, _, share = mix(x, y, 0, 1, 0, 1, step)
        part, _, same = mix(x[..., :9, :9], y, 0, 1, 0, 1, step, (12, 12))
        assert share == same and torch.equal(whole[..., :9, :9], part)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    given = {"optimizer": "sgd", "momentum": 0, "lr": 1.0, "batch_size": 2000, "epochs": 1}
    run = small.begin(tmp_path, spec=PLAIN, clip_grad_norm=1e-3, **given)
    torch.manual_seed(0)
    fresh = checkpoint.build_plan(checkpoint.load_network(str(run)).plan).state_dict()
    after = checkpoint.load(run).state_dict()
    moved = math.sqrt(sum((after[k] - fresh[k]).square().sum().item() for k in fresh))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_muon_with_nothing_to_turn_is_refused() -> None:
    with pytest.raises(UsageError, match="muon optimizes matrices, but this network has none outside its last layer"):
        make_optimizer(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), values(optimizer="muon"), last="1")
