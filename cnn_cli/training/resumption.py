"""Resuming: the run that `--resume` refers to, and the settings that may change."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.run_folder import LAST, PREVIOUS, RUNS, newest_run
from cnn_cli.data.catalog import DATASETS
from cnn_cli.data.loading import is_missing
from cnn_cli.distributed.world import World
from cnn_cli.errors import UsageError
from cnn_cli.pictures.film import FRAMES
from cnn_cli.settings import Setting, as_typed, requested_settings
from cnn_cli.tables import counted
from cnn_cli.training.initial_weights import full_path
from cnn_cli.training.request import Request


def run_to_resume(request: Request, run: Path | None) -> Path:
    """The run that is named by its folder or its previous.pt, else the newest run of the network.

    UsageError if there is none.
    """
    if run and run.name == PREVIOUS and run.is_file():
        return run
    path = run or request.output or (Path(request.network) if Path(request.network).is_dir() else None)
    if path is None:
        path = newest_run(request.plan().network, LAST)
    if path is None:
        raise UsageError(f"no run of {request.network} in {RUNS.resolve()}; name its folder, or train without --resume")
    if not any((path / name).is_file() for name in (LAST, PREVIOUS)):
        reason = "it holds runs with several seeds; add --seeds N" if any(path.glob("seed-*")) else f"it has no {LAST}"
        raise UsageError(f"{path} holds no run to resume: {reason}")
    return path


def check_request(request: Request, run: Path) -> None:
    """UsageError for an option that a resumed run cannot follow."""
    if request.args or request.input:
        raise UsageError("a run resumes with its own network; leave out --set and --input")
    if request.recipe:
        raise UsageError("a run resumes with its own settings; leave out --recipe, or start a new run without --resume")
    if request.film and not (run / FRAMES).is_file():
        raise UsageError(
            f"{run} did not save the filters of its earlier epochs; leave out --filters-every-epoch, or start a new run"
        )


def check_network(requested: str, network: str, run: Path) -> None:
    """UsageError unless NETWORK is a run folder, a file with one network, or the name of the run's own."""
    if Path(requested).is_dir() or requested.endswith((".yaml", ".yml")):
        return
    if requested.rpartition(":")[2] != network:
        raise UsageError(f"{run} is a run of {network}, not of {requested}")


def check_processes(file: Path, before: int, now: int) -> None:
    """UsageError for another number of processes, since each has its own random number generator."""
    if before == now:
        return
    hint = World(size=before).resume_hint(file.parent, *([str(file)] if file.name == PREVIOUS else []))
    raise UsageError(f"{file.parent} was trained with {counted(before, 'process')}, not {now}; {hint}")


def resumed_settings(saved: Mapping[str, Any], request: Request, run: Path, steps: int) -> dict[str, Setting]:
    """The run's settings, of which only `epochs` may grow and `workers` change; UsageError lists other differences.

    saved: {name: [value, source]} of last.pt; steps: the number of steps done.
    """
    settings = {name: Setting(*setting) for name, setting in saved.items()}
    requested = {n: s for n, s in requested_settings(request.options, os.environ).items() if s.value != "auto"}
    if (folder := requested.get("data")) and folder.value not in DATASETS:
        requested["data"] = Setting(str(Path(folder.value).expanduser().resolve()), folder.source)
    if "weights" in requested:
        requested["weights"] = full_path(requested["weights"])
    current = {name: settings[name].value if name in settings else None for name in requested}
    free = {n for n in requested if n == "workers" or (n == "epochs" and requested[n].value >= current[n])}
    if "data" in requested and is_missing(str(current["data"])):
        free.add("data")  # moved; whether it is the same is checked when it is read
    different = [
        f"{name} is {as_typed(current[name])}, not {as_typed(setting.value)} ({setting.source})"
        for name, setting in requested.items()
        if name not in free and setting.value != current[name]
    ]
    if different:
        text = f"{run} resumes with its own settings (only epochs may grow): {'; '.join(different)}"
        raise UsageError(f"{text}\nleave these out, or start a new run")
    changed = {n: requested[n] for n in free if requested[n].value != current[n]}
    if "epochs" in changed and settings["schedule"].value in ("cosine", "onecycle", "linear", "triangular") and steps:
        total = changed["epochs"].value
        request.say(f"the {settings['schedule'].value} schedule now spans {total} epoch{'s' * (total != 1)}")
    return settings | changed
