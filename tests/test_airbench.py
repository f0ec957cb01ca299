"""airbench94 against the published network, written out in plain PyTorch (arXiv:2404.00498)."""

import pytest
import torch
from torch import nn

from cnn_cli.language.freezing import disable_gradients, frozen_tensors
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
from cnn_cli.training.initialization import initialize


class Group(nn.Module):
    """Convolution, pooling, normalization without scale, GELU; and again without pooling."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding="same", bias=False)
        self.norm1 = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        self.conv2 = nn.Conv2d(width, width, 3, padding="same", bias=False)
        self.norm2 = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.norm1(nn.functional.max_pool2d(self.conv1(x), 2)))
        return nn.functional.gelu(self.norm2(self.conv2(x)))


class Scale(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 9


def published() -> nn.Sequential:
    whiten = nn.Conv2d(3, 24, 2)
    groups = [Group(before, width) for before, width in ((24, 64), (64, 256), (256, 256))]
    net = nn.Sequential(
        whiten, nn.GELU(), *groups, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, 10, bias=False), Scale()
    )
    whiten.weight.requires_grad_(False)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight[: module.in_channels])
                if module.bias is not None:
                    module.bias.zero_()
    return net


def test_airbench94_is_the_published_network() -> None:
    """Names, shapes, what is trained, and all weights but those that whiten are the same bits after the same seed."""
    plan = find("airbench94")
    torch.manual_seed(3)
    ours = build_plan(plan)
    torch.manual_seed(3)
    theirs = published()
    initialize(ours, plan.train["init"], lambda: torch.rand(8, 3, 32, 32).split(4))
    with torch.no_grad():
        theirs[0].weight.copy_(ours.get_parameter("0.weight"))
    mine, other = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(other) and all(torch.equal(mine[name], other[name]) for name in other)
    disable_gradients(ours, plan.train["freeze"])
    trained = {n for n, p in theirs.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in ours.named_parameters() if p.requires_grad}
    assert frozen_tensors(plan, plan.train["freeze"]) == {n for n, _ in theirs.named_parameters()} - trained
    x = torch.randn(4, 3, 32, 32)
    assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-6)


def test_its_settings_are_the_published_ones_per_batch_of_1000() -> None:
    """The script's sums over a batch, with learning rates per 1,024 images, as means over a batch."""
    train, batch, norms = find("airbench94").train, 1000, 1 + 1 / (1 - 0.85)
    lr, decay = 11.5 / 1024 / norms * batch, 0.0153 / 1024 / norms * batch
    bias = next(group for group in train["groups"] if "norm" in group["parameters"])
    assert train["lr"] == pytest.approx(lr, rel=1e-3) and bias["lr"] == pytest.approx(64 * lr, rel=1e-3)
    assert train["weight_decay"] == pytest.approx(decay / lr, rel=1e-3)
    assert bias["weight_decay"] == pytest.approx(decay / (64 * lr), rel=1e-3)
    images = find("airbench94").recipes["fast"]["epochs"] * 50_000
    assert images == pytest.approx(9.9 * 48 * 1024, rel=2e-3)
