"""`cnn train`."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_cli.cli.app import command
from cnn_cli.cli.options import DATA_DIR, DEVICE, JSON, Network, Spec, argument, flag, option
from cnn_cli.cli.output import emit, emit_result, note
from cnn_cli.cli.training_options import Settings
from cnn_cli.errors import UsageError

if TYPE_CHECKING:
    from cnn_cli.tables import Result
    from cnn_cli.training.request import Request


@dataclass(frozen=True)
class RunOptions:
    """Options of a run other than its settings."""

    recipe: str = option("Optimization", "NAME", "Recipe of the network; overrides its train: settings.", default="")
    plain: bool = flag("Speed", "Use the reference loop; the same as --fast none.")
    device: str = DEVICE
    threads: int | None = option("Speed", "N", "CPU threads per process [chosen by PyTorch].")
    resume: bool = flag("Run", "Resume a run exactly where it stopped.")
    seeds: int | None = option("Run", "N", "Repeat with N seeds; report mean and standard deviation.")
    output: Path | None = option("Output", "FOLDER", "Run folder [runs/NETWORK-N].", "-o", "--output")
    filters_every_epoch: bool = flag("Output", "Save the first convolution's filters after every epoch.")
    verbose: bool = flag("Output", "Show all settings, including those at their defaults.", "-v", "--verbose")
    json: bool = JSON


@command("train")
def train_command(
    network: Network,
    spec: Spec,
    settings: Settings,
    options: RunOptions,
    run: Path | None = argument("[RUN]", "Run folder, with --resume [the newest run]."),
    data_dir: Path | None = DATA_DIR,
) -> None:
    """Train a network, or resume a run.

    To resume: cnn train NETWORK --resume [RUN]. A setting comes from its option, else from the variable CNN_<NAME>,
    the recipe, the spec's train:, or its default. For several processes: torchrun --nproc-per-node 2 -m cnn_cli train
    NETWORK. See `cnn guide training`.
    """
    if run and not options.resume:
        raise UsageError(f"unexpected {str(run)!r}; to resume a run, add --resume")
    announced = list[str]()

    def announce(headline: str) -> None:
        if not options.json and options.seeds is None:
            emit(f"{headline}\n")
            announced.append(headline)

    chosen = settings.given
    if options.plain and "fast" in chosen:
        raise UsageError("--plain means --fast none; leave out one of them")
    from cnn_cli.checkpoints.run_folder import find_run
    from cnn_cli.training.completion import RunResult
    from cnn_cli.training.request import Request

    request = Request(
        network=find_run(network, spec.files),
        options=chosen | ({"fast": "none"} if options.plain else {}),
        recipe=options.recipe,
        data_dir=data_dir,
        device=options.device,
        models=spec.files,
        args=spec.args,
        input=spec.size,
        output=options.output,
        film=options.filters_every_epoch,
        command=shlex.join(["cnn", *sys.argv[1:]]),
        say=note,
        announce=announce,
        verbose=options.verbose,
        threads=options.threads,
    )
    result = _run(request, options, Path(find_run(str(run))) if run else None)
    if announced and isinstance(result, RunResult):
        emit(result.file_list())
    elif result:
        emit_result(result, options.json)


def _run(request: "Request", options: RunOptions, folder: Path | None) -> "Result | None":
    from cnn_cli.training import run
    from cnn_cli.training.resumption import run_to_resume
    from cnn_cli.training.seeds import train_seeds

    if options.seeds is not None:
        return train_seeds(request, options.seeds, folder, options.resume)
    return run.resume(request, run_to_resume(request, folder)) if options.resume else run.begin(request)
