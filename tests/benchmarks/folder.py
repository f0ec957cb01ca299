"""Images per second from a folder of photos that does not fit into memory, against torchvision's ImageFolder.

    python tests/benchmarks/folder.py CIFAR10 [--images 2000] [--workers 2] [--size 224] [--epochs 3]

CIFAR10 is a folder of small images, enlarged here to JPEGs of 500x375. Nothing is trained: both sides deliver batches
of 64 in float32, from as many workers, in turn within one process. The cache is in a temporary folder and deleted.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BATCH = 64


def make_photos(source: Path, target: Path, count: int) -> None:
    from PIL import Image, ImageFilter

    def enlarge(item: tuple[int, Path]) -> None:
        number, path = item
        folder = target / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        photo = Image.open(path).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC)
        noise = Image.effect_noise(photo.size, 24).convert("RGB")  # else it would be smoother than any photo
        Image.blend(photo.filter(ImageFilter.DETAIL), noise, 0.2).save(folder / f"{number}.jpg", quality=90)

    paths = sorted(source.rglob("*.jpg"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(enlarge, enumerate(paths[:: len(paths) // count][:count])))


def theirs(photos: Path, options: argparse.Namespace) -> Any:
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    size = (options.size, options.size)
    data = ImageFolder(str(photos), transforms.Compose([transforms.Resize(size), transforms.ToTensor()]))
    return DataLoader(data, BATCH, shuffle=True, num_workers=options.workers)


def ours(photos: Path, options: argparse.Namespace) -> tuple[Any, float, float]:
    """A function, epoch → its batches; and the seconds and CPU seconds of preparation, which belong to the first."""
    import torch

    from cnn_cli.data import preparation
    from cnn_cli.data.batches import epoch_order, iterate_batches
    from cnn_cli.data.loading import load_dataset
    from cnn_cli.data.preprocessing import Preprocessing
    from cnn_cli.device import keep_freed_memory

    keep_freed_memory()  # as `cnn train` does; it speeds up both sides
    preparation.free_memory = lambda *_: 0  # type: ignore[attr-defined]
    start, used = time.perf_counter(), cpu()
    dataset = load_dataset(str(photos), photos)
    size = (3, options.size, options.size)
    data = preparation.prepare(dataset, Preprocessing(size), torch.device("cpu"), options.workers)
    split, seconds = data.splits["all"], time.perf_counter() - start
    device = torch.device("cpu")

    def epoch(number: int) -> Any:
        return iterate_batches(split, epoch_order(len(split), 0, number).split(BATCH), device)

    return epoch, seconds, cpu() - used


def measure(batches: Any) -> tuple[int, float, float]:
    """How many images, the seconds on the clock, and the CPU seconds of this process and its workers."""
    start, used, images = time.perf_counter(), cpu(), 0
    for x, _ in batches:
        images += len(x)
    return images, time.perf_counter() - start, cpu() - used


def cpu() -> float:
    """CPU seconds so far: of this process, and of workers that have ended."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    for name, value in (("images", 2000), ("workers", 2), ("size", 224), ("epochs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--photos", type=Path, help="keep them in this folder, or use those of an earlier run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cnn-folder-") as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        photos = options.photos or Path(scratch) / "photos"
        if not photos.is_dir():
            make_photos(options.source, photos, options.images)
        size = sum(path.stat().st_size for path in photos.rglob("*.jpg"))
        print(f"{options.images:,} JPEGs of 500x375 ({size / 1e6:,.0f} MB), {options.workers} workers")
        loader = theirs(photos, options)
        epoch, *prepared = ours(photos, options)
        print(f"preparation: {prepared[0]:.2f} s, counted in the first epoch")
        for number in range(1, options.epochs + 1):
            images, *theirs_took = measure(loader)
            _, *ours_took = measure(epoch(number))
            if number == 1:
                ours_took = [a + b for a, b in zip(ours_took, prepared, strict=True)]
            speeds = f"ImageFolder {images / theirs_took[0]:,.0f}, cnn {images / ours_took[0]:,.0f} images/s"
            ratio, of_cpu = (a / b for a, b in zip(theirs_took, ours_took, strict=True))
            print(f"epoch {number}: {speeds}, ratio {ratio:.2f}, of CPU seconds {of_cpu:.2f}", flush=True)


if __name__ == "__main__":
    main()
