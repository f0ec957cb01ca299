"""Devices: the requested one or the best available, its memory, and its speed."""

import ctypes
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_cli.errors import UsageError

if TYPE_CHECKING:
    import torch


def pick(name: str) -> "torch.device":
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps` → the device; UsageError if it is not available."""
    import torch

    # Without check_available, torch names the accelerator that it was built for, even if it is not there.
    best = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return best or torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps", "xpu") or (":" in name and not index.isdecimal()):
        raise UsageError(f"--device {name}: must be auto, cpu, cuda, cuda:N or mps")
    if kind == "cpu":
        return torch.device("cpu")
    if best is None or best.type != kind:
        raise UsageError(
            f"--device {name}: there is no {kind} device here{f' (but {best.type})' if best else ''}; use --device auto"
        )
    count = torch.accelerator.device_count()
    if index and int(index) >= count:
        raise UsageError(f"--device {name}: there {'is' if count == 1 else 'are'} {count} here, counted from 0")
    return torch.device(name)


def describe(device: "torch.device") -> str:
    """One line for people: `cpu, 2 threads` or `cuda:0, NVIDIA H200`."""
    import torch

    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


@cache
def fast_bf16(device: "torch.device") -> bool:
    """Whether the device multiplies bfloat16 faster than float32: tensor cores, AMX or AVX-512 BF16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    with suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed activations for the next step instead of returning it to the kernel.

    Large activations are otherwise mapped and page-faulted anew at every step: the plain loop on a CPU is 1.26 times as
    fast with this, with bitwise equal results, but memory is returned only at exit. No effect without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never give the top of the heap back
        libc.mallopt(-2, 256 << 20)  # M_TOP_PAD: grow the heap 256 MB at a time
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too


def free_memory(device: "torch.device | None" = None) -> int:
    """Free bytes of the GPU, or of the host (within the limit of its cgroup)."""
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_host_memory(), _free_cgroup_memory())


def _free_host_memory() -> int:
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 4 << 30  # nothing is known: assume a small machine


def _free_cgroup_memory() -> int:
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # absent, or `max`: no limit
        limit = int((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - int(stat["anon"]))  # the rest is page cache, which the kernel can reclaim
    return 1 << 62


def usable_cpus() -> int:
    """The CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
