"""Preprocessing: conversion of channels and resizing of images as bytes, then normalization of pixels.

Outside a network pixels are in [0, 1]; normalization happens inside, at the start of its forward pass.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.data.masks import VOID
from cnn_cli.errors import UsageError

_MAX_SIZE = 10_000  # largest resize_size of a third-party checkpoint
_LUMA = (19595, 38470, 7471)  # ITU-R BT.601-2: 0.299 R + 0.587 G + 0.114 B in units of 1/65536, as in Pillow


@dataclass(frozen=True)
class Preprocessing:
    """`input` is (C, H, W). `resize` stretches, or keeps the aspect ratio and crops or pads. mean, std: per channel.

    resize_size, with crop only: the length of the shorter side before the center crop.
    """

    input: tuple[int, int, int]
    resize: str = "stretch"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize_size: int | None = None
    interpolation: str = "bilinear"

    def document(self) -> dict[str, Any]:
        """As a checkpoint's metadata has it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @staticmethod
    def from_document(document: dict[str, Any]) -> "Preprocessing":
        """KeyError, TypeError or ValueError for invalid metadata."""
        channels, height, width = (int(n) for n in document["input"])
        mean, std = (tuple(float(v) for v in document[k]) for k in ("mean", "std"))
        size, interpolation = document.get("resize_size"), document.get("interpolation", "bilinear")
        known = document["resize"] in ("stretch", "crop", "pad") and interpolation in ("bilinear", "bicubic")
        if not known or len(mean) != len(std) or len(mean) not in (0, channels):
            raise ValueError("not a preprocessing")
        if size is not None and not (document["resize"] == "crop" and max(height, width) <= int(size) <= _MAX_SIZE):
            raise ValueError("not a size to crop from")
        return Preprocessing((channels, height, width), document["resize"], mean, std, size, interpolation)

    @staticmethod
    def from_settings(
        input: tuple[int, int, int], resize: str, normalize: dict[str, list[float]] | None
    ) -> "Preprocessing":
        """A single mean applies to all channels; UsageError if the numbers do not match the channels."""
        if normalize is None:
            return Preprocessing(input, resize)
        mean, std = (tuple(normalize[k]) * (input[0] if len(normalize[k]) == 1 else 1) for k in ("mean", "std"))
        if len(mean) != input[0]:
            raise UsageError(
                f"normalize has {len(mean)} values, but the input has {input[0]} channel{'s' * (input[0] != 1)}; "
                "give one value per channel"
            )
        return Preprocessing(input, resize, mean, std)

    def with_input(self, input: tuple[int, int, int]) -> "Preprocessing":
        """For another input size: without resize_size, which was chosen for the old one."""
        return self if input == self.input else replace(self, input=input, resize_size=None)

    def __str__(self) -> str:
        """`shorter side resized to 256, center crop of 224x224; mean 0.5, std 0.5`."""
        size = "x".join(map(str, self.input[1:]))
        resized = f"{self.resize} to {size}"
        if self.resize_size:
            resized = f"shorter side resized to {self.resize_size}, center crop of {size}"
        resized += " (bicubic)" if self.interpolation == "bicubic" else ""
        mean, std = (_joined(values) for values in (self.mean, self.std))
        return f"{resized}; mean {mean}, std {std}" if self.mean else f"{resized}; pixels in [0, 1]"


def preprocess(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(N, c, h, w) bytes → (N, C, H, W) bytes: the channels, then the size, by interpolation with antialiasing.

    The images themselves if both already fit. UsageError for channels that cannot be converted.
    """
    return _fitted(_with_channels(images, preprocessing.input[0]), preprocessing, preprocessing.interpolation)


def preprocess_masks(masks: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(N, h, w) bytes → (N, H, W) bytes, moved as preprocess() moves the images, without interpolation; padding is
    void."""
    return _fitted(masks.unsqueeze(1), preprocessing, "nearest-exact", fill=VOID).squeeze(1)


@dataclass(frozen=True)
class Placement:
    """How preprocess() moves an image: its middle `cut` (top, left, height, width) is resized to `size` (height,
    width), of which the input begins at `origin` (top, left); negative: that much padding."""

    cut: tuple[int, int, int, int]
    size: tuple[int, int]
    origin: tuple[int, int]


def placement(size: tuple[int, int], preprocessing: Preprocessing) -> Placement:
    """Where the pixels of an image of (h, w) go."""
    (h, w), (_, H, W) = size, preprocessing.input
    if preprocessing.resize == "crop":  # a very long image could fill the memory if it were enlarged before cropping
        longest = 8 * min(h, w) * max(H, W) // min(H, W)
        h, w = min(h, longest), min(w, longest)
    cut = (_start(size[0], h), _start(size[1], w), h, w)
    resized = _resized_size(h, w, preprocessing)
    return Placement(cut, resized, (_start(resized[0], H), _start(resized[1], W)))


def _resized_size(h: int, w: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """The size before the center crop or padding."""
    _, height, width = preprocessing.input
    if preprocessing.resize_size:  # also for an image of the right size, as in torchvision's presets
        size, short = preprocessing.resize_size, min(h, w)
        return size * h // short, size * w // short
    if preprocessing.resize == "stretch":
        return height, width
    ratios = (height / h, width / w)
    scale = max(ratios) if preprocessing.resize == "crop" else min(ratios)
    return max(1, round(h * scale)), max(1, round(w * scale))


def _start(length: int, target: int) -> int:
    """Where the middle of `length` pixels begins, `target` long; negative: the padding before it."""
    return round((length - target) / 2) if length >= target else -((target - length) // 2)


def _fitted(images: Tensor, preprocessing: Preprocessing, interpolation: str, fill: int = 0) -> Tensor:
    place = placement((images.shape[-2], images.shape[-1]), preprocessing)
    images = _window(images, place.cut[:2], place.cut[2:], fill)
    return _window(_resized(images, *place.size, interpolation), place.origin, preprocessing.input[1:], fill)


def add_normalization(module: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Register a hook by which the module normalizes its input, and return it. Its state_dict is unchanged."""
    if not preprocessing.mean:
        return module
    constants: dict[torch.device, tuple[Tensor, Tensor]] = {}  # once per device, so that no step copies them

    def normalize(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]  # (N, C, H, W) in [0, 1]
        if x.device not in constants:
            mean, std = (
                torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std)
            )
            constants[x.device] = (mean, std)
        mean, std = constants[x.device]
        return ((x - mean) / std, *args[1:])

    module.register_forward_pre_hook(normalize)
    return module


def describe_changes(images: str, channels: int, size: tuple[int, int] | None, preprocessing: Preprocessing) -> str:
    """What preprocess() does to the images, as `digits: 1x8x8 enlarged to 1x28x28`, or nothing. size None: various."""
    C, H, W = preprocessing.input
    if (channels, size) == (C, (H, W)) and not preprocessing.resize_size:
        return ""
    steps = []
    if channels != C:
        steps.append("converted to grayscale" if C == 1 else "grayscale repeated in every channel")
    if size is None:
        steps.append("resized")
    elif size != (H, W):
        steps.append(
            "enlarged" if size[0] <= H and size[1] <= W else "reduced" if size[0] >= H and size[1] >= W else "resized"
        )
    distorted = (size is None or size[0] * W != size[1] * H) and len(steps) and size != (H, W)
    method = f" ({preprocessing.resize})" if distorted else ""
    if preprocessing.resize_size:
        steps = [*(["resized"] if size == (H, W) else []), *steps]
        method = f" (shorter side to {preprocessing.resize_size}, then center crop)"
    before = (
        f"{channels}x{size[0]}x{size[1]}"
        if size
        else f"images with {channels} channel{'s' if channels > 1 else ''}, various sizes,"
    )
    return f"{images}: {before} {' and '.join(steps)} to {C}x{H}x{W}{method}"


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
        f"the network takes {channels} channels but the images have {have}; only grayscale and RGB can be converted"
    )


def _resized(images: Tensor, height: int, width: int, mode: str) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    smooth = mode != "nearest-exact"
    decoded = images.shape[1] == 3 and images.stride(1) == 1  # RGB pixel by pixel: three times as fast, the same bits
    images = images.contiguous(memory_format=torch.channels_last if decoded else torch.contiguous_format)
    return nn.functional.interpolate(images, size=(height, width), mode=mode, antialias=smooth)


def _window(images: Tensor, origin: tuple[int, int], size: tuple[int, int], fill: int) -> Tensor:
    """The window of (height, width) `size` at `origin`, which may reach beyond the image on all sides."""
    (top, left), (height, width), (h, w) = origin, size, images.shape[-2:]
    images = images[..., max(0, top) : top + height, max(0, left) : left + width]
    return nn.functional.pad(
        images, (max(0, -left), max(0, left + width - w), max(0, -top), max(0, top + height - h)), value=fill
    )


def _joined(values: tuple[float, ...]) -> str:
    """One number if all are equal."""
    return ", ".join(f"{v:.4g}" for v in (values[:1] if len(set(values)) == 1 else values))
