"""Augmentation of whole batches of bytes, on the device that holds them.

The augmentation of an image is a function of (seed, epoch, index) alone: it does not depend on the batch, the device or
the threads, and does not use global random number generators. All random decisions of an epoch are made at once on the
CPU, as integers; applying them to images and targets never synchronizes with a device:

    draws = draw_augmentations(len(images), seed, epoch, augmentation, (28, 28)).to(device)
    for index in order.split(batch_size):
        x = augment(images[index], draws[index], augmentation)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.data.boxes import move_corners, visible_area, without_hidden
from cnn_cli.data.masks import VOID

_TRIES = 10  # boxes drawn until one fits into the image, as in torchvision
_LOG_RATIO = math.log(4 / 3)  # a box's aspect ratio is from 3:4 to 4:3


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of an image, in this order: crop, shift, flip, cutout.

    crop: a random box of at least this fraction of the area, resized to the whole (torchvision's RandomResizedCrop).
    shift: by up to this many pixels in each direction, padded with black (torchvision's RandomCrop with padding), or
    as `padding_mode` says, by reflection.
    flip: none, random, or alternating: half of the images in odd epochs, the others in even ones (Jordan 2024).
    cutout: side in pixels of a square filled with `fill`, per channel in [0, 1], or black (DeVries and Taylor 2017).
    """

    flip: str = "none"
    shift: int = 0
    crop: float = 1.0
    cutout: int = 0
    fill: tuple[float, ...] = ()
    padding_mode: str = "constant"

    @staticmethod
    def from_settings(values: Mapping[str, Any], fill: tuple[float, ...]) -> "Augmentation":
        mode = values.get("padding_mode") or "constant"
        return Augmentation(values["flip"], values["shift"], values["crop"], values["cutout"], fill, mode)

    def __bool__(self) -> bool:
        return self.flip != "none" or self.shift > 0 or self.crop < 1 or self.cutout > 0


def draw_augmentations(n: int, seed: int, epoch: int, augmentation: Augmentation, size: tuple[int, int]) -> Tensor:
    """(n, 9) int16 on the CPU: what augment() does to each of n images of (H, W) pixels in epoch 1, 2, ….

    The columns: flip 0 or 1; the shift, down and right, as the origin in the padded image; the box of the crop, top,
    left, height and width; the center of the cutout, y and x. The draws of a kind do not depend on the other kinds.
    """
    u = _uniform(n, 5, "augment", seed, epoch)
    flip = u[:, 0] < 0.5
    if augmentation.flip == "alternating":
        flip = (_uniform(n, 1, "alternating", seed)[:, 0] < 0.5) ^ (epoch % 2 == 1)
    draws = torch.zeros(n, 9, dtype=torch.int16)
    draws[:, 0] = flip & (augmentation.flip != "none")
    draws[:, 1:3] = (u[:, 1:3] * (2 * augmentation.shift + 1)).floor()
    if augmentation.crop < 1:
        parts = torch.split(_uniform(n, 2 * _TRIES + 2, "crop", seed, epoch), 1 << 14)  # that fit into the CPU's cache
        draws[:, 3:7] = torch.cat([_boxes(part, augmentation.crop, *size) for part in parts])
    draws[:, 7:9] = (u[:, 3:5] * torch.tensor(size)).floor()
    return draws


def augment(images: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
    """(b, C, H, W) bytes and their rows of draws, (b, 9), on the same device → new (b, C, H, W) bytes."""
    flip, down, right, top, left, height, width, y, x = draws.long().unbind(1)
    if augmentation.crop < 1:
        images = _cropped(
            images, _source_positions(top, height, images.shape[-2]), _source_positions(left, width, images.shape[-1])
        )
    if augmentation.shift or augmentation.flip != "none":
        images = _moved(images, augmentation, flip, down, right)
    if not augmentation.cutout:
        return images
    levels = [round(255 * v) for v in augmentation.fill or (0.0,) * images.shape[1]]
    return _cut_out(images, augmentation, y, x, levels)


def augment_masks(masks: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
    """(b, H, W) bytes moved as augment() moves their images by the same draws; padding and cutout are void.

    Values are not interpolated.
    """
    flip, down, right, top, left, height, width, y, x = draws.long().unbind(1)
    masks = masks.unsqueeze(1)
    if augmentation.crop < 1:
        rows = _source_positions(top, height, masks.shape[-2]).round().long()
        columns = _source_positions(left, width, masks.shape[-1]).round().long()
        batch = torch.arange(len(masks), device=masks.device)[:, None, None]
        masks = masks[batch, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)
    if augmentation.shift or augmentation.flip != "none":
        masks = _moved(masks, augmentation, flip, down, right, fill=VOID)
    if augmentation.cutout:
        masks = _cut_out(masks, augmentation, y, x, [VOID])
    return masks.squeeze(1)


def augment_boxes(boxes: Tensor, draws: Tensor, augmentation: Augmentation, size: tuple[int, int]) -> Tensor:
    """(b, m, 7) in images of (H, W), moved as augment() moves them by the same draws, and clipped.

    A box of which less than a quarter can still be seen, after the crop, the shift and the cutout, becomes padding.
    """
    (H, W), draws = size, draws.to(boxes.dtype)
    flip, down, right, top, left, height, width, y, x = draws.unbind(1)
    one, whole = torch.ones_like(flip), visible_area(boxes)
    if augmentation.crop < 1:
        scale = torch.stack([W / width, H / height], 1)
        boxes = move_corners(boxes, scale, -scale * torch.stack([left, top], 1), size)
        whole = whole * scale.prod(1, keepdim=True)
    if augmentation.shift or augmentation.flip != "none":
        sign, across = 1 - 2 * flip, right - augmentation.shift
        shift = torch.stack([flip * W - sign * across, augmentation.shift - down], 1)
        boxes = move_corners(boxes, torch.stack([sign, one], 1), shift, size)
    hidden = None
    if augmentation.cutout:
        hidden = torch.stack([x, y, x, y], 1) - augmentation.cutout // 2
        hidden = torch.cat([hidden[:, :2], hidden[:, 2:] + augmentation.cutout], 1)
    return without_hidden(boxes, visible_area(boxes, hidden), whole)


def mix(
    x: Tensor,
    y: Tensor,
    mixup: float,
    cutmix: float,
    seed: int,
    epoch: int,
    step: int,
    size: Sequence[int] = (),
) -> tuple[Tensor, Tensor, float]:
    """A batch mixed with itself rolled by one: x (b, C, H, W) float, the other labels (b,), the share λ of its own.

    mixup (Zhang et al. 2018) blends images; cutmix (Yun et al. 2019) pastes a box of one into the other. Each number is
    the α of the Beta(α, α) from which λ is drawn per batch, and 0 is off; with both, either has probability 1/2. As
    torchvision's MixUp and CutMix. size: (H, W) of the whole images if x is their upper left part. The loss is
    λ · loss(y) + (1 − λ) · loss(the other labels).
    """
    if not (mixup or cutmix):
        return x, y, 1.0
    random = Random(f"mix {seed} {epoch} {step}")
    cut = cutmix > 0 and not (mixup and random.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = random.betavariate(alpha, alpha)
    if not cut:
        return x.roll(1, 0).lerp_(x, share), y.roll(1, 0), share
    H, W = size or x.shape[-2:]
    middle_x, middle_y, half = random.randrange(W), random.randrange(H), math.sqrt(1 - share) / 2
    left, right = max(0, middle_x - int(half * W)), min(W, middle_x + int(half * W))
    top, bottom = max(0, middle_y - int(half * H)), min(H, middle_y + int(half * H))
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[..., top:bottom, left:right].roll(1, 0)
    return mixed, y.roll(1, 0), 1 - (right - left) * (bottom - top) / (W * H)


@dataclass(frozen=True)
class View:
    """A view (b, C, H, W) of a batch in test-time augmentation and its weight: shifted, then flipped."""

    pixels: Tensor
    weight: float
    shift: int = 0  # pixels down and to the right
    flipped: bool = False

    def restore(self, outputs: Tensor) -> Tensor:
        """Maps of scores (b, K, h, w) of the view, moved back to the image; (b, K, H, W) if the view is shifted.

        Other outputs are returned unchanged.
        """
        if outputs.dim() != 4:
            return outputs
        outputs = outputs.flip(-1) if self.flipped else outputs
        if not self.shift:
            return outputs
        maps = F.interpolate(outputs.float(), size=self.pixels.shape[-2:], mode="bilinear", align_corners=False)
        padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
        return padded[..., 2:, 2:] if self.shift > 0 else padded[..., :-2, :-2]


def tta_views(x: Tensor, tta: str) -> list[View]:
    """x (b, C, H, W) float → the views that test-time augmentation averages over; their weights sum to 1.

    flip: the images and their mirror images. flip-shift: also all of them shifted by one pixel, down and right or up
    and left, with reflection padding; these have half the weight (cifar10-airbench, Jordan 2024).
    """
    if tta == "none":
        return [View(x, 1.0)]
    if tta == "flip":
        return [View(x, 0.5), View(x.flip(-1), 0.5, flipped=True)]
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    views = [(x, 0.25, 0), (padded[..., :-2, :-2], 0.125, 1), (padded[..., 2:, 2:], 0.125, -1)]
    return [
        View(v.flip(-1) if flipped else v, weight, shift, flipped)
        for v, weight, shift in views
        for flipped in (False, True)
    ]


def _uniform(n: int, k: int, *key: object) -> Tensor:
    """(n, k) float64 in [0, 1): a function of the key; a row does not depend on n."""
    # Hashed, so that neighboring keys, and the order of the epoch, have unrelated seeds.
    generator = torch.Generator().manual_seed(Random(" ".join(map(str, key))).getrandbits(32))
    return torch.rand(n, k, generator=generator, dtype=torch.float64)


def _boxes(u: Tensor, least: float, H: int, W: int) -> Tensor:
    """(n, 4) top, left, height, width: the first box drawn that fits, else the largest of an allowed aspect ratio."""
    share = least + (1 - least) * u[:, :_TRIES]
    ratio = torch.exp(_LOG_RATIO * (2 * u[:, _TRIES : 2 * _TRIES] - 1))
    heights, widths = (H * W * share / ratio).sqrt().round(), (H * W * share * ratio).sqrt().round()
    fits = (heights >= 1) & (heights <= H) & (widths >= 1) & (widths <= W)
    first = fits.byte().argmax(1, keepdim=True)  # 0 where none fits
    any_fits = fits.any(1, keepdim=True)
    height = heights.gather(1, first).where(any_fits, min(H, round(W * 4 / 3)))
    width = widths.gather(1, first).where(any_fits, min(W, round(H * 4 / 3)))
    top, left = (u[:, -2:-1] * (H - height + 1)).floor(), (u[:, -1:] * (W - width + 1)).floor()
    return torch.cat([top, left, height, width], 1)


def _source_positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(b, size) float32: the position that each pixel of a resized box comes from; the first pixel's center is 0."""
    start, length = start[:, None].float(), length[:, None].float()
    inside = (torch.arange(size, device=start.device) + 0.5) * length / size - 0.5
    return start + torch.minimum(inside.clamp(min=0), length - 1)  # never from outside the box


def _cropped(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear, in float32 and rounded: a value may differ by 1 of 255 between kinds of devices."""
    b, _, H, W = images.shape
    grid = torch.stack(  # in grid_sample's units the image extends from −1 to 1
        [((2 * columns + 1) / W - 1)[:, None].expand(b, H, W), ((2 * rows + 1) / H - 1)[:, :, None].expand(b, H, W)], -1
    )
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False).round_().byte()


def _moved(
    images: Tensor, augmentation: Augmentation, flip: Tensor, down: Tensor, right: Tensor, fill: int = 0
) -> Tensor:
    """Shift and flip by one gather from the padded images: a quarter of the time of a mask per shift."""
    b, C, H, W = images.shape
    shift, width = augmentation.shift, W
    rows, columns = torch.arange(H, device=images.device), torch.arange(W, device=images.device)
    columns = torch.where(flip[:, None] > 0, W - 1 - columns, columns) + right[:, None]  # (b, W)
    rows = rows + down[:, None]  # (b, H)
    if augmentation.padding_mode == "reflect":
        rows, columns = _reflected(rows - shift, H), _reflected(columns - shift, W)
    else:
        images, width = F.pad(images, (shift,) * 4, value=fill), W + 2 * shift
    index = rows[:, :, None] * width + columns[:, None]  # (b, H, W)
    return images.flatten(2).gather(2, index.view(b, 1, H * W).expand(b, C, H * W)).view(b, C, H, W)


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions from −size + 1 to 2·size − 2, mirrored at the first and the last into 0 … size − 1."""
    return size - 1 - (size - 1 - position.abs()).abs()


def _cut_out(images: Tensor, augmentation: Augmentation, y: Tensor, x: Tensor, levels: list[int]) -> Tensor:
    """levels: the value of the square in each channel; numbers, as a tensor would have to be copied to the device."""

    def covered(middle: Tensor, size: int) -> Tensor:
        offset = torch.arange(size, device=images.device) - middle[:, None] + augmentation.cutout // 2
        return (offset >= 0) & (offset < augmentation.cutout)  # (b, size)

    H, W = images.shape[-2:]
    square = covered(y, H)[:, None, :, None] & covered(x, W)[:, None, None, :]  # (b, 1, H, W)
    channels = zip(torch.split(images, 1, 1), levels, strict=True)
    return torch.cat([channel.masked_fill(square, level) for channel, level in channels], 1)
