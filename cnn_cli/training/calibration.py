"""Temperature scaling: fitted on the validation images, stored in the checkpoint, used by `cnn predict`."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, store_temperature
from cnn_cli.data.masks import VOID
from cnn_cli.data.preparation import PreparedSplit
from cnn_cli.errors import UsageError
from cnn_cli.tables import counted, wrapped
from cnn_cli.tasks.calibration import count_bins, fit_temperature, likelihood_loss, reliability_of, tempered
from cnn_cli.tasks.classification import Classification
from cnn_cli.tasks.segmentation import Segmentation
from cnn_cli.training.eval_report import EvaluationRequest, Setup, evaluation_setup

_MOST_PIXELS = 500_000  # of all images together, enough for three digits of the temperature


@dataclass(frozen=True)
class FittedTemperature:
    """A fitted temperature, and loss and expected calibration error before and after, on the images it was fitted
    on."""

    temperature: float
    fitted_on: str
    losses: tuple[float, float]
    errors: tuple[float, float]

    def text(self) -> str:
        loss, error = ("{:.4f} → {:.4f}".format(*self.losses), "{:.2%} → {:.2%}".format(*self.errors))
        return wrapped(
            f"temperature {self.temperature:.3f}, fitted on {self.fitted_on}: loss {loss}, "
            f"expected calibration error {error}"
        )


def calibrate(
    loaded: LoadedNetwork, request: EvaluationRequest, device: torch.device
) -> tuple[LoadedNetwork, FittedTemperature]:
    """Fit and store the temperature → the network with it. UsageError without validation images, and for detectors."""
    if loaded.weights is None or loaded.metadata is None or loaded.weights.suffix != ".safetensors" or loaded.notes:
        raise UsageError("--calibrate stores the temperature in a checkpoint; name a run that has finished an epoch")
    if loaded.plan.detects:
        raise UsageError(
            f"--calibrate is for classification and segmentation; {loaded.plan.network} is a detector, whose scores "
            "estimate the IoU of a box\nrather than a probability, and AP depends only on their order"
        )
    try:
        setup = evaluation_setup(loaded, replace(request, split="val"), device)
    except UsageError as error:
        raise UsageError(
            f"--calibrate needs validation images; test images are never used: {error}; train with --val-fraction 0.1"
        ) from None
    before, true, fitted_on = _validation(setup, setup.prepare(loaded).splits["val"])
    temperature = fit_temperature(before, true)
    after, correct = tempered(before.double(), temperature), before.argmax(1) == true
    store_temperature(loaded.weights, temperature)
    errors = tuple(reliability_of(count_bins(one, correct)).error for one in (before, after))
    losses = (likelihood_loss(before, true), likelihood_loss(after, true))
    result = FittedTemperature(temperature, fitted_on, losses, (errors[0], errors[1]))
    return replace(loaded, metadata=replace(loaded.metadata, temperature=temperature)), result


def _validation(setup: Setup, split: PreparedSplit) -> tuple[Tensor, Tensor, str]:
    """The log-probabilities (n, K) and true classes (n,) of the images, or of a random sample of their pixels; and a
    description of these."""
    task, columns = setup.task, list[tuple[Tensor, Tensor]]()
    images, generator = counted(len(split), "validation image"), torch.Generator().manual_seed(0)
    for outputs, targets in setup.run(split):
        if isinstance(task, Classification):
            columns.append((task.main.log_probabilities(outputs.float()).cpu(), targets.cpu()))
            continue
        assert isinstance(task, Segmentation)
        scores, labels = task.scores(outputs, targets.shape), targets.flatten().cpu()
        pixels = (labels != VOID).nonzero().flatten()
        most = max(1, _MOST_PIXELS * len(targets) // len(split))
        pixels = pixels[torch.randperm(len(pixels), generator=generator)[:most]]
        shares = scores.log_softmax(1).permute(0, 2, 3, 1).flatten(0, 2)
        columns.append((shares[pixels.to(shares.device)].cpu(), labels[pixels].long()))
    shares, true = (torch.cat(column) for column in zip(*columns, strict=True))
    return shares, true, images if isinstance(task, Classification) else f"{len(true):,} pixels of {images}"
