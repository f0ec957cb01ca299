"""The loop is what anybody would write by hand; the loss and the weights that are kept are the right ones."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
from torch import nn
from torch.nn import functional as F

from cnn_cli.checkpoints import checkpoint
from cnn_cli.distributed.world import World
from cnn_cli.errors import UsageError
from cnn_cli.tasks.classification_result import ClassificationResult
from cnn_cli.training import loop, optimizer, preparation
from cnn_cli.training import run as run_module
from cnn_cli.training.request import Request

pytestmark = pytest.mark.usefixtures("quick")


# --- The same mathematics -------------------------------------------------------------------------------------------


def by_hand(
    seed: int, epochs: int, batch: int, make: Any, schedule: Any, shuffle: bool = True
) -> dict[str, torch.Tensor]:
    """What `cnn train` does, as a person would write it: plain PyTorch on scikit-learn's digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images[:-360]).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.tensor(digits.target[:-360])
    n = len(labels)
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2)]
    network = nn.Sequential(*layers, nn.Linear(54, 10))
    opt = make(network.parameters())
    steps = math.ceil(n / batch)
    scheduler = schedule(opt, steps, epochs * steps)
    network.train()
    for epoch in range(1, epochs + 1):
        order = torch.arange(n)
        if shuffle:
            order = torch.randperm(n, generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32))
        for start in range(0, n, batch):
            index = order[start : start + batch]
            x, y = images[index].float() / 255, labels[index]
            opt.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            opt.step()
            scheduler.step()
    return network.state_dict()


OPTIMIZERS = {
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.05}),
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}),
}


def cosine(opt: Any, steps: int, total: int) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(opt, lambda s: (1 + math.cos(math.pi * s / total)) / 2)


SCHEDULES = {
    "constant": lambda opt, steps, total: torch.optim.lr_scheduler.LambdaLR(opt, lambda s: 1.0),
    "cosine": cosine,
    "onecycle": lambda opt, steps, total: torch.optim.lr_scheduler.OneCycleLR(
        opt, opt.defaults["lr"], total, cycle_momentum=False
    ),
    "step": lambda opt, steps, total: torch.optim.lr_scheduler.StepLR(opt, 3 * steps, 0.1),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_weights_are_those_of_a_loop_written_by_hand(tmp_path: Path, name: str, schedule: str) -> None:
    kind, settings = OPTIMIZERS[name]
    epochs, batch = (5, 512) if schedule == "step" else (2, 200)
    options = {**settings, "optimizer": name, "schedule": schedule, "epochs": epochs, "batch_size": batch, "seed": 7}
    run = small.begin(tmp_path, fast="none", **options)
    expected = by_hand(7, epochs, batch, lambda p: kind(p, **settings), SCHEDULES[schedule])
    assert small.same(checkpoint.load(run).state_dict(), expected)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "pick", lambda name: torch.device(name if ":" in name else "cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    world = World(5, 8, 1)
    assert preparation.choose_device("auto", False, world) == torch.device("cuda:1")
    with pytest.raises(UsageError, match="--device cuda:0 is for a single process"):
        preparation.choose_device("cuda:0", False, world)


def test_unshuffled_is_the_order_of_the_files(tmp_path: Path) -> None:
    run = small.begin(tmp_path, shuffle=False, epochs=1, fast="none")
    expected = by_hand(0, 1, 128, lambda p: torch.optim.Adam(p, lr=0.01), SCHEDULES["constant"], shuffle=False)
    assert small.same(checkpoint.load(run).state_dict(), expected)


@pytest.mark.parametrize("name", ["constant", "onecycle", "step"])
def test_learning_rates_are_pytorchs(name: str) -> None:
    total, steps = 37 * 7, 37
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = SCHEDULES[name](opt, steps, total)
    settings = {"lr": 0.3, "schedule": name, "step_size": 3, "gamma": 0.1, "warmup": 0}
    opt.step()
    for step in range(total):
        assert optimizer.learning_rate(step, total, steps, settings, 0.3) == opt.param_groups[0]["lr"]
        if step < total - 1:
            scheduler.step()


def test_cosine_is_pytorchs_closed_form() -> None:
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 100)
    opt.step()
    for step in range(100):
        rate = optimizer.learning_rate(step, 100, 10, {"schedule": "cosine", "warmup": 0}, 0.3)
        assert rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        scheduler.step()


def test_the_log_says_what_happened(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=3, schedule="cosine")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    keys = "epoch train_loss train_accuracy val_loss val_accuracy test_loss test_accuracy lr seconds images_per_second"
    assert set(rows[0]) == set(keys.split())
    assert rows[0]["val_loss"] is None and rows[0]["test_accuracy"] > 0.5
    assert rows[-1]["lr"] == 0.01 * (1 + math.cos(math.pi * 35 / 36)) / 2  # of the last step, not of the next
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "metrics.jsonl", "best.safetensors", "last.pt", "previous.pt", "curves.png",
        "confusion_matrix.png", "reliability.png", "eval.json",
    }  # fmt: skip


def test_a_few_images_are_learnt_by_heart(tmp_path: Path) -> None:
    """Catches labels that have slipped and gradients that pile up."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for i in range(40):
        folder = tmp_path / "pets" / "train" / f"class{i % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        noise = torch.randint(0, 256, (8, 8), dtype=torch.uint8, generator=generator)
        Image.fromarray(noise.numpy()).save(folder / f"{i}.png")
    spec = small.SPEC.replace("    - Dropout: 0.2\n", "")
    run = small.begin(tmp_path, spec=spec, data=str(tmp_path / "pets"), epochs=60, batch_size=8)
    assert small.last(run)["history"][-1]["train_accuracy"] == 1


# --- Which weights are kept -----------------------------------------------------------------------------------------


def scripted(patch: pytest.MonkeyPatch, *results: tuple[int, float]) -> None:
    """Let the evaluations on val come out as (correct of 10, loss), in this order."""
    waiting = list(results)

    def evaluate(network: Any, split: Any, *rest: Any) -> ClassificationResult:
        assert split.name == "val"
        correct, loss = waiting.pop(0)
        return ClassificationResult("val", loss, [[correct, 10 - correct], *[[0] * 10] * 9], tuple("0123456789"))

    patch.setattr(loop, "evaluate", evaluate)


def test_validation_chooses_and_test_only_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best accuracy wins, then the lower loss, and no loss that is not a number; resuming knows the best so far."""
    scripted(monkeypatch, (5, 1.0), (9, 0.8), (9, 0.7), (9, math.nan), (8, 0.1), (9, 0.7), (10, math.nan))
    small.begin(tmp_path, epochs=4, val_fraction=0.2)
    assert best_epoch(tmp_path / "run") == 3
    run = small.resume(tmp_path, epochs=7)
    assert best_epoch(run) == 3
    history = small.last(run)["history"]
    assert [row["val_loss"] for row in history] == [1.0, 0.8, 0.7, None, 0.1, 0.7, None]
    assert all(row["test_loss"] is None for row in history)
    result = json.loads((run / "eval.json").read_text())
    assert (result["split"], result["n"]) == ("test", 360)


def best_epoch(run: Path) -> int:
    loaded = checkpoint.load_network(str(run))
    assert loaded.metadata is not None
    return int(loaded.metadata.facts["epoch"])


def test_without_validation_the_last_epoch_counts(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=4, lr=0.1)
    assert best_epoch(run) == 4
    history = small.last(run)["history"]
    assert json.loads((run / "eval.json").read_text())["accuracy"] == history[-1]["test_accuracy"]


# --- Losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "loss", "name"),
    [
        ("    - LogSoftmax\n", lambda out, y: F.nll_loss(out, y), "negative log-likelihood"),
        ("    - Softmax\n", lambda out, y: F.nll_loss(out.log(), y), "cross-entropy of probabilities"),
        ("", F.cross_entropy, "cross-entropy"),
    ],
    ids=["log-probabilities", "probabilities", "logits"],
)
def test_the_loss_follows_the_outputs(tmp_path: Path, end: str, loss: Any, name: str) -> None:
    from cnn_cli.language.registry import find
    from cnn_cli.network.builder import build_plan
    from cnn_cli.tasks.selection import task_for

    (tmp_path / "ends.yaml").write_text(small.SPEC.replace("  train:", f"{end}  train:"))
    plan = find("ends.yaml")
    x, y = torch.rand(5, 1, 8, 8), torch.tensor([0, 3, 9, 1, 1])
    outputs = build_plan(plan).eval()(x)
    chosen: Any = task_for(plan, tuple("0123456789"))
    assert chosen.criterion == name
    assert chosen.objective(outputs, y).equal(loss(outputs, y))
    assert chosen.main.predict(outputs).equal(outputs.argmax(1))


@pytest.mark.parametrize("end", ["", "    - Sigmoid\n"], ids=["logit", "probability"])
def test_one_output_tells_two_classes_apart(tmp_path: Path, end: str) -> None:
    from cnn_cli.language.registry import find
    from cnn_cli.network.builder import build_plan
    from cnn_cli.tasks.selection import task_for

    (tmp_path / "ends.yaml").write_text(
        small.SPEC.replace("Linear: $classes", "Linear: 1").replace("  train:", f"{end}  train:")
    )
    plan = find("ends.yaml")
    outputs, y = build_plan(plan)(torch.rand(6, 1, 8, 8)), torch.tensor([0, 1, 1, 0, 1, 0])
    chance = outputs if end else outputs.sigmoid()
    expected = -(y * chance[:, 0].log() + (1 - y) * (1 - chance[:, 0]).log()).mean()
    chosen: Any = task_for(plan, ("a", "b"))
    torch.testing.assert_close(chosen.objective(outputs, y), expected)
    assert chosen.main.predict(outputs).tolist() == (chance[:, 0] > 0.5).long().tolist()
    with pytest.raises(UsageError, match=r"small outputs 1 score, but the data has 10 classes"):
        task_for(plan, tuple("0123456789"))


def test_the_number_of_classes_follows_the_data(tmp_path: Path) -> None:
    run = small.begin(tmp_path, spec=small.SPEC.replace("classes: 10", "classes: 7"), epochs=1)
    assert checkpoint.load(run)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_classes_that_the_user_set_are_obeyed_or_refused(tmp_path: Path) -> None:
    asked = small.request(tmp_path)
    with pytest.raises(UsageError) as error:
        run_module.begin(Request(**{**vars(asked), "args": {"classes": 7}}))
    assert str(error.value) == "small outputs 7 scores, but the data has 10 classes; add --set classes=10"
    assert not (tmp_path / "run").exists()


def test_the_plain_training_loss_is_logged_where_training_minimizes_another(tmp_path: Path) -> None:
    spec = small.SPEC.replace("    - Dropout: 0.2\n", "")
    still = {"lr": 1e-12, "epochs": 1}  # weights that do not move: the same outputs for every image
    rows = {}
    for name, options in {"plain": {}, "smooth": {"label_smoothing": 0.2}, "mixed": {"mixup": 1.0}}.items():
        run = small.begin(tmp_path, name, spec, **still, **options)
        rows[name] = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert "train_plain_loss" not in rows["plain"]
    assert rows["smooth"]["train_plain_loss"] == pytest.approx(rows["plain"]["train_loss"], rel=1e-5)
    assert rows["smooth"]["train_loss"] != pytest.approx(rows["plain"]["train_loss"], rel=1e-3)
    assert rows["mixed"]["train_plain_loss"] != pytest.approx(rows["mixed"]["train_loss"], rel=1e-3)


def test_auxiliary_outputs_count_with_their_weights(tmp_path: Path) -> None:
    from cnn_cli.language.registry import find
    from cnn_cli.network.builder import build_plan
    from cnn_cli.tasks.selection import task_for

    (tmp_path / "two.yaml").write_text(
        "two:\n  input: [1, 8, 8]\n  outputs: {fc: 1.0, aux: 0.3}\n  layers:\n    flat: Flatten\n"
        "    aux: {Linear: 10, from: flat}\n    fc: {Linear: 10, from: flat}\n"
    )
    plan = find("two.yaml")
    network, x, y = build_plan(plan), torch.rand(4, 1, 8, 8), torch.tensor([1, 2, 3, 4])
    outputs = network(x)
    chosen: Any = task_for(plan, tuple("0123456789"))
    expected = F.cross_entropy(outputs["fc"], y) + 0.3 * F.cross_entropy(outputs["aux"], y)
    assert chosen.objective(outputs, y).equal(expected)
    assert chosen.objective(network.eval()(x), y).equal(F.cross_entropy(outputs["fc"], y))
