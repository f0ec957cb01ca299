"""What makes steps fast changes no bit, or nothing but rounding, and each means can be had by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
import yaml
from torch import nn

from cnn_cli.checkpoints import checkpoint
from cnn_cli.errors import UsageError
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
from cnn_cli.setting_kinds import FAST
from cnn_cli.settings import SETTINGS
from cnn_cli.training import speedups as fast

CPU = torch.device("cpu")
ON_CPU = [name for name in FAST if name not in ("cuda-graph", "max-pool-kernel")]


pytestmark = pytest.mark.usefixtures("quick")


def plan(tmp_path: Path, layers: str, size: int = 12) -> Any:
    path = tmp_path / "net.yaml"
    path.write_text(f"net:\n  input: [1, {size}, {size}]\n  layers:\n{layers}")
    return find(str(path))


def outputs(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What comes out, and the gradients of all parameters."""
    network.zero_grad()
    y = network(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def pair(network: str, *means: str) -> tuple[nn.Module, nn.Module]:
    """The network as it is and as it is prepared, with the same weights."""
    modules = []
    for names in ((), means):
        torch.manual_seed(3)
        modules.append(fast.prepare(build_plan(find(network)), names))
    return modules[0], modules[1]


KERNELS = """
import torch
from torch.nn import functional as F
from cnn_cli.network.max_pooling import max_pool
torch.manual_seed(0)
for shape, kernel in (((2, 5, 7, 9), 2), ((2, 70, 6, 6), 3), ((1, 1, 5, 4), 2)):
    x = torch.randint(-3, 3, shape).float()  # often equal
    x[0, 0, 0, 0], x[0, 0, 3, 3] = float("nan"), float("inf")
    x[..., :2, :2] -= float("inf")
    ours, theirs = (x.clone().contiguous(memory_format=torch.channels_last).requires_grad_() for _ in range(2))
    outputs = max_pool(ours, kernel), F.max_pool2d(theirs, kernel)
    assert torch.equal(*(y.nan_to_num(99) for y in outputs))
    gradient = torch.randn(outputs[0].shape)
    for y in outputs:
        y.backward(gradient)
    assert torch.equal(ours.grad, theirs.grad)
"""


def test_kernels_of_max_pooling_are_pytorchs_bit_for_bit() -> None:
    """In Triton's interpreter, which needs no GPU."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_triton_there_is_no_such_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert "max-pool-kernel" in fast.chosen("auto", gpu)
    assert fast.chosen(("max-pool-kernel",), gpu) == ("max-pool-kernel",)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "max-pool-kernel" not in fast.chosen("auto", gpu) and "cuda-graph" in fast.chosen("auto", gpu)
    with pytest.raises(UsageError, match="max-pool-kernel needs Triton, which is not installed"):
        fast.chosen(("max-pool-kernel",), gpu)


def test_only_windows_side_by_side_get_the_kernel() -> None:
    pytest.importorskip("triton")
    from cnn_cli.network.max_pooling import MaxPool2d, use_kernels

    pools = [
        nn.MaxPool2d(2),
        nn.MaxPool2d((3, 3)),
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d((2, 3)),
    ]
    pools += [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(1)]
    network = nn.Sequential(*pools)
    use_kernels(network)
    assert [type(m) is MaxPool2d for m in network] == [True, True, *[False] * 6]
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(network[1](x), nn.functional.max_pool2d(x, 3))  # on a CPU as ever


# --- The same function ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("means", [("pool-before-relu",), ("keep-memory",)], ids=lambda m: m[0])
def test_some_means_change_no_bit(tmp_path: Path, means: tuple[str, ...]) -> None:
    plain, quick = (small.begin(tmp_path, str(n), fast=m) for n, m in enumerate(("none", means)))
    assert small.same(small.last(plain)["network"], small.last(quick)["network"])


@pytest.mark.parametrize("network", ["fashion-convnet", "alexnet", "squeezenet1_1"])
def test_pool_before_relu_gives_equal_bits(network: str) -> None:
    plain, quick = pair(network, "pool-before-relu")
    assert [type(m) for m in plain.modules()] != [type(m) for m in quick.modules()]
    assert list(plain.state_dict()) == list(quick.state_dict())
    torch.manual_seed(0)
    size = find(network).input
    x = torch.randn(2, size[0], min(size[1], 96), min(size[2], 96))
    plain.eval(), quick.eval()  # without dropout
    assert small.same(outputs(plain, x), outputs(quick, x))


def test_what_is_left_out_is_never_seen() -> None:
    plain, quick = pair("fashion-convnet")
    size = fast.used_size(find("fashion-convnet"))
    assert size == (26, 26)
    plain, quick = plain.double(), quick.double()
    x = torch.rand(8, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    whole, cropped = outputs(plain, x), outputs(quick, x[..., :26, :26])
    assert x.grad is not None and not x.grad[..., 26:, :].any() and not x.grad[..., 26:].any()
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(whole, cropped, strict=True))


@pytest.mark.parametrize(
    ("layers", "used"),
    [
        ("    - Conv2d: {out_channels: 2, kernel_size: 3}\n    - ReLU\n    - MaxPool2d: 3\n", 11),
        (
            "    - Conv2d: {out_channels: 2, kernel_size: 3}\n    - BatchNorm2d\n    - MaxPool2d: 3\n",
            12,
        ),  # it counts all
        ("    - Conv2d: {out_channels: 2, kernel_size: 3, padding: 1}\n    - MaxPool2d: 5\n", 12),  # the padding moves
        ("    - MaxPool2d: {kernel_size: 5, ceil_mode: true}\n", 12),
        ("    - MaxPool2d: {kernel_size: 2, stride: 3}\n    - BatchNorm2d\n", 11),
        ("    - Conv2d: {out_channels: 2, kernel_size: 2, stride: 3, dilation: 2}\n", 12),
        ("    - AdaptiveAvgPool2d: 5\n", 12),
        ("    - Dropout2d\n    - MaxPool2d: 5\n", 12),
        ("      a: {MaxPool2d: 5}\n      b: {from: input, AdaptiveAvgPool2d: 2}\n      c: {Add: [a, b]}\n", 12),
    ],
)
def test_how_much_of_an_image_is_used(tmp_path: Path, layers: str, used: int) -> None:
    """Where an image is cropped at all, the outputs in double precision are the same."""
    found = plan(tmp_path, layers + ("    - Flatten\n" if "    - " in layers else ""))
    assert fast.used_size(found) == (used, used)
    network = build_plan(found).double().eval()
    x = torch.rand(3, 1, 12, 12, dtype=torch.float64)
    assert torch.allclose(network(x), network(x[..., :used, :used]), rtol=1e-12)


@pytest.mark.parametrize("name", ON_CPU)
def test_one_step_is_that_of_the_plain_loop_but_for_rounding(tmp_path: Path, name: str) -> None:
    spec = small.SPEC.replace("Dropout: 0.2", "Dropout: 0.0").replace("[1, 8, 8]", "[1, 9, 9]")
    runs = [
        small.begin(tmp_path, str(n), spec, fast=means, optimizer="sgd", epochs=0.01)
        for n, means in enumerate(("none", name))
    ]
    first, second = (small.last(run) for run in runs)
    assert first["step"] == second["step"] == 1
    for key, value in first["network"].items():
        assert torch.allclose(value, second["network"][key], rtol=1e-5, atol=1e-6), key


# --- The setting ----------------------------------------------------------------------------------------------------


def test_what_was_on_is_in_the_configuration(tmp_path: Path) -> None:
    for wanted, found in (
        ("auto", ON_CPU),
        ("none", []),
        ("keep-memory,channels-last", ["channels-last", "keep-memory"]),
    ):
        run = small.begin(tmp_path, wanted, fast=wanted, epochs=1)
        settings = yaml.safe_load((run / "config.yaml").read_text())["settings"]
        assert settings["fast"]["value"] == found
        assert settings["precision"]["value"] == "fp32"


def test_means_of_other_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="--fast keep-memory is for cpu only, but the device is cuda; leave it out"):
        fast.chosen(("keep-memory",), torch.device("cuda"))


def test_unknown_means_are_named() -> None:
    with pytest.raises(ValueError, match=r"must be auto, none or some of channels-last, .*, not 'chanels-last'"):
        SETTINGS["fast"].kind.read("chanels-last")


@pytest.mark.parametrize("changed", [{"fast": "none"}, {"precision": "bf16"}])
def test_a_run_goes_on_as_it_began(tmp_path: Path, changed: dict[str, str]) -> None:
    small.begin(tmp_path, epochs=1)
    with pytest.raises(UsageError, match=f"{next(iter(changed))} is "):
        small.resume(tmp_path, epochs=2, **changed)


def test_bf16_trains_and_evaluates_in_fp32(tmp_path: Path) -> None:
    run = small.begin(tmp_path, precision="bf16", epochs=6)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    plain = small.begin(tmp_path, "plain", epochs=6)
    weights = [checkpoint.load(r).state_dict() for r in (run, plain)]
    assert all(w.dtype == torch.float32 for w in weights[0].values() if w.is_floating_point())
    assert not small.same(*weights)  # it did something


def test_evaluating_again_gives_the_same_figures(tmp_path: Path) -> None:
    """Also with views of each image, and with what is left out."""
    from cnn_cli.training.eval_report import EvaluationRequest, evaluate_network

    run = small.begin(tmp_path, tta="flip-shift", epochs=2)
    said = json.loads((run / "eval.json").read_text())
    request = EvaluationRequest(data_dir=tmp_path / "data")
    again = evaluate_network(checkpoint.load_trained(str(run)), request, CPU).document()
    assert (again["loss"], again["confusion_matrix"]) == (said["loss"], said["confusion_matrix"])
    plain = small.begin(tmp_path, "plain", epochs=2)
    assert json.loads((plain / "eval.json").read_text())["loss"] != said["loss"]
