"""What the pictures of a network share: the provenance of the weights, the output files, the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, restore
from cnn_cli.data.decoding import IMAGE_SUFFIXES
from cnn_cli.errors import UsageError
from cnn_cli.files import make_folder
from cnn_cli.pictures import image
from cnn_cli.pictures.page import Page
from cnn_cli.tables import Result, Table, TableResult

R = TypeVar("R", bound=Result)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Target:
    """Where pictures are written: to `output` (-o), by default beside the weights; `force` overwrites."""

    output: Path | None = None
    force: bool = False

    def path(self, loaded: LoadedNetwork, *parts: str, suffixes: Sequence[str] = (".png",)) -> Path:
        """`filters-<layer>.png` in the run folder, else `<network>-filters-<layer>.png` in the working directory.

        If `output` is a folder, the picture is in it. UsageError, before any work, for an unsupported suffix and for a
        file that must not be overwritten; CnnError if the folder, which is made, cannot be written to.
        """
        path = self.output or _default_path(loaded, parts)
        if self.output and (self.output.is_dir() or not self.output.suffix):
            path = self.output / image.file_name(*parts)
        image.check_target(path, self.overwrites(loaded), suffixes)
        make_folder(path.parent)
        return path

    def overwrites(self, loaded: LoadedNetwork) -> bool:
        """Whether existing files are overwritten: with `force`, and in the run folder under their default names."""
        return self.force or (self.output is None and loaded.run is not None)

    def paths(self, loaded: LoadedNetwork, kind: str, names: Sequence[str]) -> list[Path]:
        """A path per image: `features-<image>.png` in the run folder, or in the folder `output`.

        For a single image `output` is the picture's path, unless it is a folder. UsageError as in `path`.
        """
        output, words = self.output, distinct_words(names)
        if output and output.suffix and not output.is_dir():
            if len(names) > 1:
                raise UsageError(
                    f"-o {output} names one picture, but there are {len(names)} images; name a folder with -o"
                )
            paths = [output]
        elif output:
            paths = [output / image.file_name(kind, word) for word in words]
        else:
            paths = [_default_path(loaded, (kind, word)) for word in words]
        for path in paths:
            image.check_target(path, self.overwrites(loaded))
        make_folder(paths[0].parent)
        return paths


@dataclass(frozen=True)
class Pictured(Generic[R]):
    """A result and its written picture; `body` is the part of the picture that --show prints."""

    loaded: LoadedNetwork
    result: R
    path: Path
    body: tuple[int, int, int, int] | None = None

    def document(self) -> dict[str, Any]:
        facts = self.result.document()
        assert isinstance(facts, dict)
        body = {"body": list(self.body)} if self.body else {}
        return network_facts(self.loaded) | {"picture": str(self.path)} | body | facts

    def text(self) -> str:
        if isinstance(self.result, TableResult):
            return f"{self.result.text()}\n\n{self.path}"
        return "\n".join(part for part in (str(self.path), self.result.text()) if part)

    def table(self) -> Table:
        assert isinstance(self.result, TableResult)
        return self.result.table()


def write_page(loaded: LoadedNetwork, result: R, page: Page, path: Path) -> Pictured[R]:
    """Write the page of a result. CnnError if it cannot be written."""
    image.save(page.image, path)
    return Pictured(loaded, result, path, page.body)


def network_facts(loaded: LoadedNetwork) -> dict[str, Any]:
    return {"network": loaded.plan.network, "checkpoint": loaded.weights and str(loaded.weights)}


def restored(loaded: LoadedNetwork, seed: int = 0) -> nn.Module:
    """The network in evaluation mode. Without weights it is initialized from `seed`; the generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return restore(loaded)


def provenance(loaded: LoadedNetwork, seed: int = 0) -> str:
    """The origin of the weights: `trained on digits, epoch 3 (runs/tiny-cnn-1/best.safetensors)`."""
    if loaded.weights is None or loaded.metadata is None:
        return f"untrained (seed {seed})"
    if "name" not in loaded.metadata.data and "weights" in loaded.metadata.facts:
        return f"weights {loaded.metadata.facts['weights']}"
    epoch = loaded.metadata.facts.get("epoch")
    data = Path(str(loaded.metadata.data.get("name", "unknown data"))).name
    return f"trained on {data}{f', epoch {epoch}' if epoch else ''} ({loaded.weights})"


def _default_path(loaded: LoadedNetwork, parts: Sequence[str]) -> Path:
    if loaded.run:
        return loaded.run / image.file_name(*parts)
    return Path(image.file_name(loaded.plan.network, *parts))


def single_word(names: Sequence[str]) -> tuple[str, ...]:
    """The part of a picture's file name for a single image; empty for several."""
    return (Path(names[0]).stem.replace(" ", "-"),) if len(names) == 1 else ()


def distinct_words(names: Sequence[str]) -> list[str]:
    """A unique word per image for file names, also on case-insensitive file systems."""
    words, taken = list[str](), set[str]()
    for name in names:
        path = Path(name)
        stem = (path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name).replace(" ", "-")
        word, number = stem, 1
        while image.file_name(word).lower() in taken:
            number += 1
            word = f"{number}-{stem}"  # in front, since long names are cut at the end
        words.append(word)
        taken.add(image.file_name(word).lower())
    return words
