"""Distributed training: the rank of this process, and collective operations of all processes.

The processes are started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK, or by SLURM's srun, and communicate
through PyTorch's process group: gloo on CPUs and for decisions of the hosts, NCCL between GPUs.
"""

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cnn_cli.errors import CnnError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
DOWNLOAD_TIMEOUT = timedelta(days=1)
REPORT_DELAY = 5.0  # seconds that the other processes give the main one to report an error


@dataclass(frozen=True)
class World:
    """This process, number `rank` of `size`; `local_rank` counts those on its node. One process alone: World()."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    nodes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def resume_hint(self, run: Path, *options: str) -> str:
        """The line with the command that resumes a run with the same number of processes."""
        launcher = ["torchrun", "--nproc-per-node", str(self.size), "-m", "cnn_cli"] if self.size > 1 else ["cnn"]
        if self.nodes > 1:
            command = shlex.join(["-m", "cnn_cli", "train", str(run), "--resume", *options])
            return f"resume on all {self.nodes} nodes, started as before, with: {command}"
        return f"resume with: {shlex.join([*launcher, 'train', str(run), '--resume', *options])}"

    def shard(self, index: "Tensor") -> "Tensor":
        """This process's shard of indices (n,): every size-th. Together the shards have each index once."""
        return index[self.rank :: self.size]

    def sum(self, *tensors: "Tensor") -> None:
        """Replace each tensor by its sum over all processes, in place."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.all_reduce(tensor)

    def broadcast(self, *tensors: "Tensor") -> None:
        """Copy the tensors of the main process to all processes, in place."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, in the main process; an empty list in the others."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def broadcast_object(self, value: T) -> T:
        """The value of the main process, in all of them."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set in any process."""
        return [bool(flag) for flag in self.max(*flags)]

    def max(self, *numbers: float) -> list[float]:
        """The largest of each number over all processes."""
        if self.size == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        largest = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    @contextmanager
    def local_main_first(self) -> Iterator[None]:
        """Run the `with` in one process per node first, then in the others, which find what it has downloaded."""
        if self.size == 1:
            yield
            return
        import torch.distributed as dist

        # A process that dies is noticed at once nevertheless.
        group: Any = dist.new_group(backend="gloo", timeout=DOWNLOAD_TIMEOUT)
        if self.local_rank:
            dist.barrier(group)
        yield
        if not self.local_rank:
            dist.barrier(group)


ALONE = World()


class Poll:
    """World.any() about once per second: at every step, it would make each process wait for the others.

    All processes ask at the same steps, which follow from the time per step of the slowest.
    """

    def __init__(self, world: World) -> None:
        self.world, self.steps, self.every, self.clock = world, 0, 1, time.monotonic()

    def any(self, *flags: bool, now: bool = False) -> list[bool]:
        """As World.any(), or False for all flags if it is not time to ask. now: ask in any case."""
        self.steps += 1
        if self.world.size == 1:
            return list(flags)
        if self.steps < self.every and not now:
            return [False] * len(flags)
        seconds, *answers = self.world.max((time.monotonic() - self.clock) / self.steps, *flags)
        self.steps, self.every, self.clock = 0, round(min(100, max(1, 1 / max(seconds, 1e-3)))), time.monotonic()
        return [bool(answer) for answer in answers]


def current_world(environ: Mapping[str, str] = os.environ) -> World:
    """The world from the variables of torchrun or srun; ALONE without them. CnnError for inconsistent variables."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in environ and environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    elif "RANK" not in environ or "WORLD_SIZE" not in environ:
        return ALONE
    try:
        rank, size, local_rank = int(environ[names[0]]), int(environ[names[1]]), int(environ.get(names[2], "0"))
        nodes = int(environ.get("SLURM_STEP_NUM_NODES" if names[0] != "RANK" else "GROUP_WORLD_SIZE", "1"))
    except (KeyError, ValueError):
        rank, size, local_rank, nodes = -1, 0, 0, 1
    if not 0 <= rank < size:
        values = ", ".join(f"{name}={environ.get(name, '')}" for name in names)
        raise CnnError(f"invalid variables for a distributed run: {values}; unset them to train in one process")
    return World(rank, size, local_rank, nodes) if size > 1 else ALONE


def should_report(error: CnnError) -> bool:
    """Whether this process reports the error. If all fail with the same one, the main process does.

    The others wait: the launcher ends them after the report; if it does not, the error is theirs alone.
    """
    try:
        if error.to_report or (error.to_report is None and current_world().is_main):
            return True
    except CnnError:  # the rank is unknown
        return True
    time.sleep(REPORT_DELAY if error.to_report is None else REPORT_DELAY / 2)
    return error.to_report is None
