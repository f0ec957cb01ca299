"""The order of the images and the batches of an epoch: what the network sees, and when.

The order is a function of (seed, epoch) alone, and nothing here draws from PyTorch's global random numbers. So an epoch
can be taken up in the middle, and anybody can repeat it; epochs count from 1:

    order = torch.randperm(n, generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32))
    for index in order.split(batch_size):
        x, y = images[index].float() / 255, labels[index]
"""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cnn_cli.data.decode import decode
from cnn_cli.data.preprocess import Preprocessing, adapt
from cnn_cli.distributed.world import current_world
from cnn_cli.errors import CnnError, StoppedError


class ReadError(CnnError):
    """An image or a data worker failed in the middle of training. The state of the run is whole."""


_PATIENCE = 120  # seconds without a batch before a worker counts as hanging


@dataclass(frozen=True)
class Stream(Dataset[Tensor]):
    """Images too many to be kept: read, and fitted to the input, batch by batch in worker processes."""

    images: Tensor | tuple[Path, ...]
    how: Preprocessing
    workers: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, index: list[int]) -> Tensor | str:
        """(b, C, H, W) bytes; or the text of an error: an exception would leave a worker with its whole traceback."""
        try:
            if isinstance(self.images, Tensor):
                return adapt(self.images[index], self.how)
            return torch.cat([fitted(self.images[i], self.how) for i in index])
        except StoppedError:
            raise
        except CnnError as error:
            return str(error)


@dataclass(frozen=True)
class Split:
    """Images fitted to a network, (n, C, H, W) bytes or a stream of them, with their targets, such as labels (n,)."""

    name: str
    images: Tensor | Stream
    targets: Tensor

    @property
    def home(self) -> torch.device:
        """Where indices are wanted."""
        return self.images.device if isinstance(self.images, Tensor) else torch.device("cpu")

    def __len__(self) -> int:
        return len(self.targets)


def fitted(path: Path, how: Preprocessing) -> Tensor:
    """An image file → (1, C, H, W) bytes."""
    return adapt(decode(path, how.input[0]).unsqueeze(0), how)


@dataclass(frozen=True)
class Layout:
    """How pixels lie when they reach the network: the upper left (height, width) alone, None for all; and the order."""

    size: tuple[int, int] | None = None
    channels_last: bool = False


WHOLE = Layout()


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool = True) -> Tensor:
    """(n,) int64: the order in which epoch 1, 2, … sees the images; 0 … n−1 where it is not shuffled."""
    if not shuffle:
        return torch.arange(n)
    return torch.randperm(n, generator=_generator(seed, epoch))


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """(n,) int64: as many images as there are, each drawn of a class by chance, the classes being equally likely."""
    labels, draw = labels.cpu(), _generator(seed, epoch)
    by_class, counts = labels.argsort(stable=True), torch.bincount(labels)
    starts, classes = counts.cumsum(0) - counts, counts.nonzero().flatten()
    chosen = classes[torch.randint(len(classes), (len(labels),), generator=draw)]
    place = (torch.rand(len(labels), generator=draw, dtype=torch.float64) * counts[chosen]).long()
    return by_class[starts[chosen] + place]


def _generator(seed: int, epoch: int) -> torch.Generator:
    # Only the low 32 bits of a seed count on the CPU, so both numbers have to be in them.
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32)


def batches(
    split: Split,
    parts: Sequence[Tensor],
    device: torch.device,
    layout: Layout = WHOLE,
    change: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """x (b, C, H, W) float32 in [0, 1] and y (b,) int64, both on the device, for each of `parts`: (b,) indices.

    change: what is done to whole batches of bytes on the device, (images, their indices) → images. The division gives
    exactly the values of torchvision's ToTensor. ReadError where an image or a worker fails.
    """
    parts = [part for part in parts if len(part)]
    if isinstance(split.images, Tensor):
        chosen: Iterable[Tensor] = (split.images[part.to(split.images.device)] for part in parts)
    else:
        chosen = _streamed(split.images, parts, device) if parts else ()
    for part, images in zip(parts, chosen, strict=True):
        images = images.to(device, non_blocking=True)
        if change:
            images = change(images, part.to(device))
        yield pixels(images, device, layout), split.targets[part.to(split.targets.device)].to(device)


def pixels(images: Tensor, device: torch.device, layout: Layout = WHOLE) -> Tensor:
    """Bytes → float32 in [0, 1]; converted on the device, since bytes travel four times as fast."""
    images = images.to(device, non_blocking=True)
    if layout.size:
        height, width = layout.size
        images = images[..., :height, :width]
    form = torch.channels_last if layout.channels_last else torch.contiguous_format
    return images.to(torch.float32, memory_format=form).div_(255)


def _streamed(stream: Stream, parts: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    loader: DataLoader[Tensor] = DataLoader(
        stream,
        batch_sampler=[p.tolist() for p in parts],
        num_workers=stream.workers,
        collate_fn=_shared,
        worker_init_fn=_leave_signals_to_main,
        pin_memory=device.type == "cuda",
        timeout=1 if stream.workers else 0,
        generator=torch.Generator(),  # else making its iterator would draw from the global random numbers
    )
    try:
        with _quiet_children():
            batches = iter(loader)
    except (OSError, EOFError, RuntimeError) as error:  # no process to be had, or the server of processes was stopped
        reason = str(error) or type(error).__name__
        raise ReadError(f"no data worker could be started ({reason}); try --workers 0") from None
    for _ in parts:
        images = _next(batches)
        if isinstance(images, str):
            raise ReadError(images)
        yield images


def _next(batches: Iterator[Tensor]) -> Tensor | str:
    """The next batch. The loader gives up after a second; it is asked again as long as its workers live."""
    for _ in range(_PATIENCE):
        try:
            return next(batches)
        except (RuntimeError, OSError, EOFError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if "timed out" not in reason:
                break
    else:
        reason = f"no batch for {_PATIENCE} seconds"
    raise ReadError(f"a data worker failed ({reason}); try --workers 0, or fewer if memory or /dev/shm is short")


_FROM_OUTSIDE = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def _quiet_children() -> Iterator[None]:
    """Start workers so that no signal hits them, or a step, half-way.

    PyTorch would watch for dead workers by a signal and raise in the middle of a step; steps must be whole, for the
    state to be saved after the last of them. A dead worker is noticed when its batch is due. And until a worker has
    its own way with signals it would take them in main's, and live on: they wait.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_OUTSIDE)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _shared(batch: Any) -> Any:
    """In a worker: into shared memory at once. Where it is too small, the queue to main would wait for ever."""
    if isinstance(batch, Tensor) and get_worker_info() is not None:
        try:
            return batch.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError:
            need = f"a batch takes {batch.nbytes / 1e6:.1f} MB"
            return f"shared memory (/dev/shm) is too small: {need}; try --workers 0, or fewer"
    return batch


def _leave_signals_to_main(worker: int) -> None:
    """Ctrl-C reaches the whole group, and main decides; SIGTERM must end a worker, or main might wait for ever.

    Among several processes not at once: launchers send it to all, workers too, and the processes have yet to agree on
    the step at which they stop.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon if current_world().size > 1 else signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FROM_OUTSIDE)


def _end_soon(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it
    signal.alarm(10)  # and so does time
