"""Small runs for the tests: a network that learns in a blink, with what makes exact resuming hard."""

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_cli.pictures import plots, reliability_plot
from cnn_cli.training import loop
from cnn_cli.training import run as run_module
from cnn_cli.training.request import Request

SPEC = """
small:
  input: [1, 8, 8]
  args: {classes: 10}
  layers:
    - Conv2d: {out_channels: 6, kernel_size: 3}
    - BatchNorm2d
    - ReLU
    - MaxPool2d: 2
    - Flatten
    - Dropout: 0.2
    - Linear: $classes
  train: {data: digits, epochs: 2, batch_size: 128, optimizer: adam, lr: 0.01}
"""


def request(folder: Path, output: str = "run", spec: str = SPEC, **options: Any) -> Request:
    """What `cnn train small.yaml -o output --option …` asks for, in `folder`."""
    (folder / "small.yaml").write_text(spec)
    said: list[str] = []
    return Request(
        network=str(folder / "small.yaml"),
        options=options,
        data_dir=folder / "data",
        output=folder / output,
        device="cpu",
        say=said.append,
    )


def begin(folder: Path, output: str = "run", spec: str = SPEC, **options: Any) -> Path:
    """A whole run → its folder."""
    run_module.begin(request(folder, output, spec, **options))
    return folder / output


def resume(folder: Path, output: str = "run", spec: str = SPEC, **options: Any) -> Path:
    run_module.resume(request(folder, output, spec, **options), folder / output)
    return folder / output


def interrupt_at(epochs: int, state: Any) -> None:
    """KeyboardInterrupt where so many epochs are done: what is not written by then is lost."""
    if len(state.history) == epochs:
        raise KeyboardInterrupt


@contextmanager
def at_step(step: int, action: Any) -> Iterator[None]:
    """Do something, once, in the middle of the training step number `step`, counted from 1."""
    original, waiting = loop.learning_rate, [action]

    def learning_rate(done: int, *rest: Any) -> float:
        if done + 1 == step and waiting:
            waiting.pop()()
        return original(done, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learning_rate", learning_rate)
        yield


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def last(run: Path) -> dict[str, Any]:
    """last.pt, read by PyTorch alone."""
    return dict(torch.load(run / "last.pt", weights_only=True))


def same(a: Any, b: Any) -> bool:
    """Bit for bit the same, tensors and containers of them alike."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    """A last.pt without what no two runs have in common."""
    times = ("seconds", "images_per_second")
    history = [{k: v for k, v in row.items() if k not in times} for row in document["history"]]
    ranks = [{k: v for k, v in rank.items() if k != "seconds"} for rank in document["ranks"]]
    settings = {name: value for name, (value, _) in document["settings"].items()}
    return document | {"history": history, "ranks": ranks, "about": None, "settings": settings}


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """Empty files for the pictures of a run: drawing them takes half a second each."""
    patch.setattr(plots, "learning_curves", lambda history, path, title, *details: path.touch())
    patch.setattr(reliability_plot, "reliability_diagram", lambda diagrams, errors, path, title, *rest: path.touch())
    patch.setattr(plots, "precision_recall_picture", lambda recalls, curves, path, title: path.touch())
    patch.setattr(plots, "confusion_picture", lambda matrix, names, path, title, **details: path.touch())


def picture(path: Path, width: int = 6, height: int = 4, mode: str = "RGB", seed: int = 0, **options: Any) -> Path:
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2, "CMYK": 4}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.squeeze()).save(path, **options) if mode in ("RGB", "RGBA", "L") else (
        Image.frombytes(mode, (width, height), noise.tobytes()).save(path, **options)
    )
    return path


def write_idx(folder: Path, name: str, array: np.ndarray[Any, Any]) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(header + array.astype(np.uint8).tobytes())
