"""A run from its beginning to its end: settings, folder, data, network; then the loop; then the pictures.

Whatever can be known to be wrong is found before the first step, in the order of its cost: settings, device, folder,
data.
"""

import copy
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cnn_cli.checkpoints import checkpoint, transfer
from cnn_cli.checkpoints.checkpoint import Metadata
from cnn_cli.checkpoints.header import LAST, PREVIOUS, SUFFIXES
from cnn_cli.checkpoints.runs import ROOT, held_run, new_run, newest_run
from cnn_cli.data import NAMED, Source, data_folder, fit, read_source, split
from cnn_cli.data.preprocess import normalised
from cnn_cli.device import free_memory, keep_freed_memory, pick
from cnn_cli.distributed.process_group import join_process_group
from cnn_cli.distributed.world import World, current_world
from cnn_cli.errors import CnnError, UsageError, closest
from cnn_cli.files import put_back
from cnn_cli.language.freeze import frozen, hold, trained
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document
from cnn_cli.network.build import build_plan
from cnn_cli.pictures.film import FRAMES, begin_film, check_film
from cnn_cli.settings import Setting, asked_for, resolve
from cnn_cli.tasks.loss import loss_for, objective
from cnn_cli.training import speedups as fast
from cnn_cli.training.finish import CURVES, outcome, to_the_end
from cnn_cli.training.inherit import begins_with, full_path, prepared, remarks
from cnn_cli.training.job import Job, needs_two
from cnn_cli.training.optimizer import make_optimizer
from cnn_cli.training.run_report import data_facts, facts, fingerprint, opening, write_config
from cnn_cli.training.signals import signals
from cnn_cli.training.state import State, read_last, restore_last
from cnn_cli.training.train import save, write_log


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
    recipe: str = ""  # of the network's recipes
    film: bool = False  # whether to keep the first convolution's filters of every epoch
    command: str = ""
    say: Callable[[str], None] = print  # how remarks reach the person


def begin(request: Request) -> dict[str, Any]:
    """A new run → what `cnn train --json` prints, in the first process; nothing in others."""
    plan = plan_of(request)
    settings = resolve(request.options, os.environ, plan.train, recipe_of(plan, request.recipe))
    if settings["data"].value is None:
        raise UsageError(f"{plan.network} names no data set; add --data NAME_OR_FOLDER ({', '.join(NAMED)})")
    if request.film:
        check_film(plan)
    frozen(plan, settings["freeze"].value)
    device, world = _place(request.device, settings["deterministic"].value)
    settings = _settled(settings, device)
    with (
        signals(world.size > 1) as watch,
        join_process_group(world, device),
        _folder(plan.network, request.output, world) as run,
    ):
        folder = data_folder(request.data_dir)
        with world.in_turn():
            given = begins_with(settings, plan)
            source = read_source(settings["data"].value, folder)
        settings["data"] = Setting(source.name, settings["data"].source)  # a folder by its full path from here on
        settings["weights"] = full_path(settings["weights"])
        if given:
            request = replace(request, input=request.input or given.input_for(plan))
            plan = plan_of(request)
        plan = _with_classes(plan, request, len(source.classes))
        settings, how = prepared(settings, plan, given)
        moved = transfer.fit(plan, given.tensors, str(given)) if given else None
        known = facts(device, settings) | ({"weights": str(given)} if given else {})
        metadata = Metadata(plan.document(), source.classes, how, data_facts(source, settings, folder), known)
        job = _job(plan, settings, metadata, source, device, run, world)
        state = _state(job, device, moved)
        save(job, state)  # the first file: with it the run can be resumed, without it the folder goes again
        watch.gentle = True
        if world.is_main:
            write_config(job, request.command)
            if request.film:
                begin_film(run, state.network)
            request.say(opening(job, state, remarks(given, moved, how, source.classes)))
        return to_the_end(job, state, watch)


def resume(request: Request, run: Path) -> dict[str, Any]:
    """Go on with a run from exactly where it stands → what `cnn train --json` prints; a finished run stays as it is.

    run: its folder, or in that its previous.pt, which then takes the place of last.pt.
    """
    file = run if run.name == PREVIOUS else run / LAST
    run = file.parent
    if request.args or request.input:
        raise UsageError("a run goes on with its own network; leave out --set and --input")
    if request.recipe:
        raise UsageError("a run goes on with its own settings; leave out --recipe, or start a new run without --resume")
    if request.film and not (run / FRAMES).is_file():
        raise UsageError(f"{run} keeps no filters of its epochs; a film begins with its run: leave the option out")
    world = current_world()
    with signals(world.size > 1) as watch, held_run(run) if world.is_main else nullcontext():
        saved = read_last(file)
        metadata = checkpoint.parse_metadata(saved["about"], str(file))
        plan = plan_document(metadata.spec, str(file))
        _check_name(request.network, plan.network, run)
        before = {k: Setting(*v) for k, v in saved["settings"].items()}
        settings = _same(before, request, run, saved["step"])
        if (run / CURVES).is_file() and settings["epochs"].value == before["epochs"].value and file.name == LAST:
            if world.is_main:
                request.say(f"{run} is finished ({len(saved['history'])} epochs); --epochs N goes on to N")
            return outcome(plan.network, metadata, run, saved["history"]) if world.is_main else {}
        if len(saved["ranks"]) != world.size:
            raise UsageError(_other_size(file, len(saved["ranks"]), world.size))
        on = str(metadata.facts["on"]).partition(":")[0] if world.size > 1 else metadata.facts["on"]
        device, _ = _place(request.device if request.device != "auto" else on, before["deterministic"].value)
        with join_process_group(world, device):
            with world.in_turn():
                source = read_source(settings["data"].value, data_folder(request.data_dir, metadata.data["folder"]))
            if fingerprint(source) != metadata.data.get("fingerprint"):
                raise UsageError(
                    f"{source.name} has changed since {run} began; a run goes on with the images it began with"
                )
            job = _job(plan, settings, metadata, source, device, run, world)
            state = _state(job, device)
            transfer.put(state.network, transfer.fit(plan, saved["network"], str(file), whole=True))
            if state.average:
                transfer.put(state.average, transfer.fit(plan, saved["average"], str(file), whole=True))
            restore_last(saved, state, world)
            if world.is_main:
                if file.name == PREVIOUS:
                    put_back(file, run / LAST)
                (run / CURVES).unlink(missing_ok=True)  # it says that the run is finished, which it is not any more
                write_log(job, state)  # a run that was killed may have ended between its state and its log
                write_config(job, request.command)
                request.say(opening(job, state))
            return to_the_end(job, state, watch)


def run_to_resume(request: Request, run: Path | None) -> Path:
    """The run that --resume means: the one named, by its folder or its previous.pt, or else the newest of the network.

    UsageError where there is none.
    """
    if run and run.name == PREVIOUS and run.is_file():
        return run
    path = run or request.output or (Path(request.network) if Path(request.network).is_dir() else None)
    if path is None:
        path = newest_run(plan_of(request).network, LAST)
    if path is None:
        raise UsageError(f"no run of {request.network} in {ROOT.resolve()}; name its folder, or train without --resume")
    if not any((path / name).is_file() for name in (LAST, PREVIOUS)):
        way = "it holds seeds, so add --seeds N" if any(path.glob("seed-*")) else f"there is no {LAST}"
        raise UsageError(f"{path} holds no run to go on with: {way}")
    return path


def plan_of(request: Request) -> Plan:
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


def recipe_of(plan: Plan, name: str) -> dict[str, Any]:
    """The settings of a recipe of the network; UsageError where it has none of that name."""
    if name and name not in plan.recipes:
        known = f"its recipes are {', '.join(plan.recipes)}" if plan.recipes else "it has none: leave --recipe out"
        raise UsageError(f"{plan.network} has no recipe {name!r}.{closest(name, plan.recipes)} ({known})")
    return plan.recipes[name] if name else {}


def _place(name: str, deterministic: bool) -> tuple[torch.device, World]:
    """The device of this process, and where it stands among others."""
    world = current_world()
    if deterministic:  # before anything runs on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    device = pick(name)
    if world.size > 1 and device.type == "cuda":
        if ":" in name:
            raise UsageError(f"--device {name} is for one process; among several each takes its own: --device cuda")
        device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device, world


def _settled(settings: dict[str, Setting], device: torch.device) -> dict[str, Setting]:
    """With what `auto` stands for on this device, so that the run says it and goes on with it."""
    precision = settings["precision"]._replace(value=fast.chosen_precision(settings["precision"].value, device))
    means = settings["fast"]._replace(value=fast.chosen(settings["fast"].value, device))
    return settings | {"precision": precision, "fast": means}


@contextmanager
def _folder(network: str, output: Path | None, world: World) -> Iterator[Path]:
    """The new run's folder, made and held by the first process."""
    if not world.is_main:
        yield world.broadcast_object(Path())
        return
    with new_run(network, output) as run:
        yield world.broadcast_object(run)


def _other_size(file: Path, then: int, now: int) -> str:
    """A run's random numbers belong to its processes, one generator each."""
    named = f" {shlex.quote(str(file))}" if file.name == PREVIOUS else ""
    way = World(size=then).resume_command(file.parent) + named + " without torchrun" * (then == 1)
    count = f"{then} process{'es' * (then > 1)}, and here {'is' if now == 1 else 'are'} {now}"
    return f"{file.parent} was trained by {count}; go on with {way}"


def _with_classes(plan: Plan, request: Request, classes: int) -> Plan:
    """The argument `classes` follows the data set, unless the user has set it."""
    if "classes" in request.args or plan.args.get("classes", classes) == classes:
        return plan
    return find(request.network, models=request.models, args={**request.args, "classes": classes}, input=request.input)


def _job(
    plan: Plan,
    settings: dict[str, Setting],
    metadata: Metadata,
    source: Source,
    device: torch.device,
    run: Path,
    world: World,
) -> Job:
    """Data fitted, loss chosen, and everything checked that would otherwise fail at the first step."""
    values = {name: setting.value for name, setting in settings.items()}
    if device.type == "cpu" and "keep-memory" in values["fast"]:
        keep_freed_memory()
    loss = loss_for(plan, len(source.classes))
    images = sum(len(part.labels) for part in source.parts.values())
    _check_memory(plan, settings, device, math.ceil(min(values["batch_size"], images) / world.size))
    for name in ("shift", "cutout"):
        if values[name] >= min(plan.input[1:]):
            raise UsageError(
                f"{name} {values[name]} leaves nothing of images of {min(plan.input[1:])} pixels; take less"
            )
    if "val" in source.parts and values["val_fraction"] and settings["val_fraction"].source not in ("spec", "recipe"):
        raise UsageError(f"{source.name} has a val folder of its own; leave out --val-fraction")
    divided = split(source, values["val_fraction"], values["seed"])
    if "train" not in divided.parts:
        raise UsageError(f"{source.name} has no train folder; there is nothing to learn from")
    if values["patience"] and "val" not in divided.parts:
        raise UsageError(
            "patience waits for a better epoch on the val split, and there is none; add --val-fraction 0.1"
        )
    data = fit(divided, metadata.preprocessing, device, values["workers"])
    wanted = objective(loss, values, data.splits["train"].labels)
    job = Job(plan, settings, data, loss, wanted, metadata, run, fast.layout(plan, values["fast"]), world)
    least = 2 * world.size
    if needs_two(plan, values["freeze"]) and min(values["batch_size"], len(job.data.splits["train"])) < least:
        each = "batch" if world.size == 1 else "process"
        message = f"a BatchNorm of this network sees one value a channel; it needs two images a {each}"
        raise UsageError(f"{message}: --batch-size {least} or more")
    return job


def _check_memory(plan: Plan, settings: dict[str, Setting], device: torch.device, batch: int) -> None:
    """Refuse what surely does not fit: weights, gradients, the optimizer's copies, one layer's input and output."""
    copies = {
        "adam": 4,
        "adamw": 4,
        "muon": 3,
        "sgd": 3 if "momentum" in settings and settings["momentum"].value else 2,
    }
    learning = sum(trained(layer, settings["freeze"].value) for layer in plan.layers)
    fixed = 4 * (plan.params + learning * (copies[settings["optimizer"].value] - 1))
    an_image = 4 * max((_values(la.input_shape) + _values(la.output_shape) for la in plan.layers), default=0)
    free = free_memory(device)
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
    network = fast.prepare(normalised(network, job.metadata.preprocessing).to(device), job["fast"])
    hold(network, job.freeze)
    last = job.plan.last.name if job.plan.last else ""
    average = copy.deepcopy(network) if job["ema"] is not None else None
    if job.world.rank:  # dropout differs from process to process, the weights do not
        torch.manual_seed(job["seed"] + 7919 * job.world.rank)
    return State(network, make_optimizer(network, job.values, last), device, average)


def _same(settings: dict[str, Setting], request: Request, run: Path, done: int) -> dict[str, Setting]:
    """The run's settings, of which only `epochs` may grow and `workers` change; UsageError lists other differences."""
    asked = asked_for(request.options, os.environ)
    asked = {n: s for n, s in asked.items() if s.value != "auto"}  # which is what the run has chosen
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
    if "epochs" in changed and settings["schedule"].value in ("cosine", "onecycle", "linear") and done:
        request.say(f"the {settings['schedule'].value} schedule now spans {changed['epochs'].value} epochs")
    return settings | changed
