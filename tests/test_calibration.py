"""Intervals, calibration error and temperature against scipy and short loops; `cnn eval --calibrate` as a command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cnn
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from small_runs import SPEC, begin, without_pictures
from torch import Tensor
from torch.nn import functional

import cnn_cli
from cnn_cli.distributed.world import ALONE
from cnn_cli.pictures.reliability_plot import reliability_diagram
from cnn_cli.tasks.calibration import (
    BINS,
    count_bins,
    fit_temperature,
    likelihood_loss,
    read_reliability,
    reliability_of,
    tempered,
)
from cnn_cli.tasks.classification_result import ClassificationResult
from cnn_cli.tasks.segmentation import Segmentation
from cnn_cli.tasks.segmentation_result import mean_ious
from cnn_cli.tasks.selection import read_result
from cnn_cli.tasks.uncertainty import percentiles, resample, wilson


def scores(n: int, classes: int, seed: int, sharpness: float = 3.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, K) of overconfident predictions, and labels (n,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((1.2 * logits).softmax(1), 1, generator=generator)[:, 0]
    return (sharpness * logits).log_softmax(1).float(), labels


def test_wilson_against_scipy() -> None:
    for n in (1, 2, 7, 50, 1000, 10_000):
        for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
            ends = binomtest(k, n).proportion_ci(0.95, method="wilson")
            assert wilson(k, n) == pytest.approx((ends.low, ends.high), abs=1e-12)
    assert wilson(0, 0) is None


@pytest.mark.parametrize(("n", "classes", "seed"), [(1, 2, 0), (40, 2, 1), (997, 10, 2), (5000, 3, 3)])
def test_calibration_error_against_a_loop(n: int, classes: int, seed: int) -> None:
    shares, labels = scores(n, classes, seed)
    correct = shares.argmax(1) == labels
    batches = zip(shares.split(64), correct.split(64), strict=True)
    bins = torch.stack([count_bins(a, b) for a, b in batches]).sum(0)
    confidence = shares.amax(1).exp().tolist()
    error = 0.0
    for i in range(BINS):
        inside = [j for j, p in enumerate(confidence) if i / BINS < p <= (i + 1) / BINS]
        if inside:
            accuracy = sum(bool(correct[j]) for j in inside) / len(inside)
            error += abs(accuracy - sum(confidence[j] for j in inside) / len(inside)) * len(inside) / n
    found = reliability_of(bins)
    assert found.error == pytest.approx(error, abs=1e-9)
    again = read_reliability(json.loads(json.dumps(found.document())))
    assert again is not None and again.error == pytest.approx(found.error, abs=1e-12)


@pytest.mark.parametrize(("classes", "sharpness"), [(2, 3.0), (10, 0.3), (4, 30.0)])
def test_temperature_against_scipy(classes: int, sharpness: float) -> None:
    shares, labels = scores(800, classes, 5, sharpness)
    best = minimize_scalar(
        lambda t: float(functional.cross_entropy(shares.double() / t, labels)),
        bounds=(0.05, 50),
        method="bounded",
        options={"xatol": 1e-10},
    )
    found = fit_temperature(shares, labels)
    assert found == pytest.approx(best.x, rel=1e-6)
    assert likelihood_loss(tempered(shares.double(), found), labels) <= best.fun + 1e-12


def test_calibration_error_of_pixels_against_a_loop() -> None:
    """Over pixels that are not void, in batches, at half the resolution of the masks."""
    generator = torch.Generator().manual_seed(3)
    outputs = 3 * torch.randn(5, 3, 6, 8, generator=generator)
    masks = torch.randint(0, 4, (5, 12, 16), generator=generator, dtype=torch.uint8)
    masks[masks == 3] = 255
    task = Segmentation(("a", "b", "c"), {"": (lambda x: x, 1.0)}, temperature=2.0)
    measure = task.measure(torch.device("cpu"))
    for part in (slice(0, 2), slice(2, 5)):
        measure.add(outputs[part], masks[part])
    result = measure.result("test", ALONE)
    facts = result.document()
    for key, sharpness in (("ece", 1.0), ("calibrated_ece", 0.5)):
        shares = (functional.interpolate(outputs, scale_factor=2, mode="bilinear") * sharpness).softmax(1)
        confidence, predicted = shares.max(1)
        counted = masks != 255
        confidence, right = confidence[counted].numpy(), (predicted == masks)[counted].numpy()
        error = 0.0
        for i in range(BINS):
            inside = (confidence > i / BINS) & (confidence <= (i + 1) / BINS)
            error += abs(right[inside].sum() - confidence[inside].astype(float).sum()) / len(right)
        assert facts[key] == pytest.approx(error, abs=1e-6) and error > 0.05
    assert sum(row["n"] for row in facts["reliability"]) == int((masks != 255).sum())
    again = read_result(json.loads(json.dumps(facts)))
    assert again.document()["calibrated_ece"] == pytest.approx(facts["calibrated_ece"], abs=1e-12)
    assert "at the calibrated temperature 2.000, over pixels" in " ".join(again.text().split())


MASKS = """
dense: {input: [3, 16, 16], args: {classes: 3}, layers: [{Conv2d: {out_channels: 6, kernel_size: 3, padding: 1}}, ReLU,
  {Conv2d: {out_channels: $classes, kernel_size: 1}}], train: {data: masks, epochs: 8, batch_size: 4, optimizer: adam}}
"""


def test_masks_are_calibrated_over_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for i in range(count):
            for kind in ("images", "masks"):
                (tmp_path / "masks" / split / kind).mkdir(parents=True, exist_ok=True)
            mask = np.kron(drawn.integers(0, 3, (4, 4)), np.ones((4, 4), int)).astype(np.uint8)
            shown = (mask[..., None] * 60 + drawn.integers(0, 120, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(shown).save(tmp_path / "masks" / split / "images" / f"{i}.png")
            mask[:2] = 255
            Image.fromarray(mask).save(tmp_path / "masks" / split / "masks" / f"{i}.png")
    (tmp_path / "masks" / "classes.txt").write_text("back\none\ntwo\n")
    monkeypatch.chdir(tmp_path)
    without_pictures(monkeypatch)
    run = begin(tmp_path, spec=MASKS, lr=0.02)
    assert cnn("eval", str(run), "--calibrate", "--json") == 0
    output = capsys.readouterr()
    facts = json.loads(output.out)
    assert "fitted on 896 pixels of 4 validation images: loss" in output.err  # 14 of 16 rows are not void
    with torch.no_grad():
        files = [tmp_path / "masks" / "val" / "images" / f"{i}.png" for i in range(4)]
        pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in files])
        scores = cnn_cli.load(run)(pixels.permute(0, 3, 1, 2).float() / 255).double()
    masks = [np.array(Image.open(path.parents[1] / "masks" / path.name)) for path in files]
    labels = torch.from_numpy(np.stack(masks)).long()
    best = minimize_scalar(
        lambda t: float(functional.cross_entropy(scores / t, labels, ignore_index=255)),
        bounds=(0.05, 50),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert facts["temperature"] == pytest.approx(best.x, rel=1e-5) and best.x != pytest.approx(1, abs=0.01)
    assert facts["ece"] > 0 and facts["calibrated_ece"] != facts["ece"] and (run / "reliability.png").is_file()
    assert cnn("eval", str(run), "--original-size", "--json") == 0
    assert json.loads(capsys.readouterr().out)["calibrated_ece"] == pytest.approx(facts["calibrated_ece"], rel=1e-6)


def test_temperature_has_bounds() -> None:
    """Where every prediction is right, or every one wrong, the likelihood has no maximum."""
    shares = torch.eye(3).log_softmax(1)
    assert 0.01 <= fit_temperature(shares, torch.arange(3)) < 0.05
    assert fit_temperature(shares, torch.tensor([1, 2, 0])) == pytest.approx(100, rel=1e-6)


def test_bootstrap_draws_images() -> None:
    """Against naive resampling of image by image, of a confusion matrix and of masks."""
    drawn = np.random.default_rng(1)
    matrix = np.array([[50, 9, 1], [4, 20, 6], [0, 3, 7]])
    result = ClassificationResult("test", 0.0, matrix.tolist(), ("a", "b", "c"))
    images = np.repeat(np.arange(9), matrix.ravel())
    naive = []
    for _ in range(4000):
        counts = np.bincount(drawn.choice(images, len(images)), minlength=9).reshape(3, 3)
        naive.append(np.mean(counts.diagonal() / counts.sum(1)))
    assert result.intervals["balanced_accuracy"] == pytest.approx(percentiles(np.array(naive)), abs=0.012)
    assert result.intervals["balanced_accuracy"] == result.intervals["balanced_accuracy"]
    pixels = drawn.integers(1, 100, (30, 3, 4))
    pixels[:, 1] += pixels[:, 0]
    pixels[:, 2] += pixels[:, 0]
    naive = [float(mean_ious(pixels[drawn.integers(0, 30, 30)].sum(0))) for _ in range(4000)]
    interval = percentiles(mean_ious(resample(pixels.reshape(30, 12)).reshape(-1, 3, 4)))
    assert interval == pytest.approx(percentiles(np.array(naive)), abs=0.012)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        return begin(folder, spec=SPEC, val_fraction=0.2)


def test_calibrate_fits_on_val_and_predict_uses_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("eval", str(run), "--split", "val", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert cnn("predict", str(run), "--index", "0-3", "--top", "10", "--json") == 0
    before = json.loads(capsys.readouterr().out)
    assert cnn("eval", str(run), "--calibrate", "--split", "val", "--json") == 0
    output = capsys.readouterr()
    facts = json.loads(output.out)
    temperature = facts["temperature"]
    assert (
        f"temperature {temperature:.3f}, fitted on {plain['n']:,} validation images: loss {plain['loss']:.4f} →"
        in output.err
    )
    assert {key: facts[key] for key in plain} == plain  # the figures of the plain probabilities stay
    assert facts["ece"] == plain["ece"] and facts["calibrated_ece"] != facts["ece"]
    assert (run / "reliability-val.png").is_file()
    assert cnn("predict", str(run), "--index", "0-3", "--top", "10", "--json") == 0
    after = json.loads(capsys.readouterr().out)
    assert before["temperature"] is None and after["temperature"] == temperature
    for one, two in zip(before["images"], after["images"], strict=True):
        shares = {row["index"]: row["probability"] for row in one["top"]}
        logits = torch.tensor([shares[i] for i in range(10)], dtype=torch.float64).log()
        expected = (logits / temperature).softmax(0)
        assert [row["index"] for row in one["top"]] == [row["index"] for row in two["top"]]
        assert all(row["probability"] == pytest.approx(float(expected[row["index"]]), abs=1e-5) for row in two["top"])
    assert cnn("predict", str(run), "--index", "0-3") == 0
    assert f"probabilities are calibrated (temperature {temperature:.3f}" in capsys.readouterr().out
    for words in (("attack",), ("visualize-saliency", "--method", "gradient"), ("errors", "--limit", "200")):
        name, *rest = words
        assert cnn(name, str(run), *rest, *["--index", "0-3"] * (name != "errors"), "--json") == 0
        out = json.loads(capsys.readouterr().out)
        if name == "errors":
            top = {int(shot["image"].split()[-1]): shot["top"][0] for shot in after["images"]}
            rows = [*out["mistakes"], *out["most_confident"], *out["least_confident"]]
            same = [(row["confidence"], top[row["index"]]) for row in rows if row["index"] in top]
        else:
            shown = [shot.get("before") or shot["predicted"] for shot in out["images"]]
            same = [(row["confidence"], shot["top"][0]) for row, shot in zip(shown, after["images"], strict=True)]
        assert same and all(share == pytest.approx(best["probability"], abs=1e-5) for share, best in same), name
    assert cnn("eval", str(run), "--calibrate", "--json") == 0  # on test, and fitted on val all the same
    assert json.loads(capsys.readouterr().out)["temperature"] == pytest.approx(temperature, rel=1e-9)
    assert cnn("train", str(run), "--resume", "--json") == 0
    assert cnn_cli.load(run) is not None


def test_calibrated_figures_follow_from_the_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Interval, calibration error and reliability of the test split, recomputed from the network's outputs."""
    assert cnn("eval", str(run), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    correct = sum(facts["confusion_matrix"][i][i] for i in range(10))
    ends = binomtest(correct, facts["n"]).proportion_ci(0.95, method="wilson")
    assert facts["intervals"]["accuracy"] == pytest.approx((ends.low, ends.high), abs=1e-12)
    assert sum(row["n"] for row in facts["reliability"]) == facts["n"]
    assert sum(row["n"] * (row["accuracy"] or 0) for row in facts["reliability"]) == pytest.approx(correct)
    first = facts["per_class"][0]
    hits = round(first["recall"] * first["n"])
    assert first["recall_interval"] == pytest.approx(wilson(hits, first["n"]))
    assert cnn("eval", str(run)) == 0
    text = capsys.readouterr().out
    assert "95% interval of the accuracy: " in text and "expected calibration error " in text


def test_calibrate_needs_validation_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        other = begin(tmp_path, epochs=1)
    before = (other / "best.safetensors").read_bytes()
    assert cnn("eval", str(other), "--calibrate") == 2
    assert "--calibrate needs validation images; test images are never used" in capsys.readouterr().err
    (other / "best.safetensors").rename(tmp_path / "weights.safetensors")
    weights = ("--weights", str(tmp_path / "weights.safetensors"))
    assert cnn("eval", str(tmp_path / "small.yaml"), *weights, "--calibrate", "--data", "digits") == 2
    assert "--calibrate stores the temperature in a checkpoint" in capsys.readouterr().err
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_reliability_diagram_is_drawn(tmp_path: Path) -> None:
    shares, labels = scores(500, 5, 2)
    plain = reliability_of(count_bins(shares, shares.argmax(1) == labels))
    reliability_diagram({"confidence": plain.document()}, {"confidence": plain.error}, tmp_path / "a.png", "a run")
    assert (tmp_path / "a.png").stat().st_size > 10_000
