"""The folder of a run in distributed training: the main process creates and locks it, and broadcasts its path."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cnn_cli.checkpoints.run_folder import existing_run, new_run
from cnn_cli.distributed.world import World


@dataclass(frozen=True)
class SharedFolder:
    """The folder of a run, and the processes that share it."""

    path: Path
    world: World


@contextmanager
def new_folder(network: str, output: Path | None, world: World) -> Iterator[SharedFolder]:
    if not world.is_main:
        yield SharedFolder(world.broadcast_object(Path()), world)
        return
    with new_run(network, output) as run:
        yield SharedFolder(world.broadcast_object(run), world)


@contextmanager
def existing_folder(path: Path, world: World) -> Iterator[SharedFolder]:
    if not world.is_main:
        yield SharedFolder(path, world)
        return
    with existing_run(path):
        yield SharedFolder(path, world)
