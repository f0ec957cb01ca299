"""The HTML file of `cnn page`: the network, images, and the scripts that compute and draw, all in one."""

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from cnn_cli import __version__
from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.files import make_folder, write_text
from cnn_cli.interpret.activations import trunk
from cnn_cli.interpret.inputs import ImageSelection, check_channels
from cnn_cli.interpret.pictured import network_facts, provenance, restored
from cnn_cli.page.content import classes_of, digits_to_train_on, filters_by_epoch, gallery, history
from cnn_cli.page.description import describe
from cnn_cli.page.sources import compact, computing, page_script, read_source
from cnn_cli.pictures.image import check_target
from cnn_cli.tables import counted, format_bytes, format_count

MOST_PARAMETERS = 100_000_000  # browsers cannot open larger files


@dataclass(frozen=True)
class WrittenPage:
    """A written page: its size in `bytes`, and the number of `images` in the gallery."""

    loaded: LoadedNetwork
    path: Path
    bytes: int
    images: int
    trains: bool

    def document(self) -> dict[str, Any]:
        facts = {"page": str(self.path), "bytes": self.bytes, "images": self.images, "trains": self.trains}
        return network_facts(self.loaded) | facts

    def text(self) -> str:
        return f"{self.path}\n{format_bytes(self.bytes)}, {counted(self.images, 'image')}; open it in a browser"


def page_path(loaded: LoadedNetwork, output: Path | None, force: bool) -> Path:
    """`output`, else page.html in the run folder, else <network>.html in the working directory.

    UsageError for a suffix other than .html, for an existing file outside the run folder without `force`, and for an
    unsupported network: one whose input is not an image, or with more parameters than a browser can load.
    """
    check_channels(loaded)
    if loaded.plan.params > MOST_PARAMETERS:
        raise UsageError(
            f"{loaded.plan.network} has {loaded.plan.params:,} parameters, more than the {MOST_PARAMETERS:,} that a "
            "page can hold; use `cnn summary`, `cnn shapes` and the visualize commands instead"
        )
    if any(scale.corner or scale.anchors or "centerness" in scale.outputs for scale in loaded.plan.detects):
        raise UsageError(
            f"{loaded.plan.network}: a page cannot draw boxes with centerness, anchors or `origin: corner`; use "
            "`cnn predict` and the visualize commands instead"
        )
    path = output or (loaded.run / "page.html" if loaded.run else Path(f"{loaded.plan.network}.html"))
    if path.suffix != ".html":
        raise UsageError(f"{path}: a page must end in .html; choose another name with -o")
    check_target(path, force or (not output and loaded.run is not None), (".html",))
    make_folder(path.parent)
    return path


def write_page(loaded: LoadedNetwork, selection: ImageSelection, path: Path, seed: int = 0) -> WrittenPage:
    """Write the page of a network atomically. seed: of the initial weights of a network without weights."""
    content = page_content(loaded, selection, seed)
    text = _html(loaded, content)
    write_text(path, text)
    count = len(content["gallery"]["names"])
    return WrittenPage(loaded, path, len(text.encode()), count, content["digits"] is not None)


def page_content(loaded: LoadedNetwork, selection: ImageSelection, seed: int = 0) -> dict[str, Any]:
    """All data that the page's scripts read."""
    network = restored(loaded, seed)
    fit = loaded.preprocessing
    described = describe(loaded.plan, network.state_dict(), fit.mean, fit.std).document()
    names = [row["name"] for row in described["network"]["rows"]]
    last = trunk(loaded.plan)
    images = gallery(loaded, selection)
    return described | {
        "classes": classes_of(loaded, images),
        "preprocessing": fit.document() | {"text": str(fit)},
        "gallery": images.document(),
        "digits": digits_to_train_on(loaded),
        "history": history(loaded),
        "film": filters_by_epoch(loaded),
        "cam": names.index(last[-1].name) if last else -1,
    }


def _html(loaded: LoadedNetwork, content: dict[str, Any]) -> str:
    plan = loaded.plan
    source = provenance(loaded).partition(" (")[0]  # without the path, since the file may be shared
    source += ", so its predictions are random" * (source == "untrained")
    if loaded.metadata and loaded.metadata.temperature is not None:
        source += "; probabilities are not calibrated here"
    facts = f"{plan.params:,} parameters, {format_count(plan.macs, 'MACs')} per image; {source}"
    parts = {
        "title": escape(plan.network),
        "description": escape(plan.description),
        "facts": escape(facts),
        "version": __version__,
        "images": str(len(content["gallery"]["names"])),
        "half": ", rounded to 16 bits" if content["half"] else "",
        "style": compact(read_source("style.css") + read_source("panels.css")),  # the page, then what is in its panels
        "content": json.dumps(content, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        "computing": computing(),
        "page": page_script(),
    }
    return re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], read_source("template.html"))
