"""The worst images of a detector: true boxes and detections, colored by kind of error."""

from pathlib import Path

from cnn_cli.interpret.box_mistakes import COLORS, BoxMistakes, draw_pair
from cnn_cli.pictures.html import Section, element, embedded, thumbnail
from cnn_cli.report.confusion import Album
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tasks.detection_errors import ERROR_TITLES
from cnn_cli.training.outcomes import BoxOutcomes

_MOST, _SIDE = 12, 480


def boxes_section(facts: RunFacts, album: Album) -> Section | None:
    """The images with the most errors; None for other tasks."""
    if not isinstance(facts.outcomes, BoxOutcomes):
        return None
    mistakes, rows = BoxMistakes(facts.loaded, facts.outcomes, _MOST), []
    for index in mistakes.worst[: min(_MOST, (album.most - album.count) // 2)]:
        name = Path(facts.outcomes.images.names[index]).name
        cells = draw_pair(mistakes, index)
        album.count += len(cells)
        pictures = [
            element("div", embedded(thumbnail(cell.body, _SIDE), f"{kind} of {name}"), element("small", kind))
            for kind, cell in zip(("true boxes", "detections"), cells, strict=True)
        ]
        words = element("figcaption", element("strong", cells[1].words[0]), f" · {name}")
        rows.append(element("figure", words, element("div", pictures, class_="pair")))
    names = {"hits": "correct"} | {name: title for name, (title, _) in ERROR_TITLES.items()}
    swatches = [element("li", element("i", style=f"background:{color}"), names[kind]) for kind, color in COLORS.items()]
    lead = element("p", f"{mistakes.headline().partition(chr(10))[0]}. Most errors first.", class_="soft")
    legend = element("ul", swatches, class_="legend swatches")
    return Section(facts.id("boxes"), "Worst images", [lead, legend, element("div", rows, class_="pairs")])
