"""Shell completion of names of networks, layers, recipes, classes and data sets. Nothing here imports torch."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnn_cli.errors import CnnError
from cnn_cli.setting_kinds import FAST
from cnn_cli.settings import SETTINGS
from cnn_cli.values import Choice

if TYPE_CHECKING:
    from cnn_cli.language.plan import Plan

SALIENCY_METHODS = ("gradient", "smoothgrad", "integrated-gradients", "guided-backprop", "grad-cam", "occlusion")
Completion = Callable[[typer.Context, str], list[str]]


def complete_from(names: Callable[[typer.Context], Iterable[str]]) -> Completion:
    """Complete from the names that a function returns, or from none if a file cannot be read, since nobody would see
    the error."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return [name for name in names(ctx) if name.startswith(incomplete)]
        except CnnError:
            return []

    return complete


@complete_from
def networks(ctx: typer.Context) -> list[str]:
    """Networks by name, then run folders."""
    from cnn_cli.checkpoints.run_folder import RUNS
    from cnn_cli.language.registry import load_registry

    runs = sorted(str(path) for path in RUNS.glob("*") if path.is_dir())
    return [*load_registry([Path(path) for path in ctx.params.get("models") or ()]), *runs]


@complete_from
def layers(ctx: typer.Context) -> list[str]:
    """Layers and groups of layers of the network on the command line."""
    names = [layer.name for layer in _plan(ctx).layers]
    groups = [name.rpartition(".")[0] for name in names if "." in name]
    return list(dict.fromkeys([*names, *groups]))


@complete_from
def recipes(ctx: typer.Context) -> Iterable[str]:
    return _plan(ctx).recipes


@complete_from
def classes(ctx: typer.Context) -> list[str]:
    """Classes of the run or checkpoint on the command line, or of the newest run of the network."""
    return [str(name) for name in (_stored_document(ctx) or {}).get("classes", ())]


@complete_from
def methods(ctx: typer.Context) -> tuple[str, ...]:
    return ("pgd", "fgsm") if ctx.info_name == "attack" else SALIENCY_METHODS


@complete_from
def datasets(ctx: typer.Context) -> Iterable[str]:
    from cnn_cli.data.catalog import DATASETS

    return DATASETS


def _plan(ctx: typer.Context) -> "Plan":
    from cnn_cli.language.registry import draft, plan_document

    network = ctx.params.get("network") or ""
    if Path(network).exists() and (document := _stored_document(ctx)):
        return plan_document(document["spec"], network)
    return draft(network, models=[Path(path) for path in ctx.params.get("models") or ()])


def _stored_document(ctx: typer.Context) -> dict[str, Any] | None:
    """The metadata in a run's best.safetensors; None if that does not exist, since last.pt needs torch."""
    from cnn_cli.checkpoints.header import read_metadata
    from cnn_cli.checkpoints.run_folder import BEST, newest_run

    path = Path(ctx.params.get("network") or "")
    run = path if path.exists() else newest_run(path.name, BEST)
    file = run / BEST if run and run.is_dir() else run
    return read_metadata(file) if file and file.suffix == ".safetensors" and file.is_file() else None


def _words(*words: str) -> Completion:
    return complete_from(lambda _: words)


_CHOICES = {name: _words(*map(str, row.kind.options)) for name, row in SETTINGS.items() if isinstance(row.kind, Choice)}
COMPLETIONS = {  # by the declared name of an argument or option
    **_CHOICES,
    "network": networks,
    "a": networks,
    "b": networks,
    "sources": networks,
    "layer": layers,
    "freeze": layers,
    "recipe": recipes,
    "target": classes,
    "data": datasets,
    "weights": networks,
    "method": methods,
    "fast": _words("auto", "none", *FAST),
    "device": _words("auto", "cpu", "cuda", "mps"),
    "precision": _words("fp32", "fp16", "bf16", "auto"),
    "split": _words("test", "val", "train"),
    "norm": _words("linf", "l2"),
    "sort": _words("norm"),
    "parametrization": _words("fourier", "pixels"),
}
