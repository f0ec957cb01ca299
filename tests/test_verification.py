"""--verify finds what disagrees, and --time measures what there is."""

from dataclasses import replace

import pytest
import torch
from test_receptive_field import MENU, planned
from test_summary import cnn

from cnn_cli.analysis import verification
from cnn_cli.analysis.timing import measure_times
from cnn_cli.analysis.verification import Verification, verify
from cnn_cli.errors import CnnError
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.language.registry import find
from cnn_cli.layers import LayerType, Tensor


@pytest.mark.parametrize("name", ["fashion-convnet", "resnet18", "googlenet", "densenet121", "convnext_tiny"])
def test_networks_agree_with_pytorch(name: str) -> None:
    result = verify(find(name))
    assert result.disagreements == () and result.tensors == "real tensors" and result.compared > 30


def test_a_network_too_large_to_run_is_verified_without_values() -> None:
    result = verify(find("regnet_y_128gf"))
    assert result.disagreements == () and result.tensors.startswith("meta tensors")


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("spec", MENU, ids=str)
def test_layers_agree_with_pytorch(spec: object) -> None:
    plan = planned([spec, {"AdaptiveAvgPool2d": 1}, "Flatten", {"Linear": 3}], (16, 16))
    assert plan is not None and verify(plan).disagreements == ()


def wrong(plan: Plan, **rule: object) -> Plan:
    """The plan with another rule for its layer 3, as a mistake in the table would be."""

    def changed(layer: Layer) -> Layer:
        broken: LayerType = replace(layer.rule, **rule)  # type: ignore[arg-type]
        return replace(layer, rule=broken) if layer.name == "3" else layer

    return replace(plan, layers=tuple(changed(layer) for layer in plan.layers))


def test_every_kind_of_mistake_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = find("fashion-convnet")
    real = verification.build_plan(plan)
    monkeypatch.setattr(verification, "build_plan", lambda plan: real)
    macs = verify(wrong(plan, applied=lambda i, o: (1, 1))).disagreements
    assert macs[0] == "3 (Conv2d): MACs 18,432, PyTorch has 2,230,272" and macs[1].startswith("total: MACs")
    params = verify(wrong(plan, tensors=lambda s: (Tensor("weight", (64, 32, 3, 3)),))).disagreements
    assert params[0] == "3 (Conv2d): parameters 18,432, PyTorch has 18,496" and params[1].startswith(
        "total: parameters"
    )
    buffers = verify(wrong(plan, tensors=lambda s: (*plan.layers[3].tensors, Tensor("b", (5,), True)))).disagreements
    assert buffers == ("3 (Conv2d): buffers 5, PyTorch has 0",)
    layers = tuple(replace(n, output_shape=(64, 12, 11)) if n.name == "4" else n for n in plan.layers)
    shape = verify(replace(plan, layers=layers)).disagreements
    assert shape == ("4 (ReLU): output 64x12x11, PyTorch has 64x11x11",)


def test_a_disagreement_ends_with_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_cli.cli.summary import _verify

    monkeypatch.setattr(
        verification, "verify", lambda plan: Verification(42, "real tensors", ("3 (Conv2d): MACs 7, PyTorch has 8",))
    )
    with pytest.raises(CnnError, match=r"1 of 42 numbers disagree: 3 \(Conv2d\): MACs 7, PyTorch has 8") as error:
        _verify(find("fashion-convnet"))
    assert error.value.exit_code == 1


def test_times_of_layers() -> None:
    plan = find("fashion-convnet")
    times = measure_times(plan, torch.device("cpu"), batch=4)
    assert list(times.rows) == [layer.name for layer in plan.layers]
    assert all(forward > 0 and backward > 0 for forward, backward in [*times.rows.values(), times.network])
    assert times.rows["3"][0] > times.rows["4"][0], "a convolution takes longer than its ReLU"
    branching = find("googlenet", input=(3, 64, 64))
    folded = measure_times(branching, torch.device("cpu")).folded(1).rows
    assert set(folded) == {layer.name.split(".")[0] for layer in branching.layers}


def test_timing_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CnnError, match=r"timing vgg16 needs about [\d.,]+ GB on cpu; choose a smaller --batch-size"):
        measure_times(find("vgg16"), torch.device("cpu"), batch=10**6)


def test_command_line() -> None:
    result = cnn("summary", "fashion-convnet", "--verify", "--time", "--device", "cpu", "--columns", "name")
    assert result.returncode == 0 and "42 numbers compared, all agree" in result.stderr
    assert result.stdout.split("\n")[3].split() == ["name", "forward", "ms", "backward", "ms"]
    assert "the whole network" in " ".join(result.stdout.split())
