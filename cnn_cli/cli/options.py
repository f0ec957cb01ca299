"""Groups of options that several commands share: the same name means the same thing everywhere.

Each is a frozen dataclass whose fields are options; its methods turn what was typed into what the tool works with.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnn_cli.cli.output import emit, emit_json, note
from cnn_cli.errors import UsageError
from cnn_cli.tables import Result, TableResult, render
from cnn_cli.values import LARGE, parse_numbers

if TYPE_CHECKING:
    import torch

    from cnn_cli.checkpoints.checkpoint import LoadedNetwork
    from cnn_cli.interpret.inputs import ImageSelection, Inputs
    from cnn_cli.interpret.pictured import Target
    from cnn_cli.language.plan import Plan

MAX_IMAGES = 16  # in one picture


def option(*names: str, panel: str, help: str, **settings: Any) -> Any:
    """An option in a titled section of the help."""
    return typer.Option(*names, rich_help_panel=panel, help=help, **settings)


NETWORK_HELP = "Network name (`cnn list`), FILE.yaml, FILE.yaml:NAME, run folder, or checkpoint."
Network = Annotated[str, typer.Argument(metavar="NETWORK", help=NETWORK_HELP)]
Device = Annotated[
    str,
    option(
        "--device", panel="Speed", metavar="NAME", envvar="CNN_DEVICE", help="Device: auto, cpu, cuda, cuda:1 or mps."
    ),
]
BatchSize = Annotated[int | None, option("-b", "--batch-size", panel="Speed", metavar="N", help="Batch size.")]
Workers = Annotated[
    int | None,
    option("-j", "--workers", panel="Speed", metavar="N", help="Data-loading workers [one per CPU, at most 8]."),
]
Seed = Annotated[int, option("--seed", panel="Run", metavar="N", min=0, max=LARGE, help="Random seed.")]
Models = Annotated[
    list[Path] | None,
    option(
        "--models",
        panel="Network",
        metavar="FILE",
        envvar="CNN_MODELS",
        help="YAML file of further networks; overrides built-in ones; may be repeated.",
    ),
]
DataDir = Annotated[
    Path | None,
    option(
        "--data-dir",
        panel="Data",
        metavar="FOLDER",
        envvar="CNN_DATA_DIR",
        help="Folder of the named data sets, which are downloaded to it [~/.cache/cnn/datasets].",
    ),
]
Json = Annotated[bool, option("--json", panel="Output", help="Print one JSON document.")]


@dataclass(frozen=True)
class Spec:
    """Where networks come from, and what of them is overridden."""

    models: Models = None
    set: Annotated[
        list[str] | None,
        option("--set", panel="Network", metavar="NAME=VALUE", help="Set an argument of the network; may be repeated."),
    ] = None
    input: Annotated[
        str | None, option("--input", panel="Network", metavar="CxHxW", help="Input size, such as 3x224x224.")
    ] = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.models or ())

    @property
    def args(self) -> dict[str, str]:
        """`--set NAME=VALUE …` as a mapping; UsageError if one has no `=`."""
        pairs = [text.partition("=") for text in self.set or []]
        for name, equals, _ in pairs:
            if not equals:
                raise UsageError(f"--set takes NAME=VALUE, not {name!r}; write --set classes=10")
        return {name: value for name, _, value in pairs}

    @property
    def size(self) -> tuple[int, ...] | None:
        """`3x224x224` as (3, 224, 224); UsageError for anything else."""
        if self.input is None:
            return None
        parts = self.input.lower().split("x")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise UsageError(f"--input takes CHANNELSxHEIGHTxWIDTH, such as 3x224x224, not {self.input!r}")
        return tuple(int(part) for part in parts)

    def draft(self, network: str) -> "Plan":
        """The plan with its mistakes, of a name or a file; or the one in a run folder or checkpoint."""
        from cnn_cli.checkpoints.run_folder import is_stored
        from cnn_cli.checkpoints.stored_network import read_plan
        from cnn_cli.language.registry import draft

        if is_stored(network):
            return read_plan(network, self.args, self.size)
        return draft(network, models=self.files, args=self.args, input=self.size)


@dataclass(frozen=True)
class Estimate:
    """What the memory estimate of summary and diff is for."""

    batch_size: Annotated[
        int | None,
        option("-b", "--batch-size", panel="Memory estimate", metavar="N", help="Batch size [the spec's, or 64]."),
    ] = None
    optimizer: Annotated[
        str | None,
        option(
            "--optimizer",
            panel="Memory estimate",
            metavar="NAME",
            help="Optimizer: sgd, adam, adamw or muon [the spec's, or adam].",
        ),
    ] = None
    precision: Annotated[
        str | None,
        option("--precision", panel="Memory estimate", metavar="NAME", help="Precision: fp32, fp16 or bf16 [fp32]."),
    ] = None


@dataclass(frozen=True)
class Format:
    """How a table is printed."""

    json: Json = False
    csv: Annotated[bool, option("--csv", panel="Output", help="Print the table as CSV.")] = False
    markdown: Annotated[bool, option("--markdown", panel="Output", help="Print the table as Markdown.")] = False

    @property
    def style(self) -> str:
        """text, csv or markdown; UsageError for more than one."""
        if self.csv + self.markdown + self.json > 1:
            raise UsageError("--json, --csv and --markdown exclude each other; choose one")
        return "csv" if self.csv else "markdown" if self.markdown else "text"

    def check(self) -> None:
        """UsageError for more than one format, before any work is done."""
        _ = self.style

    def emit(self, result: Result) -> None:
        """Print a result in this format."""
        style = self.style
        if self.json:
            emit_json(result.document())
        elif style == "text":
            emit(result.text())
        else:
            assert isinstance(result, TableResult)
            emit(render(result.table(), style))


@dataclass(frozen=True)
class Data:
    """Which data set."""

    data: Annotated[
        str | None,
        option("--data", panel="Data", metavar="NAME_OR_FOLDER", help="Data set name, or a folder of images."),
    ] = None
    data_dir: DataDir = None


@dataclass(frozen=True)
class Images:
    """Which images: files, or images of the data set by their numbers."""

    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE]...", help="Image files, folders, or patterns such as '*.png'.", show_default=False
        ),
    ] = None
    index: Annotated[
        list[str] | None,
        option(
            "--index", panel="Data", metavar="NUMBERS", help="Numbers of images in the data set: 3, 0-15 or 3,5,8-10."
        ),
    ] = None
    split: Annotated[
        str | None,
        option("--split", panel="Data", metavar="NAME", help="Split of the data set: test, val or train [test]."),
    ] = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of --index; UsageError for what is none."""
        try:
            return tuple(number for text in self.index or () for number in parse_numbers(text))
        except ValueError as error:
            raise UsageError(f"--index {error}") from None

    def selection(self, data: Data) -> "ImageSelection":
        from cnn_cli.interpret.inputs import ImageSelection

        return ImageSelection(self.images or (), self.numbers, self.split or "test", data.data, data.data_dir)

    def load(self, loaded: "LoadedNetwork", data: Data, limit: int = MAX_IMAGES) -> "Inputs":
        """The images at the network's input size."""
        from cnn_cli.interpret.inputs import load_inputs

        return load_inputs(loaded, self.selection(data), limit)


@dataclass(frozen=True)
class Weights:
    """Which weights, on which device."""

    weights: Annotated[
        str | None,
        option(
            "--weights",
            panel="Network",
            metavar="SOURCE",
            help="Weights: torchvision, a torchvision weights name, a file (.pth, .safetensors) or a run [newest run].",
        ),
    ] = None
    device: Device = "auto"

    @property
    def torch_device(self) -> "torch.device":
        from cnn_cli.device import pick

        return pick(self.device)

    def load(
        self, network: str, spec: Spec, fresh: bool = False, hint: str = "or load weights with --weights"
    ) -> "LoadedNetwork":
        """NETWORK with its trained weights, or with none if `fresh`; UsageError, which ends in `hint`, without any."""
        from cnn_cli.checkpoints.checkpoint import load_network
        from cnn_cli.checkpoints.run_folder import RUNS

        loaded = load_network(
            network, models=spec.files, args=spec.args, input=spec.size, trained=not fresh, weights=self.weights
        )
        for line in loaded.notes:
            note(line)
        if fresh:
            return replace(loaded, weights=None, metadata=None, run=None)
        if loaded.weights is None:
            raise UsageError(
                f"no run of {loaded.plan.network} in {RUNS.resolve()}; train it with `cnn train {network}`, "
                f"name a run folder or a checkpoint, {hint}"
            )
        return loaded


@dataclass(frozen=True)
class Untrained:
    """Fresh weights instead of trained ones."""

    untrained: Annotated[bool, option("--untrained", panel="Network", help="Use random initial weights.")] = False
    seed: Annotated[
        int | None,
        option(
            "--seed", panel="Network", metavar="N", min=0, max=LARGE, help="Random seed of the initial weights [0]."
        ),
    ] = None

    def load(self, network: str, spec: Spec, weights: Weights) -> "LoadedNetwork":
        if self.seed is not None and not self.untrained:
            raise UsageError("--seed draws fresh weights; use it with --untrained")
        if weights.weights and self.untrained:
            raise UsageError("--weights and --untrained exclude each other; choose one")
        return weights.load(network, spec, self.untrained, "or show fresh weights with --untrained")


@dataclass(frozen=True)
class Picture:
    """Where a picture is written."""

    output: Annotated[
        Path | None, option("-o", "--output", panel="Output", metavar="PATH", help="Picture file, or a folder.")
    ] = None
    force: Annotated[bool, option("--force", panel="Output", help="Overwrite existing pictures.")] = False
    show: Annotated[bool, option("--show", panel="Output", help="Also show the picture in the terminal.")] = False

    @property
    def target(self) -> "Target":
        from cnn_cli.interpret.pictured import Target

        return Target(self.output, self.force)

    def preview(self, path: Path, box: tuple[int, int, int, int] | None = None) -> None:
        """What --show does: the picture, or the part within `box`, in the terminal; a note where it has no colors."""
        if not self.show:
            return
        from cnn_cli.pictures.preview import can_preview, preview

        if can_preview():
            preview(path, box)
        else:
            note("--show needs a terminal with colors; open the file instead")
