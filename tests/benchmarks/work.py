"""What every loop of the benchmark trains: the same network on the same images, and how its speed is measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = 0.91
PARAMETERS = 225_034


@dataclass(frozen=True)
class Work:
    """What to do: the options of peers.py."""

    mode: str
    batch: int
    device: str
    precision: str
    data_dir: Path
    seed: int
    seconds: float
    limit: int | None

    @property
    def epochs(self) -> int:
        return {"epoch": 1, "target": 20}.get(self.mode, 10**6)


class Done(Exception):
    """Raised out of a loop, whoever owns it, when its speed is known. (fastai rewrites an exception's args.)"""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("measured")
        self.result = result


def stopwatch(work: Work, warm: int = 0) -> Callable[[int], None]:
    """To be called after every training step with its number of images; Done(result) when the time is up.

    What comes before `warm` images (at least 50 steps) is not counted; as many at least are counted after.
    """
    start, images, seen = 0.0, 0, 0
    least = min(warm, work.limit or warm)
    warm = max(least, 50 * work.batch if not work.limit else work.batch)

    def step(count: int) -> None:
        nonlocal start, images, seen
        if work.mode != "speed":
            return
        seen += count
        if not start:
            if seen >= warm:
                synchronize(work)
                start = time.perf_counter()
            return
        images += count
        if time.perf_counter() - start < work.seconds or images < least:
            return
        synchronize(work)
        seconds = time.perf_counter() - start
        raise Done({"images_per_second": images / seconds, "images": images, "seconds": seconds})

    return step


def synchronize(work: Work) -> None:
    if work.device == "cuda":
        import torch

        torch.cuda.synchronize()


def fashion_convnet() -> Any:
    from torch import nn

    first = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*first, nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10))
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS
    return network


def loaders(work: Work) -> tuple[Any, Any]:
    """The DataLoaders over torchvision's data set that everybody writes first."""
    from torch.utils.data import DataLoader
    from torchvision import datasets
    from torchvision.transforms import ToTensor

    train, test = (datasets.FashionMNIST(work.data_dir, train=t, transform=ToTensor()) for t in (True, False))
    for part in (train, test):
        part.data, part.targets = part.data[: work.limit], part.targets[: work.limit]
    return DataLoader(train, work.batch, shuffle=True), DataLoader(test, work.batch)


def arrays(work: Work) -> tuple[Any, ...]:
    """(n, 28, 28) bytes and (n,) int64 labels of train, then of test."""
    import numpy as np

    def idx(name: str) -> Any:
        data = (work.data_dir / "FashionMNIST/raw" / name).read_bytes()
        axes = data[3]
        shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)[: work.limit]

    parts = [(idx(f"{p}-images-idx3-ubyte"), idx(f"{p}-labels-idx1-ubyte").astype("int64")) for p in ("train", "t10k")]
    return parts[0] + parts[1]


def accuracy(network: Any, loader: Any, device: str) -> float:
    import torch

    network.eval()
    correct = images = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (network(x.to(device)).argmax(1) == y.to(device)).sum().item()
            images += len(y)
    network.train()
    return correct / images
