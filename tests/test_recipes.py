"""Recipes lie over `train:`; several seeds make a mean with its deviation; both through the command."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
import yaml
from pictures import cnn as command

from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.errors import SpecError, StoppedError, UsageError
from cnn_cli.language.registry import find
from cnn_cli.training import run as run_module
from cnn_cli.training import seeds
from cnn_cli.training.eval_report import EvaluationRequest
from cnn_cli.training.request import Request
from cnn_cli.training.resumption import run_to_resume

SPEC = (
    small.SPEC
    + """
  recipes:
    quick: {epochs: 1, lr: 0.02, schedule: linear}
    tuned: {optimizer: sgd, momentum: 0.5}
"""
)


pytestmark = pytest.mark.usefixtures("quick")


def begin(folder: Path, recipe: str, **options: Any) -> dict[str, Any]:
    request = small.request(folder, recipe, SPEC, **options)
    run_module.begin(Request(**{**vars(request), "recipe": recipe}))
    settings: dict[str, Any] = yaml.safe_load((folder / recipe / "config.yaml").read_text())["settings"]
    return settings


def test_a_recipe_lies_over_train_and_under_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNN_LR", "0.03")
    found = begin(tmp_path, "quick", epochs=2)
    pairs = {name: (entry["value"], entry["source"]) for name, entry in found.items()}
    assert pairs["epochs"] == (2, "option") and pairs["lr"] == (0.03, "CNN_LR")
    assert pairs["schedule"] == ("linear", "recipe") and pairs["batch_size"] == (128, "spec")
    assert pairs["shuffle"] == (True, "default")


def test_an_unknown_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"small has no recipe 'quik'. Did you mean 'quick'\? Its recipes: quick, tuned"
    ):
        begin(tmp_path, "quik")
    with pytest.raises(UsageError, match="lenet-5 has no recipes; leave out --recipe"):
        run_module.begin(Request("lenet-5", {}, recipe="fast"))


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        ("quick: {epoch: 3}", r"recipes\.quick: unknown training setting 'epoch'. Did you mean 'epochs'\?"),
        ("quick: {momentum: 0.9}", "momentum applies only to optimizer sgd or muon, not adam"),
        (
            "Quick: {epochs: 3}",
            "invalid recipe name 'Quick'; start with a lowercase letter, then lowercase letters",
        ),
        ("quick: 3", "must be a mapping, not 3"),
    ],
)
def test_mistakes_in_recipes_are_found(tmp_path: Path, recipe: str, error: str) -> None:
    (tmp_path / "wrong.yaml").write_text(small.SPEC + f"  recipes:\n    {recipe}\n")
    with pytest.raises(SpecError, match=error):
        find(str(tmp_path / "wrong.yaml")).checked()


def test_a_mistake_in_train_is_told_there_and_not_in_a_recipe_over_it(tmp_path: Path) -> None:
    spec = small.SPEC.replace("epochs: 2", "epochs: ten") + "  recipes:\n    one: {warmup: 20}\n"
    (tmp_path / "wrong.yaml").write_text(spec)
    with pytest.raises(SpecError, match="train: epochs must be a number above 0, not 'ten'"):
        find(str(tmp_path / "wrong.yaml")).checked()


def test_what_a_recipe_adds_may_belong_to_what_it_changes(tmp_path: Path) -> None:
    found = begin(tmp_path, "tuned", epochs=1)
    assert (found["optimizer"]["value"], found["momentum"]["value"]) == ("sgd", 0.5)


# --- Several seeds --------------------------------------------------------------------------------------------------


def test_several_seeds_are_as_many_runs(tmp_path: Path) -> None:
    result = seeds.train_seeds(small.request(tmp_path, "many", epochs=2, seed=5), 3)
    document = result.document()
    single = [small.begin(tmp_path, f"one{seed}", epochs=2, seed=seed) for seed in (5, 6, 7)]
    for seed, run in zip((5, 6, 7), single, strict=True):
        assert small.same(small.last(tmp_path / "many" / f"seed-{seed}")["network"], small.last(run)["network"])
    figures = [json.loads((run / "eval.json").read_text())["accuracy"] for run in single]
    assert [run["accuracy"] for run in document["runs"]] == figures
    assert document["accuracy"]["mean"] == pytest.approx(statistics.fmean(figures))
    assert document["accuracy"]["deviation"] == pytest.approx(statistics.stdev(figures))
    assert json.loads((tmp_path / "many" / "seeds.json").read_text()) == document
    text = result.text()
    assert "small on digits, test, 3 seeds" in text and f"± {statistics.stdev(figures):.2%} (mean ± standard" in text
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_several_seeds_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    request = small.request(tmp_path, "many", epochs=1)
    request = Request(**{**vars(request), "command": "cnn train small.yaml --seeds 2 -o many"})
    whole = seeds.train_seeds(small.request(tmp_path, "whole", epochs=1), 2).document()
    with small.at_step(5, small.interrupt), pytest.raises(StoppedError) as stopped:
        seeds.train_seeds(request, 2)
    assert str(stopped.value).endswith(
        "stopped at seed 0\nresume with: cnn train small.yaml --seeds 2 -o many --resume"
    )
    assert stopped.value.exit_code == 143
    with pytest.raises(UsageError, match="is not empty; resume with --resume"):
        seeds.train_seeds(request, 2)
    document = seeds.train_seeds(request, 2, None, True).document()
    assert [r["accuracy"] for r in document["runs"]] == [r["accuracy"] for r in whole["runs"]]


def test_seeds_begin_where_asked_and_go_on_in_the_folder_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNN_SEED", "7")
    request = Request(**{**vars(small.request(tmp_path, epochs=1)), "output": None})
    document = seeds.train_seeds(request, 2).document()
    assert [run["seed"] for run in document["runs"]] == [7, 8] and Path(document["folder"]).name == "small-1"
    with pytest.raises(UsageError, match=r"name the folder of the seeds: cnn train .* FOLDER --seeds N --resume"):
        seeds.train_seeds(request, 2, None, True)
    other = Request(**{**vars(request), "options": {}})  # a new seed takes over what the others began with
    again = seeds.train_seeds(other, 3, Path("runs/small-1"), True).document()
    assert again["runs"][:2] == document["runs"] and [run["epoch"] for run in again["runs"]] == [1, 1, 1]


def test_a_folder_of_seeds_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "many" / "seed-0").mkdir(parents=True)
    with pytest.raises(
        UsageError, match="many holds no run to resume: it holds runs with several seeds; add --seeds N"
    ):
        run_to_resume(small.request(tmp_path), tmp_path / "many")


def test_a_folder_of_seeds_is_not_evaluated_as_a_run(tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / "many" / f"seed-{seed}").mkdir(parents=True)
    with pytest.raises(UsageError, match="many holds runs with several seeds; name one of them, such as "):
        load_network(str(tmp_path / "many"))


def test_a_folder_of_seeds_is_evaluated_as_one(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = seeds.train_seeds(small.request(quick, "many", epochs=1, seed=5), 2).document()
    request = EvaluationRequest(data_dir=quick)
    evaluated = seeds.evaluate_seeds(quick / "many", request, torch.device("cpu")).document()
    assert evaluated == trained
    other = seeds.evaluate_seeds(quick / "many", replace(request, split="train"), torch.device("cpu")).document()
    assert other["split"] == "train" and [run["seed"] for run in other["runs"]] == [5, 6]
    assert (quick / "many" / "seed-6" / "eval-train.json").is_file()
    assert seeds.seed_runs(quick) == {}


def test_options_of_eval_hold_for_a_folder_of_seeds_too(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds.train_seeds(small.request(quick, "many", epochs=1), 2)
    before = sorted(path.name for path in (quick / "many" / "seed-1").iterdir())
    shared = ("eval", "many", "--data-dir", "data", "--json")
    assert command(*shared, "--split", "train", "-o", "out") == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(quick / "out")
    assert sorted(path.name for path in (quick / "many" / "seed-1").iterdir()) == before
    assert (quick / "out" / "seed-0" / "eval-train.json").is_file()
    assert command(*shared, "--weights", "many/seed-0") == 2
    assert capsys.readouterr().err == "error: many contains runs with their own weights; leave out --weights\n"
    assert command(*shared, "--set", "classes=7") == command(*shared, "--input", "1x12x12") == 2


def test_seeds_need_images_to_compare_on(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for n in range(4):
            small.picture(tmp_path / "images" / "train" / label / f"{n}.png", 8, 8, "L", seed=n)
    with pytest.raises(UsageError, match="neither test nor val images to compare seeds on"):
        seeds.train_seeds(small.request(tmp_path, epochs=1, data=str(tmp_path / "images")), 3)
    assert not (tmp_path / "run" / "seed-1").exists()


def test_one_seed_is_not_several(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--seeds must be at least 2, not 1; for one run, use --seed"):
        seeds.train_seeds(small.request(tmp_path), 1)
