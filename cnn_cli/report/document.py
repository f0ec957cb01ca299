"""The HTML file of `cnn report`: the sections of one run, or of several after their comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.files import make_folder, write_text
from cnn_cli.pictures.html import Html, Section, document, element, join
from cnn_cli.pictures.image import check_target
from cnn_cli.report.boxes import boxes_section
from cnn_cli.report.calibration import calibration_section
from cnn_cli.report.comparison import compare, comparison_section
from cnn_cli.report.confusion import Album, confusion_section, mistakes_section
from cnn_cli.report.curves import curves_section
from cnn_cli.report.masks import masks_section
from cnn_cli.report.network import filters_section, network_section
from cnn_cli.report.result import classes_section, detection_section, result_section
from cnn_cli.report.run_facts import RunFacts, read_run
from cnn_cli.report.run_settings import environment_section, settings_section, speed_section
from cnn_cli.tables import counted, format_bytes
from cnn_cli.training.eval_report import EvaluationRequest

_IMAGES = 1000  # most images in a document


@dataclass(frozen=True)
class WrittenReport:
    """A written document: its size in `bytes`, and its number of `images`."""

    runs: tuple[RunFacts, ...]
    path: Path
    bytes: int
    images: int

    def document(self) -> dict[str, Any]:
        runs = [facts.document() for facts in self.runs]
        return {"report": str(self.path), "bytes": self.bytes, "images": self.images, "runs": runs}

    def text(self) -> str:
        notes = [f"{facts.title}: {note}" for facts in self.runs for note in facts.notes]
        size = f"{format_bytes(self.bytes)}, {counted(self.images, 'image')}"
        return "\n".join([*notes, str(self.path), f"{size}; open it in a browser"])


def report_path(runs: Sequence[LoadedNetwork], output: Path | None, force: bool) -> Path:
    """`output`, else report.html in the folder of a single run, else in the working directory.

    UsageError for a suffix other than .html, and for an existing file outside the run folder without `force`.
    """
    own = runs[0].run if len(runs) == 1 else None
    path = output or (own / "report.html" if own else Path("report.html"))
    if path.suffix != ".html":
        raise UsageError(f"{path}: a report must end in .html; choose another name with -o")
    check_target(path, force or (not output and own is not None), (".html",))
    make_folder(path.parent)
    return path


def write_report(
    runs: Sequence[LoadedNetwork], path: Path, request: EvaluationRequest, device: torch.device
) -> WrittenReport:
    """Evaluate each run once and write the document atomically.

    UsageError for runs of different tasks or data.
    """
    letters = [chr(ord("A") + i) for i in range(len(runs))] if len(runs) > 1 else [""]
    facts = tuple(read_run(letter, run, request, device) for letter, run in zip(letters, runs, strict=True))
    text, images = _html(facts)
    write_text(path, text)
    return WrittenReport(facts, path, len(text.encode("utf-8", "backslashreplace")), images)


def _html(runs: Sequence[RunFacts]) -> tuple[str, int]:
    """The document, and its number of images."""
    images = 0
    if len(runs) == 1:
        album = Album(_IMAGES)
        sections, images = run_sections(runs[0], album), album.count
        title = f"{runs[0].loaded.plan.network} on {runs[0].data or 'unknown data'}"
    else:
        album = Album(_IMAGES)
        sections, images = [comparison_section(runs, compare(runs), album)], album.count
        for facts in runs:
            album = Album(_IMAGES // len(runs))
            lead = element("p", _lead(facts), class_="soft")
            sections.append(Section(facts.id("run"), f"Run {facts.title}", lead, run_sections(facts, album)))
            images += album.count
        title = f"Comparison of {len(runs)} runs on {runs[0].data or 'unknown data'}"
    lead = element("p", _lead(runs[0]) if len(runs) == 1 else ", ".join(facts.title for facts in runs))
    footer = (
        f"This file is self-contained and contacts no server. It contains {counted(images, 'image')} of the data set."
    )
    return document(title, lead, sections, footer, _style()), images


def run_sections(facts: RunFacts, album: Album) -> list[Section]:
    """The sections of a run that exist for its task."""
    sections = (
        result_section(facts),
        settings_section(facts),
        network_section(facts),
        curves_section(facts),
        confusion_section(facts, album),
        mistakes_section(facts, album),
        masks_section(facts, album),
        boxes_section(facts, album),
        classes_section(facts),
        detection_section(facts),
        calibration_section(facts),
        filters_section(facts),
        speed_section(facts),
        environment_section(facts),
    )
    return [section for section in sections if section is not None]


def _lead(facts: RunFacts) -> Html:
    epoch = facts.loaded.metadata.facts.get("epoch") if facts.loaded.metadata else None
    epochs = f"{facts.run.epochs} of {facts.run.total} epoch{'s' * (facts.run.total != 1)}"
    words = [f"Run {facts.name}", facts.run.state, epochs]
    if epoch:
        words.append(f"weights of epoch {epoch}")
    return join(" · ".join(words))


@cache
def _style() -> str:
    return Path(__file__).with_name("report.css").read_text(encoding="utf-8")
