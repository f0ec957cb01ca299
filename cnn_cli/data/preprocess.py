"""How an image becomes a network's input: bytes of the right channels and size, then pixels in [0, 1], then normalised.

Everything outside a network speaks of pixels in [0, 1]; normalising happens inside, at the start of its forward pass.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.errors import UsageError

_LARGEST = 10_000  # what a stranger's checkpoint may have images enlarged to
_LUMA = (19595, 38470, 7471)  # ITU-R BT.601-2: 0.299 R + 0.587 G + 0.114 B in units of 1/65536, as Pillow has it


@dataclass(frozen=True)
class Preprocessing:
    """`input` is (C, H, W). `resize` stretches, or keeps proportions and crops or pads. mean, std: one a channel.

    With `resize_size`, which goes with crop, the shorter side becomes so many pixels before the middle is cut out.
    """

    input: tuple[int, int, int]
    resize: str = "stretch"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize_size: int | None = None
    interpolation: str = "bilinear"

    def document(self) -> dict[str, Any]:
        """Plain data for a checkpoint's header."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def at(self, input: tuple[int, int, int]) -> "Preprocessing":
        """The same for another input: a `resize_size` was chosen for the old one, and without it nothing is cut off."""
        return self if input == self.input else replace(self, input=input, resize_size=None)

    def __str__(self) -> str:
        """`shorter side to 256, 224x224 from its middle; mean 0.5, std 0.5`."""
        size = "x".join(map(str, self.input[1:]))
        way = f"{self.resize} to {size}"
        if self.resize_size:
            way = f"shorter side to {self.resize_size}, {size} from the middle"
        way += " (bicubic)" if self.interpolation == "bicubic" else ""
        mean, std = (_listed(values) for values in (self.mean, self.std))
        return f"{way}; mean {mean}, std {std}" if self.mean else f"{way}; pixels in [0, 1]"


def preprocessing(input: tuple[int, int, int], resize: str, normalize: dict[str, list[float]] | None) -> Preprocessing:
    """From the settings. One mean for several channels counts for each; UsageError where the numbers do not fit."""
    if normalize is None:
        return Preprocessing(input, resize)
    mean, std = (tuple(normalize[k]) * (input[0] if len(normalize[k]) == 1 else 1) for k in ("mean", "std"))
    if len(mean) != input[0]:
        raise UsageError(f"normalize has {len(mean)} values for a network of {input[0]} channels; give one a channel")
    return Preprocessing(input, resize, mean, std)


def from_document(document: dict[str, Any]) -> Preprocessing:
    """The way back. KeyError, TypeError or ValueError where a stranger's document makes no sense."""
    channels, height, width = (int(n) for n in document["input"])
    mean, std = (tuple(float(v) for v in document[k]) for k in ("mean", "std"))
    size, interpolation = document.get("resize_size"), document.get("interpolation", "bilinear")
    known = document["resize"] in ("stretch", "crop", "pad") and interpolation in ("bilinear", "bicubic")
    if not known or len(mean) != len(std) or len(mean) not in (0, channels):
        raise ValueError("not a preprocessing")
    if size is not None and not (document["resize"] == "crop" and max(height, width) <= int(size) <= _LARGEST):
        raise ValueError("not a size to cut from")
    return Preprocessing((channels, height, width), document["resize"], mean, std, size, interpolation)


def adapt(images: Tensor, how: Preprocessing) -> Tensor:
    """(N, c, h, w) bytes → (N, C, H, W) bytes: the channels, then the size. Nothing changes where both fit.

    Sizes change by interpolation with antialiasing, on bytes. UsageError for channels of no conversion.
    """
    channels, height, width = how.input
    images = _with_channels(images, channels)
    if how.resize == "crop":
        images = _no_strip(images, height, width)
    h, w = images.shape[-2:]
    if how.resize_size:  # as torchvision's presets: also an image of just the right size is enlarged and cut
        size, short = how.resize_size, min(h, w)
        return _centred(_resized(images, size * h // short, size * w // short, how.interpolation), height, width)
    if (h, w) == (height, width):
        return images
    if how.resize == "stretch":
        return _resized(images, height, width, how.interpolation)
    ratios = (height / h, width / w)
    scale = max(ratios) if how.resize == "crop" else min(ratios)
    images = _resized(images, max(1, round(h * scale)), max(1, round(w * scale)), how.interpolation)
    return _centred(images, height, width)


def normalised(module: nn.Module, how: Preprocessing) -> nn.Module:
    """The module itself, which from now on normalises what it is given. Its state_dict is unchanged."""
    if not how.mean:
        return module
    constants: dict[torch.device, tuple[Tensor, Tensor]] = {}  # made once on each device: no copy a step

    def normalise(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]  # (N, C, H, W) in [0, 1]
        if x.device not in constants:
            mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (how.mean, how.std))
            constants[x.device] = (mean, std)
        mean, std = constants[x.device]
        return ((x - mean) / std, *args[1:])

    module.register_forward_pre_hook(normalise)
    return module


def explain(images: str, channels: int, size: tuple[int, int] | None, how: Preprocessing) -> str:
    """What adapt() does to them, as `digits: 1x8x8 enlarged to 1x28x28`, or nothing. size None: various."""
    C, H, W = how.input
    if (channels, size) == (C, (H, W)) and not how.resize_size:
        return ""
    steps = []
    if channels != C:
        steps.append("turned to grey" if C == 1 else "grey repeated in every channel")
    if size is None:
        steps.append("resized")
    elif size != (H, W):
        steps.append(
            "enlarged" if size[0] <= H and size[1] <= W else "shrunk" if size[0] >= H and size[1] >= W else "resized"
        )
    way = f" ({how.resize})" if (size is None or size[0] * W != size[1] * H) and len(steps) and size != (H, W) else ""
    if how.resize_size:
        steps = [*(["resized"] if size == (H, W) else []), *steps]
        way = f" (shorter side to {how.resize_size}, the middle cut out)"
    before = (
        f"{channels}x{size[0]}x{size[1]}"
        if size
        else f"images of {channels} channel{'s' if channels > 1 else ''}, various sizes,"
    )
    return f"{images}: {before} {' and '.join(steps)} to {C}x{H}x{W}{way}"


def _with_channels(images: Tensor, channels: int) -> Tensor:
    have = images.shape[1]
    if have == channels:
        return images
    if have == 3 and channels == 1:
        red, green, blue = (images[:, i : i + 1].to(torch.int32) * weight for i, weight in enumerate(_LUMA))
        return ((red + green + blue + 0x8000) >> 16).to(torch.uint8)
    if have == 1 and channels == 3:
        return images.expand(-1, 3, -1, -1)
    raise UsageError(
        f"the network takes {channels} channels and the images have {have}; only grey and colour can be converted"
    )


def _no_strip(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of a very long image: enlarged as a whole, to be cut then, a strip could fill all memory."""
    h, w = images.shape[-2:]
    longest = 8 * min(h, w) * max(height, width) // min(height, width)
    return _centred(images, min(h, longest), min(w, longest)) if max(h, w) > longest else images


def _resized(images: Tensor, height: int, width: int, mode: str) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    return nn.functional.interpolate(images.contiguous(), size=(height, width), mode=mode, antialias=True)


def _centred(images: Tensor, height: int, width: int) -> Tensor:
    """Cut from the middle, or set into the middle of black."""
    h, w = images.shape[-2:]
    top, left = round((h - height) / 2), round((w - width) / 2)  # negative: to be padded
    images = images[..., max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
    h, w = images.shape[-2:]
    pad_top, pad_left = (height - h) // 2, (width - w) // 2
    return nn.functional.pad(images, (pad_left, width - w - pad_left, pad_top, height - h - pad_top))


def _listed(values: tuple[float, ...]) -> str:
    """One number where all are alike."""
    return ", ".join(f"{v:.4g}" for v in (values[:1] if len(set(values)) == 1 else values))
