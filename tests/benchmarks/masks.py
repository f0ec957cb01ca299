"""Images per second of `cnn train unet` against the plain PyTorch loop that one would write, both in one run.

    python tests/benchmarks/masks.py [--rounds 11] [--data-dir DIR]

Same network, loss, batches and optimizer (AdamW), loss and mIoU at every step, one thread. Each side is a process of
its own; they take turns of a few steps, and each turn is measured in CPU seconds of its process, so that whatever else
runs slows down both alike. The result is the median of the ratios of the turns.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

IMAGES, BATCH, STEPS = 4_000, 16, 15  # STEPS: of a turn


def plain(turns: Connection, data_dir: Path) -> None:
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
    matrix = torch.zeros(k * k, dtype=torch.int64)

    def steps() -> Iterator[None]:
        for x, y in DataLoader(TensorDataset(images, masks), BATCH, shuffle=True):
            optimizer.zero_grad()
            scores = F.interpolate(network(x), size=y.shape[1:], mode="bilinear")
            loss = F.cross_entropy(scores, y, weights, ignore_index=255)
            loss.backward()
            optimizer.step()
            matrix.add_((y * k + scores.argmax(1)).flatten().bincount(minlength=k * k))
            loss.item()
            yield

    for _ in in_turns(steps(), turns):
        pass


def cnn(turns: Connection, data_dir: Path) -> None:
    """`cnn train` as it is; only the steps of its loop wait for their turn."""
    from cnn_cli.cli import main
    from cnn_cli.training import loop

    steps = loop._steps
    loop._steps = lambda *arguments: in_turns(steps(*arguments), turns)  # type: ignore[assignment]
    options = ["--optimizer", "adamw", "--lr", "0.001", "--schedule", "constant", "--flip", "none"]
    options += ["--class-weights", "sqrt", "--epochs", "1", "--batch-size", str(BATCH), "--threads", "1"]
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        sys.argv = ["cnn", "train", "unet", *options, "--data-dir", str(data_dir), "-o", f"{folder}/run"]
        sys.stdout = sys.stderr = nowhere
        main()


def in_turns(steps: Iterator[None], turns: Connection) -> Iterator[None]:
    """The steps, STEPS at a time when asked to, each time answered with the CPU seconds of the process."""
    while turns.recv():
        started = time.process_time()
        yield from islice(steps, STEPS)
        turns.send(time.process_time() - started)
    sys.exit(0)  # without the rest of the epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help=f"at most {IMAGES // BATCH // STEPS - 1}")
    parser.add_argument("--data-dir", type=Path, default=Path("~/.cache/cnn/datasets").expanduser())
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn, sides, processes, ratios = get_context("spawn"), {}, [], []
    for work in (cnn, plain):
        sides[work.__name__], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=work, args=(theirs, options.data_dir), daemon=True))
        processes[-1].start()
    for number in range(options.rounds + 1):
        seconds: dict[str, Any] = {}
        for side in sorted(sides, reverse=number % 2 == 1):
            sides[side].send(True)
            seconds[side] = sides[side].recv()
        if number:  # the first turn warms up
            ratios.append(seconds["plain"] / seconds["cnn"])
            rates = {side: STEPS * BATCH / value for side, value in seconds.items()}
            print(f"cnn train {rates['cnn']:.0f}/s, plain loop {rates['plain']:.0f}/s: {ratios[-1]:.2f}", flush=True)
    for pipe, process in zip(sides.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    print(f"median {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
