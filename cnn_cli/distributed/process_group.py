"""The process group of several processes, from their meeting to the end: what ends one ends all, and one says why.

Every failure closes the connections, by which the others notice; the first to fail speaks, a mistake that all share is
told by the first process, and one that hangs is named and ended.
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

from cnn_cli.distributed.world import World, current_world
from cnn_cli.errors import CnnError, UsageError

if TYPE_CHECKING:
    import torch

E = TypeVar("E", bound=Exception)
DEFAULT_TIMEOUT = 300.0  # seconds without a word from another process before the job counts as hanging
REPORT_DELAY = 5.0  # seconds that the other processes leave the first to say what is wrong


def should_report(error: CnnError) -> bool:
    """Whether this process is the one to say it. Of several that fail alike, each by itself, it is the first.

    Another one waits: its launcher ends it when the first has spoken, and if not, only this one knows what is wrong.
    """
    try:
        if error.to_report or (error.to_report is None and current_world().is_main):
            return True
    except CnnError:  # nobody knows who is the first
        return True
    time.sleep(REPORT_DELAY if error.to_report is None else REPORT_DELAY / 2)
    return error.to_report is None


@contextmanager
def join_process_group(world: World, device: "torch.device") -> Iterator[None]:
    """The process group inside the `with`. CnnError where another process is gone, or silent for too long.

    Whatever ends one process ends all, and one of them says why: the error of the others has `mine` False.
    """
    if world.size == 1:
        yield
        return
    import torch.distributed as dist

    store, processes = _meet(world, device)
    try:
        yield
        with suppress(RuntimeError):
            dist.barrier()  # nobody leaves while another still needs the meeting point, which the first may hold
    except Exception as error:
        first = _first_to_fail(world, store)
        _leave(error)
        missing = [0] if first is None else _missing(world, store) if first or world.is_main else []
        if first is False:
            raise _silent(error) from None
        if missing and _about_others(error):
            _end_siblings([processes[rank] for rank in missing])
            raise _mine(CnnError(_lost(world, missing, error))) from None
        raise _mine(error) from error.__cause__
    else:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _meet(world: World, device: "torch.device") -> tuple[Any, list[tuple[str, int]]]:
    """Find the others → the store that all share, and the machine and process number of each.

    A signal ends the waiting at once, since nothing is there to be saved.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _meeting_point(os.environ)
    try:
        patience = timedelta(seconds=float(os.environ.get("CNN_TIMEOUT", DEFAULT_TIMEOUT)))
    except ValueError:
        raise UsageError(f"CNN_TIMEOUT must be seconds, not {os.environ['CNN_TIMEOUT']!r}") from None
    backend = f"cpu:gloo,{device.type}:nccl" if device.type == "cuda" else "gloo"
    try:
        with _default_signals():
            store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=patience))
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=patience)
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
    """Waiting in PyTorch's C++, Python would answer a signal only when the waiting is over."""
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
    """Leave a mark, and see whether no other process has failed before; None where the meeting point is gone."""
    if not world.is_main:
        time.sleep(0.5)  # where all fail alike, the first process is the first
    answers: list[int] = []

    def ask() -> None:
        with suppress(RuntimeError):
            answers.append(store.add("cnn/failed", 1))
            store.set(f"cnn/here/{world.rank}", "yes")

    asking = threading.Thread(target=ask, daemon=True)  # a process that hangs may hold the meeting point
    asking.start()
    asking.join(5)
    if not answers:
        return None
    if answers[0] > 1 and not world.is_main and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to be said or saved
    return answers[0] == 1


def _leave(error: Exception) -> None:
    """Close the connections, by which the others notice: PyTorch does so when nothing holds the group any more.

    The frames of the loop hold the network, which adds up its gradients in the group, and data workers, which have
    inherited the connections.
    """
    import torch.distributed as dist

    link: BaseException | None = error
    while link:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__
    gc.collect()
    dist.destroy_process_group()


def _about_others(error: Exception) -> bool:
    """Whether it sounds as if another process were gone; gloo has no exception of its own. It is so if one is missing.

    What sounds otherwise is a bug of ours, also where another process has not noticed in time that this one is ending.
    """
    words = ("gloo", "nccl", "connection", "timeout", "timed out")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _missing(world: World, store: Any) -> list[int]:
    """Who leaves no mark within two seconds: all that run notice the end of the group, while the first stays for it."""
    missing, end = list(range(world.size)), time.monotonic() + 2
    try:
        while missing and time.monotonic() < end:
            time.sleep(0.05)
            missing = [r for r in missing if not store.check([f"cnn/here/{r}"])]
    except RuntimeError:
        return [0]  # no meeting point, no first process
    return missing


def _end_siblings(processes: list[tuple[str, int]]) -> None:
    """Kill what hangs, if it was started by whoever started this process, who would wait for it for half a minute."""
    for host, pid in processes:
        if host != socket.gethostname():  # whoever has this number here is somebody else
            continue
        with suppress(OSError, ValueError, IndexError):
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getppid() != 1:
                os.kill(pid, signal.SIGKILL)


def _lost(world: World, missing: list[int], error: Exception) -> str:
    who = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(map(str, missing))}"
    verb = "has ended or hangs" if len(missing) == 1 else "have ended or hang"
    return (
        f"{who} of {world.size} (counted from 0) {verb}: {_brief(error)}\n"
        "resume the run from its last saved state with --resume"
    )


def _brief(error: Exception) -> str:
    """The first sentence, without the file of PyTorch's in brackets before it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*\]\s*", "", line).split(". ")[0][:200]


def _mine(error: E) -> E:
    if isinstance(error, CnnError):
        error.to_report = True
    return error


def _silent(error: Exception) -> CnnError:
    """The same exit code, without a word."""
    silent = error if isinstance(error, CnnError) else CnnError("another process says why")
    silent.to_report = False
    return silent


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
