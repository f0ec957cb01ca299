"""Images per second of `cnn train unet` against the plain PyTorch loop that one would write, both in one run.

    python tests/benchmarks/masks.py [--rounds 3] [--data-dir DIR]

Same network, loss, batches and optimizer (AdamW), loss and mIoU at every step, one thread. Each side runs as a process
of its own, with few and with many steps; the difference in CPU seconds is what the steps take, whatever else runs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

IMAGES, FEW, MANY = 4_000, 0.05, 0.3  # epochs
BATCH = 16


def plain(epochs: float, data_dir: Path) -> None:
    """The loop: a DataLoader over pairs of tensors, PyTorch's own layout of memory, a confusion matrix per step."""
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, TensorDataset

    import cnn_cli
    from cnn_cli.data.shapes import CLASSES, read_shapes

    torch.set_num_threads(1)
    shapes, k = read_shapes(data_dir), len(CLASSES)
    images, masks = shapes.images[:IMAGES].float() / 255, shapes.masks[:IMAGES].long()
    counts = masks.flatten().bincount(minlength=k).float()
    weights = (counts.sum() / k / counts).sqrt()
    network = cnn_cli.build("unet")
    optimizer = torch.optim.AdamW(network.parameters(), 0.001)
    steps, matrix = round(epochs * IMAGES / BATCH), torch.zeros(k * k, dtype=torch.int64)
    for _, (x, y) in zip(range(steps), DataLoader(TensorDataset(images, masks), BATCH, shuffle=True), strict=False):
        optimizer.zero_grad()
        scores = F.interpolate(network(x), size=y.shape[1:], mode="bilinear")
        loss = F.cross_entropy(scores, y, weights, ignore_index=255)
        loss.backward()
        optimizer.step()
        matrix += (y * k + scores.argmax(1)).flatten().bincount(minlength=k * k)
        loss.item()


def command(side: str, epochs: float, data_dir: Path, folder: str) -> list[str]:
    if side == "plain":
        return [sys.executable, __file__, "--plain", str(epochs), "--data-dir", str(data_dir)]
    options = ["--optimizer", "adamw", "--lr", "0.001", "--schedule", "constant", "--flip", "none"]
    options += ["--class-weights", "sqrt"]
    options += ["--epochs", str(epochs), "--batch-size", str(BATCH), "--threads", "1", "--data-dir", str(data_dir)]
    return [sys.executable, "-m", "cnn_cli", "train", "unet", *options, "-o", f"{folder}/{epochs}"]


def cpu_seconds(words: list[str]) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=Path("~/.cache/cnn/datasets").expanduser())
    parser.add_argument("--plain", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        return plain(options.plain, options.data_dir)
    ratios = []
    for number in range(options.rounds):
        speeds = {}
        for side in ("plain", "cnn") if number % 2 else ("cnn", "plain"):
            with tempfile.TemporaryDirectory() as folder:
                few, many = (cpu_seconds(command(side, epochs, options.data_dir, folder)) for epochs in (FEW, MANY))
            speeds[side] = (MANY - FEW) * IMAGES / (many - few)
        ratios.append(speeds["cnn"] / speeds["plain"])
        print(f"cnn train {speeds['cnn']:.0f}/s, plain loop {speeds['plain']:.0f}/s: {ratios[-1]:.2f}", flush=True)
    print(f"median {median(ratios):.2f}")


if __name__ == "__main__":
    main()
