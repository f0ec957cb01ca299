"""best.safetensors: trained weights that explain themselves. Spec, class names and preprocessing are in the header.

And what a NETWORK on the command line stands for: a checkpoint, or a network with or without weights from elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnn_cli import __version__
from cnn_cli.checkpoints import pretrained, transfer
from cnn_cli.checkpoints.header import BEST, LAST, SUFFIXES, read_document
from cnn_cli.checkpoints.runs import newest_run
from cnn_cli.checkpoints.tensorfile import read_tensors, write_tensors
from cnn_cli.data.preprocessing import Preprocessing, add_normalization
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document
from cnn_cli.network.build import build_plan
from cnn_cli.settings import resolve
from cnn_cli.training.state import read_last

FORMAT = 1


@dataclass(frozen=True)
class Metadata:
    """What travels with weights: the network as plain data, the classes in the order of its outputs, the preprocessing.

    `data` has the data set's `name` and how it was divided (`val_fraction`, `seed`); `facts` are for people.
    """

    spec: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Plain data: JSON, and what torch.load takes with weights_only=True."""
        return {
            "format": FORMAT,
            "cnn": __version__,
            "spec": self.spec,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.document(),
            "data": self.data,
            "facts": self.facts,
        }


@dataclass(frozen=True)
class Weights:
    """Weights from elsewhere, on the CPU. Of a bare file nothing is known: no `classes`, `preprocessing` is None."""

    name: str
    path: Path
    tensors: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    def __str__(self) -> str:
        return self.name if self.name == str(self.path) else f"{self.name} ({self.path})"

    def input_for(self, plan: Plan) -> tuple[int, ...]:
        """The input of a plan at the size that these weights were trained for, where they say so."""
        return (plan.input[0], *(self.preprocessing.input if self.preprocessing else plan.input)[1:])


@dataclass(frozen=True)
class LoadedNetwork:
    """What a NETWORK argument stands for. `weights` is None for a network without a run: it is untrained.

    `notes` are remarks for the person, on weights that come from elsewhere.
    """

    plan: Plan
    weights: Path | None = None
    metadata: Metadata | None = None
    run: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.metadata.classes if self.metadata else ()

    @property
    def preprocessing(self) -> Preprocessing:
        """How images enter it: at the size of the plan, which --input may have changed."""
        channels, height, width = self.plan.input
        size = (channels, height, width)
        return Preprocessing(size) if self.metadata is None else self.metadata.preprocessing.with_input(size)


def load_network(
    name: str,
    *,
    models: Sequence[Path] = (),
    args: Mapping[str, Any] | None = None,
    input: Sequence[int] | None = None,
    trained: bool = True,
    weights: str | None = None,
) -> LoadedNetwork:
    """NETWORK (a run folder, a checkpoint, or what registry.find takes) → its plan and, where it has any, its weights.

    A name stands for the newest run of that network under ./runs, with the spec that the run was trained with; with
    trained=False, or where there is no such run, for the network without weights; with `weights` for the network with
    these, as find_weights takes them.
    """
    if not name.strip():
        raise UsageError("an empty name; `cnn list` shows all networks")
    path = Path(name)
    if weights:
        if path.is_dir() or path.suffix in SUFFIXES:
            raise UsageError(f"{path} has weights of its own; with --weights, name a network (`cnn list`)")
        return _with_weights(weights, name, models, args, input)
    if path.is_dir():
        return _open_file(_weights_of(path), args, input, path)
    if path.suffix in SUFFIXES:
        return _open_file(path, args, input, path.parent if (path.parent / "config.yaml").is_file() else None)
    if trained and (run := newest_run(name, BEST)):  # before its spec, which may not be at hand any more
        return _open_file(run / BEST, args, input, run)
    plan = find(name, models=models, args=args, input=input)
    if trained and (run := newest_run(plan.network, BEST)):
        return _open_file(run / BEST, args, input, run)
    return LoadedNetwork(plan)


def restore(loaded: LoadedNetwork) -> nn.Module:
    """The network in evaluation mode, on the CPU: with its weights, or with fresh ones where it has none.

    It takes pixels in [0, 1]. CnnError for a damaged file, UsageError where the weights are those of another network.
    """
    network = build_plan(loaded.plan)
    if loaded.weights is not None:
        tensors, _ = read_tensors(loaded.weights)
        transfer.put(network, transfer.fit(loaded.plan, tensors, f"{loaded.weights}", whole=True))
    return add_normalization(network, loaded.preprocessing).eval()


def load(source: str | Path) -> nn.Module:
    """The trained network of a run folder or checkpoint, in evaluation mode; it takes pixels in [0, 1].

    CnnError for a file that is missing or damaged.
    """
    path = Path(source)
    if not path.exists():
        raise CnnError(f"{path}: no such run folder or checkpoint")
    return restore(load_network(str(path) if path.is_dir() or path.suffix else f"{path}/"))


def find_weights(text: str, network: str) -> Weights:
    """`torchvision`, the name of one of its weights, a file (.pth, .pt, .safetensors), a run folder → the weights.

    A file of torchvision's own is known by its name and hash. CnnError for a file that is missing or damaged.
    """
    path = Path(text).expanduser()
    if text != pretrained.TORCHVISION and path.is_dir():
        path = _weights_of(path)
    elif text == pretrained.TORCHVISION or path.suffix not in SUFFIXES:
        return _pretrained(pretrained.find_pretrained(text, network))
    elif entry := pretrained.find_by_file(path.name, network):
        pretrained.check_hash(path)
        return _pretrained(entry, path)
    tensors, document = read_tensors(path)
    metadata = parse_metadata(document, str(path)) if document is not None else None
    own = (metadata.classes, metadata.preprocessing) if metadata else ((), None)
    return Weights(str(path), path, tensors, *own)


def save_weights(path: Path, network: nn.Module, metadata: Metadata) -> None:
    """Write weights and header, whole or not at all."""
    write_tensors(path, network.state_dict(), metadata.document())


def parse_metadata(document: Any, origin: str) -> Metadata:
    """The inverse of Metadata.document(); CnnError where it is none. The spec in it is checked when it is planned."""
    try:
        if document["format"] > FORMAT:
            raise CnnError(f"{origin} was written by a newer cnn ({document['cnn']}); update this one ({__version__})")
        classes = tuple(str(c) for c in document["classes"])
        how = Preprocessing.from_document(document["preprocessing"])
        return Metadata(dict(document["spec"]), classes, how, dict(document["data"]), dict(document["facts"]))
    except (KeyError, TypeError, ValueError):
        raise CnnError(f"{origin} is not a cnn checkpoint: its header is incomplete") from None


def _weights_of(run: Path) -> Path:
    if found := next((run / f for f in (BEST, LAST) if (run / f).is_file()), None):
        return found
    if seeds := sorted(run.glob("seed-*")):
        raise UsageError(f"{run} holds runs with several seeds; name one of them, such as {seeds[0]}")
    raise CnnError(f"{run} holds no run of cnn: neither {BEST} nor {LAST} is there")


def _open_file(
    path: Path, args: Mapping[str, Any] | None, input: Sequence[int] | None, run: Path | None
) -> LoadedNetwork:
    document: Any = read_document(path) if path.suffix == ".safetensors" else read_last(path)["about"]
    if document is None:
        raise CnnError(
            f"{path} is not a cnn checkpoint: its header has no spec and no class names; weights of others: --weights"
        )
    metadata = parse_metadata(document, str(path))
    return LoadedNetwork(plan_document(metadata.spec, str(path), args, input), path, metadata, run)


def _pretrained(entry: pretrained.Pretrained, path: Path | None = None) -> Weights:
    path = path or pretrained.local_file(entry)
    tensors, _ = read_tensors(path)
    return Weights(entry.name, path, tensors, entry.classes, entry.preprocessing)


def _with_weights(
    text: str,
    name: str,
    models: Sequence[Path],
    args: Mapping[str, Any] | None,
    input: Sequence[int] | None,
) -> LoadedNetwork:
    """A network with weights that must be those of all of it: input, number of classes and preprocessing are theirs."""
    plan = find(name, models=models, args=args, input=input)
    given = find_weights(text, plan.network)
    count = transfer.classes_of(plan, given.tensors)
    args = dict(args or {}) | ({"classes": count} if count and "classes" not in (args or {}) else {})
    plan = find(name, models=models, args=args, input=input or given.input_for(plan))
    transfer.fit(plan, given.tensors, str(given), whole=True)
    if unusable := transfer.not_finite(given.tensors):
        raise UsageError(f"{given} is for training only: {unusable[0]} holds values that are not finite numbers")
    how, notes = given.preprocessing, [f"weights: {given}"]
    if how is None:  # then as the spec says, as for training
        settings = resolve({}, {}, plan.train)
        channels, height, width = plan.input
        size = (channels, height, width)
        how = Preprocessing.from_settings(size, settings["resize"].value, settings["normalize"].value)
        notes.append("the file says nothing of its classes and its images, which are taken as the spec has them")
    metadata = Metadata(plan.document(), given.classes, how, {}, {"weights": given.name})
    loaded = LoadedNetwork(plan, given.path, metadata, None, tuple(notes))
    return replace(loaded, notes=(*notes, f"images: {loaded.preprocessing}"))
