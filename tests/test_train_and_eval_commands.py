"""The commands train and eval as they are typed: what goes to which stream, what is written, which code they return."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import small_runs as small
import torch
import yaml
from PIL import Image
from sklearn.metrics import classification_report, confusion_matrix

import cnn_cli
from cnn_cli.cli import main
from cnn_cli.data.loading import load_dataset


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Cnn = Callable[..., Ended]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of this file run, with a spec and a trained network in it."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("work")
    (path / "small.yaml").write_text(small.SPEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(sys, "argv", ["cnn", "train", "small.yaml", "--epochs", "3", "--data-dir", "none"])
        with pytest.raises(SystemExit, match="0"):
            main()
    return path


@pytest.fixture
def cnn(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cnn:
    """Run a command in `folder`, in this process, and without drawing: pictures take half a second each."""
    monkeypatch.chdir(folder)
    small.without_pictures(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["cnn", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err and code != 70, err
        return Ended(code, out, err)

    return run


def test_a_run_says_what_it_does_and_where_everything_is(cnn: Cnn, folder: Path) -> None:
    ended = cnn("train", "small.yaml", "--epochs", 2, "--batch-size", 100, "--input", "1x10x10", "-o", "said")
    assert ended.code == 0
    assert ended.err.splitlines()[:5] == [
        "network    small, input 1x10x10, 1,042 parameters",
        "data       digits: 1,437 training images, 360 for testing; 10 classes",
        "           digits: 1x8x8 enlarged to 1x10x10",
        "loss       cross-entropy",
        "optimizer  adam, lr 0.01 for 6 tensors (1,042 parameters)",
    ]
    assert max(map(len, ended.err.splitlines())) <= 80
    assert "options    epochs 2, batch_size 100\nspec       data digits, optimizer adam, lr 0.01\n" in ended.err
    assert "device     cpu, 1 thread\n" in ended.err and "schedule constant" not in ended.err
    assert re.search(
        r"^   1/2  +\d\.\d{4} +\d+\.\d\d% +\d\.\d{4} +\d+\.\d\d% +0\.01 +[\d,]+ +\d\.\ds$", ended.err, re.M
    )
    first, second, empty, *paths = ended.out.splitlines()
    assert first == "small on digits, test: 360 images, weights of epoch 2"
    assert re.fullmatch(r"accuracy \d+\.\d\d%(   balanced \d+\.\d\d%)?   macro F1 0\.\d{3}   loss \d\.\d{4}", second)
    assert empty == "" and paths[0].split()[0] == "weights"
    for name in ("best.safetensors", "last.pt", "metrics.jsonl", "config.yaml", "curves.png", "confusion_matrix.png"):
        assert f"  {folder}/said/{name}\n" in ended.out + "\n"
    for picture in ("curves.png", "confusion_matrix.png"):
        with Image.open(folder / "runs" / "small-1" / picture) as image:
            assert image.format == "PNG" and image.width > 500


def test_a_run_can_be_repeated_from_its_config(cnn: Cnn, folder: Path) -> None:
    config = yaml.safe_load((folder / "runs" / "small-1" / "config.yaml").read_text())
    assert config["command"] == "cnn train small.yaml --epochs 3 --data-dir none"
    assert config["settings"]["epochs"] == {"value": 3, "source": "option"}
    assert config["settings"]["lr"] == {"value": 0.01, "source": "spec"}
    assert config["settings"]["shuffle"] == {"value": True, "source": "default"}
    assert config["data"]["classes"] == list("0123456789") and config["data"]["images"] == {"train": 1437, "test": 360}
    assert set(config["versions"]) == {"cnn", "torch", "python"} and config["device"].startswith("cpu")
    (folder / "again.yaml").write_text(yaml.safe_dump(config["spec"]))
    assert cnn("train", "again.yaml", "--epochs", 3, "-o", "again").code == 0
    assert small.same(cnn_cli.load(folder / "again").state_dict(), cnn_cli.load(folder / "runs/small-1").state_dict())


def test_settings_come_from_option_variable_spec_default(
    cnn: Cnn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNN_LR", "2e-3")
    monkeypatch.setenv("CNN_EPOCHS", "7")
    monkeypatch.setenv("CNN_SHUFFLE", "false")
    assert cnn("train", "small.yaml", "--epochs", 1, "-o", "sources").code == 0
    settings = yaml.safe_load((folder / "sources" / "config.yaml").read_text())["settings"]
    found = {name: (s["value"], s["source"]) for name, s in settings.items()}
    assert (
        found["epochs"] == (1, "option")
        and found["lr"] == (0.002, "CNN_LR")
        and found["shuffle"] == (False, "CNN_SHUFFLE")
    )
    assert found["batch_size"] == (128, "spec") and found["seed"] == (0, "default")
    monkeypatch.setenv("CNN_LR", "fast")
    assert cnn("train", "small.yaml").err == "error: CNN_LR must be a number above 0, not 'fast'\n"


def test_train_json_is_one_document(cnn: Cnn, folder: Path) -> None:
    ended = cnn("train", "small.yaml", "--epochs", 1, "--json", "-o", "as-json")
    document = json.loads(ended.out)
    assert (document["network"], document["data"], document["epochs"], document["best_epoch"]) == (
        "small",
        "digits",
        1,
        1,
    )
    assert document["run"] == str(folder / "as-json")
    assert document["last_epoch"]["test_accuracy"] == document["result"]["accuracy"]
    assert all(Path(path).is_file() for path in document["files"].values())


def test_resume_in_every_way_it_is_typed(cnn: Cnn, folder: Path) -> None:
    cnn("train", "small.yaml", "--epochs", 1, "-o", "more")
    for epochs, arguments in enumerate(
        [("small.yaml", "--resume", "more"), ("small.yaml", "-o", "more", "--resume"), ("more", "--resume")], 2
    ):
        ended = cnn("train", *arguments, "--epochs", epochs)
        assert ended.code == 0, ended.err
        assert f"resumed    at the start of epoch {epochs}\n" in ended.err
    assert cnn("train", "more", "--resume").err == "more is finished (4 epochs); train longer with --epochs N\n"
    assert cnn("train", "small.yaml", "--resume").err.startswith("runs/small-1 is finished")


def test_eval_counts_as_scikit_learn_does(cnn: Cnn, folder: Path) -> None:
    document = json.loads(cnn("eval", "small", "--json").out)
    network, test = cnn_cli.load(folder / "runs" / "small-1"), load_dataset("digits", folder).splits["test"]
    assert isinstance(test.images, torch.Tensor)
    outputs = network(test.images.float() / 255)
    predicted = outputs.argmax(1)
    reference = classification_report(test.targets, predicted, output_dict=True, zero_division=0)
    assert document["accuracy"] == pytest.approx(reference["accuracy"])
    assert document["macro_f1"] == pytest.approx(reference["macro avg"]["f1-score"])
    assert document["loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, test.targets).item(), rel=1e-6)
    assert document["confusion_matrix"] == confusion_matrix(test.targets, predicted).tolist()
    assert [c["recall"] for c in document["per_class"]] == pytest.approx(
        [reference[str(i)]["recall"] for i in range(10)]
    )
    keys = {"network", "data", "split", "n", "loss", "accuracy", "per_class", "confusion_matrix", "checkpoint"}
    assert keys <= set(document)
    assert document["checkpoint"] == str(folder / "runs" / "small-1" / "best.safetensors")
    assert json.loads((folder / "runs" / "small-1" / "eval.json").read_text()) == document


def test_eval_tables(cnn: Cnn) -> None:
    text = cnn("eval", "small").out
    assert text.startswith("small on digits, test: 360 images\naccuracy ")
    assert "class  images  precision  recall     F1  recall from  to (95%)\n" in text
    assert "true \\ predicted" in text and max(map(len, text.splitlines())) <= 80
    rows = list(csv.DictReader(io.StringIO(cnn("eval", "small", "--csv").out)))
    document = json.loads(cnn("eval", "small", "--json").out)
    assert [float(row["f1"]) for row in rows] == [c["f1"] for c in document["per_class"]]
    assert cnn("eval", "small", "--markdown").out.startswith(
        "| class | images | precision | recall | F1 | recall from | to (95%) |\n| --- | ---:"
    )


def test_eval_names_a_network_in_every_way(cnn: Cnn, folder: Path, tmp_path: Path) -> None:
    expected = json.loads(cnn("eval", "small", "--json").out)
    for name in ("small.yaml", "runs/small-1", "runs/small-1/best.safetensors", "runs/small-1/last.pt"):
        found = json.loads(cnn("eval", name, "--json").out)
        assert {k: v for k, v in found.items() if k != "checkpoint"} == {
            k: v for k, v in expected.items() if k != "checkpoint"
        }
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "runs" / "small-1" / "best.safetensors").read_bytes())
    ended = cnn("eval", alone, "--split", "train", "-o", tmp_path / "out")
    assert "small on digits, train: 1,437 images" in ended.out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "eval-train.json",
        "confusion_matrix-train.png",
        "reliability-train.png",
    }
    assert {p.name for p in tmp_path.iterdir()} == {"alone.safetensors", "out"}


def test_the_val_split_is_that_of_the_run(cnn: Cnn, folder: Path) -> None:
    cnn("train", "small.yaml", "--epochs", 1, "--val-fraction", 0.3, "--seed", 5, "-o", "with-val")
    history = small.last(folder / "with-val")["history"]
    found = json.loads(cnn("eval", "with-val", "--split", "val", "--json").out)
    assert (found["loss"], found["accuracy"]) == (history[0]["val_loss"], history[0]["val_accuracy"])


def test_data_are_found_again_where_they_were(cnn: Cnn, folder: Path, tmp_path: Path) -> None:
    for prefix, n in (("train", 40), ("t10k", 20)):
        pictures, labels = np.random.default_rng(n).integers(0, 256, (n, 28, 28)), np.arange(n) % 10
        small.write_idx(tmp_path / "MNIST" / "raw", f"{prefix}-images-idx3-ubyte", pictures)
        small.write_idx(tmp_path / "MNIST" / "raw", f"{prefix}-labels-idx1-ubyte", labels)
    ended = cnn("train", "small.yaml", "--data", "mnist", "--data-dir", tmp_path, "--epochs", 1, "-o", "found")
    assert "mnist: 1x28x28 reduced to 1x8x8\n" in ended.err
    assert cnn("eval", "found").out.startswith("small on mnist, test: 20 images\n")
    assert cnn("train", "found", "--resume", "--epochs", 2).code == 0


def test_labels_are_matched_by_name(cnn: Cnn, tmp_path: Path) -> None:
    """A folder with some of the classes, which a reader of folders would number from 0."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(1437, 1797):
        if digits.target[i] in (3, 7, 8):
            path = tmp_path / "mine" / str(digits.target[i]) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(digits.images[i] * 255 / 16).astype(np.uint8)).save(path)
    ended = cnn("eval", "small", "--data", tmp_path / "mine", "--json", "-o", tmp_path / "out")
    found, whole = json.loads(ended.out), json.loads(cnn("eval", "small", "--json").out)
    for label in (3, 7, 8):
        assert found["confusion_matrix"][label] == whole["confusion_matrix"][label]
    assert found["n"] == sum(whole["per_class"][i]["n"] for i in (3, 7, 8))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "eval-mine-test.json",
        "confusion_matrix-mine-test.png",
        "reliability-mine-test.png",
    }
    (tmp_path / "mine" / "3").rename(tmp_path / "mine" / "three")
    ended = cnn("eval", "small", "--data", tmp_path / "mine")
    assert ended.code == 2
    assert ended.err == (
        f"error: {tmp_path}/mine has classes that the network does not know: three\n"
        "it was trained on 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; labels are matched by class name\n"
    )


def test_many_classes_are_told_by_their_largest_confusions() -> None:
    from cnn_cli.tasks.classification_result import ClassificationResult

    matrix = (np.eye(30, dtype=int) * 5).tolist()
    matrix[4][17], matrix[20][2] = 3, 9
    names = tuple(f"class {i}" for i in range(30))
    text = ClassificationResult("test", 0.5, matrix, names).text()
    table = text.split("most frequent confusions\n")[1].splitlines()
    assert [line.split() for line in table[2:]] == [
        ["class", "20", "class", "2", "9"],
        ["class", "4", "class", "17", "3"],
    ]


def test_two_classes_and_one_output(cnn: Cnn, folder: Path, tmp_path: Path) -> None:
    for i in range(24):
        path = tmp_path / "sky" / ("day" if i % 2 else "night") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 100, (8, 8), dtype=np.uint8)
        Image.fromarray(noise + np.uint8(150 * (i % 2))).save(path)
    (folder / "one.yaml").write_text(small.SPEC.replace("small:", "one:").replace("Linear: $classes", "Linear: 1"))
    ended = cnn("train", "one.yaml", "--data", tmp_path / "sky", "--epochs", 15, "-b", 4, "-o", "one", "--json")
    assert ended.code == 0, ended.err
    assert "loss       binary cross-entropy\n" in ended.err
    result = json.loads(ended.out)["result"]
    assert (result["accuracy"], result["classes"], result["n"]) == (1, ["day", "night"], 4)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["train", "smal"], 2, "unknown network 'smal'"),
        (["check", "/dev/null"], 2, "unknown network '/dev/null'. `cnn list` shows all; for a file, write FILE.yaml"),
        (["eval", "runs/smal"], 2, "runs/smal: no such file or folder; `cnn runs` lists the runs, `cnn list` the "),
        (["train", "small.yaml", "--optimizer", "adm"], 2, "--optimizer must be sgd, adam, adamw or muon, not 'adm'."),
        (["train", "small.yaml", "--lr", "0"], 2, "--lr must be a number above 0, not 0"),
        (["train", "small.yaml", "--epochs", "0"], 2, "--epochs must be a number above 0, not 0"),
        (["train", "small.yaml", "--momentum", "0.5"], 2, "--momentum: momentum applies only to optimizer sgd or"),
        (["train", "small.yaml", "--device", "cuda:7"], 2, "--device cuda:7: there "),
        (["train", "small.yaml", "--device", "gpu"], 2, "--device gpu: must be auto, cpu, cuda, cuda:N or mps"),
        (["train", "small.yaml", "--data", "digit"], 2, "data digit: no such data set or folder. Did you mean"),
        (["train", "small.yaml", "--set", "classes=3"], 2, "small outputs 3 scores, but the data has 10"),
        (["train", "small.yaml", "runs/small-1"], 2, "unexpected 'runs/small-1'; to resume a run, add --resume"),
        (["train", "runs/small-1"], 2, "runs/small-1 is a run or checkpoint; add --resume to resume a run, "),
        (["train", "small.yaml", "-o", "small.yaml"], 2, "small.yaml is a file; choose a folder with -o"),
        (["train", "small.yaml", "-o", "small.yaml/run"], 1, "cannot write to small.yaml/run: Not a directory; "),
        (["train", "lenet-5", "--resume"], 2, "no run of lenet-5 in "),
        (["train", "lenet-5", "--resume", "runs/small-1"], 2, "runs/small-1 is a run of small, not of lenet-5"),
        (["train", "small.yaml", "--resume", "nowhere"], 2, "nowhere holds no run to resume: it has no last.pt"),
        (["train", "lenet-5", "--data", "digits", "--val-fraction", "0.95"], 2, "--val-fraction must be a number"),
        (["eval", "lenet-5"], 2, "no trained weights for lenet-5 in "),
        (["eval", "small", "--split", "dev"], 2, "--split must be test, val or train, not 'dev'"),
        (["eval", "small", "-b", "0"], 2, "--batch-size must be an integer of at least 1, not 0"),
        (["eval", "small", "-j", "-1"], 2, "--workers must be an integer from 0 to 256, not -1"),
        (["eval", "small", "--split", "val"], 2, "digits has no val split; it has train, test"),
        (["eval", "nothing.safetensors"], 1, "cannot read nothing.safetensors: No such file or directory"),
        (["eval", "small.yaml", "--csv", "--markdown"], 2, "--json, --csv and --markdown exclude each other"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)  # fmt: skip
def test_mistakes_end_in_one_line_and_leave_nothing(
    cnn: Cnn, folder: Path, arguments: list[str], code: int, error: str
) -> None:
    before = sorted(folder.rglob("*"))
    ended = cnn(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(f"error: {error}")
    assert sorted(folder.rglob("*")) == before


def test_names_cannot_steer_the_terminal(cnn: Cnn, tmp_path: Path) -> None:
    root = tmp_path / "evil\x1b[31m"
    for name in ("a\x1b]0;title\x07", "=b[bold]\u202e"):
        for i in range(4):
            path = root / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), i * 60).save(path)
    ended = cnn("train", "small.yaml", "--data", root, "--epochs", 1, "-b", 4, "-o", tmp_path / "run")
    shown = (
        ended.out + ended.err + "".join(cnn("eval", tmp_path / "run")[1:]) + cnn("eval", tmp_path / "run", "--csv").out
    )
    assert ended.code == 0
    assert not [c for c in shown if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e"]
    assert json.loads(cnn("eval", tmp_path / "run", "--json").out)["classes"] == [
        "=b[bold]\u202e",
        "a\x1b]0;title\x07",
    ]
