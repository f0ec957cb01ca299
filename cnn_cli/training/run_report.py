"""The header that a run prints, and config.yaml, which has everything needed to repeat it."""

import platform
import re
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cnn_cli import __version__
from cnn_cli.checkpoints.run_folder import CONFIG
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.fingerprint import compute_fingerprint
from cnn_cli.device import describe
from cnn_cli.errors import enumerated
from cnn_cli.files import write_text
from cnn_cli.language.freezing import describe_frozen
from cnn_cli.settings import Setting, as_typed, not_inherited, values_of
from cnn_cli.tables import terminal_width
from cnn_cli.training.job import Job
from cnn_cli.training.state import State


def data_facts(dataset: Dataset, settings: Mapping[str, Setting], folder: Path) -> dict[str, Any]:
    """Facts about the data that evaluating or resuming later needs."""
    values = {
        name: settings[name].value for name in ("val_fraction", "seed", "batch_size", "skip_unreadable", "annotations")
    }
    return {
        "name": dataset.name,
        **values,
        "fingerprint": compute_fingerprint(dataset),
        "folder": str(folder.resolve()),
    }


def run_facts(device: torch.device, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Settings, versions and device, as plain values."""
    versions = {"cnn": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
    return {
        "settings": values_of(settings),
        "versions": versions,
        "device": describe(device),
        "on": str(device),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def write_config(job: Job, command: str, args: Mapping[str, Any]) -> None:
    """config.yaml: command line, settings with their sources, data and class names, device, versions, spec.

    args: the arguments of --set. If the file exists, its command and arguments are kept, and this command is added to
    those that resumed the run.
    """
    import yaml

    path = job.run / CONFIG
    before: Any = {}
    if path.is_file():
        with suppress(yaml.YAMLError, UnicodeDecodeError):  # damaged: it is replaced
            before = yaml.safe_load(path.read_text("utf-8"))
    commands: dict[str, Any] = {"command": command}
    if isinstance(before, dict) and "command" in before:
        commands = {"command": before["command"], "resumed_by": [*before.get("resumed_by", []), command]}
        args = before.get("args", {})
    document = {
        "network": job.plan.network,
        **commands,
        **({"args": dict(args)} if args else {}),
        "settings": {name: {"value": s.value, "source": s.source} for name, s in job.settings.items()},
        "data": job.metadata.data
        | {"images": {name: len(s) for name, s in job.data.splits.items()}, "classes": list(job.metadata.classes)},
        "preprocessing": job.metadata.preprocessing.document(),
        **{k: v for k, v in job.metadata.facts.items() if k != "settings"},
        "spec": job.metadata.spec,
    }
    write_text(path, yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=110))


def run_header(
    job: Job,
    state: State,
    args: Mapping[str, Any],
    remarks: Sequence[str] = (),
    verbose: bool = False,
    repeated: bool = False,
) -> str:
    """The lines before the first epoch: network, weights, data, device, settings by their source, folder.

    args: the arguments of --set. remarks: about the initial weights. verbose: also the settings at their defaults.
    repeated: from a config.yaml.
    """
    shape = "x".join(map(str, job.plan.input))
    splits = ", ".join(f"{len(s):,} {_PURPOSE[s.name]}" for s in job.data.splits.values())
    unused = not_inherited(job.settings, job.plan.train)
    extras = job.training_loss_only
    unseen = len(job.data.splits["train"]) - job.images
    rows = [
        ("network", f"{job.plan.network}, input {shape}, {job.plan.params:,} parameters"),
        *zip(("weights", *[""] * len(remarks)), remarks, strict=False),
        *([("frozen", describe_frozen(job.plan, job.freeze))] if job.freeze else []),
        ("data", f"{Path(job.data.name).name}: {splits}; {len(job.metadata.classes)} classes"),
        *(("", remark) for remark in job.data.notes),
        *([("", f"last batch of {unseen} dropped in every epoch (BatchNorm needs at least 2)")] if unseen else []),
        ("loss", job.task.criterion),
        *([("", f"training loss with {enumerated(extras)}, evaluation without (train_plain_loss)")] if extras else []),
        *(("optimizer", str(group)) for group in state.optimizer.groups),
        ("device", describe(state.device) + (f", {job.world.size} processes" if job.world.size > 1 else "")),
        *_by_source(job.settings, args, verbose, repeated),
        *([("not used", f"{', '.join(unused)}, of the spec")] if unused else []),
        ("run", str(job.run)),
    ]
    if state.step:
        epoch, step = job.place(state)
        after = f", after step {step} of {job.steps}" if step else ""
        rows.append(("resumed", f"at {'' if step else 'the start of '}epoch {epoch}{after}"))
    return "\n".join(_wrapped(title, text) for title, text in rows) + "\n"


_PURPOSE = {"train": "training images", "val": "for validation", "test": "for testing"}
_SOURCES = {"option": "options", "recipe": "recipe", "spec": "spec", "weights": "checkpoint", "default": "defaults"}


def _by_source(
    settings: Mapping[str, Setting], args: Mapping[str, Any], verbose: bool, repeated: bool
) -> list[tuple[str, str]]:
    """`spec: data fashion-mnist, batch_size 64`: a row for each source of settings."""
    groups: dict[str, list[str]] = {"options": [f"{name} {as_typed(value)}" for name, value in args.items()]}
    for name, (value, source) in settings.items():
        groups.setdefault(_SOURCES.get(source, "variables"), []).append(f"{name} {as_typed(value)}")
    order = ("options", "variables", "recipe", "spec", "checkpoint", *(["defaults"] if verbose else []))
    titles = {"recipe": "config"} if repeated else {}
    return [(titles.get(source, source), ", ".join(groups[source])) for source in order if groups.get(source)]


class _Wrapper(textwrap.TextWrapper):
    """Also breaks lines after the commas of `channels-last,fused-optimizer`, rather than within a word."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=,)(?=\S))")


def _wrapped(title: str, text: str) -> str:
    """`title` in a first column, and the text, wrapped, in a second one."""
    indent = " " * 11
    lines = _Wrapper(terminal_width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False).wrap(
        text
    )
    return f"{title:<11}" + "\n".join(lines).removeprefix(indent)
