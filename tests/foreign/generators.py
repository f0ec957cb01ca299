"""Super-resolution and generator networks in plain PyTorch, with the names of their published code."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SRCNN(nn.Module):
    """github.com/yjn870/SRCNN-pytorch"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))


class ESPCN(nn.Module):
    """pytorch/examples, super_resolution"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 5, 1, 2)
        self.conv2 = nn.Conv2d(64, 64, 3, 1, 1)
        self.conv3 = nn.Conv2d(64, 32, 3, 1, 1)
        self.conv4 = nn.Conv2d(32, 9, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))
        return F.pixel_shuffle(self.conv4(x), 3)


class MeanShift(nn.Conv2d):
    """The mean of DIV2K, subtracted or added by a convolution that is not trained."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = sign * 255 * torch.tensor((0.4488, 0.4371, 0.4040))  # type: ignore[union-attr]


class ResBlock(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x).mul(self.scale) + x)


class EDSR(nn.Module):
    """github.com/sanghyun-son/EDSR-PyTorch; 16 blocks of 64 channels, scaled by 0.1, twice as large"""

    def __init__(self) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1))
        self.body = nn.Sequential(*(ResBlock(64, 0.1) for _ in range(16)), nn.Conv2d(64, 64, 3, 1, 1))
        up = nn.Sequential(nn.Conv2d(64, 256, 3, 1, 1), nn.PixelShuffle(2))
        self.tail = nn.Sequential(up, nn.Conv2d(64, 3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x))
        return cast(Tensor, self.add_mean(self.tail(self.body(x) + x)))


class CALayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_du = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * cast(Tensor, self.conv_du(self.avg_pool(x)))


class Summed(nn.Module):
    """What its `body` makes, and its input."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x) + x)


class RCAN(nn.Module):
    """github.com/yulunzhang/RCAN; 3 groups of 4 blocks"""

    def __init__(self) -> None:
        super().__init__()

        def conv() -> nn.Module:
            return nn.Conv2d(64, 64, 3, 1, 1)

        groups = [Summed(*(Summed(conv(), nn.ReLU(), conv(), CALayer(64)) for _ in range(4)), conv()) for _ in range(3)]
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1))
        self.body = nn.Sequential(*groups, conv())
        up = nn.Sequential(nn.Conv2d(64, 256, 3, 1, 1), nn.PixelShuffle(2))
        self.tail = nn.Sequential(up, nn.Conv2d(64, 3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x))
        return cast(Tensor, self.add_mean(self.tail(self.body(x) + x)))


class RDB(nn.Module):
    """ESRGAN's residual dense block"""

    def __init__(self) -> None:
        super().__init__()
        for n in range(1, 6):
            setattr(self, f"conv{n}", nn.Conv2d(64 + 32 * (n - 1), 64 if n == 5 else 32, 3, 1, 1))
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for n in range(1, 5):
            parts.append(self.lrelu(getattr(self, f"conv{n}")(torch.cat(parts, 1))))
        return cast(Tensor, self.conv5(torch.cat(parts, 1)) * 0.2 + x)  # type: ignore[operator]


class RRDB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = RDB(), RDB(), RDB()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.RDB3(self.RDB2(self.RDB1(x))) * 0.2 + x)


class RRDBNet(nn.Module):
    """github.com/xinntao/ESRGAN; 3 blocks instead of 23"""

    def __init__(self) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, 64, 3, 1, 1)
        self.RRDB_trunk = nn.Sequential(*(RRDB() for _ in range(3)))
        self.trunk_conv = nn.Conv2d(64, 64, 3, 1, 1)
        self.upconv1, self.upconv2 = nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1)
        self.HRconv, self.conv_last = nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        x = x + self.trunk_conv(self.RRDB_trunk(x))
        x = self.lrelu(self.upconv1(F.interpolate(x, scale_factor=2, mode="nearest")))
        x = self.lrelu(self.upconv2(F.interpolate(x, scale_factor=2, mode="nearest")))
        return cast(Tensor, self.conv_last(self.lrelu(self.HRconv(x))))


class DCGAN(nn.Module):
    """pytorch/examples, dcgan: the generator"""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(100, 512, 4, 1, 0, bias=False)]
        for width in (512, 256, 128, 64):
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.ConvTranspose2d(width, 3 if width == 64 else width // 2, 4, 2, 1, bias=False)]
        self.main = nn.Sequential(*layers, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.main(x))


class UnetSkipBlock(nn.Module):
    """pix2pix: down, a block inside, up; concatenated with what entered unless outermost."""

    def __init__(self, outer: int, inner: int, inside: nn.Module | None, outermost: bool = False) -> None:
        super().__init__()
        self.outermost = outermost
        down = nn.Conv2d(3 if outermost else outer, inner, 4, 2, 1, bias=False)
        up_in = inner if inside is None else 2 * inner
        up = nn.ConvTranspose2d(up_in, outer, 4, 2, 1, bias=outermost)
        if outermost:
            layers = [down, inside, nn.ReLU(), up, nn.Tanh()]
        elif inside is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.BatchNorm2d(outer)]
        else:
            layers = [
                *(nn.LeakyReLU(0.2), down, nn.BatchNorm2d(inner), inside, nn.ReLU(), up, nn.BatchNorm2d(outer)),
            ]
        self.model = nn.Sequential(*cast(Any, layers))

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.model(x))
        return y if self.outermost else torch.cat([x, y], 1)


class Pix2Pix(nn.Module):
    """github.com/junyanz/pytorch-CycleGAN-and-pix2pix: unet with 5 downsamplings"""

    def __init__(self) -> None:
        super().__init__()
        block = UnetSkipBlock(512, 512, None)
        for outer, inner in ((256, 512), (128, 256), (64, 128)):
            block = UnetSkipBlock(outer, inner, block)
        self.model = UnetSkipBlock(3, 64, block, outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model(x))


class ResnetBlock(nn.Module):
    """CycleGAN's"""

    def __init__(self, width: int) -> None:
        super().__init__()
        parts = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width), nn.ReLU()]
        parts += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        self.conv_block = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.conv_block(x))


class CycleGAN(nn.Module):
    """github.com/junyanz/pytorch-CycleGAN-and-pix2pix: resnet_6blocks"""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, 64, 7), nn.InstanceNorm2d(64), nn.ReLU()]
        for width in (128, 256):
            layers += [nn.Conv2d(width // 2, width, 3, 2, 1), nn.InstanceNorm2d(width), nn.ReLU()]
        layers += [ResnetBlock(256) for _ in range(6)]
        for width in (128, 64):
            layers += [nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), nn.InstanceNorm2d(width), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(64, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model(x))


class ConvLayer(nn.Module):
    def __init__(self, width_in: int, width: int, kernel: int, stride: int, upsample: int = 0) -> None:
        super().__init__()
        self.upsample = upsample
        self.reflection_pad = nn.ReflectionPad2d(kernel // 2)
        self.conv2d = nn.Conv2d(width_in, width, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, mode="nearest", scale_factor=self.upsample) if self.upsample else x
        return cast(Tensor, self.conv2d(self.reflection_pad(x)))


class StyleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.in1 = ConvLayer(128, 128, 3, 1), nn.InstanceNorm2d(128, affine=True)
        self.conv2, self.in2 = ConvLayer(128, 128, 3, 1), nn.InstanceNorm2d(128, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.in2(self.conv2(F.relu(self.in1(self.conv1(x))))) + x)


class TransformerNet(nn.Module):
    """pytorch/examples, fast_neural_style"""

    def __init__(self) -> None:
        super().__init__()
        for n, (a, b, kernel, stride) in enumerate(((3, 32, 9, 1), (32, 64, 3, 2), (64, 128, 3, 2)), start=1):
            setattr(self, f"conv{n}", ConvLayer(a, b, kernel, stride))
            setattr(self, f"in{n}", nn.InstanceNorm2d(b, affine=True))
        for n in range(1, 6):
            setattr(self, f"res{n}", StyleBlock())
        self.deconv1, self.in4 = ConvLayer(128, 64, 3, 1, 2), nn.InstanceNorm2d(64, affine=True)
        self.deconv2, self.in5 = ConvLayer(64, 32, 3, 1, 2), nn.InstanceNorm2d(32, affine=True)
        self.deconv3 = ConvLayer(32, 3, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        part = cast(Any, self)
        for n in range(1, 4):
            x = F.relu(getattr(self, f"in{n}")(getattr(self, f"conv{n}")(x)))
        for n in range(1, 6):
            x = getattr(self, f"res{n}")(x)
        x = F.relu(part.in4(part.deconv1(x)))
        return cast(Tensor, part.deconv3(F.relu(part.in5(part.deconv2(x)))))


GENERATORS: dict[str, Callable[[], nn.Module]] = {
    "srcnn": SRCNN,
    "espcn": ESPCN,
    "edsr": EDSR,
    "rcan": RCAN,
    "esrgan": RRDBNet,
    "dcgan": DCGAN,
    "pix2pix": Pix2Pix,
    "cyclegan": CycleGAN,
    "fast-style": TransformerNet,
}
