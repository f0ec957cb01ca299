"""A run from its beginning to its end: settings, folder, data, network; then the loop; then the report.

Everything that can be checked is checked before the first step, the cheapest first: settings, device, folder, data.
"""

import os
from dataclasses import replace
from pathlib import Path

from cnn_cli.checkpoints import transfer
from cnn_cli.checkpoints.checkpoint import Metadata, parse_metadata
from cnn_cli.checkpoints.run_folder import CURVES, LAST, PREVIOUS
from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.data.catalog import DATASETS
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.fingerprint import compute_fingerprint
from cnn_cli.data.loading import is_missing, load_dataset, moved, resolve_data_dir
from cnn_cli.data.unreadable import hint_at_skipping
from cnn_cli.distributed.process_group import join_process_group
from cnn_cli.distributed.world import World, current_world
from cnn_cli.errors import UsageError
from cnn_cli.files import put_back
from cnn_cli.language.freezing import frozen_tensors
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document
from cnn_cli.pictures.film import begin_film, check_film
from cnn_cli.settings import Setting, unknown_variables
from cnn_cli.tables import counted
from cnn_cli.tasks.selection import task_of
from cnn_cli.training import resumption
from cnn_cli.training.completion import RunResult, read_run, train_to_completion
from cnn_cli.training.initial_weights import find_initial_weights, fitting, full_path, prepared, remarks
from cnn_cli.training.loop import save, write_log
from cnn_cli.training.preparation import choose_device, initial_state, make_job, settle
from cnn_cli.training.request import Request, chosen_annotations, complete, resolve_settings
from cnn_cli.training.run_report import data_facts, run_facts, run_header, write_config
from cnn_cli.training.shared_folder import existing_folder, new_folder
from cnn_cli.training.signals import watch_signals
from cnn_cli.training.state import restore_state


def begin(request: Request) -> RunResult | None:
    """A new run → its result, in the main process."""
    request = complete(request)
    plan, settings = _plan_and_settings(request)
    world = current_world()
    _warn(request, world)
    device = choose_device(request.device, settings["deterministic"].value, world, request.threads)
    settings = settle(settings, device)
    with (
        watch_signals(world.size > 1) as watch,
        join_process_group(world, device),
        new_folder(plan.network, request.output, world) as folder,
    ):
        data_dir = resolve_data_dir(request.data_dir)
        with world.local_main_first(), hint_at_skipping():
            weights = find_initial_weights(settings, plan)
            skip = settings["skip_unreadable"].value
            dataset = load_dataset(settings["data"].value, data_dir, skip, task_of(plan), chosen_annotations(settings))
        settings |= {"data": Setting(dataset.name, settings["data"].source), "weights": full_path(settings["weights"])}
        if weights:
            request = replace(request, input=request.input or weights.input_for(plan))
        plan = request.plan_for(len(dataset.classes))
        settings, preprocessing = prepared(settings, plan, weights)
        moved = fitting(plan, weights, settings["weights_partial"].value) if weights else None
        facts = run_facts(device, settings) | ({"weights": str(weights)} if weights else {})
        about_data = data_facts(dataset, settings, data_dir)
        metadata = Metadata(plan.document(), dataset.classes, preprocessing, about_data, facts)
        job = make_job(plan, settings, metadata, dataset, device, folder)
        del dataset  # its images, where the job has others: resized, or without those held out
        state = initial_state(job, moved)
        save(job, state)  # the first file: with it the run can be resumed; without it the folder is removed
        watch.gentle = True
        if world.is_main:
            write_config(job, request.command, request.args)
            if request.film:
                begin_film(job.run, state.network)
            about_weights = remarks(weights, moved, preprocessing, metadata.classes)
            request.say(run_header(job, state, request.args, about_weights, request.verbose, bool(request.settings)))
        return train_to_completion(job, state, watch, request.announce)


def resume(request: Request, run: Path) -> RunResult | None:
    """Resume a run exactly where it stopped → its result, in the main process; a finished run is not changed.

    run: its folder, or the previous.pt in it, which then replaces last.pt.
    """
    file = run if run.name == PREVIOUS else run / LAST
    run, world = file.parent, current_world()
    resumption.check_request(request, run)
    _warn(request, world)
    with watch_signals(world.size > 1) as watch, existing_folder(run, world) as folder:
        epochs = request.options.get("epochs")
        saved = read_state(file, ["--epochs", str(epochs)] if epochs else [])
        metadata = parse_metadata(saved["about"], file)
        plan = plan_document(metadata.spec, str(file))
        resumption.check_network(request.network, plan.network, run)
        settings = resumption.resumed_settings(saved["settings"], request, run, saved["step"])
        more_epochs = settings["epochs"].value != saved["settings"]["epochs"][0]
        if (run / CURVES).is_file() and not more_epochs and file.name == LAST:
            if world.is_main:
                epochs = counted(len(saved["history"]), "epoch")
                request.say(f"{run} is finished ({epochs}); train longer with --epochs N")
            return read_run(plan.network, metadata, run, saved["history"]) if world.is_main else None
        resumption.check_processes(file, len(saved["ranks"]), world.size)
        device = choose_device(
            _device_name(request, metadata, world), settings["deterministic"].value, world, request.threads
        )
        with join_process_group(world, device):
            with world.local_main_first():
                dataset = _same_dataset(request, settings, metadata, run)
            metadata = replace(metadata, data=metadata.data | {"name": dataset.name})  # it may have moved
            job = make_job(plan, settings, metadata, dataset, device, folder)
            del dataset
            state = initial_state(job, resumed=True)
            transfer.copy_into(state.network, transfer.fit(plan, saved["network"], str(file), whole=True))
            if state.average:
                transfer.copy_into(state.average, transfer.fit(plan, saved["average"], str(file), whole=True))
            restore_state(saved, state, world)
            if world.is_main:
                if file.name == PREVIOUS:
                    put_back(file, run / LAST)
                (run / CURVES).unlink(missing_ok=True)  # it marks a finished run, which this no longer is
                write_log(job, state)  # a run that was killed may have ended between its state and its log
                write_config(job, request.command, request.args)
                request.say(run_header(job, state, request.args, verbose=request.verbose))
            return train_to_completion(job, state, watch, request.announce)


def _plan_and_settings(request: Request) -> tuple[Plan, dict[str, Setting]]:
    """The network and the settings, after all checks that need neither data nor device."""
    plan = request.plan()
    settings = resolve_settings(request, plan)
    if settings["data"].value is None:
        raise UsageError(f"{plan.network} has no data set; add --data NAME_OR_FOLDER ({', '.join(DATASETS)})")
    if request.film:
        check_film(plan)
    fraction = settings["val_fraction"]
    if settings["overfit"].value and fraction.value and fraction.source not in ("spec", "recipe"):
        raise UsageError("--overfit evaluates on the training images themselves; leave out --val-fraction")
    frozen_tensors(plan, settings["freeze"].value)
    return plan, settings


def _warn(request: Request, world: World) -> None:
    """Warn about unknown environment variables CNN_…."""
    for warning in unknown_variables(os.environ) if world.is_main else ():
        request.say(warning)


def _device_name(request: Request, metadata: Metadata, world: World) -> str:
    """The requested device, else that of the run."""
    before = str(metadata.facts["on"])
    if request.device != "auto":
        return request.device
    return before.partition(":")[0] if world.size > 1 else before


def _same_dataset(request: Request, settings: dict[str, Setting], metadata: Metadata, run: Path) -> Dataset:
    """The run's data; UsageError if it has changed since, or no longer exists."""
    if is_missing(settings["data"].value):
        raise moved(settings["data"].value)
    folder = resolve_data_dir(request.data_dir, metadata.data["folder"])
    skip = bool(metadata.data.get("skip_unreadable"))
    annotations = None if settings["data"].value in DATASETS else metadata.data.get("annotations")
    task = task_of(plan_document(metadata.spec, str(run)))
    dataset = load_dataset(settings["data"].value, folder, skip, task, annotations)
    if compute_fingerprint(dataset) != metadata.data.get("fingerprint"):
        raise UsageError(f"{dataset.name} has changed since {run} started: its classes or numbers of images differ")
    return dataset
