"""Rows and totals against published figures and against each other; memory against what PyTorch really allocates."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from test_receptive_field import GLOBAL, MENU, planned
from torch import nn
from torch.profiler import ProfilerActivity, profile

from cnn_cli.analysis import memory
from cnn_cli.analysis.rows import auxiliary, layer_rows, relative, totals
from cnn_cli.analysis.summary import choose_columns, estimates, setup, summarize, training_memory
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, load_registry, plan_document
from cnn_cli.network.builder import build_plan
from cnn_cli.tables import format_bytes

PUBLISHED = sorted(set(torchvision.models.list_models(module=torchvision.models)) & set(load_registry()))
SUMS = ("params", "trainable_params", "buffers", "macs", "flops", "activation_bytes")


def cnn(*arguments: str, width: int = 80) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(width), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "cnn_cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_published_networks_are_there() -> None:
    assert len(PUBLISHED) > 60


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_those_that_torchvision_publishes(name: str) -> None:
    """num_params and _ops (GMACs to three decimals) in the description of the weights; _ops is that of evaluation."""
    published = list(torchvision.models.get_model_weights(name))
    plan = find(name)
    total, aside = totals(plan, layer_rows(plan)), auxiliary(plan)
    params, macs = total["params"], total["macs"] - aside.get("macs", 0)
    assert published[0].meta["num_params"] in (params, params - aside.get("params", 0))
    sized = [w for w in published if w.transforms.keywords["crop_size"] == plan.input[1]]
    assert sized and round(macs / 1e9, 3) == pytest.approx(sized[0].meta["_ops"], abs=0.0011)


@pytest.mark.parametrize("name", ["fashion-convnet", "googlenet", "densenet121", "convnext_tiny"])
def test_totals_are_sums_of_rows_however_they_are_folded(name: str) -> None:
    plan = find(name)
    found = layer_rows(plan)
    assert totals(plan, found)["params"] == sum(row.params for row in found) == plan.params
    for depth in (1, 2, 3, 9):
        folded = layer_rows(plan, depth=depth)
        assert {k: totals(plan, folded)[k] for k in SUMS} == {k: totals(plan, found)[k] for k in SUMS}
        assert [layer.name for row in folded for layer in row.layers] == [row.name for row in found]
        assert len({row.name for row in folded}) == len(folded)
        assert all(row.name.count(".") < depth for row in folded)


def test_a_folded_row_is_a_row() -> None:
    plan = find("resnet50")
    row = next(r for r in layer_rows(plan, depth=2) if r.name == "layer2.0")
    inside = [r for r in layer_rows(plan) if r.name.startswith("layer2.0.")]
    assert row.takes == ("layer1.2",) and row.input_shapes == ((256, 56, 56),) and row.output_shape == (512, 28, 28)
    assert row.text == "4 Conv2d, 4 BatchNorm2d, 3 ReLU, Add" and row.type == "" and row.settings == {}
    assert row.params == sum(r.params for r in inside) and row.field == inside[-1].field


def test_every_row_knows_where_its_input_comes_from() -> None:
    plan = find("resnet18")
    names = {"input"}
    for row in layer_rows(plan):
        assert row.takes and set(row.takes) <= names, row.name
        names.add(row.name)
    assert relative("layer1.0.bn2", "layer1.0.add") == "bn2"
    assert relative("maxpool", "layer1.0.conv1") == "maxpool"


def test_json_has_the_stable_keys() -> None:
    result = json.loads(cnn("summary", "fashion-convnet", "--json").stdout)
    assert {"network", "input", "layers", "total"} <= set(result)
    needed = {
        "name",
        "type",
        "from",
        "input_shape",
        "output_shape",
        "params",
        "macs",
        "receptive_field",
        "activation_bytes",
    }
    assert all(needed <= set(layer) for layer in result["layers"])
    assert {"params", "trainable_params", "macs"} <= set(result["total"])
    first, last = result["layers"][0], result["layers"][-1]
    assert (first["name"], first["type"], first["from"]) == ("0", "Conv2d", ["input"])
    assert (first["input_shape"], first["output_shape"]) == ([1, 28, 28], [32, 26, 26])
    assert first["receptive_field"] == {"size": [3, 3], "stride": [1, 1], "offset": [0, 0]}
    assert last["receptive_field"]["size"] == [26, 26]
    assert result["total"]["params"] == 225_034 and result["total"]["macs"] == 2_631_040
    assert result["total"]["flops"] == 2 * 2_631_040


def test_parameters_used_twice_count_once() -> None:
    layers = {
        "scale": {"Parameter": {"shape": [4, 1, 1], "init": "ones"}},
        "one": {"from": "input", "Conv2d": {"out_channels": 4, "kernel_size": 1}},
        "a": {"Multiply": ["one", "scale"]},
        "b": {"Multiply": ["a", "scale"]},
    }
    plan = planned(layers, (5, 5))
    assert plan is not None
    module = build_plan(plan)
    assert totals(plan, layer_rows(plan))["params"] == sum(p.numel() for p in module.parameters()) == 4 * 4 + 4 + 4


def test_frozen_layers_are_counted_apart() -> None:
    plan = find("alexnet")
    found = layer_rows(plan, frozen=["features"])
    total = totals(plan, found)
    assert total["trainable_params"] == sum(
        layer.params for layer in plan.layers if layer.name.startswith("classifier")
    )
    assert total["params"] == 61_100_840
    text = summarize(plan, setup(plan, freeze=["features"])).text()
    assert "58,631,144 trainable, 2,469,696 frozen" in text
    fewer = estimates(plan, setup(plan, 1, "adam", freeze=["features"]))[1]
    assert fewer.optimizer < estimates(plan, setup(plan, 1, "adam"))[1].optimizer


def test_columns_are_chosen_and_checked() -> None:
    keys = choose_columns("name, rf,rf-stride ,memory")
    assert keys == ("name", "rf", "rf-stride", "memory")
    with pytest.raises(UsageError, match=r"unknown column 'mac'\. Did you mean 'macs'\? Choose from name, type, "):
        choose_columns("name,mac")
    with pytest.raises(UsageError, match="forward is measured; add --time"):
        choose_columns("name,forward")
    plan = find("fashion-convnet")
    lines = summarize(plan, setup(plan), columns=keys).text().split("\n")[3:]
    assert lines[0].split() == ["name", "receptive", "field", "stride", "(jump)", "activations"]
    assert lines[8].split() == ["6", "10x10", "4x4", "0", "B"]


@pytest.mark.parametrize("width", [40, 60, 80, 140])
@pytest.mark.parametrize("name", ["fashion-convnet", "googlenet", "resnet152"])
def test_tables_fit_the_terminal(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    plan = find(name)
    text = summarize(plan, setup(plan)).text()
    assert max(len(line) for line in text.split("\n")) <= width
    assert width < 80 or all(layer.name in text for layer in plan.layers), "names stay whole"


@pytest.mark.parametrize(("name", "batch"), [("fashion-convnet", 64), ("resnet18", 4)])
def test_memory_estimate_is_what_pytorch_allocates(name: str, batch: int) -> None:
    """The profiler's record of every allocation, on the CPU; within 3 % in training, 1 % in inference."""
    plan = find(name)
    network = build_plan(plan)
    optimizer = torch.optim.Adam(network.parameters())
    images, labels = torch.rand(batch, *plan.input), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    optimizer.zero_grad()
    weights = sum(p.numel() * 4 for p in network.parameters())
    fixed = sum(b.numel() * b.element_size() for b in network.buffers()) + images.numel() * 4
    measured = peak(step) + 3 * weights + fixed
    assert memory.training(plan, batch, "adam").total == pytest.approx(measured, rel=0.03)
    network.eval()
    with torch.no_grad():
        measured = peak(lambda: network(images)) + weights + fixed
    assert memory.inference(plan, batch).total == pytest.approx(measured, rel=0.01)


def peak(run: Any) -> int:
    """The most bytes allocated at once while it runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


LAYER_SPECS: list[Any] = [
    *MENU,
    *GLOBAL,
    "GELU",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "Hardswish",
    "Softplus",
    "ELU",
    "Mish",
    "PReLU",
]
LAYER_SPECS += [{"Dropout": 0.5}, "Dropout2d", {"StochasticDepth": {"p": 0.5, "mode": "row"}}, "Softsign", "RReLU"]
LAYER_SPECS += [
    {"LogSoftmax": 1},
    {"LayerNorm": [16, 16]},
    {"RMSNorm": 16},
    {"PixelShuffle": 2},
    {"Unfold": 3},
    "Flatten",
]
LAYER_SPECS += [{"a": {"Softplus": None}, "b": {name: operands}} for name, operands in [
    ("Add", ["a", "input"]), ("Add", 0.5), ("Subtract", [1.0, "a"]), ("Mean", ["a", "input", "a"]),
    ("Multiply", ["a", "input"]), ("Multiply", ["a", 0.5]), ("Multiply", ["a", "input", "a"]),
    ("Divide", ["a", "input"]), ("Divide", [1.0, "a"]), ("Divide", 2), ("Maximum", ["a", 0.5]),
    ("Minimum", ["a", "input"]), ("Maximum", ["a", "input", 0.5]),
]]  # fmt: skip
LAYER_SPECS += [{"CenterCrop": 4}, {"Slice": {"dim": 2, "step": 2}}, {"ZeroPad2d": [-1, 2, 0, 0, 1, 1]}]
LAYER_SPECS += [{"a": {"AvgPool2d": 3}, "b": {"Upsample": {"size": "input", "mode": "bilinear"}}}]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("spec", LAYER_SPECS, ids=str)
def test_what_backward_needs_is_what_pytorch_keeps(spec: Any) -> None:
    """Tensors that autograd packs, each memory once, beside parameters and the image itself."""
    plan = planned([spec], (16, 16))
    assert plan is not None
    network, batch = build_plan(plan), 32
    images = torch.rand(batch, *plan.input).requires_grad_() * 1.0
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = network(images)
    for tensor in [*network.parameters(), *network.buffers(), images]:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    run = memory._Run(plan, batch, 4, training=True)
    run.forward()
    ours = sum(run.bytes[n] for n in {t for *_, step in run.steps for t in step} - {0})
    statistics = 0.13 * images.numel() * 4  # means and deviations, which the estimate leaves out
    assert abs(ours - sum(kept.values())) <= statistics, (ours, kept, output.shape)


def test_the_breakdown_adds_up_as_in_textbooks() -> None:
    plan = find("alexnet")
    kept, peak = training_memory(plan, setup(plan, 8, "adam"))
    assert (kept.weights, kept.gradients, kept.optimizer) == (4 * plan.params, 4 * plan.params, 8 * plan.params)
    assert kept.document()["total"] == sum(v for k, v in kept.document().items() if k != "total") > kept.activations
    assert kept.activation_gradients == 0 < kept.activations
    lines = " ".join(summarize(plan, setup(plan, 8, "adam")).text().split())
    sizes = [format_bytes(n) for n in (kept.total, kept.weights, kept.gradients, kept.optimizer)]
    assert "training {} = weights {} + gradients {} + adam state {} + activations".format(*sizes) in lines
    assert f"peak {format_bytes(peak.total)}, in the optimizer step, with 244.4 MB of temporary values" in lines
    assert (peak.optimizer, peak.temporary) == (8 * plan.params, 4 * plan.params)


def test_estimates_follow_batch_precision_and_optimizer() -> None:
    plan = find("resnet18")
    one, two = memory.inference(plan, 1), memory.inference(plan, 2)
    assert two.weights == one.weights and two.activations == 2 * one.activations and two.batch == 2 * one.batch
    half = memory.inference(plan, 2, "bfloat16")
    assert 2 * half.activations == two.activations and 2 * half.weights == two.weights
    sgd, adam = memory.training(plan, 8, "sgd"), memory.training(plan, 8, "adam")
    assert adam.optimizer == 2 * sgd.optimizer == 2 * 4 * plan.params
    assert sgd.document()["total"] == sum(v for k, v in sgd.document().items() if k != "total")
    with pytest.raises(UsageError, match=r"--precision must be fp32, fp16 or bf16, not 'half'"):
        setup(plan, precision="half")
    with pytest.raises(UsageError, match="--batch-size must be an integer of at least 1, not 0"):
        setup(plan, 0)
    with pytest.raises(UsageError, match="--optimizer must be sgd, adam, adamw or muon, not 'rmsprop'"):
        setup(plan, optimizer="rmsprop")


def test_auxiliary_outputs_work_only_in_training() -> None:
    plan = find("googlenet")
    assert auxiliary(plan)["params"] == 13_004_888 - 6_624_904
    assert summarize(plan, setup(plan)).document()["only_in_training"] == auxiliary(plan)
    assert memory.inference(plan).activations < memory.training(plan, 1, "sgd").activations


def test_a_network_of_a_hundred_billion_parameters_costs_no_more(tmp_path: Path) -> None:
    layers = [{"Linear": 2**17} for _ in range(6)]
    plan: Plan = plan_document({"huge": {"input": [1, 1, 2**16], "layers": ["Flatten", *layers]}}, "test")
    assert totals(plan, layer_rows(plan))["params"] > 9 * 10**10
    assert memory.training(plan, 1, "adam").total > 10**12


def test_command_line(tmp_path: Path) -> None:
    good = cnn("summary", "fashion-convnet", "--columns", "name,output,params")
    assert good.returncode == 0 and good.stderr == ""
    assert ["3", "64x11x11", "18,496"] in [line.split() for line in good.stdout.split("\n")]
    assert "225,034 parameters, all trainable" in good.stdout
    assert cnn("summary", "fashion-convnet", "--csv").stdout.split("\n")[1] == '0,"Conv2d 32, 3x3",32x26x26,320,194688'
    spec = tmp_path / "wrong.yaml"
    spec.write_text(
        "wrong:\n  input: [1, 8, 8]\n  layers:\n    - Flatten\n    - Conv2d: {out_channels: 2, kernel_size: 3}\n"
    )
    bad = cnn("summary", str(spec))
    assert bad.returncode == 2 and "Flatten" in bad.stdout and "wrong.yaml:5:7" in bad.stderr
    spec.write_text("wrong:\n  input: [1, 8, 8]\n  layers: [Unknown, ReLU]\n")
    nothing = cnn("summary", str(spec))
    assert nothing.returncode == 2 and nothing.stdout == "" and "unknown layer" in nothing.stderr
