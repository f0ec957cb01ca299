"""What is frozen stays bit for bit as it was, statistics too, and costs nothing on the way back; the rest learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
from pictures import cnn
from test_summary import peak
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cnn_cli.analysis.diagnostics import diagnose
from cnn_cli.analysis.rows import layer_rows, totals
from cnn_cli.analysis.summary import estimates, setup
from cnn_cli.data.batches import epoch_order
from cnn_cli.data.loading import load_dataset
from cnn_cli.errors import CnnError, StoppedError, UsageError
from cnn_cli.language.freezing import (
    describe_frozen,
    disable_gradients,
    freeze_patterns,
    frozen_tensors,
    is_frozen,
    set_training_mode,
)
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
from cnn_cli.training import run as run_module
from cnn_cli.training.optimizer import make_optimizer

SPEC = """
small:
  input: [1, 8, 8]
  args: {classes: 10}
  layers:
    features:
      - Conv2d: {out_channels: 6, kernel_size: 3}
      - BatchNorm2d
      - ReLU
      - Conv2d: {out_channels: 8, kernel_size: 3}
      - BatchNorm2d
      - ReLU
    flat: Flatten
    drop: {Dropout: 0.2}
    fc: {Linear: $classes}
  train: {data: digits, epochs: 2, batch_size: 256, optimizer: sgd, lr: 0.1, weight_decay: 0.01}
"""


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    small.without_pictures(monkeypatch)
    Path("small.yaml").write_text(SPEC)


# --- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern", "matches"),
    [
        ("features.0.weight", "features", True),
        ("features.0.weight", "features.*", True),
        ("features.0.weight", "features.0", True),
        ("features.0.weight", "features.0.weight", True),
        ("features.0.bias", "features.0.weight", False),
        ("features.10.weight", "features.1", False),
        ("features.10.weight", "features.[0-9]", False),
        ("conv1.weight", "conv*", True),
        ("layer1.0.conv1.weight", "conv*", False),
        ("layer1.0.conv1.weight", "*.conv?", True),
        ("layer1.0.bn1.running_mean", "*.bias", False),
        ("layer1.0.bn1.bias", "*.bias", True),
        ("Layer1.conv.weight", "layer1", False),
    ],
)
def test_patterns_match_a_name_or_a_group_around_it(name: str, pattern: str, matches: bool) -> None:
    assert is_frozen(name, [pattern]) is matches
    assert is_frozen(name, ["nothing", pattern]) is matches and not is_frozen(name, [])


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["feature.*"], "freeze 'feature.*' matches no parameter of small. Did you mean 'features.*'?"),
        (["features", "layer9"], "freeze 'layer9' matches no parameter of small. Names begin with features, fc."),
        (["drop"], "freeze 'drop' matches no parameter of small. Names begin with features, fc."),
        (["*"], "freeze * leaves nothing of small to train; leave the last layer out of it"),
        (["features", "fc"], "freeze features, fc leaves nothing of small to train; leave the last layer out of it"),
    ],
)
def test_patterns_that_do_not_fit(patterns: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        frozen_tensors(find("small.yaml"), patterns)
    assert str(error.value) == message
    with pytest.raises(UsageError) as error:
        small.begin(Path(), spec=SPEC, freeze=patterns)
    assert str(error.value) == message and not Path("run").exists()


def test_the_specs_own_pattern_is_checked_at_its_place() -> None:
    text = SPEC.replace("epochs: 2", "freeze: [feature]")
    Path("small.yaml").write_text(text)
    (problem,) = diagnose(["small.yaml"], (), {}, None).problems
    line, column = len(text.splitlines()), text.splitlines()[-1].index("[feature]") + 1
    assert str(problem) == (
        f"small.yaml:{line}:{column}: small, train: "
        "freeze 'feature' matches no parameter of small. Did you mean 'features'?"
    )
    Path("small.yaml").write_text(SPEC.replace("epochs: 2", "freeze: features"))
    assert freeze_patterns(find("small.yaml")) == ("features",)
    assert freeze_patterns(find("small.yaml"), ["fc"]) == ("fc",)


# --- Training -------------------------------------------------------------------------------------------------------


def weights(run: Path) -> dict[str, Tensor]:
    return dict(small.last(run)["network"])


def fresh(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_plan(find("small.yaml"))


def test_frozen_parts_keep_every_bit(tmp_path: Path) -> None:
    """Weight decay, momentum and BatchNorm's statistics included, and without the setting none of it stays."""
    before = fresh().state_dict()
    held = {name for name in before if name.startswith("features.")}
    after = weights(small.begin(tmp_path, spec=SPEC, freeze=["features.*"]))
    assert {name for name in before if before[name].equal(after[name])} == held
    free = weights(small.begin(tmp_path, "free", spec=SPEC))
    assert not [name for name in before if before[name].equal(free[name])]


def test_a_part_of_a_layer_can_be_frozen(tmp_path: Path) -> None:
    before = fresh().state_dict()
    after = weights(small.begin(tmp_path, spec=SPEC, freeze=["*.running_*", "fc.bias"], epochs=1))
    same = {name for name in before if before[name].equal(after[name])}
    assert same == {n for n in before if n.endswith(("running_mean", "running_var", "num_batches_tracked"))} | {
        "fc.bias"
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_is_that_of_plain_pytorch(tmp_path: Path, optimizer: str) -> None:
    """A loop by hand, with requires_grad_(False) and eval() on the frozen layers: bit for bit the same weights."""
    run = small.begin(
        tmp_path,
        spec=SPEC,
        freeze="features.[01]",
        optimizer=optimizer,
        lr=0.1,
        weight_decay=0.01,
        epochs=1,
        fast="none",
    )
    network = fresh()
    features = network.features
    for layer in features[:2]:
        layer.requires_grad_(False)
    rest = [*features[3:].parameters(), *network.fc.parameters()]
    make: Any = {"sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9), "adamw": lambda p: torch.optim.AdamW(p, 0.1)}
    steps = make[optimizer](rest)
    for group in steps.param_groups:
        group["weight_decay"] = 0.01
    part = load_dataset("digits", tmp_path).splits["train"]
    images = part.images.float() / 255  # type: ignore[union-attr]
    network.train()
    features[1].eval()
    for index in epoch_order(len(images), 0, 1).split(256):
        steps.zero_grad()
        nn.functional.cross_entropy(network(images[index]), part.targets[index]).backward()
        steps.step()
    assert small.same(weights(run), dict(network.state_dict()))


def test_a_frozen_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = small.begin(tmp_path, "whole", spec=SPEC, freeze=["features.?"])
    expected = small.without_times(small.last(whole))
    assert expected["optimizer"][0]["names"] == ["fc.weight", "fc.bias"]
    for step in (1, 7):
        with small.at_step(step, small.interrupt), pytest.raises(StoppedError):
            small.begin(tmp_path, f"stopped{step}", spec=SPEC, freeze=["features.?"])
        run = small.resume(tmp_path, f"stopped{step}", spec=SPEC)
        assert small.same(small.without_times(small.last(run)), expected)
    with pytest.raises(UsageError, match=r"freeze is features\.\?, not fc \(option\)"):
        small.resume(tmp_path, "whole", spec=SPEC, freeze=["fc"], epochs=3)


def test_modes_of_a_network_in_training() -> None:
    plan, network = find("small.yaml"), fresh()
    network.eval()
    set_training_mode(network, plan, ["features"])
    modes = {name: part.training for name, part in network.named_modules() if not list(part.children())}
    assert [name for name, training in modes.items() if not training] == ["features.1", "features.4"]
    assert modes["drop"]
    set_training_mode(network, plan, ["features.1.weight"])  # the statistics are not meant
    assert all(part.training for part in network.modules())


def saved_bytes(network: nn.Module, x: Tensor) -> int:
    """What the forward pass keeps for the backward pass, beside the parameters."""
    own = {t.data_ptr() for t in network.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda t: t):
        output = network(x)
    assert output.requires_grad
    return sum(kept.values())


def test_nothing_is_kept_for_going_back_into_frozen_parts() -> None:
    plan, x = find("vgg11_bn", input=(3, 32, 32)), torch.rand(2, 3, 32, 32)
    torch.manual_seed(0)
    network = build_plan(plan)
    everything = saved_bytes(network, x)
    disable_gradients(network, ["features"])
    set_training_mode(network, plan, ["features"])
    assert not network.features(x).requires_grad
    assert saved_bytes(network, x) < everything / 4
    network.zero_grad()
    network(x).sum().backward()
    assert all((p.grad is None) is n.startswith("features.") for n, p in network.named_parameters())


def test_the_optimizer_takes_only_what_is_trained() -> None:
    network = fresh()
    disable_gradients(network, ["features"])
    optimizer = make_optimizer(network, {"optimizer": "adam", "lr": 0.1, "weight_decay": 0.0, "groups": (), "fast": ()})
    assert [p.shape for p in optimizer.parameters] == [(10, 128), (10,)]
    disable_gradients(network, [])
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("pattern", ["norm", "norm.*"])
def test_a_frozen_batchnorm_takes_a_single_image(tmp_path: Path, pattern: str) -> None:
    spec = SPEC.replace("    drop: {Dropout: 0.2}\n", "    norm: BatchNorm1d\n")
    with pytest.raises(UsageError, match="two images per batch"):
        small.begin(tmp_path, spec=spec, batch_size=1)
    asked = small.request(tmp_path, spec=spec, batch_size=4, freeze=[pattern], epochs=1)  # 1437 = 4 · 359 + 1
    run_module.begin(asked)
    said = asked.say.__self__[0]  # type: ignore[attr-defined]
    assert small.last(tmp_path / "run")["step"] == 360
    assert "frozen     256 of 2,074 parameters, and the statistics of 1 layer\n" in said and "left out" not in said


def test_frozen_parts_need_no_memory_of_the_optimizer(tmp_path: Path) -> None:
    spec = SPEC.replace("    fc:", "    wide: {Linear: 100000000}\n    fc:")
    for patterns, need in ((None, "223.2"), (["wide"], "68.4")):
        with pytest.raises(CnnError, match=rf"training small at batch size 2 needs over {need} GB"):
            small.begin(tmp_path, spec=spec, freeze=patterns, optimizer="adam", batch_size=2)


# --- summary --------------------------------------------------------------------------------------------------------


def test_summary_counts_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    plan = find("resnet18")
    found = layer_rows(plan, frozen=["layer*", "*.bias"])
    network = build_plan(plan)
    disable_gradients(network, ["layer*", "*.bias"])
    learning = {n: p.numel() for n, p in network.named_parameters() if p.requires_grad}
    assert totals(plan, found)["trainable_params"] == sum(learning.values())
    for row in found:
        assert row.trainable == sum(size for n, size in learning.items() if n.rpartition(".")[0] == row.name)
    assert describe_frozen(plan, ["layer1"]) == "147,968 of 11,689,512 parameters, and the statistics of 4 layers"
    assert cnn("summary", "vgg11", "--freeze", "features.*", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["total"]["trainable_params"] == document["total"]["params"] - 9_220_480
    assert {la["trainable_params"] for la in document["layers"] if la["name"].startswith("features")} == {0}
    assert cnn("summary", "vgg11", "--freeze", "feature") == 2
    assert "Did you mean 'features'?" in capsys.readouterr().err


def test_summary_shows_what_the_spec_freezes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("small.yaml").write_text(SPEC.replace("epochs: 2", "freeze: features"))
    assert cnn("summary", "small.yaml", "--depth", "1") == 0
    out = capsys.readouterr().out
    assert "trainable" in out.splitlines()[3] and "1,290 trainable, 528 frozen" in out
    plan = find("small.yaml")
    free = estimates(plan, setup(plan, None, "adam", None, ["features.0"]))[1].optimizer
    assert estimates(plan, setup(plan, None, "adam", None))[1].optimizer < free


@pytest.mark.parametrize("patterns", [("conv1", "bn1", "layer[123]"), ("conv1", "bn1", "layer*")], ids=len)
def test_memory_estimate_of_a_frozen_network_is_what_pytorch_allocates(patterns: tuple[str, ...]) -> None:
    """The profiler's record of every allocation in a step after the first; within 5 %."""
    plan, batch = find("resnet18"), 4
    network = build_plan(plan)
    disable_gradients(network, patterns)
    set_training_mode(network, plan, patterns)
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, momentum=0.9)
    images, labels = torch.rand(batch, *plan.input), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    optimizer.zero_grad()
    fixed = sum(t.numel() * t.element_size() for t in [*network.state_dict().values(), images])
    fixed += sum(p.numel() * 4 for p in learning)
    estimated = estimates(plan, setup(plan, batch, "sgd", None, patterns))[1].total
    assert estimated == pytest.approx(peak(step) + fixed, rel=0.05)
