"""The batches of an epoch, and their order: a function of (seed, epoch) alone.

Nothing here uses PyTorch's global random number generator, so that an epoch can be resumed in the middle, and
reproduced without this code; epochs count from 1:

    order = torch.randperm(n, generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32))
    for index in order.split(batch_size):
        x, y = images[index].float() / 255, labels[index]
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from cnn_cli.data.preparation import ImageStream, PreparedSplit
from cnn_cli.distributed.world import current_world
from cnn_cli.errors import CnnError


class ReadError(CnnError):
    """An image or a data-loading worker failed during training. The state of the run is consistent."""


_PATIENCE = 120  # seconds without a batch after which a worker is considered hung


@dataclass(frozen=True)
class InputLayout:
    """The upper left (height, width) of the images that the network uses, None for all of them; and the memory
    format."""

    size: tuple[int, int] | None = None
    channels_last: bool = False


DEFAULT_LAYOUT = InputLayout()


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool = True) -> Tensor:
    """(n,) int64: the order of the images in epoch 1, 2, …; 0 … n−1 if it is not shuffled."""
    if not shuffle:
        return torch.arange(n)
    return torch.randperm(n, generator=_generator(seed, epoch))


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """(n,) int64: as many images as there are, drawn with replacement so that all classes are equally likely."""
    labels, generator = labels.cpu(), _generator(seed, epoch)
    by_class, counts = labels.argsort(stable=True), torch.bincount(labels)
    starts, classes = counts.cumsum(0) - counts, counts.nonzero().flatten()
    drawn = classes[torch.randint(len(classes), (len(labels),), generator=generator)]
    rank = (torch.rand(len(labels), generator=generator, dtype=torch.float64) * counts[drawn]).long()
    return by_class[starts[drawn] + rank]


def _generator(seed: int, epoch: int) -> torch.Generator:
    # Only the low 32 bits of a seed count on the CPU, so both numbers have to be in them.
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32)


def iterate_batches(
    split: PreparedSplit,
    indices: Sequence[Tensor],
    device: torch.device,
    layout: InputLayout = DEFAULT_LAYOUT,
    transform: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """x (b, C, H, W) float32 in [0, 1] and its targets, both on the device, for each (b,) of `indices`.

    transform: augments a batch of bytes on the device, (images, targets, their indices) → images and targets, moved
    alike. Pixels have exactly the values of torchvision's ToTensor. ReadError if an image or a worker fails.
    """
    indices = [index for index in indices if len(index)]
    if isinstance(split.images, Tensor):
        batches: Iterable[Tensor] = (split.images[index.to(split.images.device)] for index in indices)
    else:
        read = _cached if split.images.is_cached() else _stream
        batches = read(split.images, indices, device) if indices else ()
    for index, images in zip(indices, batches, strict=True):
        images = images.to(device, non_blocking=True)
        targets = split.targets[index.to(split.targets.device)].to(device)
        if transform:
            images, targets = transform(images, targets, index.to(device))
        yield to_pixels(images, device, layout), targets


def to_pixels(images: Tensor, device: torch.device, layout: InputLayout = DEFAULT_LAYOUT) -> Tensor:
    """Bytes → float32 in [0, 1], converted on the device, as bytes are copied four times as fast."""
    images = images.to(device, non_blocking=True)
    if layout.size:
        height, width = layout.size
        images = images[..., :height, :width]
    memory_format = torch.channels_last if layout.channels_last else torch.contiguous_format
    return images.to(torch.float32, memory_format=memory_format).div_(255)


def _cached(stream: ImageStream, indices: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Batches from the cache: threads read ahead, since nothing is decoded."""
    with ThreadPoolExecutor(max(1, stream.workers)) as pool:
        ahead: deque[Future[Tensor | str]] = deque()
        remaining = iter(indices)
        try:
            for _ in indices:
                for index in islice(remaining, 1 + 2 * stream.workers - len(ahead)):
                    ahead.append(pool.submit(stream.__getitems__, index.tolist()))
                images = ahead.popleft().result()
                if isinstance(images, str):  # the cached one was damaged, and the file cannot be decoded
                    raise ReadError(images)
                yield images.pin_memory() if device.type == "cuda" else images
        finally:
            pool.shutdown(cancel_futures=True)


def _stream(stream: ImageStream, indices: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    loader: DataLoader[Tensor] = DataLoader(
        stream,
        batch_sampler=[index.tolist() for index in indices],
        num_workers=stream.workers,
        collate_fn=_shared,
        worker_init_fn=_leave_signals_to_main,
        pin_memory=device.type == "cuda",
        timeout=1 if stream.workers else 0,
        generator=torch.Generator(),  # else its iterator would use the global random number generator
    )
    try:
        with _quiet_children():
            batches = iter(loader)
    except (OSError, EOFError, RuntimeError) as error:  # no process could be started, or the fork server was stopped
        reason = str(error) or type(error).__name__
        raise ReadError(f"no data worker could be started ({reason}); try --workers 0") from None
    for _ in indices:
        images = _next(batches)
        if isinstance(images, str):
            raise ReadError(images)
        yield images


def _next(batches: Iterator[Tensor]) -> Tensor | str:
    """The next batch. The loader times out after a second, and is asked again for up to two minutes."""
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


_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def _quiet_children() -> Iterator[None]:
    """Start workers so that no signal interrupts their start, or a step.

    PyTorch's SIGCHLD handler for dead workers would raise in the middle of a step, but steps must be completed, since
    the state is saved after the last one. A dead worker is noticed when its batch is due. Until a worker has its own
    signal handlers it would run those of the main process and survive, so signals are blocked meanwhile.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _shared(batch: Any) -> Any:
    """In a worker: moved to shared memory at once. If that is too small, the queue to the main process would hang."""
    if isinstance(batch, Tensor) and get_worker_info() is not None:
        try:
            return batch.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError:
            need = f"a batch takes {batch.nbytes / 1e6:.1f} MB"
            return f"shared memory (/dev/shm) is too small: {need}; try --workers 0, or fewer"
    return batch


def _leave_signals_to_main(worker: int) -> None:
    """Ctrl-C reaches the whole process group, and the main process handles it; SIGTERM must end a worker.

    In distributed training not at once: launchers send it to all processes, workers included, and the ranks must first
    agree on the step at which they stop.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon if current_world().size > 1 else signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _end_soon(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it
    signal.alarm(10)  # and so does time
