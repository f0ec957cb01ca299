"""`cnn report`: the document against `cnn eval` and `cnn compare`, and runs with missing or damaged files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import cnn, make_run
from PIL import Image
from small_runs import begin, picture, without_pictures
from test_detection_runs import SPEC as BOXES
from test_detection_runs import boxes
from test_errors import MASKS
from test_html import Balance

from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.checkpoints.runs import list_runs
from cnn_cli.report.confusion import Album, confusion_section
from cnn_cli.report.result import classes_section
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tasks.classification_result import ClassificationResult


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs on digits, `one` and `two`."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        begin(folder, "one")
        begin(folder, "two", epochs=1, lr=0.001)
    return folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of `one`, to be damaged."""
    shutil.copytree(runs / "one", tmp_path / "run")
    return tmp_path / "run"


def report(*arguments: str) -> str:
    """The document of a report that is written, which is well formed, has all targets of its links, and asks for
    nothing."""
    assert cnn("report", *arguments) == 0
    path = Path(arguments[arguments.index("-o") + 1]) if "-o" in arguments else Path(arguments[0]) / "report.html"
    text, parser = path.read_text(), Balance()
    parser.feed(text)
    assert parser.open == [] and len(parser.ids) == len(set(parser.ids))
    targets = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert {t[1:] for t in targets if t.startswith("#")} <= set(parser.ids)
    assert all(t.startswith(("#", "data:image/")) for t in targets) and "<script" not in text
    return text


def test_a_run_is_reported_with_the_figures_of_its_evaluation(runs: Path) -> None:
    text, document = report(str(runs / "one")), json.loads((runs / "one" / "eval.json").read_text())
    low, high = document["intervals"]["accuracy"]
    assert f"{document['accuracy']:.2%}" in text and f"{low:.2%} to {high:.2%}" in text
    for i, row in enumerate(document["confusion_matrix"]):
        for j, n in enumerate(row):
            assert (f'href="#cell-{i}-{j}"' in text) == (n > 0) == (f'id="cell-{i}-{j}"' in text)
    shown = int(re.search(r"contains ([\d,]+) images", text)[1].replace(",", ""))  # type: ignore[index]
    assert text.count("<img") == shown + 1  # and that of the filters
    for title in (
        "Settings",
        "Network",
        "Learning curves",
        "Worst mistakes",
        "Classes",
        "Calibration",
        "Speed",
        "Environment",
    ):
        assert f">{title}</h2>" in text
    assert "command line" not in text  # options of a request, not of a command
    assert text.index(">Result</h2>") < text.index(">Settings</h2>")


def test_several_runs_begin_with_the_verdict_of_compare(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(runs / name) for name in ("one", "two")]
    text = report(*both, "-o", str(tmp_path / "both.html"))
    capsys.readouterr()
    assert cnn("compare", *both, "-o", str(tmp_path / "pictures"), "--json") == 0
    comparison = json.loads(capsys.readouterr().out)["comparisons"][0]
    assert comparison["verdict"] in text
    assert f"only B on {comparison['only_b']:,}" in text
    assert text.index("Comparison</h2>") < text.index("Run A: one</h2>") and 'id="b-confusion"' in text
    assert ">0.01</td>" in text and ">0.001</td>" in text and ">digits</td>" in text


def test_class_names_are_text(tmp_path: Path) -> None:
    classes = ("<script>alert(1)</script>", *(f"&{i}" for i in range(1, 10)))
    make_run(tmp_path / "run", "tiny-cnn", classes=classes)
    (tmp_path / "run" / "config.yaml").write_text("network: tiny-cnn\n")
    result = ClassificationResult("test", 1.0, [[1] * 10 for _ in range(10)], classes)
    (tmp_path / "run" / "eval.json").write_text(json.dumps(result.document()))
    assert "alert(1)" in report(str(tmp_path / "run"))


def test_the_arguments_of_the_network_are_among_the_settings_that_were_given(run: Path) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write("args: {stride: 4}\n")
    assert re.search(r">stride</th>|>stride</td>", report(str(run)).partition("All ")[0])


def test_a_damaged_log_and_config_are_named(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:30], "7"]))
    (run / "config.yaml").write_text("settings: [")
    text = report(str(run))
    assert "2 lines of metrics.jsonl cannot be read" in text
    assert "config.yaml cannot be read" in text and ">0.01</td>" in text  # the learning rate, from the weights


@pytest.mark.parametrize(
    ("stored", "words"), [("whole", "89"), ("[", "eval.json cannot be read"), ("", "There is no eval.json")]
)
def test_data_that_vanished(tmp_path: Path, stored: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        for i in range(12):
            picture(tmp_path / "images" / split / "ab"[i % 2] / f"{i}.png", 8, 8, "L", i)
    without_pictures(monkeypatch)
    run = begin(tmp_path, data=str(tmp_path / "images"))
    shutil.rmtree(tmp_path / "images")
    if stored != "whole":
        (run / "eval.json").write_text(stored) if stored else (run / "eval.json").unlink()
    text = report(str(run))
    assert "could not be evaluated" in text and "Learning curves" in text
    if stored == "whole":
        assert f"{json.loads((run / 'eval.json').read_text())['accuracy']:.2%}" in text
    else:
        assert words in text
    before = (run / "report.html").read_bytes()
    assert cnn("report", str(run), "--split", "test", "--force") == 2
    assert (run / "report.html").read_bytes() == before


def test_unfinished_runs_say_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "curves.png").unlink()
    assert "interrupted after 2 of 2 epochs" in report(str(run))
    (run / "diverged.txt").write_text("the loss is not finite <at step 3>")
    assert "Training diverged after 2 of 2 epochs. the loss is not finite &lt;at step 3&gt;" in report(str(run))
    monkeypatch.setattr("cnn_cli.checkpoints.runs.is_locked", lambda path: True)
    assert "in progress" in report(str(run))
    assert list_runs(run).runs[0].state == "running"
    for file in ("best.safetensors", "last.pt"):
        (run / file).unlink(missing_ok=True)
    assert cnn("report", str(run), "--force") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "nowhere"),
        (["empty/"], 1, "is not a run folder"),
        (["one", "-o", "report.txt"], 2, "must end in .html"),
        (["one", "-o", "there.html"], 2, "there.html"),
        (["one", "--split", "all"], 2, "--split must be"),
        (["one", "other"], 2, "different classes"),
        (["one"] * 9, 2, "at most 8 runs"),
    ],
)
def test_what_cannot_be_reported(
    runs: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs)
    (runs / "empty").mkdir(exist_ok=True)
    (runs / "there.html").write_text("mine")
    if not (runs / "other").is_dir():
        for i in range(12):
            for split in ("train", "test"):
                picture(runs / "images" / split / "ab"[i % 2] / f"{i}.png", 8, 8, "L", i)
        without_pictures(monkeypatch)
        begin(runs, "other", data=str(runs / "images"))
    assert cnn("report", *arguments) == code
    assert message in capsys.readouterr().err
    assert (runs / "there.html").read_text() == "mine"
    assert {path.name for path in runs.glob("*.html")} == {"there.html"}


def test_thousands_of_classes_and_a_single_one(run: Path) -> None:
    loaded, n = load_network(str(run)), 2000
    for count in (n, 1):
        matrix = [[int(i == j) + int(j == (i + 1) % count) for j in range(count)] for i in range(count)]
        result = ClassificationResult("test", 1.0, matrix, tuple(f"c{i}" for i in range(count)))
        facts = RunFacts("", "run", loaded, list_runs(run).runs[0], {}, (), result, None, None, ())
        classes, confusions = classes_section(facts), confusion_section(facts, Album(10))
        assert classes and confusions
        text = classes.markup() + confusions.markup()
        assert len(text) < 200_000
        assert ("100 of 2,000 classes" in text and "2,000 classes is too large" in text) == (count == n)


def test_masks_and_boxes_have_sections_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)
    monkeypatch.setattr("cnn_cli.pictures.plots.precision_recall_picture", lambda *given: given[2].touch())
    drawn = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for i in range(count):
            (tmp_path / "masks" / split / "masks").mkdir(parents=True, exist_ok=True)
            mask = drawn.integers(0, 3, (16, 16)).astype(np.uint8)
            Image.fromarray(mask).save(tmp_path / "masks" / split / "masks" / f"{i}.png")
            picture(tmp_path / "masks" / split / "images" / f"{i}.png", 16, 16, seed=i)
    (tmp_path / "masks" / "classes.txt").write_text("back\none\ntwo\n")
    masks = begin(tmp_path, "one", MASKS, data=str(tmp_path / "masks"))
    other = begin(tmp_path, "two", MASKS, data=str(tmp_path / "masks"), seed=1)
    document = json.loads((masks / "eval.json").read_text())
    text = report(str(masks), str(other), "-o", str(tmp_path / "masks.html"))
    for words in (
        f"{document['miou']:.2%}",
        "Worst masks",
        "predicted mask of",
        "in mIoU, with its 95% interval",
        ">mIoU</strong>",
    ):
        assert words in text
    boxes_run = begin(tmp_path, "boxes", BOXES, data=boxes(tmp_path), val_fraction=0.3)
    text = report(str(boxes_run), "--split", "val")
    for words in ("AP50", "Precision by recall", "localization", "Worst images", "detections of"):
        assert words in text
    text = report(str(boxes_run), str(boxes_run), "--split", "val", "-o", str(tmp_path / "two.html"))
    assert "Only A detects 0 objects, only B 0 (each at its own score threshold, of the best F1)." in text
