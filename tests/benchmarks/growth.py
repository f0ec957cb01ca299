"""Growth: the CPU time of what comes before and around training, against the number of images, classes and layers.

    python tests/benchmarks/growth.py [--images 1000,10000,100000] [--only layers]

Everything runs in this process, on data made for it: files that are empty, images of 2x2. The exponent is that of the
two largest sizes: 1 is linear. Prints a table in Markdown: seconds, the least of three.
"""

import argparse
import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cnn_cli.analysis.diagnostics import diagnose
from cnn_cli.analysis.summary import setup, summarize
from cnn_cli.data.batches import balanced_order, epoch_order
from cnn_cli.data.dataset import Dataset, Split
from cnn_cli.data.fingerprint import compute_fingerprint
from cnn_cli.data.folder import read_folder
from cnn_cli.data.loading import split_dataset
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
from cnn_cli.tasks.classification import classification_task

Measured = tuple[str, Callable[[], object]]


def seconds(function: Callable[[], object]) -> float:
    """CPU seconds, the least of three; of one, where that takes long."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < 5:
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def data_set(images: int, classes: int = 10) -> Dataset:
    labels = torch.arange(images) % classes
    split = Split(torch.zeros(images, 1, 2, 2, dtype=torch.uint8), labels)
    return Dataset("synthetic", tuple(f"class {i}" for i in range(classes)), {"train": split})


def folder_of(root: Path, images: int, classes: int) -> Path:
    root /= f"{images}-{classes}"
    for label in range(classes):
        (root / f"{label:05}").mkdir(parents=True, exist_ok=True)
    for number in range(images):
        (root / f"{number % classes:05}" / f"{number:07}.png").touch()
    return root


def by_images(size: int, folder: Path) -> Iterator[Measured]:
    data, labels = data_set(size), torch.arange(size) % 10
    if size <= 100_000:  # files; more of them take minutes to make
        files = folder_of(folder, size, 10)
        yield "list a folder", lambda: read_folder(files)
    yield "split, 10% held out", lambda: split_dataset(data, 0.1, 0)
    yield "fingerprint", lambda: compute_fingerprint(data)
    yield "shuffle and plan an epoch", lambda: torch.split(epoch_order(size, 0, 1), 64)
    yield "the same, classes balanced", lambda: torch.split(balanced_order(labels, 0, 1), 64)


def by_classes(size: int, folder: Path) -> Iterator[Measured]:
    files, data = folder_of(folder, 10_000, size), data_set(10_000, size)
    plan = find("fashion-convnet", args={"classes": size})
    task = classification_task(plan, data.classes)
    measure = task.measure(torch.device("cpu"))
    scores, targets = torch.rand(250, size), torch.arange(250) % size
    yield "list a folder of 10,000 images", lambda: read_folder(files)
    yield "split 10,000 images", lambda: split_dataset(data, 0.1, 0)
    yield "metrics of 10,000 scored images", lambda: [measure.add(scores, targets) for _ in range(40)]


def by_layers(size: int, folder: Path) -> Iterator[Measured]:
    spec = folder / f"{size}.yaml"
    pairs = "    - Conv2d: {out_channels: 8, kernel_size: 3, padding: 1}\n    - ReLU\n" * (size // 2 - 1)
    spec.write_text(f"net:\n  input: [8, 16, 16]\n  layers:\n{pairs}    - Flatten\n    - Linear: 10\n")
    plan = find(str(spec))
    yield "check", lambda: diagnose([str(spec)], (), {}, None)
    yield "summary", lambda: summarize(plan, setup(plan, None, None, None, None)).text()
    network = build_plan(plan)
    yield "train: plan and build", lambda: build_plan(find(str(spec)))
    yield "train: a step of 2 images", lambda: network(torch.zeros(2, *plan.input)).sum().backward()


GROUPS = {"images": by_images, "classes": by_classes, "layers": by_layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,10000,100000,1000000")
    parser.add_argument("--classes", default="10,100,1000")
    parser.add_argument("--layers", default="10,100,1000,10000")
    parser.add_argument("--only", choices=GROUPS)
    options = parser.parse_args()
    gc.set_threshold(20_000)  # as the command does
    with tempfile.TemporaryDirectory(prefix="cnn-growth-") as folder:
        for group, measures in GROUPS.items():
            if options.only in (None, group):
                sizes = [int(n) for n in getattr(options, group).split(",")]
                times: dict[str, dict[int, float]] = {}
                for size in sizes:
                    for title, function in measures(size, Path(folder)):
                        times.setdefault(title, {})[size] = seconds(function)
                print(table(group, sizes, times), flush=True)


def table(group: str, sizes: list[int], times: dict[str, dict[int, float]]) -> str:
    lines = [
        f"| {group} | {' | '.join(f'{n:,}' for n in sizes)} | exponent |",
        "| --- |" + " ---: |" * (len(sizes) + 1),
    ]
    for title, row in times.items():
        (n, before), (m, after) = list(row.items())[-2:]
        exponent = math.log(max(after, 1e-9) / max(before, 1e-9)) / math.log(m / n)
        cells = " | ".join(f"{row[size]:.3f}" if size in row else "–" for size in sizes)
        lines.append(f"| {title} | {cells} | {exponent:.2f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
