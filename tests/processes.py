"""Several processes that train together, started in a blink: forked by a server that has PyTorch loaded already."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import small_runs as small
import torch
from torch.distributed import TCPStore

from cnn_cli.cli import main
from cnn_cli.pictures import plots, reliability_plot
from cnn_cli.training import loop

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(  # all that a run imports, so that no process has to
    [
        "processes",
        "pytest",
        "cnn_cli.cli.train",
        "cnn_cli.training.run",
        "torch.distributed",
        "torch._dynamo",
        "sklearn.datasets",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "typer._adapters",
    ]
)
Action = Callable[[int], None]
PLAIN = """
plain:
  input: [1, 8, 8]
  args: {classes: 10}
  layers:
    - Conv2d: {out_channels: 6, kernel_size: 3}
    - ReLU
    - MaxPool2d: 2
    - Flatten
    - Linear: 20
    - Tanh
    - Linear: $classes
  train: {data: digits, epochs: 1, batch_size: 128, optimizer: sgd, lr: 0.1, momentum: 0.9, fast: none}
rough:
  input: [1, 8, 8]
  layers: [{Conv2d: {out_channels: 6, kernel_size: 3}}, ReLU, Flatten, {Linear: 10}]
  train: {data: digits, epochs: 2, batch_size: 128, optimizer: sgd, lr: 1e30}
two:
  input: [1, 8, 8]
  outputs: {fc: 1.0, aux: 0.3}
  layers:
    flat: Flatten
    first: {Linear: 20}
    aux: {from: first, Linear: 10}
    act: {from: first, Tanh: {}}
    fc: {from: act, Linear: 10}
  train: {data: digits, epochs: 1, batch_size: 128, optimizer: sgd, lr: 0.1, momentum: 0.9, fast: none}
"""
EVERYTHING = ("--ema", "0.9", "--shift", "1", "--flip", "random", "--schedule", "onecycle", "--val-fraction", "0.2")
SLURM = {
    "SLURM_PROCID": "{rank}",
    "SLURM_LOCALID": "{rank}",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_JOB_ID": "{port}",
}


@dataclass
class Team:
    """Processes by rank; each has its output in RANK.out and RANK.err of `folder`."""

    folder: Path
    processes: list[ForkServerProcess] = field(default_factory=list)

    def said(self, rank: int) -> str:
        return (self.folder / f"{rank}.err").read_text() if (self.folder / f"{rank}.err").is_file() else ""

    def printed(self, rank: int) -> str:
        return (self.folder / f"{rank}.out").read_text()

    def send(self, number: int, *ranks: int) -> None:
        for rank in ranks:
            os.kill(self.processes[rank].pid or 0, number)

    def until(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end and any(p.is_alive() for p in self.processes), self.words()
            time.sleep(0.005)

    def wait(self, seconds: float = 60, ends_others: bool = True) -> list[int | None]:
        """Exit codes by rank; a process that is not done in time fails the test.

        ends_others: when one has failed, SIGTERM to the group of each other, as torchrun does; srun leaves them alone.
        """
        end = time.monotonic() + seconds
        while any(p.exitcode is None for p in self.processes):
            assert time.monotonic() < end, self.words()
            if ends_others and any(p.exitcode for p in self.processes):
                time.sleep(0.1)  # torchrun's look at its processes
                ends_others = False
                for process in self.processes:
                    with suppress(ProcessLookupError):  # it may have ended since
                        if process.is_alive():
                            os.killpg(process.pid or 0, signal.SIGTERM)
            time.sleep(0.01)
        return [p.exitcode for p in self.processes]

    def words(self) -> str:
        return "\n".join(f"--- {rank}\n{self.said(rank)}" for rank in range(len(self.processes)))


@contextmanager
def team(
    folder: Path,
    size: int,
    *arguments: str,
    action: Action | None = None,
    env: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> Iterator[Team]:
    """`cnn ARGUMENTS` in `size` processes as torchrun would start them; `action` is called in each before.

    env: in place of RANK and its like; its values may have {rank} and {port} in them. more: variables besides.
    """
    spoken = folder / f"said-{time.monotonic_ns()}"
    spoken.mkdir(parents=True)
    made = Team(spoken)
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun holds it itself
    torchrun = {"RANK": "{rank}", "LOCAL_RANK": "{rank}", "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    torchrun |= {"MASTER_PORT": str(meeting.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    port = free_port()
    for rank in range(size):
        variables = torchrun if env is None else env
        own = {name: value.format(rank=rank, port=port) for name, value in variables.items()} | dict(more or {})
        process = CONTEXT.Process(target=_run, args=(rank, folder, spoken, own, arguments, action))
        process.start()
        made.processes.append(process)
    try:
        yield made
    finally:
        for process in made.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()


def run(
    folder: Path, size: int, *arguments: str, action: Action | None = None, env: Mapping[str, str] | None = None
) -> tuple[list[int | None], Team]:
    """A team to its end → exit codes by rank, and what it said."""
    with team(folder, size, *arguments, action=action, env=env) as made:
        return made.wait(), made


def ready(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """One thread, a folder of its own with the specs in it, no drawing."""
    torch.set_num_threads(1)
    patch.chdir(folder)
    small.without_pictures(patch)
    (folder / "small.yaml").write_text(small.SPEC)
    (folder / "plain.yaml").write_text(PLAIN)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(
    rank: int, folder: Path, spoken: Path, variables: dict[str, str], arguments: tuple[str, ...], action: Action | None
) -> None:
    _redirect(spoken, rank)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.setpgid(0, 0)  # as torchrun does: a group each
    os.chdir(folder)
    os.environ.update(variables)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as it is without the server
    sys.argv = ["cnn", *arguments]
    plots.learning_curves = lambda history, path, title, *details: path.touch()  # type: ignore[assignment]
    plots.confusion_picture = lambda matrix, names, path, title, **details: path.touch()  # type: ignore[assignment]
    reliability_plot.reliability_diagram = lambda diagrams, errors, path, *rest: path.touch()  # type: ignore[assignment]
    if action:
        action(rank)
    main()


def command(folder: Path, arguments: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`cnn ARGUMENTS` as in a process of its own, but without the seconds that its imports take."""
    with TemporaryDirectory() as name:
        spoken = Path(name)
        process = CONTEXT.Process(target=_run_alone, args=(folder, spoken, dict(environment), arguments))
        process.start()
        process.join()
        out, err = ((spoken / f"0.{stream}").read_text() for stream in ("out", "err"))
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, out, err)


def _run_alone(folder: Path, spoken: Path, environment: dict[str, str], arguments: list[str]) -> None:
    _redirect(spoken, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    sys.argv = ["cnn", *arguments]
    main()


def _redirect(spoken: Path, rank: int) -> None:
    for number, name in ((1, f"{rank}.out"), (2, f"{rank}.err")):
        os.dup2(os.open(spoken / name, os.O_WRONLY | os.O_CREAT, 0o666), number)


def trained(folder: Path, size: int, name: str, *arguments: str, action: Action | None = None) -> Path:
    """A run in so many processes → its folder. One by itself is this one."""
    if size == 1:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="0"):
            patch.setattr(sys, "argv", ["cnn", "train", *arguments, "-o", name])
            main()
        return folder / name
    codes, team = run(folder, size, "train", *arguments, "-o", name, action=action)
    assert codes == [0] * size, team.words()
    return folder / name


def rows(run: Path) -> list[dict[str, Any]]:
    times = ("seconds", "images_per_second")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


def images(folder: Path) -> tuple[str, ...]:
    """A folder of 240 images, 192 of them to train → options to train with it, 12 steps an epoch, by a worker each."""
    for i in range(240):
        small.picture(folder / "images" / f"{i % 10}" / f"{i}.png", 8, 8, "L", seed=i)
    return "small.yaml", "--data", "images", "-b", "16", "-j", "1"


def at_step(actions: dict[int, Any], step: int, rank: int) -> None:
    """In the process of that rank do something in the middle of a step."""
    original = loop.learning_rate

    def learning_rate(done: int, *rest: Any) -> float:
        if done + 1 == step and rank in actions:
            actions[rank]()
        return original(done, *rest)

    loop.learning_rate = learning_rate
