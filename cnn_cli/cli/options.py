"""Groups of options that several commands share, so that a name means the same everywhere.

Each is a frozen dataclass whose fields are options; its methods convert and check the values.
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

MAX_IMAGES = 16  # most images in one picture


def argument(metavar: str, help: str) -> Any:
    """An optional argument."""
    return typer.Argument(None, metavar=metavar, help=help, show_default=False)


def option(panel: str, metavar: str, help: str, *names: str, default: Any = None, **settings: Any) -> Any:
    """An option with a value, in a titled section of the help; named as its parameter unless `names` are given."""
    return typer.Option(default, *names, rich_help_panel=panel, metavar=metavar, help=help, **settings)


def flag(panel: str, help: str, *names: str) -> Any:
    """An option without a value."""
    return typer.Option(False, *names, rich_help_panel=panel, help=help)


NETWORK_HELP = "Network name (`cnn list`), FILE.yaml, FILE.yaml:NAME, run folder, or checkpoint."
Network = Annotated[str, typer.Argument(metavar="NETWORK", help=NETWORK_HELP)]
DEVICE_HELP = "Device: auto, cpu, cuda, cuda:1 or mps."
DEVICE = option("Speed", "NAME", DEVICE_HELP, default="auto", envvar="CNN_DEVICE")
SPLIT = option("Data", "NAME", "Split to evaluate: test, val or train [test, else val, else train].")
SEED = option("Run", "N", "Random seed.", default=0, min=0, max=LARGE)
MODELS_HELP = "YAML file with additional networks, which override built-in ones; may be repeated."
MODELS = option("Network", "FILE", MODELS_HELP, envvar="CNN_MODELS")
DATA_DIR_HELP = "Folder to which named data sets are downloaded [~/.cache/cnn/datasets]."
DATA_DIR = option("Data", "FOLDER", DATA_DIR_HELP, envvar="CNN_DATA_DIR")
JSON = flag("Output", "Print one JSON document.")


def parse_args(pairs: list[str] | None, option: str = "--set") -> dict[str, str]:
    """`NAME=VALUE …` as a mapping; UsageError, which names the option, if one has no `=`."""
    parts = [text.partition("=") for text in pairs or []]
    for name, equals, _ in parts:
        if not equals:
            raise UsageError(f"{option} takes NAME=VALUE, not {name!r}; write {option} classes=10")
    return {name: value for name, _, value in parts}


def parse_size(text: str | None, option: str = "--input") -> tuple[int, ...] | None:
    """`3x224x224` as (3, 224, 224), `1x8000` as (1, 8000); UsageError, which names the option, for anything else."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        form = "CHANNELSxHEIGHTxWIDTH, such as 3x224x224, or CHANNELSxLENGTH"
        raise UsageError(f"{option} takes {form}, not {text!r}")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True)
class Spec:
    """The source of networks, and overrides of their arguments and input size."""

    models: list[Path] | None = MODELS
    set: list[str] | None = option("Network", "NAME=VALUE", "Set an argument of the network; may be repeated.")
    input: str | None = option("Network", "CxHxW", "Input size, such as 3x224x224, or 1x8000 for Conv1d.")

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.models or ())

    @property
    def args(self) -> dict[str, str]:
        """`--set NAME=VALUE …` as a mapping; UsageError if one has no `=`."""
        return parse_args(self.set)

    @property
    def size(self) -> tuple[int, ...] | None:
        """`3x224x224` as (3, 224, 224); UsageError for anything else."""
        return parse_size(self.input)

    def draft(self, network: str) -> "Plan":
        """The plan with its mistakes, of a name or a file; or the one in a run folder or checkpoint.

        UsageError with the mistakes if no layer could be planned, since there is nothing to show.
        """
        from cnn_cli.checkpoints.run_folder import find_run, is_stored
        from cnn_cli.checkpoints.stored_network import read_plan
        from cnn_cli.language.registry import draft

        network = find_run(network, self.files)
        if is_stored(network):
            return read_plan(network, self.args, self.size)
        plan = draft(network, models=self.files, args=self.args, input=self.size)
        return plan if plan.layers else plan.checked()


MEMORY = "Memory estimate"


@dataclass(frozen=True)
class Estimate:
    """The assumptions of the memory estimate in summary and diff."""

    batch_size: int | None = option(MEMORY, "N", "Batch size [the spec's, or 64].", "-b", "--batch-size")
    optimizer: str | None = option(MEMORY, "NAME", "Optimizer: sgd, adam, adamw or muon [the spec's, or adam].")
    precision: str | None = option(MEMORY, "NAME", "Precision: fp32, fp16 or bf16 [fp32].")


@dataclass(frozen=True)
class Format:
    """The output format of a table."""

    json: bool = JSON
    csv: bool = flag("Output", "Print the table as CSV.")
    markdown: bool = flag("Output", "Print the table as Markdown.")

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
    """The data set."""

    data: str | None = option("Data", "NAME_OR_FOLDER", "Data set name, or a folder of images.")
    data_dir: Path | None = DATA_DIR


@dataclass(frozen=True)
class Images:
    """The images: files, or images of the data set by index."""

    images: list[str] | None = argument("[IMAGE]...", "Image files, folders, or patterns such as '*.png'.")
    index: list[str] | None = option("Data", "NUMBERS", "Indices of images in the data set: 3, 0-15 or 3,5,8-10.")
    split: str | None = option("Data", "NAME", "Split of the data set: test, val or train [test].")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The indices of --index; UsageError for other texts."""
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


_WEIGHTS_HELP = "Weights: torchvision, a torchvision weights name, a file (.pth, .safetensors) or a run [newest run]."


@dataclass(frozen=True)
class Weights:
    """The weights and the device."""

    weights: str | None = option("Network", "SOURCE", _WEIGHTS_HELP)
    device: str = DEVICE

    @property
    def torch_device(self) -> "torch.device":
        from cnn_cli.device import pick

        return pick(self.device)

    def load(self, network: str, spec: Spec, untrained: bool | None = None) -> "LoadedNetwork":
        """NETWORK with its trained weights, or with initial ones if `untrained` is set.

        UsageError for a network without trained weights.
        """
        from cnn_cli.checkpoints.checkpoint import load_network, load_trained

        if untrained:
            if self.weights:
                raise UsageError("--weights and --untrained exclude each other; choose one")
            loaded = load_network(network, models=spec.files, args=spec.args, input=spec.size, trained=False)
            return replace(loaded, weights=None, metadata=None, run=None)
        hint = "" if untrained is None else "; or use initial weights: --untrained"
        loaded = load_trained(
            network, models=spec.files, args=spec.args, input=spec.size, weights=self.weights, hint=hint
        )
        for line in loaded.notes:
            note(line)
        return loaded


@dataclass(frozen=True)
class Untrained:
    """Initial weights instead of trained ones."""

    untrained: bool = flag("Network", "Use random initial weights.")
    seed: int | None = option("Network", "N", "Random seed of the initial weights [0].", min=0, max=LARGE)

    def load(self, network: str, spec: Spec, weights: Weights) -> "LoadedNetwork":
        if self.seed is not None and not self.untrained:
            raise UsageError("--seed is for random initial weights; add --untrained")
        return weights.load(network, spec, self.untrained)


@dataclass(frozen=True)
class Picture:
    """The output file of a picture."""

    output: Path | None = option("Output", "PATH", "Picture file, or a folder for pictures.", "-o", "--output")
    force: bool = flag("Output", "Overwrite existing pictures outside the run folder.")
    show: bool = flag("Output", "Also show the picture in the terminal.")

    @property
    def target(self) -> "Target":
        from cnn_cli.interpret.pictured import Target

        return Target(self.output, self.force)

    def preview(self, path: Path, box: tuple[int, int, int, int] | None = None) -> None:
        """With --show, print the picture, or its part within `box`, to the terminal; a note if that has no colors."""
        if not self.show:
            return
        from cnn_cli.pictures.preview import can_preview, print_preview

        if can_preview():
            print_preview(path, box)
        else:
            note("--show needs a terminal with colors; open the file instead")
