"""`cnn train` with a run in place of a network: its weights are fine-tuned, or the run is repeated."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs as small
import torch
import yaml
from pictures import cnn

from cnn_cli.checkpoints import checkpoint
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.training import run as run_module

pytestmark = pytest.mark.usefixtures("quick")

OPTIONS = {"epochs": 1, "optimizer": "sgd", "lr": 0.02, "seed": 3, "flip": "random", "fast": "none", "batch_size": 64}


def images(folder: Path) -> Path:
    for label in ("a", "b", "c"):
        for n in range(8):
            small.picture(folder / "images" / "train" / label / f"{n}.png", 8, 8, "L", seed=n)
    return folder / "images"


def begin(folder: Path, network: Path, output: str, **options: object) -> Path:
    run_module.begin(replace(small.request(folder, output, **options), network=str(network)))
    return folder / output


def test_a_run_repeats_bit_for_bit_from_its_config(tmp_path: Path) -> None:
    first = small.begin(tmp_path, "first", **OPTIONS)
    torch.manual_seed(99)
    again = begin(tmp_path, first / "config.yaml", "again")
    assert small.same(small.without_times(small.last(again)), small.without_times(small.last(first)))
    third = begin(tmp_path, again / "config.yaml", "third", optimizer="adam")  # lr 0.02 was for sgd
    settings = yaml.safe_load((third / "config.yaml").read_text())["settings"]
    assert (settings["lr"]["value"], settings["seed"]["value"], settings["optimizer"]["value"]) == (0.01, 3, "adam")


def test_a_fine_tuned_run_repeats_from_its_config(tmp_path: Path) -> None:
    first = small.begin(tmp_path, "first", normalize={"mean": [0.3], "std": [0.4]}, epochs=1)
    tuned = begin(tmp_path, first, "tuned", data=str(images(tmp_path)), epochs=1)
    again = begin(tmp_path, tuned / "config.yaml", "again")
    assert small.same(small.without_times(small.last(again)), small.without_times(small.last(tuned)))
    assert checkpoint.load_network(str(again)).preprocessing == checkpoint.load_network(str(tuned)).preprocessing


@pytest.mark.parametrize("file", ["", "best.safetensors"])
def test_a_run_is_fine_tuned_on_other_data(tmp_path: Path, file: str) -> None:
    first = small.begin(tmp_path, "first", epochs=1)
    tuned = begin(tmp_path, first / file, "tuned", data=str(images(tmp_path)), epochs=1, lr=1e-9)
    loaded = checkpoint.load_network(str(tuned))
    assert loaded.metadata is not None and loaded.metadata.classes == ("a", "b", "c")
    before, after = checkpoint.load(first).state_dict(), checkpoint.load(tuned).state_dict()
    assert torch.allclose(before["0.weight"], after["0.weight"], atol=1e-6)
    assert after["6.weight"].shape == (3, 54)
    assert json.loads((tuned / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1


def test_a_run_without_other_data_is_refused(tmp_path: Path) -> None:
    first = small.begin(tmp_path, "first", epochs=1)
    with pytest.raises(UsageError, match="add --resume to resume a run, or --data NAME_OR_FOLDER to fine-tune"):
        begin(tmp_path, first, "again")


@pytest.mark.parametrize("text", ["{", "a: 1", "settings: {lr: 3}", "[]", "\x00"])
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CnnError, match=r"config\.yaml is not the config\.yaml of a run, or is damaged"):
        begin(tmp_path, tmp_path / "config.yaml", "run")


def test_a_run_is_found_by_its_name_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small.begin(tmp_path, "runs/mine-1", epochs=0.1)
    assert cnn("summary", "mine-1") == cnn("check", "mine-1") == cnn("predict", "mine-1", "--index", "0") == 0
    assert cnn("eval", "mine-1") == cnn("train", "mine-1", "--resume") == 0
    assert cnn("train", "small.yaml", "--resume", "mine-1", "--epochs", "0.1") == 0
    assert checkpoint.find_weights("mine-1", "small").path == Path("runs/mine-1/best.safetensors")
    run.rename(tmp_path / "runs" / "lenet-5")  # a run of a network `lenet`
    capsys.readouterr()
    assert cnn("summary", "lenet-5") == 0 and "1x32x32" in capsys.readouterr().out
