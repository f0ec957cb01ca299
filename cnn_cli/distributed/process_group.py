"""The process group: if one process ends, all of them end, and one reports why.

Every failure closes the connections, which the others notice. The first process to fail reports its error; an error of
all processes is reported by the main one, and a process that hangs is named and killed.
"""

import gc
import os
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cnn_cli.distributed.world import World
from cnn_cli.errors import CnnError, UsageError

if TYPE_CHECKING:
    import torch

E = TypeVar("E", bound=Exception)
DEFAULT_TIMEOUT = 300.0  # seconds of waiting for another process before it is considered hung


@contextmanager
def join_process_group(world: World, device: "torch.device") -> Iterator[None]:
    """The process group inside the `with`. CnnError if another process has ended, or does not answer in time.

    If one process ends, all end, and one of them reports why: for the others, the error's `to_report` is False.
    """
    if world.size == 1:
        yield
        return
    import torch.distributed as dist

    store, processes = _connect(world, device)
    try:
        yield
        with suppress(RuntimeError):
            dist.barrier()  # no process leaves while another needs the store, which is in the main one
    except Exception as error:
        first = _first_to_fail(world, store)
        _leave(error)
        missing = [0] if first is None else _missing(world, store) if first or world.is_main else []
        if first is False:
            raise _silent(error) from None
        if missing and _blames_others(error):
            _end_siblings([processes[rank] for rank in missing])
            raise _to_report(CnnError(_lost(world, missing, error))) from None
        raise _to_report(error) from error.__cause__
    else:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _connect(world: World, device: "torch.device") -> tuple[Any, list[tuple[str, int]]]:
    """Connect to the others → the shared store, and the host and process ID of each.

    A signal ends the wait immediately, since there is nothing to save yet.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _set_master(os.environ)
    try:
        timeout = timedelta(seconds=float(os.environ.get("CNN_TIMEOUT", DEFAULT_TIMEOUT)))
    except ValueError:
        raise UsageError(f"CNN_TIMEOUT must be a number of seconds, not {os.environ['CNN_TIMEOUT']!r}") from None
    backend = f"cpu:gloo,{device.type}:nccl" if device.type == "cuda" else "gloo"
    try:
        with _default_signals():
            store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout)
            processes: list[tuple[str, int]] = [("", 0)] * world.size
            dist.all_gather_object(processes, (socket.gethostname(), os.getpid()))
    except (dist.DistError, RuntimeError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise CnnError(
            f"process {world.rank} could not join the {world.size} processes at {where}: {_brief(error)}"
        ) from None
    return store, processes


@contextmanager
def _default_signals() -> Iterator[None]:
    """Restore the default signal handlers inside the `with`: Python's own do not run while PyTorch's C++ code waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_to_fail(world: World, store: Any) -> bool | None:
    """Count this failure in the store → whether it is the first; None if the store is gone."""
    if not world.is_main:
        time.sleep(0.5)  # if all fail with the same error, the main process comes first
    answers: list[int] = []

    def count() -> None:
        with suppress(RuntimeError):
            answers.append(store.add("cnn/failed", 1))
            store.set(f"cnn/alive/{world.rank}", "yes")

    counting = threading.Thread(target=count, daemon=True)  # a process that hangs may hold the store
    counting.start()
    counting.join(5)
    if not answers:
        return None
    if answers[0] > 1 and not world.is_main and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to report or save
    return answers[0] == 1


def _leave(error: Exception) -> None:
    """Close the connections, which the others notice. PyTorch does so once nothing refers to the group anymore.

    The frames of the loop refer to the network, whose gradients are reduced in the group, and to data-loading workers,
    which have inherited the connections.
    """
    import torch.distributed as dist

    link: BaseException | None = error
    while link:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__
    gc.collect()
    dist.destroy_process_group()


def _blames_others(error: Exception) -> bool:
    """Whether the message suggests that another process is gone: gloo has no exception of its own for that.

    Any other error is a bug of ours, even if another process has not noticed in time that this one is ending.
    """
    words = ("gloo", "nccl", "connection", "timeout", "timed out")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _missing(world: World, store: Any) -> list[int]:
    """The ranks that do not answer within two seconds; all that are running notice the end of the group."""
    missing, end = list(range(world.size)), time.monotonic() + 2
    try:
        while missing and time.monotonic() < end:
            time.sleep(0.05)
            missing = [r for r in missing if not store.check([f"cnn/alive/{r}"])]
    except RuntimeError:
        return [0]  # no store, no main process
    return missing


def _end_siblings(processes: list[tuple[str, int]]) -> None:
    """Kill hung processes of the same launcher, which would wait half a minute for them."""
    for host, pid in processes:
        if host != socket.gethostname():  # on this host, the ID belongs to another process
            continue
        with suppress(OSError, ValueError, IndexError):
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getppid() != 1:
                os.kill(pid, signal.SIGKILL)


def _lost(world: World, missing: list[int], error: Exception) -> str:
    who = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(map(str, missing))}"
    verb = "has ended or hangs" if len(missing) == 1 else "have ended or hang"
    hint = getattr(error, "__notes__", ["resume the run from its last saved state with --resume"])[0]
    return f"{who} of {world.size} (counted from 0) {verb}: {_brief(error)}\n{hint}"


def _brief(error: Exception) -> str:
    """The first sentence of an error, without the source location in brackets that PyTorch puts before it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*\]\s*", "", line).split(". ")[0][:200]


def _to_report(error: E) -> E:
    if isinstance(error, CnnError):
        error.to_report = True
    return error


def _silent(error: Exception) -> CnnError:
    """An error with the same exit code that is not reported."""
    silent = error if isinstance(error, CnnError) else CnnError("the error is reported by another process")
    silent.to_report = False
    return silent


def _set_master(environ: Any) -> None:
    """Under srun, set what torchrun would have set: the first node of the job step, and a port derived from its ID."""
    if "MASTER_ADDR" not in environ:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST") or "127.0.0.1"
        environ["MASTER_ADDR"] = first_host(nodes)
    environ.setdefault("MASTER_PORT", str(20_000 + int(environ.get("SLURM_JOB_ID", "0")) % 20_000))


def first_host(nodes: str) -> str:
    """The first node of a list in SLURM's short form.

    >>> first_host("gpu[07-09,12],cpu1"), first_host("node3"), first_host("a[1,3]-b")
    ('gpu07', 'node3', 'a1-b')
    """
    match = re.match(r"([^\[,]*)(?:\[([^\],-]*)[^\]]*\])?([^,\[]*)", nodes)
    assert match is not None
    return "".join(part or "" for part in match.groups())
