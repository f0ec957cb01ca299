"""Temperature scaling: fitted on the validation images, stored in the checkpoint, used by `cnn predict`."""

from dataclasses import dataclass, replace

import torch

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, store_temperature
from cnn_cli.errors import UsageError
from cnn_cli.tasks.calibration import count_bins, fit_temperature, likelihood_loss, reliability_of, tempered
from cnn_cli.tasks.classification import Classification
from cnn_cli.training.eval_report import EvaluationRequest, evaluation_setup
from cnn_cli.training.evaluation import run_over


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and loss and expected calibration error on `n` validation images before and after."""

    temperature: float
    n: int
    losses: tuple[float, float]
    errors: tuple[float, float]

    def text(self) -> str:
        loss, error = ("{:.4f} → {:.4f}".format(*self.losses), "{:.2%} → {:.2%}".format(*self.errors))
        return (
            f"temperature {self.temperature:.3f}, fitted on {self.n:,} validation images: loss {loss}, "
            f"expected calibration error {error}"
        )


def calibrate(
    loaded: LoadedNetwork, request: EvaluationRequest, device: torch.device
) -> tuple[LoadedNetwork, Calibration]:
    """Fit the temperature and store it → the network with it. UsageError without validation images or classes."""
    if loaded.weights is None or loaded.metadata is None or loaded.weights.suffix != ".safetensors" or loaded.notes:
        raise UsageError("--calibrate stores the temperature in a checkpoint; name a run that has finished an epoch")
    if len(loaded.plan.output) != 1:
        raise UsageError(
            f"{loaded.plan.network} does not output one score per class; --calibrate is for classification"
        )
    try:
        setup = evaluation_setup(loaded, replace(request, split="val"), device)
    except UsageError as error:
        raise UsageError(
            f"--calibrate needs validation images; test images are never used: {error}; train with --val-fraction 0.1"
        ) from None
    assert isinstance(setup.task, Classification)
    shares, labels = [], []
    for outputs, targets in run_over(setup.network, setup.prepare(loaded).splits["val"], setup.inference):
        shares.append(setup.task.main.log_probabilities(outputs.float()).cpu())
        labels.append(targets.cpu())
    before, true = torch.cat(shares), torch.cat(labels)
    temperature = fit_temperature(before, true)
    after, correct = tempered(before.double(), temperature), before.argmax(1) == true
    store_temperature(loaded.weights, temperature)
    errors = tuple(reliability_of(count_bins(one, correct)).error for one in (before, after))
    losses = (likelihood_loss(before, true), likelihood_loss(after, true))
    result = Calibration(temperature, len(true), losses, (errors[0], errors[1]))
    return replace(loaded, metadata=replace(loaded.metadata, temperature=temperature)), result
