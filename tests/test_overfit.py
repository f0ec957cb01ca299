"""--overfit N: training and evaluation on the same few images."""

import json
from pathlib import Path

import pytest
import small_runs as small
from pictures import cnn

from cnn_cli.errors import UsageError
from cnn_cli.pictures import plots
from cnn_cli.pictures.plots import saved_figure
from cnn_cli.training import run as run_module


def test_a_network_learns_a_few_images_and_is_evaluated_on_them(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    titles = []
    monkeypatch.setattr(plots, "saved_figure", lambda *given: titles.append(given[3]) or saved_figure(*given))
    request = small.request(workspace, overfit=20, epochs=40, batch_size=8)
    reached = run_module.begin(request)
    assert reached and ", val (--overfit: the training images): 20 images" in reached.text()
    assert any("validation on the training images (--overfit)" in title for title in titles)
    assert any(title.startswith("small on digits, the training images (--overfit):") for title in titles)
    result = json.loads((workspace / "run" / "eval.json").read_text())
    assert (result["n"], result["split"]) == (20, "val") and result["accuracy"] > 0.9
    assert sum(sum(row) > 0 for row in result["confusion_matrix"]) >= 8  # spread over the data, not its first class
    rows = [json.loads(line) for line in (workspace / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val_accuracy"] > 0.9 and rows[-1]["test_accuracy"] is None
    run = str(workspace / "run")
    assert cnn("runs", run) == 0
    assert "run is computed on training images (--overfit)" in " ".join(capsys.readouterr().out.split())
    assert cnn("eval", run, "--split", "val", "--device", "cpu") == 2
    assert "training images; evaluate --split train" in " ".join(capsys.readouterr().err.split())
    assert cnn("report", run, "-o", str(workspace / "report.html"), "--device", "cpu") == 0
    assert "its validation metrics are computed on the training images" in (workspace / "report.html").read_text()


def test_a_validation_split_beside_it_is_refused(workspace: Path) -> None:
    with pytest.raises(UsageError, match="--overfit evaluates on the training images themselves"):
        run_module.begin(small.request(workspace, overfit=20, val_fraction=0.1))
    assert not (workspace / "run").exists()


def test_it_is_resumed_with_the_same_images(workspace: Path) -> None:
    small.begin(workspace, "whole", overfit=20, epochs=4, batch_size=8)
    small.begin(workspace, "half", overfit=20, epochs=2, batch_size=8)
    small.resume(workspace, "half", epochs=4)
    whole, half = ((workspace / name / "best.safetensors").read_bytes()[-400:] for name in ("whole", "half"))
    assert whole == half
