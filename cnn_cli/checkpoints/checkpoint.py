"""Checkpoints: trained weights with everything needed to use them (network, class names, preprocessing).

Also resolves a NETWORK argument: a run or checkpoint, or a network with or without weights from another source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from cnn_cli import __version__
from cnn_cli.checkpoints import pretrained, transfer
from cnn_cli.checkpoints.header import read_metadata
from cnn_cli.checkpoints.run_folder import (
    BEST,
    CONFIG,
    LAST,
    RUNS,
    SUFFIXES,
    find_run,
    is_stored,
    newest_run,
    weights_of,
)
from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.checkpoints.tensor_file import read_tensors, write_tensors
from cnn_cli.data.preprocessing import Preprocessing, add_normalization
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document
from cnn_cli.network.builder import build_plan
from cnn_cli.settings import resolve

FORMAT = 1


@dataclass(frozen=True)
class Metadata:
    """Metadata of weights: the network as plain data, the classes in the order of its outputs, preprocessing.

    `data` has the data set's `name` and how it was split (`val_fraction`, `seed`); `facts` are for people.
    `temperature` calibrates probabilities.
    """

    spec: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    temperature: float | None = None

    @property
    def overfit(self) -> bool:
        """Whether the validation images of the training were the training images."""
        settings = self.facts.get("settings")
        return isinstance(settings, dict) and bool(settings.get("overfit"))

    def document(self) -> dict[str, Any]:
        """Plain data: JSON, and what torch.load accepts with weights_only=True."""
        return {
            "format": FORMAT,
            "cnn": __version__,
            "spec": self.spec,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.document(),
            "data": self.data,
            "facts": self.facts,
            **({} if self.temperature is None else {"temperature": self.temperature}),
        }

    def without_paths(self) -> "Metadata":
        """The same for a file that may be shared: files and folders of this machine by their names alone."""
        data = {key: value for key, value in self.data.items() if key != "folder"}
        if Path(str(data.get("name", ""))).is_absolute():
            data["name"] = f"{Path(data['name']).name}/"  # the slash tells a folder from a named data set
        facts = {key: _without_folder(value) for key, value in self.facts.items()}
        if isinstance(settings := facts.get("settings"), dict):
            facts["settings"] = {key: _without_folder(value) for key, value in settings.items()}
        return replace(self, data=data, facts=facts)


@dataclass(frozen=True)
class Weights:
    """Weights from another source, on the CPU. A bare state_dict has no `classes` and no `preprocessing`.

    `inside` says where in a third-party file they were.
    """

    name: str
    path: Path
    tensors: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    part: str = ""  # the path of the part of a network that they are for; empty for all of it
    inside: str = ""
    data: dict[str, Any] = field(default_factory=dict)  # of the training, as in Metadata.data

    def __str__(self) -> str:
        text = self.name if self.name == str(self.path) else f"{self.name} ({self.path})"
        return f"{self.part}: {text}" if self.part else text

    def input_for(self, plan: Plan) -> tuple[int, ...]:
        """The input of a plan at the size that these weights were trained for, if they record it."""
        own = self.preprocessing.input if self.preprocessing and not self.part else plan.input
        return (plan.input[0], *own[1:])


@dataclass(frozen=True)
class LoadedNetwork:
    """The network of a NETWORK argument. `weights` is None for an untrained network.

    `notes` are remarks for the user about weights from another source.
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
        """How images are prepared, at the size of the plan, which --input may have changed."""
        size = self.plan.image
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
    """NETWORK (a run folder, a checkpoint, or an argument of registry.find) → its plan and its weights, if any.

    A name stands for the newest run of that network under ./runs, with the spec that the run was trained with; with
    trained=False, or without such a run, for the network without weights; with `weights` for the network with those
    that find_weights returns for them.
    """
    if not name.strip():
        raise UsageError("the network name is empty; `cnn list` shows all networks")
    name = find_run(name, models)
    path = Path(name)
    if weights:
        if is_stored(name):
            raise UsageError(f"{path} has its own weights; with --weights, name a network (`cnn list`)")
        return _load_with_weights(weights, name, models, args, input)
    if path.is_dir():
        return _load_file(weights_of(path), args, input, path)
    if path.suffix in SUFFIXES:
        return _load_file(path, args, input, path.parent if (path.parent / CONFIG).is_file() else None)
    if trained and (run := newest_run(name, BEST)):  # before its spec, which may not exist anymore
        return _load_file(run / BEST, args, input, run)
    plan = find(name, models=models, args=args, input=input)
    if trained and (run := newest_run(plan.network, BEST)):
        return _load_file(run / BEST, args, input, run)
    return LoadedNetwork(plan)


def load_trained(
    name: str,
    *,
    models: Sequence[Path] = (),
    args: Mapping[str, Any] | None = None,
    input: Sequence[int] | None = None,
    weights: str | None = None,
    hint: str = "",
) -> LoadedNetwork:
    """As load_network(), but UsageError, which ends in `hint`, for an untrained network."""
    loaded = load_network(name, models=models, args=args, input=input, weights=weights)
    if loaded.weights is None:
        raise UsageError(
            f"no trained weights for {loaded.plan.network} in {RUNS.resolve()}; train it: cnn train {name}\n"
            f"or load weights: --weights torchvision, a file or a run{hint}"
        )
    return loaded


def restore(loaded: LoadedNetwork) -> nn.Module:
    """The network in evaluation mode, on the CPU: with its weights, or with random ones if it has none.

    It takes pixels in [0, 1]. CnnError for a damaged file, UsageError if the weights are those of another network.
    """
    network = build_plan(loaded.plan)
    if loaded.weights is not None:
        tensors = read_tensors(loaded.weights).tensors
        transfer.copy_into(network, transfer.fit(loaded.plan, tensors, f"{loaded.weights}", whole=True))
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
    """`torchvision`, the name of one of its weights, a file (.pth, .pt, .safetensors) or a run folder → the weights.

    A file of torchvision is recognized by its name and hash. CnnError for a file that is missing or damaged.
    """
    path = Path(find_run(text)).expanduser()
    if text != pretrained.TORCHVISION and path.is_dir():
        path = weights_of(path)
        if path.name == LAST:
            read_state(path)  # if it is damaged, the error names previous.pt
    elif text == pretrained.TORCHVISION or path.suffix not in SUFFIXES:
        return _pretrained(pretrained.find_pretrained(text, network))
    elif entry := pretrained.find_by_file(path.name, network):
        pretrained.check_hash(path)
        return _pretrained(entry, path)
    file = read_tensors(path)
    if file.metadata is None:
        unused = f"; not used: {', '.join(file.others)}" if file.others else ""
        inside = f"taken from {' / '.join(file.keys)} in the file{unused}" if file.keys else ""
        return Weights(str(path), path, file.tensors, inside=inside)
    metadata = _at_home(parse_metadata(file.metadata, path), path.parent)
    return Weights(str(path), path, file.tensors, metadata.classes, metadata.preprocessing, data=metadata.data)


def save_weights(path: Path, network: nn.Module, metadata: Metadata) -> None:
    """Write weights and metadata atomically. The file may be shared: it contains no paths of this machine."""
    write_tensors(path, network.state_dict(), metadata.without_paths().document())


def store_temperature(path: Path, temperature: float) -> None:
    """Add the temperature of calibrated probabilities to a checkpoint (.safetensors), atomically."""
    file = read_tensors(path)
    assert file.metadata is not None
    write_tensors(path, file.tensors, file.metadata | {"temperature": temperature})


def parse_metadata(document: Any, path: Path) -> Metadata:
    """The inverse of Metadata.document(); CnnError for an invalid one. Its spec is checked when it is planned."""
    try:
        if document["format"] > FORMAT:
            version = document["cnn"]
            raise CnnError(f"{path} was written by a newer version of cnn ({version}); upgrade cnn ({__version__})")
        classes = tuple(str(c) for c in document["classes"])
        images = Preprocessing.from_document(document["preprocessing"])
        data, facts, temperature = dict(document["data"]), dict(document["facts"]), document.get("temperature")
        if temperature is not None and not 0 < float(temperature) < float("inf"):
            raise ValueError("not a temperature")
        return Metadata(dict(document["spec"]), classes, images, data, facts, temperature)
    except (KeyError, TypeError, ValueError):
        raise CnnError(f"{path} is not a cnn checkpoint: its metadata is incomplete") from None


def _without_folder(value: Any) -> Any:
    """The last part of an absolute path, or the name of `name (path)`; other values unchanged."""
    if not isinstance(value, str):
        return value
    return Path(value).name if Path(value).is_absolute() else value.partition(" (/")[0]


def _load_file(
    path: Path, args: Mapping[str, Any] | None, input: Sequence[int] | None, run: Path | None
) -> LoadedNetwork:
    document: Any = read_metadata(path) if path.suffix == ".safetensors" else read_state(path)["about"]
    if document is None:
        raise CnnError(
            f"{path} is not a cnn checkpoint: it has no network and no class names; "
            f"load third-party weights with `cnn … NETWORK --weights {path}`"
        )
    metadata = parse_metadata(document, path)
    if run:
        metadata = _at_home(metadata, run)
    return LoadedNetwork(plan_document(metadata.spec, str(path), args, input), path, metadata, run)


def _at_home(metadata: Metadata, run: Path) -> Metadata:
    """Add the data set's path and folder from the run's config.yaml, if any: best.safetensors does not have them."""
    try:
        data = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["data"]
        key = "fingerprint" if "fingerprint" in data else "name"  # the name may be the path of an earlier location
        same = Path(data[key]).name == Path(metadata.data[key]).name
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # users may have edited the file
        return metadata
    return replace(
        metadata, data=metadata.data | {key: data[key] for key in ("name", "folder") if same and key in data}
    )


def _pretrained(entry: pretrained.Pretrained, path: Path | None = None) -> Weights:
    path = path or pretrained.local_file(entry)
    return Weights(entry.name, path, read_tensors(path).tensors, entry.classes, entry.preprocessing)


def _load_with_weights(
    text: str,
    name: str,
    models: Sequence[Path],
    args: Mapping[str, Any] | None,
    input: Sequence[int] | None,
) -> LoadedNetwork:
    """A network with weights that must fit completely: input, number of classes and preprocessing follow from them."""
    plan = find(name, models=models, args=args, input=input)
    part, equals, _ = text.partition("=")
    if equals and part in plan.parts:
        raise UsageError(f"--weights {text} is for a part of {plan.network}; train it with them: cnn train {name}")
    weights = find_weights(text, plan.network)
    count = transfer.classes_of(plan, weights.tensors)
    args = dict(args or {}) | ({"classes": count} if count and "classes" not in (args or {}) else {})
    plan = find(name, models=models, args=args, input=input or weights.input_for(plan))
    moved = transfer.fit(plan, weights.tensors, str(weights), whole=True)
    if unusable := transfer.not_finite(weights.tensors):
        raise UsageError(f"{weights} can only be used for training: {unusable[0]} has values that are not finite")
    images, notes = weights.preprocessing, [f"weights: {weights}", *filter(None, (weights.inside, moved.renamed))]
    if images is None:  # those of the spec, as for training
        settings = resolve({}, {}, plan.train)
        images = Preprocessing.from_settings(plan.image, settings["resize"].value, settings["normalize"].value)
        notes.append("the file does not record its classes or preprocessing; both are taken from the spec")
    metadata = Metadata(plan.document(), weights.classes, images, weights.data, {"weights": weights.name})
    loaded = LoadedNetwork(plan, weights.path, metadata, None, tuple(notes))
    return replace(loaded, notes=(*notes, f"images: {loaded.preprocessing}"))
