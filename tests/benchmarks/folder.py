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


def ours(photos: Path, options: argparse.Namespace) -> tuple[Any, float]:
    """A function, epoch → its batches; and the seconds of preparation, which belong to the first."""
    import torch

    from cnn_cli.data import preparation
    from cnn_cli.data.batches import epoch_order, iterate_batches
    from cnn_cli.data.loading import load_dataset
    from cnn_cli.data.preprocessing import Preprocessing

    preparation.free_memory = lambda *_: 0  # type: ignore[attr-defined]
    start = time.perf_counter()
    dataset = load_dataset(str(photos), photos)
    size = (3, options.size, options.size)
    data = preparation.prepare(dataset, Preprocessing(size), torch.device("cpu"), options.workers)
    split, seconds = data.splits["all"], time.perf_counter() - start
    device = torch.device("cpu")
    return lambda epoch: iterate_batches(split, epoch_order(len(split), 0, epoch).split(BATCH), device), seconds


def measure(batches: Any) -> tuple[int, float]:
    start, images = time.perf_counter(), 0
    for x, _ in batches:
        images += len(x)
    return images, time.perf_counter() - start


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
        epoch, prepared = ours(photos, options)
        print(f"preparation: {prepared:.2f} s, counted in the first epoch")
        for number in range(1, options.epochs + 1):
            images, their_seconds = measure(loader)
            _, our_seconds = measure(epoch(number))
            our_seconds += prepared if number == 1 else 0
            speeds = f"ImageFolder {images / their_seconds:,.0f}, cnn {images / our_seconds:,.0f} images/s"
            print(f"epoch {number}: {speeds}, ratio {their_seconds / our_seconds:.2f}", flush=True)


if __name__ == "__main__":
    main()
