"""Runs of detectors: resumed bit for bit, and in several processes as in one, however many objects each of them has."""

from pathlib import Path

import numpy as np
import processes
import pytest
import small_runs as small
import torch

SPEC = """
finder:
  input: [3, 16, 16]
  args: {classes: 2}
  detects: {scores: cls, boxes: box}
  layers:
    body: [{Conv2d: {out_channels: 6, kernel_size: 3, stride: 4, padding: 1}}, ReLU]
    cls: {Conv2d: {out_channels: $classes, kernel_size: 1}}
    box: {from: body, layers: [{Conv2d: {out_channels: 4, kernel_size: 1}}, Softplus]}
  train: {optimizer: sgd, lr: 0.05, batch_size: 5, epochs: 2, flip: random, shift: 2, cutout: 3, init: {cls: prior}}
"""


def boxes(folder: Path) -> str:
    """A YOLO folder: 20 images with up to three boxes, a quarter of them with none."""
    random = np.random.default_rng(0)
    (folder / "set" / "labels").mkdir(parents=True)
    (folder / "set" / "classes.txt").write_text("dot\nbar\n")
    for i in range(20):
        small.picture(folder / "set" / "images" / f"{i}.png", 16, 16, seed=i)
        lines = []
        for _ in range(i % 4):
            w, h = random.uniform(0.2, 0.5, 2)
            x, y = random.uniform(w / 2, 1 - w / 2), random.uniform(h / 2, 1 - h / 2)
            lines.append(f"{random.integers(2)} {x:.4f} {y:.4f} {w:.4f} {h:.4f}\n")
        (folder / "set" / "labels" / f"{i}.txt").write_text("".join(lines))
    return str(folder / "set")


def test_two_and_three_processes_weigh_by_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes.ready(tmp_path, monkeypatch)
    (tmp_path / "finder.yaml").write_text(SPEC)
    boxes(tmp_path)
    options = ("finder.yaml", "--data", "set", "--val-fraction", "0.4")
    one, *more = (processes.trained(tmp_path, size, f"{size}", *options) for size in (1, 2, 3))
    wanted = small.last(one)["network"]
    assert processes.rows(one)[-1]["val_ap"] is not None and processes.rows(one)[-1]["train_ap"] is None
    for run in more:
        weights = small.last(run)["network"]
        assert max(float((wanted[k] - weights[k]).abs().max()) for k in wanted) < 1e-6
        for own, other in zip(processes.rows(one), processes.rows(run), strict=True):
            assert own == pytest.approx(other, abs=1e-6)


def test_a_run_stopped_in_the_middle_ends_with_the_same_weights(quick: Path) -> None:
    data = boxes(quick)
    whole = small.begin(quick, "whole", SPEC, data=data, epochs=3)

    def stop() -> None:
        raise KeyboardInterrupt

    with small.at_step(6, stop), pytest.raises(KeyboardInterrupt):
        small.begin(quick, "half", SPEC, data=data, epochs=3)
    half = small.resume(quick, "half", SPEC)
    own, other = (small.last(run)["network"] for run in (whole, half))
    assert list(own) == list(other) and all(torch.equal(own[name], other[name]) for name in own)
    rows = [small.last(run)["history"] for run in (whole, half)]
    assert [(row["train_loss"], row["test_ap"]) for row in rows[0]] == [
        (r["train_loss"], r["test_ap"]) for r in rows[1]
    ]
