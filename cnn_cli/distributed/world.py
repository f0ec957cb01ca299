"""Several processes that train one network, each on a device of its own: who this one is, and how they agree.

Started as everybody starts them: by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK, or by SLURM's srun. They
talk through PyTorch's own process group: gloo for CPUs and for what the host decides, NCCL between GPUs.
"""

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cnn_cli.errors import CnnError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among `size`, numbered from 0; `local_rank` counts those on this machine. Alone: World()."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def resume_command(self, run: Path) -> str:
        """The command by which as many processes go on with a run."""
        start = ["torchrun", "--nproc-per-node", str(self.size), "-m", "cnn_cli"] if self.size > 1 else ["cnn"]
        return shlex.join([*start, "train", str(run), "--resume"])

    def shard(self, index: "Tensor") -> "Tensor":
        """This process's part of some numbers (n,): every size-th. All parts together are the whole, each once."""
        return index[self.rank :: self.size]

    def sum(self, *tensors: "Tensor") -> None:
        """Each tensor becomes its sum over all processes, in place."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.all_reduce(tensor)

    def broadcast(self, *tensors: "Tensor") -> None:
        """Each tensor becomes what it is in the first process, in place."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, value: T) -> list[T]:
        """In the first process the values of all, by rank; elsewhere nothing."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def broadcast_object(self, value: T) -> T:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def any(self, *questions: bool) -> list[bool]:
        """For each question whether any process says yes."""
        return [bool(answer) for answer in self.max(*questions)]

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
    def in_turn(self) -> Iterator[None]:
        """First one process of each machine, then the others: what the one downloads, the others find."""
        if self.local_rank:
            self.any()
        yield
        if not self.local_rank:
            self.any()


ALONE = World()


class Poll:
    """A question to all processes at every step, asked about once a second: asking makes each wait for the others.

    The steps at which it is asked are the same in all, since they follow from the time of the slowest.
    """

    def __init__(self, world: World) -> None:
        self.world, self.steps, self.every, self.clock = world, 0, 1, time.monotonic()

    def any(self, *questions: bool, now: bool = False) -> list[bool]:
        """As World.any(), or no to all where it is not time to ask. now: ask in any case."""
        self.steps += 1
        if self.world.size == 1:
            return list(questions)
        if self.steps < self.every and not now:
            return [False] * len(questions)
        seconds, *answers = self.world.max((time.monotonic() - self.clock) / self.steps, *questions)
        self.steps, self.every, self.clock = 0, round(min(100, max(1, 1 / max(seconds, 1e-3)))), time.monotonic()
        return [bool(answer) for answer in answers]


def current_world(environ: Mapping[str, str] = os.environ) -> World:
    """As torchrun or srun started this process; alone where neither did. CnnError for variables that make no sense."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in environ and environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    elif "RANK" not in environ or "WORLD_SIZE" not in environ:
        return ALONE
    try:
        found = World(int(environ[names[0]]), int(environ[names[1]]), int(environ.get(names[2], "0")))
    except (KeyError, ValueError):
        found = World(-1)
    if not 0 <= found.rank < found.size:
        given = ", ".join(f"{name}={environ.get(name, '')}" for name in names)
        raise CnnError(f"this looks like one of several processes, but {given} makes no sense; unset them to run alone")
    return found if found.size > 1 else ALONE
