"""The networks that torchvision does not have, held against the same network in plain PyTorch, written from its paper.

The references name their modules in the order of the text, so that weights are matched by position: equal shapes in
equal order, outputs and the gradients of a training step equal, bit for bit.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnn_cli.language.registry import find
from cnn_cli.network.build import build_plan


def unit(width_in: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


class UNet(nn.Module):
    """Two levels of pooling; the decoder sees the encoder's features of its own size."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(*unit(3, 16), *unit(16, 16))
        self.down2 = nn.Sequential(*unit(16, 32), *unit(32, 32))
        self.middle = nn.Sequential(*unit(32, 64), *unit(64, 64))
        self.up2 = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.decoder2 = nn.Sequential(*unit(64, 32), *unit(32, 32))
        self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.decoder1 = nn.Sequential(*unit(32, 16), *unit(16, 16))
        self.head = nn.Conv2d(16, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        x = self.middle(nn.functional.max_pool2d(two, 2))
        x = self.decoder2(torch.cat([two, self.up2(x)], 1))
        x = self.decoder1(torch.cat([one, self.up1(x)], 1))
        head: Tensor = self.head(x)
        return head


# Network → its reference, and its parameters as published, in millions; None where no paper says.
REFERENCES: dict[str, tuple[Callable[[], nn.Module], float | None]] = {
    "unet": (UNet, None),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_network_equals_plain_pytorch(name: str) -> None:
    torch.manual_seed(0)
    plan, reference = find(name), REFERENCES[name][0]()
    network = build_plan(plan)
    values = list(reference.state_dict().values())
    assert [v.shape for v in network.state_dict().values()] == [v.shape for v in values]
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))

    images = torch.randn(2, *plan.input)
    for training in (True, False):
        results = [module.train(training)(images) for module in (network, reference)]
        assert results[0].shape == (2, *plan.output) and results[0].std() > 0
        assert torch.equal(*results)
    for module in (network, reference):
        module.zero_grad()
        module.train()(images).square().sum().backward()
    for a, b in zip(network.parameters(), reference.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    for a, b in zip(network.buffers(), reference.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [name for name, (_, millions) in REFERENCES.items() if millions])
def test_network_is_as_large_as_its_paper_says(name: str) -> None:
    millions = str(REFERENCES[name][1])
    assert round(find(name).params / 1e6, len(millions.partition(".")[2])) == float(millions)
