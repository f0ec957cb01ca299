"""Class scores of a detector at one of its cells, which a saliency map of a detected box explains."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.interpret.activations import layer_names
from cnn_cli.interpret.scores import Scores, class_names, finite_network
from cnn_cli.language.detection_scales import Scale
from cnn_cli.pictures.box_drawing import DrawnBox
from cnn_cli.tasks.detection import Detection, detection_task


class BoxScores(Scores):
    """(N, C, H, W) pixels in [0, 1] → (N, K) logits, the mean over the cells of `region`, (1, P) bool."""

    def __init__(self, network: nn.Module, loaded: LoadedNetwork) -> None:
        nn.Module.__init__(self)
        self.network, self.plan, self.final = network, loaded.plan, None
        self.task: Detection = detection_task(loaded.plan, class_names(loaded))

    @property
    def dense(self) -> bool:
        return True

    def logits(self, x: Tensor) -> Tensor:
        """(N, K, 1, P): the scores of all cells."""
        return self.task.predictions(self.network(x), self.task.cells(x.device))[0].unsqueeze(2)

    map = logits


@dataclass(frozen=True)
class ChosenBox:
    """A detected box: its number by descending score, its class and score, x0, y0, x1, y1 in pixels of the network's
    input, and the index of its cell, below P."""

    number: int
    label: int
    name: str
    score: float
    corners: tuple[float, ...]
    cell: int

    def __str__(self) -> str:
        return f"{self.name} {self.score:.2f}"

    @property
    def drawn(self) -> DrawnBox:
        return DrawnBox(self.corners, self.label)

    def document(self) -> dict[str, Any]:
        """The document; the corners are in pixels of the network's input."""
        return {"number": self.number, "class": self.name, "score": self.score, "corners": list(self.corners)}


def box_scores_of(loaded: LoadedNetwork) -> BoxScores:
    """The scores of a detector, in evaluation mode on the CPU; CnnError if a weight is not finite."""
    return BoxScores(finite_network(loaded), loaded).eval()


@torch.no_grad()
def choose_box(scores: BoxScores, pixels: Tensor, number: int, label: int | None, image: str) -> ChosenBox:
    """Box `number` of an image (1, C, H, W) by descending score, of one class or of all; else UsageError."""
    (detections,) = scores.task.detections(scores.network(pixels), pixels.device)
    classes, plan = scores.task.classes, scores.plan
    own = [i for i, k in enumerate(detections.labels.tolist()) if label is None or k == label]
    if not own:
        missing = "nothing" if label is None else f"no {classes[label]}"
        others = sorted({classes[k] for k in detections.labels.tolist()})
        fix = f"it detects {', '.join(others)}" if others else "train it for longer, or name another image"
        raise UsageError(f"{plan.network} detects {missing} in {image}; {fix}")
    if number >= len(own):
        of_class = "" if label is None else f" of class {classes[label]}"
        numbers = "number 0" if len(own) == 1 else f"numbers 0 to {len(own) - 1}, by descending score"
        boxes = f"{len(own)} box{'es' * (len(own) > 1)}{of_class}"
        raise UsageError(f"--box {number}: {plan.network} detects {boxes} in {image}; {numbers}")
    i = own[number]
    k, corners = int(detections.labels[i]), tuple(round(v, 2) for v in detections.boxes[i].tolist())
    return ChosenBox(number, k, classes[k], float(detections.scores[i]), corners, int(detections.cells[i]))


def place_of(scores: BoxScores, cell: int) -> tuple[Scale, int, int]:
    """The scale, row and column of a cell, by its index below P; with anchors, of the anchor's cell."""
    for scale in scores.task.scales:
        if cell < scale.predictions:
            return scale, *divmod(cell // max(1, len(scale.anchors)), scale.size[1])
        cell -= scale.predictions
    raise IndexError(cell)


def layer_before(scores: BoxScores, cell: int) -> str | None:
    """Grad-CAM's layer: the last feature map before a cell's scores, of a module that runs once, or None."""
    scale, *_ = place_of(scores, cell)
    rows, names = {a.name: a for a in scores.plan.layers}, set(layer_names(scores.network, scores.plan))
    shared = {a.shared_with for a in rows.values()} | {a.name for a in rows.values() if a.shared_with}
    name = scores.plan.ends[list(scores.plan.named_outputs).index(scale.scores)]
    while (row := rows.get(name)) and row.takes:
        name = row.takes[0]
        if name in names and name not in shared:
            return name
    return None
