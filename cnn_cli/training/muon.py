"""Muon: momentum with orthogonalized updates, for matrices and for convolutions.

Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024. As torch.optim.Muon, which only accepts
matrices; here the kernels of a convolution are flattened to a matrix with a row for each output channel.
"""

import math

import torch
from torch import Tensor, addmm, bfloat16

_A, _B, _C = 3.4445, -4.7750, 2.0315  # coefficients of the quintic that brings singular values near 1


def muon_step(
    parameter: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    lr: float | Tensor,
    beta: float,
    nesterov: bool,
    weight_decay: float,
    ns_steps: int = 5,
    dtype: torch.dtype = bfloat16,
) -> None:
    """Step `parameter` (out, …) in place; `momentum`, of its shape, is the running mean of its gradients.

    dtype: that of the Newton-Schulz steps; PyTorch uses bfloat16, which is slow on CPUs without instructions for it.
    """
    momentum.lerp_(gradient, 1 - beta)
    update = gradient.lerp(momentum, beta) if nesterov else momentum
    matrix = orthogonal(update.flatten(1), ns_steps, dtype)
    rows, columns = matrix.shape
    parameter.mul_(1 - lr * weight_decay)
    scale = math.sqrt(max(1, rows / columns))
    if isinstance(lr, Tensor):
        parameter.addcmul_(matrix.reshape(parameter.shape), lr, value=-scale)
    else:
        parameter.add_(matrix.reshape(parameter.shape), alpha=-lr * scale)


def orthogonal(matrix: Tensor, ns_steps: int = 5, dtype: torch.dtype = bfloat16) -> Tensor:
    """(m, n) → approximately U·Vᵀ of its singular value decomposition, by Newton-Schulz iterations."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype, copy=True)
    x = x.T if tall else x
    x.div_(x.norm().clamp(min=1e-7))
    for _ in range(ns_steps):
        gram = x @ x.T
        x = addmm(x, addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.T if tall else x
