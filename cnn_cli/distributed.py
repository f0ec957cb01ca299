"""Several processes that train one network, each on a device of its own: who this one is, and how they agree.

Started as everybody starts them: by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK, or by SLURM's srun. They
talk through PyTorch's own process group: gloo for CPUs and for what the host decides, NCCL between GPUs.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from cnn_cli.errors import CnnError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
PATIENCE = 300.0  # seconds without a word from another process before the job counts as hanging


@dataclass(frozen=True)
class World:
    """This process among `size`, numbered from 0; `local` counts those on this machine. Alone: World()."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, index: "Tensor") -> "Tensor":
        """This process's part of some numbers (n,): every size-th. All parts together are the whole, each once."""
        return index[self.rank :: self.size]

    def add(self, *tensors: "Tensor") -> None:
        """Each tensor becomes its sum over all processes, in place."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.all_reduce(tensor)

    def spread(self, *tensors: "Tensor") -> None:
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

        values: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(value, values)
        return values or []

    def tell(self, value: T) -> T:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def agree(self, *questions: bool) -> list[bool]:
        """For each question whether any process says yes."""
        if self.size == 1:
            return list(questions)
        import torch
        import torch.distributed as dist

        answers = torch.tensor(questions, dtype=torch.uint8)
        dist.all_reduce(answers, dist.ReduceOp.MAX)
        return [bool(a) for a in answers.tolist()]


ALONE = World()


def world(environ: Mapping[str, str] = os.environ) -> World:
    """As torchrun or srun started this process; alone where neither did. CnnError for variables that make no sense."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in environ and int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    elif "RANK" not in environ or "WORLD_SIZE" not in environ:
        return ALONE
    try:
        found = World(int(environ[names[0]]), int(environ[names[1]]), int(environ.get(names[2], "0")))
    except (KeyError, ValueError) as error:
        raise CnnError(f"started among several processes, but {', '.join(names)} are not all set ({error})") from None
    return found if found.size > 1 else ALONE


@contextmanager
def joined(here: World, device: "torch.device") -> Iterator[None]:
    """The process group inside the `with`. CnnError where another process is gone, or silent for too long."""
    if here.size == 1:
        yield
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _meeting_point(os.environ)
    patience = timedelta(seconds=float(os.environ.get("CNN_PATIENCE", PATIENCE)))
    backend = f"cpu:gloo,{device.type}:nccl" if device.type == "cuda" else "gloo"
    store = None
    try:
        store, _, _ = next(rendezvous("env://", here.rank, here.size, timeout=patience))
        dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.size, timeout=patience)
        yield
        with suppress(RuntimeError):
            dist.barrier()  # nobody leaves while another still needs the meeting point, which the first may hold
    except (RuntimeError, dist.DistError) as error:
        if not _about_others(error):
            raise
        raise CnnError(_lost(here, store, error)) from None
    finally:
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _about_others(error: Exception) -> bool:
    words = ("connection", "timed out", "timeout", "gloo", "nccl", "peer", "socket", "store", "rank")
    return any(word in str(error).lower() for word in words)


def _lost(here: World, store: Any, error: Exception) -> str:
    """Who is missing: every process that still runs leaves a mark, and after a moment some marks are not there."""
    reason = str(error).strip().splitlines()[0][:200]
    missing: list[int] = []
    with suppress(Exception):  # the meeting point may be gone with the process that held it
        store.set(f"cnn/here/{here.rank}", "yes")
        time.sleep(2)
        missing = [r for r in range(here.size) if not store.check([f"cnn/here/{r}"])]
    who = ", ".join(map(str, missing))
    what = f"process {who} of {here.size} (counted from 0) has ended or hangs" if who else "another process has ended"
    way = "the run goes on from its last saved state with --resume"
    return f"{what}, so this one (process {here.rank}) stops too: {reason}\n{way}"


def _meeting_point(environ: Any) -> None:
    """Under srun, what torchrun would have set: the first machine of the job step, and a port made of its number."""
    if "MASTER_ADDR" not in environ:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST") or "127.0.0.1"
        environ["MASTER_ADDR"] = first_host(nodes)
    environ.setdefault("MASTER_PORT", str(20_000 + int(environ.get("SLURM_JOB_ID", "0")) % 20_000))


def first_host(nodes: str) -> str:
    """The first machine of SLURM's short form.

    >>> first_host("gpu[07-09,12],cpu1"), first_host("node3"), first_host("a[1,3]-b")
    ('gpu07', 'node3', 'a1-b')
    """
    match = re.match(r"([^\[,]*)(?:\[([^\],-]*)[^\]]*\])?([^,\[]*)", nodes)
    assert match is not None
    return "".join(part or "" for part in match.groups())
