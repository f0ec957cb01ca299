"""The networks that torchvision does not have, held against the same network in plain PyTorch, written from its paper.

The references name their modules in the order of the text, so that weights are matched by position: equal shapes in
equal order, outputs and the gradients of a training step equal, bit for bit.
"""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan


def unit(width_in: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


class Residual3x3(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


class UNet(nn.Module):
    """At a half, a fourth and an eighth of the size; encoder features are added to those of the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.down2 = nn.Sequential(*unit(24, 48), Residual3x3(48))
        self.middle = nn.Sequential(*unit(48, 64), Residual3x3(64))
        self.coarse2 = nn.Conv2d(64, 48, 1)
        self.decoder2 = Residual3x3(48)
        self.up1 = nn.Conv2d(48, 48, 1)
        self.fine1 = nn.Conv2d(24, 12, 1)
        self.head = nn.Conv2d(12, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = F.interpolate(self.coarse2(self.middle(F.max_pool2d(two, 2))), scale_factor=2)
        x = F.pixel_shuffle(self.up1(self.decoder2(two + x)), 2)
        return cast(Tensor, self.head(F.relu(self.fine1(one) + x)))


class PreActBlock(nn.Module):
    """Identity mappings, figure 4e: normalize and activate before each convolution, and before a new shortcut."""

    def __init__(self, width_in: int, width: int, stride: int, convolve: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False) if convolve else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return cast(Tensor, self.conv2(F.relu(self.bn2(self.conv1(y)))) + shortcut)


class BasicBlock(nn.Module):
    """The block of 2015; where it halves the image, its shortcut takes every second pixel and adds zero channels."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + shortcut)


class Staged(nn.Module):
    """A 3x3 convolution, stages of blocks, the mean of all pixels and a Linear layer."""

    def __init__(self, blocks: list[nn.Module], widths: tuple[int, int], norm_first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.first = nn.BatchNorm2d(widths[0]) if norm_first else None
        self.blocks = nn.Sequential(*blocks)
        self.last = None if norm_first else nn.BatchNorm2d(widths[1])
        self.fc = nn.Linear(widths[1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.blocks(x if self.first is None else F.relu(self.first(x)))
        x = x if self.last is None else F.relu(self.last(x))
        return cast(Tensor, self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)))


def cifar_resnet(n: int) -> nn.Module:
    blocks = [BasicBlock(16, 16, 1) for _ in range(n)]
    for width in (32, 64):
        blocks += [BasicBlock(width // 2, width, 2), *(BasicBlock(width, width, 1) for _ in range(n - 1))]
    return Staged([*blocks], (16, 64), norm_first=True)


def preact(widths: list[int], n: int, width_in: int) -> nn.Module:
    """Stages of `n` blocks; the first keeps the size, and has a shortcut that is convolved where it widens."""
    blocks, before = [], width_in
    for stage, width in enumerate(widths):
        blocks.append(PreActBlock(before, width, 1 if stage == 0 else 2, before != width))
        blocks += [PreActBlock(width, width, 1, False) for _ in range(n - 1)]
        before = width
    return Staged([*blocks], (width_in, widths[-1]), norm_first=False)


class DenseLayer(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet_bc_100() -> nn.Module:
    parts: list[nn.Module] = [nn.Conv2d(3, 24, 3, padding=1, bias=False)]
    width = 24
    for block in range(3):
        parts += [DenseLayer(width + 12 * n, 12) for n in range(16)]
        width += 192
        parts += [nn.BatchNorm2d(width), nn.ReLU()]
        if block < 2:
            parts += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def convolutions(*parts: tuple[int, int] | nn.Module, width: int = 3) -> nn.Module:
    """Convolutions (width, kernel) that keep the size, each before a ReLU, among other modules."""
    modules: list[nn.Module] = []
    for part in parts:
        if isinstance(part, tuple):
            modules += [nn.Conv2d(width, part[0], part[1], padding=part[1] // 2), nn.ReLU()]
            width = part[0]
        else:
            modules += [part]
            width = part.out_channels if isinstance(part, nn.Conv2d) else width
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def nin() -> nn.Module:
    return convolutions(
        *((192, 5), (160, 1), (96, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout()),
        *((192, 5), (192, 1), (192, 1), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout()),
        *((192, 3), (192, 1), (10, 1)),
    )


def all_cnn_c() -> nn.Module:
    return convolutions(
        *(nn.Dropout(0.2), (96, 3), (96, 3), nn.Conv2d(96, 96, 3, 2, 1), nn.ReLU(), nn.Dropout()),
        *((192, 3), (192, 3), nn.Conv2d(192, 192, 3, 2, 1), nn.ReLU(), nn.Dropout()),
        *(nn.Conv2d(192, 192, 3), nn.ReLU(), (192, 1), (10, 1)),
    )


class Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fn(x) + x)


def convmixer_256_8() -> nn.Module:
    """As the paper prints it (figure 3)."""
    dim, act = 256, nn.GELU
    blocks = [
        nn.Sequential(
            Residual(nn.Sequential(nn.Conv2d(dim, dim, 5, groups=dim, padding="same"), act(), nn.BatchNorm2d(dim))),
            *(nn.Conv2d(dim, dim, 1), act(), nn.BatchNorm2d(dim)),
        )
        for _ in range(8)
    ]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, 10)
    return nn.Sequential(nn.Conv2d(3, dim, 2, stride=2), act(), nn.BatchNorm2d(dim), *blocks, *head)


class FCDenseNet(nn.Module):
    """The one hundred layers tiramisu, table 2, with 56 layers."""

    def __init__(self, growth: int = 12, depth: int = 4, classes: int = 11) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 48, 3, padding=1)
        width, skips = 48, []
        self.down = nn.ModuleList()  # a block before each pooling
        for _ in range(5):
            self.down.append(self.block(width, growth, depth))
            width += growth * depth
            skips.append(width)
            parts = nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1), nn.Dropout(0.2), nn.MaxPool2d(2)
            self.down.append(nn.Sequential(*parts))
        self.middle = self.block(width, growth, depth)
        self.up, new = nn.ModuleList(), growth * depth  # a block after each transposed convolution
        for skip in reversed(skips):
            self.up.append(nn.ConvTranspose2d(new, new, 3, stride=2))
            self.up.append(self.block(new + skip, growth, depth))
        self.head = nn.Conv2d(new + skips[0] + new, classes, 1)

    @staticmethod
    def block(width: int, growth: int, depth: int) -> nn.ModuleList:
        def layer(n: int) -> nn.Module:
            conv = nn.Conv2d(width + n * growth, growth, 3, padding=1)
            return nn.Sequential(nn.BatchNorm2d(width + n * growth), nn.ReLU(), conv, nn.Dropout(0.2))

        return nn.ModuleList(layer(n) for n in range(depth))

    @staticmethod
    def dense(block: nn.ModuleList, x: Tensor) -> tuple[Tensor, Tensor]:
        """All features, and the new ones."""
        new: list[Tensor] = []
        for layer in block:
            new.append(layer(torch.cat([x, *new], 1)))
        return torch.cat([x, *new], 1), torch.cat(new, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.first(x), []
        for block, pool in zip(self.down[::2], self.down[1::2], strict=True):
            x, _ = self.dense(block, x)
            skips.append(x)
            x = pool(x)
        _, new = self.dense(self.middle, x)
        for up, block in zip(self.up[::2], self.up[1::2], strict=True):
            skip, new = skips.pop(), up(new)
            height, width = skip.shape[2:]
            top, left = (new.shape[2] - height) // 2, (new.shape[3] - width) // 2
            new = new[:, :, top : top + height, left : left + width]
            x, new = self.dense(block, torch.cat([new, skip], 1))
        return cast(Tensor, self.head(x))


class UNetResNet18(nn.Module):
    """torchvision's resnet18, and five times: enlarge, concatenate with the encoder's features, convolve twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = models.resnet18()
        self.encoder.fc = nn.Identity()
        widths = (512, 256, 128, 64, 64, 0), (0, 256, 128, 64, 32, 16)
        self.decoder = nn.ModuleList(
            nn.Sequential(*unit((widths[1][i] or 512) + widths[0][i + 1], widths[1][i + 1]),
                          *unit(widths[1][i + 1], widths[1][i + 1]))
            for i in range(5)
        )  # fmt: skip
        self.head = nn.Conv2d(16, 21, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        e = self.encoder
        skips = [image[:, :0], e.relu(e.bn1(e.conv1(image)))]
        x = e.maxpool(skips[-1])
        for stage in (e.layer1, e.layer2, e.layer3, e.layer4):
            x = stage(x)
            skips.append(x)
        for block, skip in zip(self.decoder, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1))
        return cast(Tensor, self.head(x))


REFERENCES: dict[str, Callable[[], nn.Module]] = {
    "all-cnn-c": all_cnn_c,
    "nin": nin,
    "resnet20": lambda: cifar_resnet(3),
    "resnet56": lambda: cifar_resnet(9),
    "wide-resnet-16-8": lambda: preact([128, 256, 512], 2, 16),
    "preact-resnet18": lambda: preact([64, 128, 256, 512], 2, 64),
    "densenet-bc-100": densenet_bc_100,
    "convmixer-256-8": convmixer_256_8,
    "unet": UNet,
    "unet-resnet18": UNetResNet18,
    "fc-densenet56": FCDenseNet,
}
SMALLER = {"wide-resnet-16-8": (3, 16, 16), "unet-resnet18": (3, 40, 33), "fc-densenet56": (3, 44, 33)}
# Parameters in millions, to the digits that the papers give.
PUBLISHED = {
    "all-cnn-c": 1.4,
    "nin": 0.97,
    "resnet20": 0.27,
    "resnet56": 0.85,
    "wide-resnet-16-8": 11.0,
    "wide-resnet-28-10": 36.5,
    "densenet-bc-100": 0.8,
    "convmixer-256-8": 0.59,
    "unet-resnet18": 14.3,  # of segmentation-models-pytorch
    "fc-densenet56": 1.4,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_network_equals_plain_pytorch(name: str) -> None:
    torch.manual_seed(0)
    plan, reference = find(name, input=SMALLER.get(name)), REFERENCES[name]()
    network = build_plan(plan)
    values = list(reference.state_dict().values())
    assert [v.shape for v in network.state_dict().values()] == [v.shape for v in values]
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))

    images = torch.randn(2, *plan.input)
    results = []
    for module in (network, reference):
        torch.manual_seed(1)  # of dropout
        results += [module.train()(images), module.eval()(images)]
        results[-2].square().sum().backward()
    assert results[0].shape == (2, *plan.output) and results[0].std() > 0
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])
    for a, b in zip(network.parameters(), reference.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    for a, b in zip(network.buffers(), reference.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", PUBLISHED)
def test_network_is_as_large_as_its_paper_says(name: str) -> None:
    digits = len(str(PUBLISHED[name]).partition(".")[2])
    assert round(find(name).params / 1e6, digits) == PUBLISHED[name]
