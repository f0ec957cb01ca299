"""What a run says before its first epoch, and when it slows down."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import yaml

from cnn_cli.errors import UsageError
from cnn_cli.settings import as_typed, not_inherited, resolve, unknown_variables
from cnn_cli.training import run as run_module
from cnn_cli.training.epoch_log import Progress, epoch_line
from cnn_cli.training.epoch_log import header as epoch_header
from cnn_cli.training.run_report import _wrapped

pytestmark = pytest.mark.usefixtures("quick")

ADAM = {"optimizer": "adam", "lr": 0.003, "weight_decay": 0.1, "epochs": 7}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_smoothing": 0.1, "mixup": 0.2}, "training loss with label smoothing and mixup, evaluation without"),
        ({"class_weights": "balanced"}, "training loss with class weights, evaluation without"),
        ({}, None),
    ],
)
def test_the_header_says_where_the_two_losses_differ(tmp_path: Path, options: Any, words: str | None) -> None:
    said: list[str] = []
    request = small.request(tmp_path, epochs=1, **options)
    run_module.begin(replace(request, say=said.append))
    assert (words or "") in "".join(said) and ("evaluation without" in "".join(said)) == (words is not None)


def test_the_header_shows_defaults_only_when_asked(tmp_path: Path) -> None:
    for verbose in (False, True):
        said: list[str] = []
        request = small.request(tmp_path, f"run{verbose}", epochs=1, optimizer="sgd")
        run_module.begin(replace(request, args={"classes": 10}, say=said.append, verbose=verbose))
        header = "".join(said)
        assert ("defaults " in header) == ("clip_grad_norm none" in header) == verbose
        assert "options    classes 10, epochs 1, optimizer sgd\n" in header
        config = yaml.safe_load((tmp_path / f"run{verbose}" / "config.yaml").read_text())
        assert config["args"] == {"classes": 10}
        assert "not used   lr 0.01 (for optimizer adam), of the spec\n" in header


def test_a_repeated_run_shows_what_its_config_changes(tmp_path: Path) -> None:
    first = small.begin(tmp_path, "first", epochs=1, flip="random", optimizer="sgd")
    config = first / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: {value: 128", "batch_size: {value: 99"))
    said: list[str] = []
    request = replace(small.request(tmp_path, "again", shift=1), network=str(config), say=said.append)
    run_module.begin(request)
    header = " ".join(" ".join(said).split())
    assert " options shift 1 config epochs 1, batch_size 99, optimizer sgd, flip random, fast " in header
    assert " spec data digits not used lr 0.01 (for optimizer adam), of the spec run " in header


def test_an_epoch_without_evaluation_leaves_no_gap() -> None:
    row = {"epoch": 1, "train_loss": 4.147e8, "train_accuracy": 0.5, "lr": 0.1, "images_per_second": 9, "seconds": 1}
    lines = [epoch_header(1, ""), epoch_line(row, 1, "")]
    assert lines[0].split() == ["epoch", "train", "loss", "accuracy", "lr", "images/s", "time"]
    assert [line.index(end) + len(end) for line, end in zip(lines, ("accuracy", "50.00%"), strict=True)] == [29, 29]
    assert len(lines[0]) == len(lines[1]) and "4.147e+08" in lines[1]


@pytest.mark.parametrize(("epoch", "epochs"), [(1, 9), (20, 100), (0.001, 0.001), (7, 12000)])
def test_the_titles_of_the_epochs_stay_above_their_figures(epoch: float, epochs: float) -> None:
    row = {"epoch": epoch, "train_loss": 2, "train_accuracy": 0.5, "lr": 0.1, "images_per_second": 9, "seconds": 1}
    lines = [epoch_header(epochs, ""), epoch_line(row, epochs, "")]
    assert len(lines[0]) == len(lines[1])
    assert len(epoch_header(epochs, "test")) <= (80 if len(str(epochs)) < 5 else 82)
    assert lines[0].index("accuracy") + len("accuracy") == lines[1].index("50.00%") + len("50.00%")


def test_a_run_rounded_up_to_an_epoch_is_logged_as_the_fraction_asked_for(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=0.5, batch_size=2000)  # 1,437 images: one step is the whole epoch
    assert json.loads((run / "metrics.jsonl").read_text())["epoch"] == 0.5


def test_threads_are_set_and_shown(tmp_path: Path) -> None:
    said: list[str] = []
    request = small.request(tmp_path, epochs=1)
    run_module.begin(replace(request, say=said.append, threads=2))
    assert "device     cpu, 2 threads\n" in "".join(said)
    with pytest.raises(UsageError, match="--threads must be at least 1, not 0"):
        run_module.begin(replace(request, output=tmp_path / "none", threads=0))


def test_a_sudden_loss_of_throughput_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def row(rate: float, seconds: float = 30) -> dict[str, float]:
        return {"images_per_second": rate, "seconds": seconds}

    bar = Progress(5, 10, 0, "test")
    for history in ([row(900)], [row(900), row(301)], [row(900), row(200, 1)], [row(900), row(250), row(240)]):
        bar.slowdown(history)
    assert capsys.readouterr().err == ""
    bar.slowdown([row(4264), row(246)])
    assert "throughput fell from 4,264 to 246 images/s" in capsys.readouterr().err


def test_the_header_names_what_it_does_not_inherit() -> None:
    settings = resolve({"optimizer": "sgd"}, {}, ADAM)
    assert not_inherited(settings, ADAM) == ["lr 0.003 (for optimizer adam)", "weight_decay 0.1 (for optimizer adam)"]
    assert not_inherited(resolve({}, {}, ADAM), ADAM) == []
    assert not_inherited(resolve({"optimizer": "sgd", "lr": 1, "weight_decay": 0}, {}, ADAM), ADAM) == []
    grouped = {"optimizer": "muon", "groups": [{"parameters": "*.bias", "lr": 0.01, "epochs": 2}]}
    own = {"optimizer": "sgd", "groups": [{"parameters": "*.bias", "lr": 0.1}]}
    assert not_inherited(resolve({"optimizer": "sgd"}, {}, grouped), grouped) == [
        "groups settings (for optimizer muon)"
    ]
    assert not_inherited(resolve(own, {}, grouped), grouped) == []


def test_variables_that_nothing_reads_are_named() -> None:
    environ = {"CNN_LR": "1", "CNN_TIMEOUT": "9", "CNN_BATCHSIZE": "3", "CNN_OF_MINE": "x", "HOME": "/"}
    assert unknown_variables(environ) == [
        "warning: unknown variable CNN_BATCHSIZE is ignored. Did you mean 'CNN_BATCH_SIZE'?",
        "warning: unknown variable CNN_OF_MINE is ignored.",
    ]


def test_settings_are_shown_whole_as_yaml() -> None:
    groups = [{"parameters": ("*.bias", "*.norm.weight", "head.*", "box.*"), "optimizer": "adamw", "lr": 0.006}]
    assert as_typed(groups) == (
        "[{parameters: ['*.bias', '*.norm.weight', head.*, box.*], optimizer: adamw, lr: 0.006}]"
    )
    assert as_typed({"*": "whitening"}) == "{'*': whitening}" and as_typed([]) == as_typed(None) == "none"


def test_long_lists_break_after_a_comma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = "channels-last,fused-optimizer,pool-before-relu,crop-unused,keep-memory"
    lines = _wrapped("options", f"data digits, fast {names}").splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.rstrip().endswith(",") for line in lines[:-1])
