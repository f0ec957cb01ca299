"""Where the weights of a picture come from, and where the picture goes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, restore
from cnn_cli.data.decoding import IMAGE_SUFFIXES
from cnn_cli.errors import UsageError
from cnn_cli.files import make_folder
from cnn_cli.pictures import image


def restored(loaded: LoadedNetwork, seed: int = 0) -> nn.Module:
    """The network in evaluation mode. Where it has no weights they are drawn from `seed`, and no generator moves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return restore(loaded)


def origin(loaded: LoadedNetwork, seed: int = 0) -> str:
    """Where the weights come from: `trained on digits, epoch 3 (runs/tiny-cnn-1/best.safetensors)`."""
    if loaded.weights is None or loaded.metadata is None:
        return f"untrained (seed {seed})"
    if "name" not in loaded.metadata.data and "weights" in loaded.metadata.facts:
        return str(loaded.metadata.facts["weights"])
    epoch = loaded.metadata.facts.get("epoch")
    data = Path(str(loaded.metadata.data.get("name", "unknown data"))).name
    return f"trained on {data}{f', epoch {epoch}' if epoch else ''} ({loaded.weights})"


def place(loaded: LoadedNetwork, *parts: str) -> Path:
    """`filters-<layer>.png` in the run folder, else `<network>-filters-<layer>.png` in the working directory."""
    if loaded.run:
        return loaded.run / image.file_name(*parts)
    return Path(image.file_name(loaded.plan.network, *parts))


def places(loaded: LoadedNetwork, kind: str, names: Sequence[str], output: Path | None, force: bool) -> list[Path]:
    """A path for a picture of each image: `features-<image>.png` beside the run, or in the folder `output`.

    For a single image `output` is the picture itself, unless it is a folder. UsageError, before any work, where one
    exists already and not `force`.
    """
    words = _words(names)
    if output and output.suffix and not output.is_dir():
        if len(names) > 1:
            raise UsageError(f"-o {output} is one picture, and there are {len(names)} images; name a folder with -o")
        paths = [output]
    elif output:
        paths = [output / image.file_name(kind, word) for word in words]
    else:
        paths = [place(loaded, kind, word) for word in words]
    for path in paths:
        image.check_target(path, force)
    if output and paths[0].parent == output:
        make_folder(output)
    return paths


def _words(names: Sequence[str]) -> list[str]:
    """A word for each image, no two alike, whatever their folders and however file systems see upper case."""
    words: list[str] = []
    for name in names:
        path = Path(name)
        stem = word = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name.replace(" ", "-")
        number = 1
        while image.file_name(word).lower() in {image.file_name(w).lower() for w in words}:
            number += 1
            word = f"{number}-{stem}"  # in front, since a long name is cut at its end
        words.append(word)
    return words
