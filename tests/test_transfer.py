"""Files of weights, anybody's: every form that is usual, a new head for other classes, a refusal for the rest."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import small_runs as small
import torch
from pretrained_files import SMALL, drawn, state_of, without_counters
from torch import Tensor, nn

from cnn_cli.checkpoints import transfer
from cnn_cli.checkpoints.checkpoint import load, load_network, restore
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
from cnn_cli.training import run as run_module


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- Files of strangers ---------------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.yaml").write_text(SMALL)
    return str(tmp_path / "net.yaml")


def test_every_form_of_a_file(net: str, tmp_path: Path) -> None:
    state = state_of(net)
    torch.save(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({f"module.{k}": nn.Parameter(v, v.is_floating_point()) for k, v in state.items()}, tmp_path / "dp.pth")
    torch.save({f"_orig_mod.{k}": v for k, v in state.items()}, tmp_path / "compiled.pth")
    torch.save({"state_dict": {f"model._orig_mod.{k}": v for k, v in state.items()}}, tmp_path / "lightning.ckpt.pth")
    for key in ("model_state_dict", "net", "state_dict_ema"):
        torch.save({key: state, "optimizer": {}}, tmp_path / f"{key}.pth")
    torch.save(without_counters(state), tmp_path / "early.pth")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    compiled = ("compiled.pth", "lightning.ckpt.pth", "model_state_dict.pth", "net.pth", "state_dict_ema.pth")
    for name in ("a.pth", "old.pt", "wrapped.pth", "dp.pth", "early.pth", "a.safetensors", *compiled):
        found = restore(load_network(net, weights=str(tmp_path / name))).state_dict()
        assert small.same(dict(found), state), name


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_wants_to_run_code_is_refused(net: str, tmp_path: Path, old: bool) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    torch.save({"fc.weight": Runs(f"touch {marker}")}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(CnnError) as error:
        load_network(net, weights=str(path))
    assert str(error.value) == (
        f"{path} was rejected: the file contains executable code (posix.system); "
        "save the weights alone: torch.save(network.state_dict(), FILE)"
    )
    assert not marker.exists()


def test_other_files_are_refused(net: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    state = state_of(net)
    torch.save(state, path)
    good = path.read_bytes()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    torch.save({"epoch": 3}, path)
    contents = {b"": "is empty", b"hello": "is not a file of weights", path.read_bytes(): "it has no named tensors"}
    contents |= {good[:-30]: "is damaged", good[:300] + b"?" + good[301:]: "is damaged", old[:-5]: "is damaged"}
    for content, message in contents.items():
        path.write_bytes(content)
        with pytest.raises(CnnError, match=message) as error:
            load_network(net, weights=str(path))
        assert "weights_only" not in str(error.value) and error.value.exit_code == 1


# --- Heads ----------------------------------------------------------------------------------------------------------


def test_a_head_for_other_classes_is_left_new(net: str) -> None:
    plan, tensors = find(net), state_of(net, classes=10)
    moved = transfer.fit(plan, tensors, "x.pth")
    assert str(moved) == "copied 7 of 9 tensors; new: fc.weight 4x500 (file: 10x500), fc.bias 4 (file: 10)"
    network = build_plan(plan)
    fresh = network.fc.weight.clone()
    transfer.copy_into(network, moved)
    assert network.fc.weight.equal(fresh) and network.conv.weight.equal(tensors["conv.weight"])
    with pytest.raises(
        UsageError, match=r"fc\.weight is 10x500, but should be 4x500; fc\.bias is 10, but should be 4$"
    ):
        transfer.fit(plan, tensors, "x.pth", whole=True)


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("resnet18", "copied 120 of 122 tensors; new: fc.weight 3x512 (file: 1000x512), fc.bias 3 (file: 1000)"),
        ("squeezenet1_1", "copied 50 of 52 tensors; new: classifier.1.weight 3x512x1x1 (file: 1000x512x1x1), "),
        ("googlenet", "new: aux1.fc2.weight 3x1024 (file: 1000x1024), aux1.fc2.bias 3 (file: 1000), aux2.fc2.weight"),
    ],
)
def test_heads_of_the_zoo(name: str, new: str) -> None:
    assert new in str(transfer.fit(find(name, args={"classes": 3}), drawn(name).state_dict(), "x.pth"))


def test_auxiliary_heads_may_be_missing() -> None:
    state = {k: v for k, v in drawn("googlenet").state_dict().items() if not k.startswith("aux")}
    moved = transfer.fit(find("googlenet"), state, "x.pth", whole=True)
    assert {k.split(".")[0] for k in moved.new} == {"aux1", "aux2"} and len(moved.copied) == len(state)


def change(state: dict[str, Tensor], **tensors: Tensor | None) -> dict[str, Tensor]:
    named = {k.replace("__", "."): v for k, v in tensors.items()}
    return {k: v for k, v in (state | named).items() if v is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv__weight": None}, "conv.weight is missing"),
        ({"extra": torch.zeros(2)}, "extra is not in the network"),
        ({"bn__weight": torch.zeros(6)}, "bn.weight is 6, but should be 5"),
        ({"fc__weight": torch.zeros(10, 400)}, "fc.weight is 10x400, but should be 4x500"),
        ({"fc__weight": torch.zeros(4, 500).half()}, "fc.weight is 4x500 of float16, but should be 4x500"),
    ],
)
def test_anything_else_that_differs_is_refused(net: str, tensors: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(UsageError) as error:
        transfer.fit(find(net), change(state_of(net), **tensors), "x.pth")
    assert str(error.value) == f"x.pth does not fit net: {message}"


def test_what_is_not_finite_is_left_new(net: str, tmp_path: Path) -> None:
    """VGG16 has such weights: IMAGENET1K_FEATURES, for training only."""
    state = change(state_of(net), fc__bias=torch.full((4,), torch.nan))
    moved = transfer.fit(find(net), state, "x.pth")
    assert str(moved) == "copied 8 of 9 tensors; new: fc.bias 4 (not finite in the file)"
    torch.save(state, "x.pth")
    with pytest.raises(
        UsageError, match=r"^x\.pth can only be used for training: fc\.bias has values that are not finite"
    ):
        load_network(net, weights="x.pth")


def test_what_is_taken_of_a_file_of_another_training_script_is_said(net: str, tmp_path: Path) -> None:
    state = state_of(net)
    inside = {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}
    torch.save({"model": {"state_dict_ema": inside, "state_dict": state}, "optimizer": {}}, tmp_path / "ema.pth")
    notes = load_network(net, weights=str(tmp_path / "ema.pth")).notes
    assert notes[1:3] == (
        "taken from model / state_dict_ema in the file; not used: state_dict",
        "names in the file without their prefix model._orig_mod.",
    )
    torch.save(state, tmp_path / "plain.pth")
    assert not any("in the file" in note for note in load_network(net, weights=str(tmp_path / "plain.pth")).notes)


def test_the_number_of_classes_is_told_behind_a_prefix() -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in build_plan(find("lenet-5")).state_dict().items()}
    assert transfer.classes_of(find("lenet-5", args={"classes": 3}), wrapped) == 10


def test_what_fits_is_copied_only_where_that_is_asked_for(quick: Path, net: str) -> None:
    small.begin(quick, "first", epochs=0.1)
    wider = small.SPEC.replace("- Dropout: 0.2", "- Linear: 20").replace("BatchNorm2d", "BatchNorm2d: {affine: false}")
    options = {"weights": str(quick / "first"), "epochs": 0.1, "lr": 1e-9}
    with pytest.raises(
        UsageError,
        match=r"(?s)does not fit small: 5\.weight is missing; 5\.bias is missing; 3 more differ"
        r"\nto copy only the tensors that match by name and shape, add --weights-partial$",
    ):
        small.begin(quick, "refused", wider, **options)
    request = small.request(quick, "taken", wider, **options, weights_partial="true")
    run_module.begin(request)
    header = " ".join(" ".join(request.say.__self__).split())  # type: ignore[attr-defined]
    assert "copied 6 of 9 tensors; new: 5.weight 20x54 (not in the file), 5.bias 20 (not in the file), " in header
    assert "6.weight 10x20 (file: 10x54)" in header and "unused in the file: 1.bias, 1.weight" in header
    first, taken = (load(quick / name).state_dict() for name in ("first", "taken"))
    assert torch.allclose(first["0.weight"], taken["0.weight"], atol=1e-6)
    again = replace(small.request(quick, "again"), network=str(quick / "taken" / "config.yaml"))
    run_module.begin(again)
    assert "copied 6 of 9 tensors" in " ".join(again.say.__self__)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r": no tensor has the name and shape of one in net"):
        transfer.fit_partially(find(net), {"x": torch.zeros(3)}, "x.pth")
    with pytest.raises(UsageError, match="weights_partial needs weights; write --weights SOURCE"):
        small.begin(quick, "none", weights_partial="true")
