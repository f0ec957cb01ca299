"""Several processes train on masks as one does, however many valid pixels each of them has."""

from pathlib import Path

import numpy as np
import processes
import pytest
import small_runs as small
from PIL import Image

SPEC = """
dense:
  input: [3, 8, 8]
  args: {classes: 3}
  layers:
    - {Conv2d: {out_channels: 6, kernel_size: 3, padding: 1}}
    - ReLU
    - {Conv2d: {out_channels: $classes, kernel_size: 1}}
  train: {optimizer: sgd, lr: 0.1, batch_size: 5, epochs: 2, flip: random, shift: 2, cutout: 3}
"""


def test_two_and_three_processes_weigh_by_valid_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes.ready(tmp_path, monkeypatch)
    (tmp_path / "dense.yaml").write_text(SPEC)
    random = np.random.default_rng(0)
    (tmp_path / "set" / "masks").mkdir(parents=True)
    for i in range(20):
        small.picture(tmp_path / "set" / "images" / f"{i}.png", 8, 8, seed=i)
        labels = random.integers(0, 3, (8, 8)).astype(np.uint8)
        labels[: i % 7] = 255
        Image.fromarray(labels).save(tmp_path / "set" / "masks" / f"{i}.png")
    options = ("dense.yaml", "--data", "set", "--loss", "cross-entropy+dice", "--class-weights", "sqrt")
    one, *more = (processes.trained(tmp_path, size, f"{size}", *options) for size in (1, 2, 3))
    wanted = small.last(one)["network"]
    for run in more:
        weights = small.last(run)["network"]
        assert max(float((wanted[k] - weights[k]).abs().max()) for k in wanted) < 1e-6
        for own, other in zip(processes.rows(one), processes.rows(run), strict=True):
            assert own == pytest.approx(other, abs=1e-6)
