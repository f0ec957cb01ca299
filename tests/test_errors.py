"""`cnn errors`: against the scores of the network, sorted by hand."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cnn, pixels_of
from PIL import Image
from small_runs import begin, without_pictures
from torch.nn import functional

import cnn_cli
from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.data.loading import load_for_evaluation

MASKS = """
dense: {input: [3, 16, 16], args: {classes: 3}, layers: [{Conv2d: {out_channels: 6, kernel_size: 3, padding: 1}}, ReLU,
  {Conv2d: {out_channels: $classes, kernel_size: 1}}], train: {data: masks, epochs: 1, batch_size: 4, optimizer: adam}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        return begin(tmp_path_factory.mktemp("errors"))


def test_classes_against_the_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("errors", str(run), "--limit", "5", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    metadata = load_network(str(run)).metadata
    assert metadata is not None
    split = load_for_evaluation("digits", metadata.data, None, None, "classification").splits["test"]
    assert isinstance(split.images, torch.Tensor) and isinstance(split.targets, torch.Tensor)
    with torch.no_grad():
        scores = cnn_cli.load(run)(split.images.float() / 255)
    losses = functional.cross_entropy(scores, split.targets, reduction="none")
    confidence, predicted = scores.softmax(1).max(1)
    wrong = [i for i in range(len(losses)) if predicted[i] != split.targets[i]]
    order = sorted(wrong, key=lambda i: -float(losses[i]))
    assert [row["index"] for row in facts["mistakes"]] == order and facts["errors"] == len(wrong)
    for row in facts["mistakes"]:
        i = row["index"]
        assert (int(row["true"]), int(row["predicted"])) == (int(split.targets[i]), int(predicted[i]))
        assert row["loss"] == pytest.approx(float(losses[i]), abs=1e-5)
        assert row["confidence"] == pytest.approx(float(confidence[i]), abs=1e-6)
        assert row["image"] == f"digits test {i}"
    unsure = [row["index"] for row in facts["least_confident"]]
    assert unsure == confidence.argsort(stable=True)[:5].tolist()
    assert [r["index"] for r in facts["most_confident"]] == confidence.argsort(stable=True, descending=True)[
        :5
    ].tolist()
    counts: dict[tuple[str, str], list[int]] = {}
    for i in wrong:
        counts.setdefault((str(int(split.targets[i])), str(int(predicted[i]))), []).append(i)
    assert {(p["true"], p["predicted"]): p["indices"] for p in facts["confused_pairs"]} == counts
    sizes = [pair["n"] for pair in facts["confused_pairs"]]
    assert sizes == sorted(sizes, reverse=True)
    for k, row in enumerate(facts["per_class"]):
        assert row["errors"] == sum(int(split.targets[i]) == k for i in wrong)
        first = next((i for i in order if int(split.targets[i]) == k), None)
        assert row["worst"] == (None if first is None else f"digits test {first}")


def test_text_table_and_sheet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "errors.png"
    assert cnn("errors", str(run), "--limit", "3", "--force") == 0
    text = capsys.readouterr().out
    for heading in (
        "images of digits test are misclassified",
        "worst mistakes, by loss",
        "most frequent confusions",
        "per class",
    ):
        assert heading in text
    assert re.search(r"(\d+, ){6}…$", text, re.M)  # more images than are listed
    assert str(path) in text and pixels_of(path).shape[0] > 200
    assert cnn("errors", str(run), "--csv", "--split", "train") == 0  # rewrites the picture of the run
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out.split("\n\n")[0])))
    assert list(rows[0]) == ["index", "image", "true", "predicted", "confidence", "loss"]
    assert float(rows[0]["loss"]) >= float(rows[-1]["loss"])
    assert cnn("errors", str(run), "--split", "val") == 2
    assert cnn("errors", "lenet-5") == 2


def test_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst image is the one that the others have nothing in common with; its main confusion is named."""
    drawn = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for i in range(count):
            folder = tmp_path / "masks" / split
            for kind in ("images", "masks"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
            mask = np.zeros((16, 16), np.uint8)
            mask[4:12, 4:12] = 1 + i % 2
            shown = (mask[..., None] * 90 + drawn.integers(0, 20, (16, 16, 3))).astype(np.uint8)
            if split == "test" and i == 2:
                mask[:] = 2
            Image.fromarray(shown).save(folder / "images" / f"{i}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    (tmp_path / "masks" / "classes.txt").write_text("back\none\ntwo\n")
    monkeypatch.chdir(tmp_path)
    without_pictures(monkeypatch)
    run = begin(tmp_path, spec=MASKS, epochs=30, lr=0.02)
    assert cnn("errors", str(run), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"][0]["index"] == 2 and len(facts["images"]) == 4
    worst = facts["images"][0]
    assert worst["true"] == "two" and Path(worst["image"]).name == "2.png" and worst["share"] > 0.5
    assert facts["confused_pairs"][0]["true"] == "two"
    assert facts["confused_pairs"][0]["worst"] == worst["image"]
    assert cnn("eval", str(run), "--json") == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert np.mean([row["miou"] for row in facts["images"]]) == pytest.approx(evaluated["mean_image_miou"], abs=1e-9)
    assert cnn("errors", str(run), "--force") == 0
    assert "worst images, by mean IoU" in capsys.readouterr().out
    assert pixels_of(run / "errors.png").shape[1] > 400
