"""`cnn compare`: tests and intervals against scipy, the rate of false claims, and the command on small runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pictures import cnn, pixels_of
from scipy.stats import binomtest, ttest_ind
from small_runs import begin, without_pictures

from cnn_cli.tasks.paired import compare_groups, compare_right, compare_sums, mcnemar, paired_shares
from cnn_cli.tasks.segmentation_result import mean_ious


def test_mcnemar_against_scipy() -> None:
    for a, b in [(0, 0), (1, 0), (0, 6), (5, 5), (3, 17), (40, 61), (512, 600), (3000, 3100), (20_000, 20_500)]:
        expected = binomtest(a, a + b, 0.5).pvalue if a + b else 1.0
        assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-12), (a, b)


def test_welch_against_scipy() -> None:
    drawn = np.random.default_rng(0)
    for n, m in [(2, 2), (3, 5), (10, 4)]:
        a, b = drawn.normal(0.9, 0.01, n), drawn.normal(0.91, 0.02, m)
        ours, theirs = compare_groups(a.tolist(), b.tolist()), ttest_ind(b, a, equal_var=False)
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
        ends = theirs.confidence_interval(0.95)
        assert ours.interval == pytest.approx((ends.low, ends.high), abs=1e-9)
    assert compare_groups([0.5, 0.5], [0.5, 0.5]).p == 1 and compare_groups([0.5, 0.5], [0.6, 0.6]).p == 0


def test_interval_of_a_paired_difference_covers_the_truth() -> None:
    """Of 2,000 simulated test sets, with 4% and 7% of images that one alone gets right."""
    drawn, covered = np.random.default_rng(1), 0
    for only_a, only_b, _ in drawn.multinomial(400, [0.04, 0.07, 0.89], size=2000):
        low, high = paired_shares(int(only_a), int(only_b), 400)
        covered += low <= 0.03 <= high
    assert 0.94 <= covered / 2000 <= 0.97


def test_equal_networks_are_seldom_called_different() -> None:
    """200 pairs that are right on each image with the same probability, which differs from image to image."""
    drawn, called = np.random.default_rng(2), 0
    for _ in range(200):
        difficulty = drawn.beta(6, 0.7, size=1000)
        a, b = drawn.random(1000) < difficulty, drawn.random(1000) < difficulty
        called += compare_right(a, b).p < 0.05
    assert called / 200 <= 0.07


def test_equal_masks_are_seldom_called_different() -> None:
    drawn, called = np.random.default_rng(3), 0
    for _ in range(200):
        true = drawn.integers(20, 60, (60, 1, 3))
        counts = []
        for _ in range(2):
            hits = drawn.binomial(true, drawn.beta(8, 2, true.shape))
            counts.append(np.concatenate([hits, true, true], 1))
        called += compare_sums(counts[0], counts[1], mean_ious).p < 0.05
    assert called / 200 <= 0.07


def test_clear_differences_are_found() -> None:
    a, b = np.zeros(100, bool), np.ones(100, bool)
    b[:40] = a[:40] = True
    found = compare_right(a, b)
    assert (found.only_a, found.only_b) == (0, 60) and found.value == 0.6 and found.p < 1e-9
    counts = np.tile(np.array([[[9], [10], [10]]]), (50, 1, 1))
    worse = counts - np.array([[[4], [0], [0]]])
    assert compare_sums(worse, counts, mean_ious).p < 0.01


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one network, and one that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        begin(folder, "first", epochs=4)
        begin(folder, "second", epochs=4, seed=7)
        begin(folder, "poor", epochs=1, lr=1e-5)
    return folder


def test_an_argument_without_set_has_the_value_of_the_spec(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = "{args: {width: 3}, input: [1, 8, 8], layers: [Flatten, {Linear: $width}, {Linear: 10}]}"
    (quick / "net.yaml").write_text(f"net: {spec}")
    options = ["--data", "digits", "--epochs", "1", "-b", "500"]
    assert cnn("train", "net.yaml", *options, "-o", "plain") == 0
    assert cnn("train", "net.yaml", *options, "-o", "wide", "--set", "width=5") == 0
    capsys.readouterr()
    assert cnn("compare", "plain/", "wide/", "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"] == [{"setting": "width", "A": "3", "B": "5"}]


def test_runs_on_the_same_images(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    assert cnn("compare", "first/", "second/", "poor/", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    wrong = {}
    for name in ("first", "poor"):
        assert cnn("errors", f"{name}/", "--json", "--force") == 0
        mistakes = json.loads(capsys.readouterr().out)
        wrong[name] = {row["index"] for row in mistakes["mistakes"]}
        score = next(row["score"] for row in facts["runs"] if row["name"] == f"{name}/")
        assert score == pytest.approx(1 - len(wrong[name]) / mistakes["n"])
    same, other = facts["comparisons"]
    assert not same["different"] and "no significant difference between A and B on 360 images" in same["verdict"]
    assert other["different"] and "A is better than C on 360 images" in other["verdict"]
    assert set(other["indices_a"]) == wrong["poor"] - wrong["first"] and other["only_a"] == len(other["indices_a"])
    assert set(other["indices_b"]) == wrong["first"] - wrong["poor"]
    assert other["p"] == pytest.approx(binomtest(other["only_a"], other["only_a"] + other["only_b"]).pvalue, rel=1e-9)
    assert other["interval"][0] < other["difference"] < other["interval"][1] < 0
    settings = {row["setting"]: row for row in facts["settings"]}
    assert set(settings) >= {"seed", "lr", "epochs"} and settings["lr"]["C"] != settings["lr"]["A"]
    for name in ("curves.png", "A-B.png", "A-C.png"):
        assert pixels_of(runs / "comparison" / name).shape[0] > 200
    assert cnn("compare", "first/", "second/") == 2
    assert "already contains pictures" in capsys.readouterr().err
    assert cnn("compare", "first/", "second/", "-o", "other") == 0
    text = capsys.readouterr().out
    assert "only A is right on " in text and "settings that differ" in text
    assert max(map(len, text.splitlines())) <= 80
    begin(runs, "few", epochs=1, overfit=20)
    assert cnn("compare", "first/", "few/", "-o", "few-pictures", "--split", "test") == 0
    assert re.search(r"^overfit  +none  +20$", capsys.readouterr().out, re.M)


def test_groups_of_seeds(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    for group, members in (("good", ("first", "second")), ("bad", ("poor", "poor"))):
        for seed, member in enumerate(members):
            (runs / group).mkdir(exist_ok=True)
            (runs / group / f"seed-{seed}").symlink_to(runs / member)
    assert cnn("compare", "good/", "bad/", "--json", "-o", "groups") == 0
    facts = json.loads(capsys.readouterr().out)
    (pair,) = facts["comparisons"]
    assert pair["test"] == "Welch's t test over seeds" and pair["only_a"] is None
    assert "2 and 2 seeds on 360 images" in pair["verdict"]
    assert all(row["setting"] != "seed" for row in facts["settings"])
    assert [p.name for p in (runs / "groups").iterdir()] == ["curves.png"]
    assert cnn("compare", "good/", "first/", "-o", "mixed") == 2
    assert "seeds can only be compared with seeds" in capsys.readouterr().err


def test_what_cannot_be_compared(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    for arguments, message in (
        (("first/",), "takes 2 to 26 runs"),
        (("first/", "nowhere/"), "nowhere"),
        (("first/", "second/", "--split", "val"), "no val split"),
        (("first/", "second/", "--split", "all"), "--split must be"),
    ):
        assert cnn("compare", *arguments, "-o", "none") in (1, 2)
        assert message in capsys.readouterr().err, arguments
    assert not (runs / "none").exists()
