"""The same training with several seeds: one figure is an anecdote, a mean with its deviation is evidence."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cnn_cli.checkpoints.checkpoint import parse_metadata
from cnn_cli.checkpoints.header import LAST
from cnn_cli.checkpoints.runs import ROOT
from cnn_cli.distributed.world import current_world
from cnn_cli.errors import StoppedError, UsageError
from cnn_cli.files import make_folder, make_numbered_folder, write_text
from cnn_cli.language.registry import plan_document
from cnn_cli.settings import resolve
from cnn_cli.tables import Column, Table, render
from cnn_cli.training import launch
from cnn_cli.training.state import read_last

SUMMARY = "seeds.json"


def begin(request: launch.Request, count: int, run: Path | None = None, resume: bool = False) -> dict[str, Any]:
    """Runs with `count` seeds, a folder each under one → the document of seeds.json.

    resume: in the folder `run`, what is finished stays, what was stopped goes on, and what is missing begins.
    """
    if count < 2:
        raise UsageError(f"--seeds must be at least 2, not {count}; for one run name its --seed")
    if current_world().size > 1:
        raise UsageError("--seeds is for one process; start each seed by itself under torchrun")
    plan = launch.plan_of(request)
    settings = resolve(request.options, os.environ, plan.train, launch.recipe_of(plan, request.recipe))
    first = int(settings["seed"].value)
    folder = _folder(request, plan.network, run, resume)
    before = _begun(request, folder) if resume else request
    outcomes = []
    for seed in range(first, first + count):
        own = folder / f"seed-{seed}"
        one = replace(request, options={**request.options, "seed": seed}, output=own)
        new = replace(before, options={**before.options, **request.options, "seed": seed}, output=own)
        request.say(f"seed {seed}")
        try:
            if resume and (own / LAST).is_file():
                outcomes.append(launch.resume(replace(one, recipe="", args={}, input=None), own))
            else:
                outcomes.append(launch.begin(new))
        except StoppedError as error:
            text = f"stopped at seed {seed}\ngo on with: {_way(request, folder)}"
            raise StoppedError(text, error.exit_code - 128) from None
        if outcomes[-1]["result"] is None:
            raise UsageError("the data has neither test nor val images to compare seeds on; add --val-fraction 0.1")
    document = _document(plan.network, folder, outcomes, range(first, first + count))
    write_text(folder / SUMMARY, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def _begun(request: launch.Request, folder: Path) -> launch.Request:
    """What a new seed takes over from those that have begun: network and settings, so that all are one experiment."""
    file = next((path / LAST for path in sorted(folder.glob("seed-*")) if (path / LAST).is_file()), None)
    if file is None:
        return request
    saved = read_last(file)
    plan = plan_document(parse_metadata(saved["about"], str(file)).spec, str(file))
    options = {name: value for name, (value, _) in saved["settings"].items() if value is not None}
    return replace(request, recipe="", options=options, args=plan.args, input=plan.input)


def _folder(request: launch.Request, network: str, run: Path | None, resume: bool) -> Path:
    """The folder of all seeds: the one named, or the next number."""
    named = run or request.output
    if resume and named is None:
        raise UsageError(f"name the folder of the seeds: cnn train {request.network} FOLDER --seeds N --resume")
    if not resume and named and named.is_dir() and any(named.iterdir()):
        raise UsageError(f"{named} holds files already; go on with them by --resume, or name another folder with -o")
    if named is None:
        return make_numbered_folder(ROOT, network)
    make_folder(named)
    return named


def report(document: dict[str, Any]) -> str:
    """A row a seed, then mean and deviation."""
    columns = (
        Column("seed", "seed", number=True),
        Column("accuracy", "accuracy", number=True, show="{:.2%}".format),
        Column("loss", "loss", number=True, show="{:.4f}".format),
        Column("epoch", "epoch", number=True),
    )
    mean, spread = document["accuracy"]["mean"], document["accuracy"]["deviation"]
    count = len(document["runs"])
    head = f"{document['network']} on {Path(document['data']).name}, {document['split']}, {count} seeds"
    figures = f"accuracy {mean:.2%} ± {spread:.2%}"
    return f"{head}\n\n{render(Table(columns, document['runs']))}\n\n{figures}\n\n{document['folder']}"


def _document(network: str, folder: Path, outcomes: list[dict[str, Any]], seeds: range) -> dict[str, Any]:
    results = [o["result"] for o in outcomes]
    runs = [
        {"seed": s, "accuracy": r["accuracy"], "loss": r["loss"], "epoch": o["best_epoch"], "run": o["run"]}
        for s, r, o in zip(seeds, results, outcomes, strict=True)
    ]
    head = {
        "network": network,
        "data": results[0]["data"],
        "split": results[0]["split"],
        "folder": str(folder.resolve()),
    }
    return head | {k: _spread([r[k] for r in runs]) for k in ("accuracy", "loss")} | {"runs": runs}


def _spread(values: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation (n − 1)."""
    return {"mean": fmean(values), "deviation": stdev(values), "least": min(values), "most": max(values)}


def _way(request: launch.Request, folder: Path) -> str:
    words = shlex.split(request.command)
    output = [] if request.output else ["-o", str(folder)]
    return shlex.join([*words, *output, *([] if "--resume" in words else ["--resume"])])
