"""A run from its beginning to its end: settings, folder, data, network; then the loop; then the pictures.

Whatever can be known to be wrong is found before the first step, in the order of its cost: settings, device, folder,
data.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cnn_cli.data import NAMED, ReadError, Source, data_folder, fit, read_source, split
from cnn_cli.data.preprocess import normalised
from cnn_cli.device import free_memory, keep_freed_memory, pick
from cnn_cli.errors import CnnError, StoppedError, UsageError
from cnn_cli.files import WriteError, put_back
from cnn_cli.network import build_plan
from cnn_cli.recipe import Setting, asked_for, resolve
from cnn_cli.spec.freeze import frozen, hold, trained
from cnn_cli.spec.plan import Plan
from cnn_cli.spec.registry import find, plan_document
from cnn_cli.training import checkpoint, score, transfer
from cnn_cli.training.account import data_facts, facts, fingerprint, opening, write_config
from cnn_cli.training.checkpoint import About
from cnn_cli.training.evaluate import evaluate
from cnn_cli.training.header import BEST, LAST, PREVIOUS, SUFFIXES
from cnn_cli.training.inherit import begins_with, full_path, prepared, remarks
from cnn_cli.training.loss import loss_for
from cnn_cli.training.optimizer import make_optimizer
from cnn_cli.training.runs import ROOT, held_run, new_run, newest_run
from cnn_cli.training.signals import Signals, Stop, signals
from cnn_cli.training.state import State, read_last, restore_last
from cnn_cli.training.train import LOG, Job, needs_two, save, train, way_on, write_log
from cnn_cli.viz.film import FRAMES, STRIP, begin_film, check_film, write_film

CURVES = "curves.png"  # the last file of a run: where it is, the run is finished


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `options` holds the settings that were given, None for the others."""

    network: str
    options: Mapping[str, Any]
    data_dir: Path | None = None
    device: str = "auto"
    models: tuple[Path, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    input: tuple[int, ...] | None = None
    output: Path | None = None
    film: bool = False  # whether to keep the first convolution's filters of every epoch
    command: str = ""
    say: Callable[[str], None] = print  # how remarks reach the person


def begin(request: Request) -> dict[str, Any]:
    """A new run → what `cnn train --json` prints."""
    plan = _plan(request)
    settings = resolve(request.options, os.environ, plan.train)
    if settings["data"].value is None:
        raise UsageError(f"{plan.network} names no data set; add --data NAME_OR_FOLDER ({', '.join(NAMED)})")
    if request.film:
        check_film(plan)
    frozen(plan, settings["freeze"].value)
    device = _device(request.device)
    with signals() as watch, new_run(plan.network, request.output) as run:
        given = begins_with(settings, plan)
        folder = data_folder(request.data_dir)
        source = read_source(settings["data"].value, folder)
        settings["data"] = Setting(source.name, settings["data"].source)  # a folder by its full path from here on
        settings["weights"] = full_path(settings["weights"])
        if given:
            request = replace(request, input=request.input or given.input_for(plan))
            plan = _plan(request)
        plan = _with_classes(plan, request, len(source.classes))
        settings, how = prepared(settings, plan, given)
        moved = transfer.fit(plan, given.tensors, str(given)) if given else None
        known = facts(device, settings) | ({"weights": str(given)} if given else {})
        about = About(plan.document(), source.classes, how, data_facts(source, settings, folder), known)
        job = _job(plan, settings, about, source, device, run)
        state = _state(job, device, moved)
        save(job, state)  # the first file: with it the run can be resumed, without it the folder goes again
        write_config(job, request.command)
        if request.film:
            begin_film(run, state.network)
        request.say(opening(job, state, remarks(given, moved, how, source.classes)))
        return _to_the_end(job, state, watch)


def resume(request: Request, run: Path) -> dict[str, Any]:
    """Go on with a run from exactly where it stands → what `cnn train --json` prints; a finished run stays as it is.

    run: its folder, or in that its previous.pt, which then takes the place of last.pt.
    """
    file = run if run.name == PREVIOUS else run / LAST
    run = file.parent
    if request.args or request.input:
        raise UsageError("a run goes on with its own network; leave out --set and --input")
    if request.options.get("weights"):
        raise UsageError("a run goes on with its own weights; leave out --weights, or start a new run without --resume")
    if request.film and not (run / FRAMES).is_file():
        raise UsageError(f"{run} keeps no filters of its epochs; a film begins with its run: leave the option out")
    with signals() as watch, held_run(run):
        saved = read_last(file)
        about = checkpoint.about_from(saved["about"], str(file))
        plan = plan_document(about.spec, str(file))
        _check_name(request.network, plan.network, run)
        settings = _same({k: Setting(*v) for k, v in saved["settings"].items()}, request, run, len(saved["history"]))
        if len(saved["history"]) >= settings["epochs"].value and (run / CURVES).is_file() and file.name == LAST:
            request.say(f"{run} is finished ({len(saved['history'])} epochs); --epochs N goes on to N")
            return _outcome(plan.network, about, run, saved["history"])
        device = _device(request.device if request.device != "auto" else about.facts["on"])
        source = read_source(settings["data"].value, data_folder(request.data_dir, about.data["folder"]))
        if fingerprint(source) != about.data.get("fingerprint"):
            raise UsageError(
                f"{source.name} has changed since {run} began; a run goes on with the images it began with"
            )
        job = _job(plan, settings, about, source, device, run)
        state = _state(job, device)
        transfer.put(state.network, transfer.fit(plan, saved["network"], str(file), whole=True))
        restore_last(saved, state)
        if file.name == PREVIOUS:
            put_back(file, run / LAST)
        (run / CURVES).unlink(missing_ok=True)  # it says that the run is finished, which it is not any more
        write_log(job, state)  # a run that was killed may have ended between its state and its log
        write_config(job, request.command)
        request.say(opening(job, state))
        return _to_the_end(job, state, watch)


def run_to_resume(request: Request, run: Path | None) -> Path:
    """The run that --resume means: the one named, by its folder or its previous.pt, or else the newest of the network.

    UsageError where there is none.
    """
    if run and run.name == PREVIOUS and run.is_file():
        return run
    path = run or request.output or (Path(request.network) if Path(request.network).is_dir() else None)
    if path is None:
        path = newest_run(_plan(request).network, LAST)
    if path is None:
        raise UsageError(f"no run of {request.network} in {ROOT.resolve()}; name its folder, or train without --resume")
    if not any((path / name).is_file() for name in (LAST, PREVIOUS)):
        raise UsageError(f"{path} holds no run to go on with: there is no {LAST}")
    return path


def _to_the_end(job: Job, state: State, watch: Signals) -> dict[str, Any]:
    """Train and report. Where the report is stopped or a file cannot be written, the error names the way to go on."""
    stopped = f"stopped; every epoch is done, the report is not\n{way_on(job.run)}"
    try:
        train(job, state, watch)
        return finish(job, state, watch.check)
    except Stop:
        raise StoppedError(stopped, watch.received) from None
    except ReadError as error:
        if watch.soon():
            raise StoppedError(stopped, watch.received) from None
        raise CnnError(f"{error}\n{way_on(job.run)}") from None
    except WriteError as error:
        raise CnnError(f"{error}\n{way_on(job.run)}") from None


def finish(job: Job, state: State, check: Callable[[], object]) -> dict[str, Any]:
    """Report on the best weights: on test, or on val where there is no test. Learning curves and confusion matrix.

    check: may raise to stop.
    """
    from cnn_cli.viz.plots import learning_curves

    check()
    name = next((s for s in ("test", "val") if s in job.data.splits), None)
    if name:
        result = state.result
        if result is None or result.split != name or name == "val":  # not at hand, or not that of the best weights
            network = checkpoint.restore(checkpoint.open_network(str(job.run / BEST))).to(state.device)
            split, classes = job.data.splits[name], len(job.about.classes)
            result = evaluate(network, split, job.loss, classes, job["batch_size"], state.device, check)
        score.write(job.run, score.document(job.plan.network, job.data.name, result, job.about.classes, job.run / BEST))
    if (job.run / FRAMES).is_file():
        write_film(job.run, job.plan.network, job.plan.input[0] == 3, job.run / STRIP)
    check()
    learning_curves(state.history, job.run / CURVES, f"{job.plan.network} on {Path(job.data.name).name}")
    return _outcome(job.plan.network, job.about, job.run, state.history)


def outcome_text(outcome: dict[str, Any]) -> str:
    """The end of a run for people: the result, and where everything is."""
    lines = []
    if result := outcome["result"]:
        weights = f"weights of epoch {outcome['best_epoch']}"
        data = Path(outcome["data"]).name
        lines = [f"{outcome['network']} on {data}, {result['split']}: {result['n']:,} images, {weights}"]
        lines += [score.figures(result), ""]
    width = max(map(len, outcome["files"]))
    return "\n".join([*lines, *(f"{name:<{width}}  {path}" for name, path in outcome["files"].items())])


def _plan(request: Request) -> Plan:
    path = Path(request.network)
    if path.is_dir() or path.suffix in SUFFIXES:
        raise UsageError(
            f"{path} is a run or checkpoint; --resume goes on with a run, and --weights {path} after a network's name "
            "begins a new one with its weights"
        )
    return find(request.network, models=request.models, args=request.args, input=request.input)


def _check_name(asked: str, network: str, run: Path) -> None:
    """A run folder, a file with one network, or the name of the run's own."""
    if not Path(asked).is_dir() and not asked.endswith((".yaml", ".yml")) and asked.rpartition(":")[2] != network:
        raise UsageError(f"{run} is a run of {network}, not of {asked}")


def _device(name: str) -> torch.device:
    device = pick(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _with_classes(plan: Plan, request: Request, classes: int) -> Plan:
    """The argument `classes` follows the data set, unless the user has set it."""
    if "classes" in request.args or plan.args.get("classes", classes) == classes:
        return plan
    return find(request.network, models=request.models, args={**request.args, "classes": classes}, input=request.input)


def _job(
    plan: Plan, settings: dict[str, Setting], about: About, source: Source, device: torch.device, run: Path
) -> Job:
    """Data fitted, loss chosen, and everything checked that would otherwise fail at the first step."""
    loss = loss_for(plan, len(source.classes))
    _check_memory(plan, settings, device)
    values = {name: setting.value for name, setting in settings.items()}
    if "val" in source.parts and values["val_fraction"] and settings["val_fraction"].source != "spec":
        raise UsageError(f"{source.name} has a val folder of its own; leave out --val-fraction")
    divided = split(source, values["val_fraction"], values["seed"])
    if "train" not in divided.parts:
        raise UsageError(f"{source.name} has no train folder; there is nothing to learn from")
    job = Job(plan, settings, fit(divided, about.preprocessing, device, values["workers"]), loss, about, run)
    if needs_two(plan, values["freeze"]) and min(values["batch_size"], len(job.data.splits["train"])) < 2:
        raise UsageError(
            "a BatchNorm of this network sees one value a channel; it needs two images a batch: --batch-size 2 or more"
        )
    return job


def _check_memory(plan: Plan, settings: dict[str, Setting], device: torch.device) -> None:
    """Refuse what surely does not fit: weights, gradients, the optimizer's copies, one layer's input and output."""
    copies = {"adam": 4, "adamw": 4, "sgd": 3 if "momentum" in settings and settings["momentum"].value else 2}
    learning = sum(trained(layer, settings["freeze"].value) for layer in plan.layers)
    fixed = 4 * (plan.params + learning * (copies[settings["optimizer"].value] - 1))
    an_image = 4 * max((_values(la.input_shape) + _values(la.output_shape) for la in plan.layers), default=0)
    batch, free = settings["batch_size"].value, free_memory(device)
    if fixed + an_image * batch <= free:
        return
    fits = (free - fixed) // an_image // 2 if an_image else 0
    way = f"try --batch-size {fits}" if fits >= 1 else "a smaller network or input would fit"
    need, have = f"{(fixed + an_image * batch) / 1e9:,.1f} GB", f"{free / 1e9:.1f} GB"
    raise CnnError(f"{plan.network} takes over {need} to train with batches of {batch}, and {have} are free; {way}")


def _values(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() if shape else 0


def _state(job: Job, device: torch.device, moved: transfer.Transfer | None = None) -> State:
    """Fresh weights: the first use of the random numbers after the seed, so that anybody can draw the same.

    `moved` then replaces those that come from elsewhere.
    """
    torch.manual_seed(job["seed"])
    network = build_plan(job.plan)
    if moved:
        transfer.put(network, moved)
    network = normalised(network, job.about.preprocessing).to(device)
    hold(network, job.freeze)
    return State(network, make_optimizer(network, job.values), device)


def _same(settings: dict[str, Setting], request: Request, run: Path, done: int) -> dict[str, Setting]:
    """The run's settings, of which only `epochs` may grow and `workers` change; UsageError lists other differences."""
    asked = asked_for(request.options, os.environ)
    if (folder := asked.get("data")) and folder.value not in NAMED:
        asked["data"] = Setting(str(Path(folder.value).expanduser().resolve()), folder.source)
    if "weights" in asked:
        asked["weights"] = full_path(asked["weights"])
    now = {name: settings[name].value if name in settings else None for name in asked}
    free = {n for n in asked if n == "workers" or (n == "epochs" and asked[n].value >= now[n])}
    wrong = [
        f"{n} is {now[n]}, asked for is {asked[n].value} ({asked[n].source})"
        for n in asked
        if n not in free and asked[n].value != now[n]
    ]
    if wrong:
        text = f"{run} keeps its settings, and only epochs may grow: {'; '.join(wrong)}"
        raise UsageError(f"{text}\nleave them out, or start a new run")
    changed = {n: asked[n] for n in free if asked[n].value != now[n]}
    if "epochs" in changed and settings["schedule"].value in ("cosine", "onecycle") and done:
        request.say(f"the {settings['schedule'].value} schedule now spans {changed['epochs'].value} epochs")
    return settings | changed


def _outcome(network: str, about: About, run: Path, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Where everything is, and what came out; from the files of the run."""
    names = {
        "weights": BEST,
        "state": LAST,
        "log": LOG,
        "settings": "config.yaml",
        "curves": CURVES,
        "result": "eval.json",
        "confusion": "confusion_matrix.png",
        "film": STRIP,
    }
    files = {what: str((run / name).resolve()) for what, name in names.items() if (run / name).is_file()}
    result = json.loads((run / "eval.json").read_text()) if "result" in files else None
    best = checkpoint.open_network(str(run / BEST)).about if "weights" in files else None
    epoch = best.facts["epoch"] if best else None
    last = history[-1] if history else None
    head = {"network": network, "data": about.data["name"], "run": str(run.resolve()), "epochs": len(history)}
    return head | {"best_epoch": epoch, "last_epoch": last, "result": result, "files": files}
