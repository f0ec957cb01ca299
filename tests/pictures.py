"""What the tests of pictures share: the command line in this process, a run as training leaves it, pixels read back."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cnn_cli
from cnn_cli.checkpoints.checkpoint import LoadedNetwork, Metadata, load_network, save_weights
from cnn_cli.cli import main
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.language.registry import find
from cnn_cli.pictures import image

Array = image.Array


def cnn(*arguments: str) -> int:
    """Run the command line as the console command does → its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["cnn", *arguments])
        main()
    return int(stop.value.code or 0)


def make_run(
    folder: Path, network: str, seed: int = 0, data: str = "digits", classes: tuple[str, ...] = tuple("0123456789")
) -> nn.Module:
    """A run folder as training leaves it, with weights drawn from a seed."""
    torch.manual_seed(seed)
    module, plan = cnn_cli.build(network), find(network)
    how = Preprocessing(plan.input)
    metadata = Metadata(plan.document(), classes, how, {"name": data, "seed": 0, "val_fraction": 0.2}, {"epoch": 3})
    folder.mkdir(parents=True)
    save_weights(folder / "best.safetensors", module, metadata)
    return module.eval()


def opened_run(folder: Path, spec: str, seed: int = 0, **options: str) -> tuple[LoadedNetwork, nn.Module]:
    """A run of a spec (YAML of one network), opened, and the module that it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.yaml").write_text(spec)
    module = make_run(folder / "run", str(folder / "spec.yaml"), seed, **options)
    return load_network(str(folder / "run")), module


def pixels_of(path: Path) -> Array:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def values_of(colors: Array, scale: float) -> Array:
    """Colors of the diverging map (…, 3) back to values; a color that is not in the map fails."""
    levels = {tuple(c): i for i, c in enumerate(image.diverging().tolist())}
    flat = [levels[tuple(c)] for c in colors.reshape(-1, 3).tolist()]
    return (np.array(flat).reshape(colors.shape[:-1]) - 127) / 127 * scale


def save_image(path: Path, array: Array) -> Path:
    """Write (H, W) or (H, W, 3) bytes as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path
