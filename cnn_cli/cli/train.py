"""`cnn train`."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import DataDir, Device, Json, Network, Spec, option
from cnn_cli.cli.output import emit, emit_json, note
from cnn_cli.cli.training_options import Settings
from cnn_cli.errors import UsageError

if TYPE_CHECKING:
    from cnn_cli.tables import Result
    from cnn_cli.training.request import Request

Run = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="Run folder, with --resume [the newest run].", show_default=False)
]


@dataclass(frozen=True)
class RunOptions:
    """How the run is carried out."""

    recipe: Annotated[
        str,
        option(
            "--recipe",
            panel="Optimization",
            metavar="NAME",
            help="Recipe of the network; overrides its train: settings.",
        ),
    ] = ""
    plain: Annotated[
        bool, option("--plain", panel="Speed", help="Use the reference loop; the same as --fast none.")
    ] = False
    device: Device = "auto"
    threads: Annotated[
        int | None, option("--threads", panel="Speed", metavar="N", help="CPU threads per process [chosen by PyTorch].")
    ] = None
    resume: Annotated[bool, option("--resume", panel="Run", help="Resume a run exactly where it stopped.")] = False
    seeds: Annotated[
        int | None,
        option("--seeds", panel="Run", metavar="N", help="Repeat with N seeds; report mean and standard deviation."),
    ] = None
    output: Annotated[
        Path | None, option("-o", "--output", panel="Output", metavar="FOLDER", help="Run folder [runs/NETWORK-N].")
    ] = None
    filters_every_epoch: Annotated[
        bool,
        option("--filters-every-epoch", panel="Output", help="Save the first convolution's filters after every epoch."),
    ] = False
    verbose: Annotated[
        bool, option("-v", "--verbose", panel="Output", help="Show the settings at their defaults, too.")
    ] = False
    json: Json = False


@command("train", "Training")
def train_command(
    network: Network, spec: Spec, settings: Settings, options: RunOptions, run: Run = None, data_dir: DataDir = None
) -> None:
    """Train a network, or resume a run.

    To resume: cnn train NETWORK --resume [RUN]. A setting comes from its option, else from the variable CNN_<NAME>,
    the recipe, the spec's train:, or its default. Several processes: torchrun --nproc-per-node 2 -m cnn_cli train
    NETWORK. See `cnn guide training`.
    """
    if run and not options.resume:
        raise UsageError(f"unexpected {str(run)!r}; to resume a run, add --resume")
    given = settings.given
    if options.plain and "fast" in given:
        raise UsageError("--plain is --fast none; leave out one of them")
    from cnn_cli.training.request import Request

    request = Request(
        network=network,
        options=given | ({"fast": "none"} if options.plain else {}),
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
        verbose=options.verbose,
        threads=options.threads,
    )
    result = _run(request, options, run)
    if result:
        emit_json(result.document()) if options.json else emit(result.text())


def _run(request: "Request", options: RunOptions, folder: Path | None) -> "Result | None":
    from cnn_cli.training import run
    from cnn_cli.training.resumption import run_to_resume
    from cnn_cli.training.seeds import train_seeds

    if options.seeds is not None:
        return train_seeds(request, options.seeds, folder, options.resume)
    return run.resume(request, run_to_resume(request, folder)) if options.resume else run.begin(request)
