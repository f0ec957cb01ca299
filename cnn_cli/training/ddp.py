"""DistributedDataParallel: PyTorch averages the gradients of all processes while they are computed."""

import torch
from torch import Tensor, nn

from cnn_cli.distributed.world import World
from cnn_cli.training.speedups import computing


def wrapped(
    network: nn.Module, shape: tuple[int, ...], precision: str, device: torch.device, world: World
) -> nn.Module:
    """The network as it is called in training; unwrapped if there is a single process. shape: (C, H, W) of an image.

    After its first step, DDP rebuilds its buckets in the order in which gradients arrive, which changes the rounding
    with three processes or more. So a step is taken whose result is discarded, to make resumed runs equal to
    uninterrupted ones.
    """
    if world.size == 1:
        return network
    engine = nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    kept = [buffer.clone() for buffer in network.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network.train()
        with computing(precision, device):
            outputs = engine(torch.zeros(2, *shape, device=device))
            total = outputs.sum() if isinstance(outputs, Tensor) else sum(o.sum() for o in outputs.values())
        total.backward()
    for buffer, before in zip(network.buffers(), kept, strict=True):
        buffer.copy_(before)
    network.zero_grad(set_to_none=True)
    return engine
