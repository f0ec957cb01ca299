"""The worst masks of a segmentation run: image, true mask, predicted mask, differences."""

from pathlib import Path

import numpy as np
import torch

from cnn_cli.data.masks import VOID
from cnn_cli.interpret.mask_mistakes import MaskMistakes
from cnn_cli.interpret.scores import scores_of
from cnn_cli.pictures import class_map
from cnn_cli.pictures.grid import picture
from cnn_cli.pictures.html import Html, Section, element, embedded, thumbnail
from cnn_cli.report.confusion import Album
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tables import percent
from cnn_cli.training.outcomes import MaskOutcomes

_MOST, _SIDE = 12, 240
_MOST_CLASSES = 40  # classes in the legend


@torch.no_grad()
def masks_section(facts: RunFacts, album: Album) -> Section | None:
    """The images with the lowest mean IoU; None for other tasks."""
    if not isinstance(facts.outcomes, MaskOutcomes):
        return None
    mistakes, outcomes = MaskMistakes(facts.loaded, facts.outcomes, _MOST), facts.outcomes
    scores, rows = scores_of(facts.loaded), []
    for index in mistakes.worst[: min(_MOST, (album.most - album.count) // 4)]:
        pixels, row = outcomes.images.pixels(index), mistakes.row(index)
        shown, true = picture(pixels), outcomes.images.split.targets[index].cpu().numpy()
        predicted = scores.logits(pixels.unsqueeze(0)).argmax(1)[0].numpy().astype(np.uint8)
        four = {
            "image": shown,
            "true mask": class_map.colored(true),
            "predicted mask": class_map.colored(predicted),
            "difference": class_map.differing(shown, true, predicted, VOID),
        }
        album.count += len(four)
        confused = (
            f"{row['true']} as {row['predicted']}: {percent(row['share'])} of the pixels"
            if row["true"]
            else "no wrong pixel"
        )
        name = Path(row["image"]).name
        words = element("figcaption", element("strong", f"mean IoU {percent(row['miou'])}"), f" · {confused} · {name}")
        cells = [
            element("div", embedded(thumbnail(body, _SIDE), f"{kind} of {name}"), element("small", kind))
            for kind, body in four.items()
        ]
        rows.append(element("figure", words, element("div", cells, class_="masks")))
    lead = "The images with the lowest mean IoU. In the difference, wrong pixels are red."
    return Section(
        facts.id("masks"), "Worst masks", [element("p", lead, class_="soft"), _legend(outcomes.images.classes), rows]
    )


def _legend(classes: tuple[str, ...]) -> Html:
    colors = class_map.palette()
    swatches = [
        element("li", element("i", style=f"background:rgb({r},{g},{b})"), name)
        for name, (r, g, b) in zip(classes[:_MOST_CLASSES], colors.tolist(), strict=False)
    ]
    return element("ul", swatches, class_="legend swatches")
