"""The course of a run: the average that follows it, where it ends, and that it goes on with everything switched on."""

import copy
import json
import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
from torch import nn

from cnn_cli.checkpoints import checkpoint
from cnn_cli.errors import CnnError, StoppedError, UsageError
from cnn_cli.pictures import plots
from cnn_cli.training import preparation
from cnn_cli.training import run as run_module
from cnn_cli.training.ema import follow

pytestmark = pytest.mark.usefixtures("quick")


def test_the_average_follows_as_pytorchs_does() -> None:
    from torch.optim.swa_utils import AveragedModel

    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    mine = copy.deepcopy(net)
    model = AveragedModel(
        net, avg_fn=lambda a, b, n: a + (b - a) * (1 - min(0.5, (1 + n) / (10 + n))), use_buffers=True
    )
    model.update_parameters(net)  # its first call copies
    for step in range(1, 40):
        net.train()(torch.randn(5, 3)).sum().backward()
        with torch.no_grad():
            for p in net.parameters():
                p += torch.randn_like(p)
        follow(mine, net, 0.5, step)
        model.update_parameters(net)
    expected = model.module.state_dict()
    assert all(torch.allclose(t, expected[k], atol=1e-5) for k, t in mine.state_dict().items() if t.is_floating_point())
    assert torch.equal(mine.state_dict()["1.num_batches_tracked"], net.state_dict()["1.num_batches_tracked"])


def test_the_average_is_what_is_kept(tmp_path: Path) -> None:
    run, plain = small.begin(tmp_path, ema=0.9, epochs=2), small.begin(tmp_path, "plain", epochs=2)
    last = small.last(run)
    assert small.same(last["network"], small.last(plain)["network"])  # training itself is as without
    assert small.same(checkpoint.load(run).state_dict(), last["average"])
    assert not small.same(last["average"], last["network"])


def test_epochs_may_end_in_the_middle_and_go_on(tmp_path: Path) -> None:
    whole = small.begin(tmp_path, "whole", epochs=3)
    part = small.begin(tmp_path, "part", epochs=1.5)
    rows = [json.loads(line) for line in (part / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 1.5] and small.last(part)["step"] == 18
    small.resume(tmp_path, "part", epochs=3)
    assert small.same(small.last(part)["network"], small.last(whole)["network"])
    rows = [json.loads(line) for line in (part / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 1.5, 2, 3]


def test_the_best_epoch_is_the_same_for_all() -> None:
    from cnn_cli.tasks.base import rank

    order = [(0.9, math.nan), (0.5, 2.0), (0.9, 0.3), (0.9, 0.0)]
    assert sorted(order, key=lambda pair: rank(*pair)) == order
    assert rank(0.9, None) == rank(0.9, math.inf)


@pytest.mark.parametrize(("patience", "ended"), [(1, "in the last epoch\n"), (2, "in the last 2 epochs\n")])
def test_the_log_says_why_training_ended(
    patience: int, ended: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.begin(tmp_path, epochs=30, lr=0.5, val_fraction=0.2, patience=patience)
    assert f"stopped early: no improvement {ended}" in capsys.readouterr().err


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    options = {"epochs": 30, "lr": 0.5, "val_fraction": 0.2, "patience": 2}
    run = small.begin(tmp_path, **options)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    ranks = [(row["val_accuracy"], -row["val_loss"]) for row in rows]
    assert len(rows) < 30 and ranks.index(max(ranks)) == len(rows) - 3
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    small.resume(tmp_path)  # finished
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    with pytest.raises(UsageError, match="patience needs a validation split, but the data has none"):
        small.begin(tmp_path, "none", patience=2)


ALL = {
    "flip": "random", "shift": 1, "crop": 0.7, "cutout": 2, "mixup": 0.3, "cutmix": 0.5, "ema": 0.95, "tta": "flip",
    "schedule": "cosine", "warmup": 0.3, "label_smoothing": 0.1, "class_weights": "balanced", "clip_grad_norm": 1.0,
    "balanced_sampling": True, "optimizer": "muon", "precision": "bf16", "epochs": 2.5, "batch_size": 256,
    "groups": [{"parameters": "*.bias", "optimizer": "sgd", "momentum": 0.9, "nesterov": True}],
}  # fmt: skip


def test_with_everything_on_a_resumed_run_is_as_if_never_stopped(tmp_path: Path) -> None:
    whole = small.begin(tmp_path, "whole", **ALL)
    expected = small.without_times(small.last(whole))
    for step in range(1, expected["step"] + 1):
        name = f"stopped{step}"
        with small.at_step(step, small.interrupt), pytest.raises(Exception, match="stopped"):
            small.begin(tmp_path, name, **ALL)
        torch.manual_seed(99)
        run = small.resume(tmp_path, name)
        assert small.same(small.without_times(small.last(run)), expected)
        assert small.same(checkpoint.load(run).state_dict(), checkpoint.load(whole).state_dict())


@pytest.mark.parametrize("resumed", [False, True])
def test_no_images_are_in_memory_while_pictures_are_drawn(
    resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if resumed:
        small.begin(tmp_path, epochs=0.5, val_fraction=0.2)
    images: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def watch(module: Any, name: str) -> None:
        load = getattr(module, name)

        def loaded(*args: Any) -> Any:
            data = load(*args)
            images.extend(weakref.ref(split.images) for split in data.splits.values())
            return data

        monkeypatch.setattr(module, name, loaded)

    watch(run_module, "load_dataset")
    watch(preparation, "prepare")
    monkeypatch.setattr(plots, "learning_curves", lambda *_: alive.append(sum(ref() is not None for ref in images)))
    (small.resume if resumed else small.begin)(tmp_path, epochs=1, val_fraction=0.2)
    assert len(images) == 5 and alive == [0]


def test_a_signal_while_pictures_are_drawn_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plots, "confusion_picture", lambda *_, **__: small.interrupt())
        with pytest.raises(StoppedError, match=r"training is complete, .*\nresume with: cnn train"):
            small.begin(tmp_path, epochs=1)
    run = small.resume(tmp_path)
    assert all((run / name).is_file() for name in ("confusion_matrix.png", "reliability.png", "curves.png"))


def test_the_result_is_shown_before_its_pictures_are_drawn(tmp_path: Path) -> None:
    shown: dict[str, list[str]] = {}

    def announce(headline: str) -> None:
        shown[headline] = sorted(path.name for path in (tmp_path / "run").iterdir() if path.suffix in (".json", ".png"))

    result = run_module.begin(replace(small.request(tmp_path), announce=announce))
    assert result and (tmp_path / "run" / "curves.png").is_file()
    assert shown == {result.headline(): ["eval.json"]}
    assert result.text().startswith(f"{result.headline()}\n\nweights")


def test_a_damaged_result_of_a_finished_run_is_named(tmp_path: Path) -> None:
    run = small.begin(tmp_path)
    (run / "eval.json").write_text("{")
    with pytest.raises(CnnError, match=rf"{run}/eval.json is damaged \(.*\); write it again with: cnn eval {run}"):
        small.resume(tmp_path)
