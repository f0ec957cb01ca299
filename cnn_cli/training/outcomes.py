"""The outcome of a network for each image of a split, which `cnn errors` sorts and `cnn compare` compares."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.boxes import BoxFiles
from cnn_cli.data.masks import VOID
from cnn_cli.data.preparation import PreparedSplit
from cnn_cli.distributed.world import ALONE
from cnn_cli.errors import UsageError
from cnn_cli.files import short_path
from cnn_cli.tasks.average_precision import AveragePrecision, Detections, Objects, compute_average_precision
from cnn_cli.tasks.base import TaskResult
from cnn_cli.tasks.calibration import tempered
from cnn_cli.tasks.classification import Classification
from cnn_cli.tasks.detection import Detection
from cnn_cli.tasks.detection_errors import ClassifiedDetections, classify_errors
from cnn_cli.tasks.detection_result import DetectionMeasure, assemble
from cnn_cli.tasks.segmentation import Segmentation
from cnn_cli.tasks.segmentation_result import image_counts, image_ious, pixel_confusion
from cnn_cli.tasks.uncertainty import Array
from cnn_cli.training.eval_report import EvaluationRequest, Setup, calibrated, evaluation_setup


@dataclass(frozen=True)
class Images:
    """The images of a split, resized to the network's input; `names` are their files, or data set, split and number."""

    split: PreparedSplit
    data: str
    classes: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def pixels(self, index: int) -> Tensor:
        """(C, H, W) in [0, 1]."""
        images = self.split.images
        if isinstance(images, Tensor):
            return images[index].cpu().float() / 255
        shot = images.__getitems__([index])
        if isinstance(shot, str):
            raise UsageError(shot)
        return shot[0].float() / 255


@dataclass(frozen=True)
class ClassOutcomes:
    """For each image, the true and the predicted class, the probability of the latter, and the loss: arrays (n,).

    Where the checkpoint has a temperature, probabilities are calibrated.
    """

    images: Images
    true: Array
    predicted: Array
    confidence: Array
    losses: Array

    @property
    def right(self) -> Array:
        """(n,) bool."""
        hits: Array = self.true == self.predicted
        return hits


@dataclass(frozen=True)
class MaskOutcomes:
    """For each image the mean IoU, the mean loss of its pixels, `counts` (n, 3, K) of correct, true and predicted
    pixels, and the largest confusion: `pairs` (n, 2) true and predicted class, `wrong` (n,) pixels of that pair.

    matrix: (K, K) pixels of all images. valid: (n,) pixels that are not void.
    """

    images: Images
    ious: Array
    losses: Array
    counts: Array
    pairs: Array
    wrong: Array
    valid: Array
    matrix: Array


@dataclass(frozen=True)
class BoxOutcomes:
    """The detections and objects of all images, in pixels of the network's input, their average precision, and the
    type of each detection. sizes: (n, 2) height and width of the original images."""

    images: Images
    detections: Detections
    objects: Objects
    precision: AveragePrecision
    classified: ClassifiedDetections
    sizes: Array

    @property
    def detected(self) -> Array:
        """(m,) bool: the objects that are hit by a detection with a score above the threshold."""
        hits = self.classified.objects[self.classified.kinds == 0]
        return np.isin(np.arange(len(self.objects.labels)), hits)


Outcomes = ClassOutcomes | MaskOutcomes | BoxOutcomes


def compute_outcomes(loaded: LoadedNetwork, request: EvaluationRequest, device: torch.device) -> Outcomes:
    """Run the network over the split."""
    return _outcomes_of(loaded, evaluation_setup(loaded, request, device))


def measured_outcomes(
    loaded: LoadedNetwork, request: EvaluationRequest, device: torch.device
) -> tuple[Outcomes, TaskResult]:
    """As compute_outcomes(), with the result of `cnn eval`, from the same pass."""
    setup = evaluation_setup(loaded, request, device)
    measure = calibrated(setup.task, loaded).measure(device)
    outcomes = _outcomes_of(loaded, replace(setup, measures=(measure,)))
    return outcomes, measure.result(setup.split, ALONE)


def _outcomes_of(loaded: LoadedNetwork, setup: Setup) -> Outcomes:
    setup = replace(setup, task=calibrated(setup.task, loaded))
    split = setup.prepare(loaded).splits[setup.split]
    images = Images(split, setup.dataset.name, setup.task.classes, _names(setup))
    if isinstance(setup.task, Classification):
        return _class_outcomes(setup, setup.task, images)
    if isinstance(setup.task, Segmentation):
        return _mask_outcomes(setup, setup.task, images)
    assert isinstance(setup.task, Detection)
    return _box_outcomes(setup, setup.task, images)


def _names(setup: Setup) -> tuple[str, ...]:
    split = setup.dataset.splits[setup.split]
    if isinstance(split.images, tuple):
        return tuple(map(short_path, split.images))
    return tuple(f"{Path(setup.dataset.name).name} {setup.split} {i}" for i in range(len(split)))


def _class_outcomes(setup: Setup, task: Classification, images: Images) -> ClassOutcomes:
    columns: list[tuple[Tensor, ...]] = []
    for outputs, targets in setup.run(images.split):
        shares = task.main.log_probabilities(outputs.float())
        losses = -shares.gather(1, targets.view(-1, 1))[:, 0]
        confidence = tempered(shares, task.temperature or 1).amax(1).exp()
        columns.append((targets, task.main.predict(outputs), confidence, losses))
    true, predicted, probability, loss = _arrays(columns)
    return ClassOutcomes(images, true, predicted, probability.astype(np.float64), loss.astype(np.float64))


def _mask_outcomes(setup: Setup, task: Segmentation, images: Images) -> MaskOutcomes:
    k = len(task.classes)
    columns: list[tuple[Tensor, ...]] = []
    matrix = torch.zeros(k, k, dtype=torch.int64)
    for outputs, targets in setup.run(images.split):
        scores = task.scores(outputs, targets.shape)
        matrices = pixel_confusion(targets, scores.argmax(1), k)[:, :-1]
        losses = torch.nn.functional.cross_entropy(scores, targets.long(), ignore_index=VOID, reduction="none")
        valid = matrices.sum((1, 2))
        off = matrices.masked_fill(torch.eye(k, dtype=torch.bool, device=matrices.device), 0).flatten(1)
        wrong, cell = off.max(1)
        pairs = torch.stack([cell // k, cell % k], 1)
        mean = losses.sum((1, 2)) / valid.clamp_min(1)
        columns.append((image_ious(matrices)[0], mean, image_counts(matrices), pairs, wrong, valid))
        matrix += matrices.sum(0).cpu()
    means, mean_losses, counts, cells, confused, pixels = _arrays(columns)
    return MaskOutcomes(images, means, mean_losses, counts, cells, confused, pixels, matrix.numpy())


def _box_outcomes(setup: Setup, task: Detection, images: Images) -> BoxOutcomes:
    measure = next((m for m in setup.measures if isinstance(m, DetectionMeasure)), None)
    if measure is None:
        measure = DetectionMeasure(task.classes, task.measured)
        setup = replace(setup, measures=(*setup.measures, measure))
    for _ in setup.run(images.split):
        pass
    detections, objects = assemble(measure.detections, measure.true)
    precision = compute_average_precision(detections, objects, len(task.classes))
    original = setup.dataset.splits[setup.split]
    if isinstance(original.targets, BoxFiles):
        sizes = original.targets.sizes.cpu().numpy()
    else:
        assert isinstance(original.images, Tensor)
        sizes = np.tile(original.images.shape[-2:], (len(original), 1))
    return BoxOutcomes(
        images, detections, objects, precision, classify_errors(detections, objects, precision.hits), sizes
    )


def _arrays(batches: list[tuple[Tensor, ...]]) -> list[Array]:
    """The columns of all batches."""
    return [torch.cat(column).cpu().numpy() for column in zip(*batches, strict=True)]
