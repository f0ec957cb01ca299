"""Triton kernels for max pooling without overlap, for channels_last on a GPU.

PyTorch's kernels for channels_last take windows of every kind, and their backward pass fills the gradient with zeros
first. Without overlap each value belongs to one window at most, and each gradient is written once. Results are bitwise
those of torch.nn.MaxPool2d: of equal values the first one counts, and NaN counts as the largest.
"""

# Triton has no type annotations.
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

_KINDS = (torch.float32, torch.bfloat16, torch.float16)
_LEAST = 1 << 23  # input values for which the kernel saves more time than its launch takes
_POSITIONS, _CHANNELS = 32, 64  # per program
_SIZES = ["count", "H", "W", "h", "w"]  # not specialized: one kernel for all image sizes


@triton.jit(do_not_specialize=_SIZES)
def _forward(x, out, places, count, H, W, h, w, C, K: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr):
    """x (N, H, W, C) → out (N, h, w, C), and where in its window each value was, 0 to K² − 1."""
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = (position < count)[:, None] & (channel < C)
    row, column = position // w, position % w
    first = ((row // h).to(tl.int64) * H + row % h * K) * W + column * K
    best = tl.load(x + first[:, None] * C + channel, mask=inside).to(tl.float32)
    place = tl.zeros([POSITIONS, CHANNELS], tl.int8)
    for k in tl.static_range(1, K * K):
        value = tl.load(x + (first + k // K * W + k % K)[:, None] * C + channel, mask=inside).to(tl.float32)
        better = (value > best) | (value != value)
        best = tl.where(better, value, best)
        place = tl.where(better, k, place).to(tl.int8)
    target = position.to(tl.int64)[:, None] * C + channel
    tl.store(out + target, best.to(out.dtype.element_ty), mask=inside)
    tl.store(places + target, place, mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def _backward(
    gradient, places, result, count, H, W, h, w, C, K: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr
):
    """gradient (N, h, w, C) → result (N, H, W, C), 0 outside of all windows."""
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    inside = (position < count)[:, None] & (channel < C)
    row, column = position // W, position % W
    image, y = (row // H).to(tl.int64), row % H
    i, j = y // K, column // K
    source = ((image * h + i) * w + j)[:, None] * C + channel
    covered = inside & ((i < h) & (j < w))[:, None]
    place = tl.load(places + source, mask=covered, other=-1)
    value = tl.load(gradient + source, mask=covered, other=0.0)
    own = (y % K * K + column % K)[:, None]
    target = position.to(tl.int64)[:, None] * C + channel
    tl.store(result + target, tl.where(place == own, value, 0.0), mask=inside)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int) -> Tensor:
        N, C, H, W = x.shape
        shape = (N, C, H // kernel, W // kernel)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        places = torch.empty_like(out, dtype=torch.int8)
        _launch(_forward, x, out, places, N * (H // kernel) * (W // kernel), (H, W), C, kernel)
        ctx.save_for_backward(places)
        ctx.kernel, ctx.shape = kernel, x.shape
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        N, C, H, W = ctx.shape
        result = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
        _launch(_backward, gradient, places, result, N * H * W, (H, W), C, ctx.kernel)
        return result, None


def _launch(
    function: Any, a: Tensor, b: Tensor, c: Tensor, count: int, size: tuple[int, int], C: int, kernel: int
) -> None:
    H, W = size
    programs = triton.cdiv(count, _POSITIONS), triton.cdiv(C, _CHANNELS)
    function[programs](a, b, c, count, H, W, H // kernel, W // kernel, C, kernel, _POSITIONS, _CHANNELS)


def max_pool(x: Tensor, kernel: int) -> Tensor:
    """x (N, C, H, W) in channels_last → (N, C, H // kernel, W // kernel): the largest value of each window."""
    return _MaxPool.apply(x, kernel)  # type: ignore[no-any-return]


class MaxPool2d(nn.MaxPool2d):
    """torch.nn.MaxPool2d without overlap; large batches in channels_last on a GPU are pooled by the kernels above."""

    def forward(self, x: Tensor) -> Tensor:
        large = x.is_cuda and x.numel() >= _LEAST and x.dtype in _KINDS
        suits = large and x.is_contiguous(memory_format=torch.channels_last)
        return max_pool(x, _pair(self.kernel_size)[0]) if suits else super().forward(x)


def use_kernels(network: nn.Module) -> None:
    """Replace every MaxPool2d whose windows are squares side by side; no name in state_dict() changes."""
    for parent in network.modules():
        for name, pool in parent.named_children():
            if type(pool) is nn.MaxPool2d and _side_by_side(pool):
                parent._modules[name] = MaxPool2d(_pair(pool.kernel_size)[0])


def _side_by_side(pool: nn.MaxPool2d) -> bool:
    kernel, stride, padding, dilation = map(_pair, (pool.kernel_size, pool.stride, pool.padding, pool.dilation))
    square = kernel == stride and kernel[0] == kernel[1] and 1 < kernel[0] <= 8
    return square and (padding, dilation) == ((0, 0), (1, 1)) and not pool.ceil_mode and not pool.return_indices


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else value
