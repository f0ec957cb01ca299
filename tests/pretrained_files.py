"""Weights for the tests: as torchvision publishes them, but drawn here, under names that carry their hash."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan

Change = Callable[[dict[str, Any]], dict[str, Any]]


def entry_of(name: str, member: str = "DEFAULT") -> Any:
    return models.get_model_weights(name)[member]


def drawn(name: str) -> nn.Module:
    """torchvision's network with weights drawn from seed 0, its statistics as after some training."""
    more: dict[str, Any] = {"weights_backbone": None} if name.endswith("_fpn") else {}
    more |= {"init_weights": False, "aux_logits": True} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = models.get_model(name, weights=None, **more)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return module


def publish(
    patch: pytest.MonkeyPatch, home: Path, name: str, change: Change = dict, old: bool = False, cached: bool = True
) -> Path:
    """A file of weights where torchvision looks for those of `name`: in TORCH_HOME, or else at a URL."""
    patch.setenv("TORCH_HOME", str(home / "torch"))
    folder = home / "torch" / "hub" / "checkpoints" if cached else home / "server"
    folder.mkdir(parents=True, exist_ok=True)
    state = change(drawn(name).state_dict())
    torch.save(state, folder / "new", _use_new_zipfile_serialization=not old)
    digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    path = (folder / "new").rename(folder / f"{name}-{digest[:8]}.pth")
    patch.setattr(entry_of(name).value, "url", path.as_uri())
    return path


def photograph(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """A color image with edges and smooth parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def folder_of_images(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 4, side: int = 40) -> Path:
    """train/<class>/…png and test/<class>/…png."""
    for number, (part, name) in enumerate((p, c) for p in ("train", "test") for c in classes):
        for i in range(each):
            photograph(folder / part / name / f"{i}.png", side + 8 * i, side, seed=100 * number + i)
    return folder


SMALL = """
net:
  input: [3, 12, 12]
  args: {classes: 4}
  layers: {conv: {Conv2d: {out_channels: 5, kernel_size: 3}}, bn: BatchNorm2d, flat: Flatten, fc: {Linear: $classes}}
  train: {epochs: 1, batch_size: 4}
"""


def state_of(net: str, **args: Any) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return dict(build_plan(find(net, args=args)).state_dict())


def without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As PyTorch wrote it before 0.4.1, and most files of torchvision still are."""
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
