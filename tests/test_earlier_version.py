"""A run that version 0.1 began, stopped at step 5 of 9 and saved, is resumed and evaluated.

The folder run_of_version_0.1 is what `cnn train` of that version left; the figures are those that it reached when it
trained all three epochs without a stop.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import cnn_cli
from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.training import run as run_module
from cnn_cli.training.eval_report import EvaluationRequest, evaluate_network
from cnn_cli.training.request import Request

UNINTERRUPTED = [
    {"train_loss": 2.37745190, "train_accuracy": 0.12972973, "val_loss": 2.29784918, "val_accuracy": 0.11971831},
    {"train_loss": 2.22390281, "train_accuracy": 0.19613900, "val_loss": 2.28510547, "val_accuracy": 0.15492958},
    {"train_loss": 2.10739000, "train_accuracy": 0.25250965, "val_loss": 2.24509835, "val_accuracy": 0.30985915},
]


@pytest.fixture
def old(quick: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).parent / "run_of_version_0.1", quick / "old"))


def test_a_run_of_version_0_1_resumes_as_it_would_have_then(old: Path) -> None:
    result = run_module.resume(Request(network=str(old), options={}, device="cpu", say=lambda _: None), old)
    assert result is not None and result.best_epoch == 3
    rows = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row, figures in zip(rows, UNINTERRUPTED, strict=True):
        assert {key: row[key] for key in figures} == pytest.approx(figures, abs=1e-4)


def test_the_weights_of_version_0_1_are_evaluated_and_loaded(old: Path) -> None:
    for name in (old, old / "best.safetensors"):
        loaded, request = load_network(str(name)), EvaluationRequest(split="val")
        evaluation = evaluate_network(loaded, request, torch.device("cpu"))
        assert evaluation.document()["n"] == 142
        assert evaluation.document()["loss"] == pytest.approx(UNINTERRUPTED[0]["val_loss"], abs=1e-4)
    assert cnn_cli.load(old / "last.pt")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
