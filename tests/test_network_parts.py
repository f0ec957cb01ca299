"""Networks as parts of others: what is built, what travels with a checkpoint, and the weights of a part alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretrained_files import drawn, publish
from small_runs import begin, request
from torch import Tensor, nn
from torchvision import models

import cnn_cli
from cnn_cli.analysis.verification import verify
from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.errors import UsageError
from cnn_cli.language.registry import find, plan_document
from cnn_cli.network.builder import build_plan
from cnn_cli.training import run as run_module

UNET = """
seg:
  input: [3, 32, 32]
  args: {classes: 2, body: resnet18}
  layers:
    backbone: {Network: $body, until: layer2}
    skip: {from: backbone.layer1, Conv2d: {out_channels: 128, kernel_size: 1}}
    up: {from: backbone, Upsample: {scale_factor: 2}}
    add: {Add: [up, skip]}
    head: {Conv2d: {out_channels: $classes, kernel_size: 1}}
"""
CLASSIFIER = """
small:
  input: [3, 32, 32]
  args: {classes: 10}
  layers:
    backbone: {Network: resnet18, until: layer1}
    pool: {AdaptiveAvgPool2d: 1}
    flat: Flatten
    fc: {Linear: $classes}
  train: {data: digits, epochs: 1, batch_size: 128}
"""


NESTED = """
blocks: {Stage: {layers: [{Conv2d: {out_channels: 2, kernel_size: 1}}]}}
inner:
  input: [1, 8, 8]
  outputs: {fc: 1.0, aux: 0.5}
  args: {width: , head: []}
  blocks: {Stage: {args: {width: 5}, layers: [{Conv2d: {out_channels: $width, kernel_size: 3}}]}}
  layers:
    a: {Stage: $width}
    aux: {Conv2d: {out_channels: 1, kernel_size: 6}}
    fc: {from: a, layers: [$head, {Conv2d: {out_channels: 1, kernel_size: 6}}]}
outer:
  input: [3, 8, 8]
  args: {n: 4}
  layers:
    - {Network: inner, args: {width: $n, head: Stage}}
    - {Network: inner, args: {width: 2}, until: a, repeat: 0}
    - Stage
"""


class Seg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        body = models.resnet18()
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
        self.backbone = nn.ModuleDict({name: getattr(body, name) for name in names})
        self.skip = nn.Conv2d(64, 128, 1)
        self.head = nn.Conv2d(128, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for name in list(self.backbone)[:-1]:
            x = self.backbone[name](x)
        early, x = x, self.backbone["layer2"](x)
        return self.head(nn.functional.interpolate(x, scale_factor=2) + self.skip(early))  # type: ignore[no-any-return]


@pytest.fixture
def seg(tmp_path: Path) -> str:
    (tmp_path / "seg.yaml").write_text(UNET)
    return str(tmp_path / "seg.yaml")


def test_layers_after_the_end_of_a_part_are_left_out() -> None:
    """The number in `skip` is the name of a later child too, whose pieces only a head of `inner` joins."""
    layers = {"skip": {"Add": 1}, "aux": {"ReLU": None}, "1": {"Chunk": 2}, "join": {"Concat": ["1.0", "1.1"]}}
    inner = {"input": [2, 4, 4], "layers": layers, "outputs": {"skip": 1.0, "aux": 0.3}}
    outer = {"input": [2, 4, 4], "layers": [{"Network": "inner"}, {"Conv2d": {"out_channels": 1, "kernel_size": 3}}]}
    plan = plan_document({"outer": outer, "inner": inner}, "test")
    assert [layer.name for layer in plan.layers] == ["0.skip", "1"]


def test_equal_to_pytorch(seg: str) -> None:
    plan, theirs = find(seg), Seg()
    ours = build_plan(plan)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert verify(plan).disagreements == ()
    assert plan.parts == {"backbone": "resnet18"}
    other = find(seg, args={"body": "resnet34", "classes": 3})
    assert other.output == (3, 8, 8)
    assert len(other.layers) > len(plan.layers)


def test_a_whole_network_with_its_arguments(tmp_path: Path) -> None:
    """What only auxiliary outputs need is not part of it; its blocks and those of the network around are told apart."""
    (tmp_path / "m.yaml").write_text(NESTED)
    plan = find(f"{tmp_path / 'm.yaml'}:outer")
    assert [(layer.name, layer.output_shape) for layer in plan.layers] == [
        ("0.a.0", (4, 6, 6)), ("0.fc.0.0", (2, 6, 6)), ("0.fc.1", (1, 1, 1)), ("1.0", (2, 1, 1)),
    ]  # fmt: skip
    again = plan_document(json.loads(json.dumps(plan.document())), "again")
    assert [(a.name, a.settings) for a in again.layers] == [(a.name, a.settings) for a in plan.layers]
    assert find(seg_of_googlenet(tmp_path)).params == sum(
        p.numel()
        for n, p in drawn("googlenet").named_parameters()
        if n < "inception4b" and not n.startswith(("aux", "fc"))
    )


def seg_of_googlenet(folder: Path) -> str:
    (folder / "g.yaml").write_text("g:\n  input: [3, 64, 64]\n  layers: {Network: googlenet, until: inception4a}\n")
    return str(folder / "g.yaml")


@pytest.mark.usefixtures("quick")
def test_a_run_carries_the_whole_spec(tmp_path: Path) -> None:
    """A checkpoint is used where the network that was its part is another one by now."""
    own = "  layers: {layer1: {Conv2d: {out_channels: 3, kernel_size: 3}}, fc: Flatten}"
    spec = f"{CLASSIFIER.replace('[3, 32, 32]', '[1, 8, 8]')}resnet18:\n  input: [1, 8, 8]\n{own}\n"
    asked = request(tmp_path, spec=spec)
    run_module.begin(replace(asked, network=f"{asked.network}:small"))
    folder = tmp_path / "run"
    (tmp_path / "small.yaml").unlink()
    loaded = load_network(str(folder))
    assert [layer.name for layer in loaded.plan.layers] == ["backbone.layer1", "pool", "flat", "fc"]
    assert cnn_cli.load(folder)(torch.rand(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.usefixtures("quick")
def test_weights_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(monkeypatch, tmp_path, "resnet18")
    state = drawn("resnet18").state_dict()
    for source in ("torchvision", str(file)):
        folder = begin(tmp_path, source[-3:], CLASSIFIER, weights=f"backbone={source}", freeze="backbone")
        trained = load_network(str(folder))
        weights = trained.plan.tensors
        network = cnn_cli.load(folder)
        own = {name.partition("backbone.")[2]: value for name, value in network.state_dict().items()}
        kept = [name for name in weights if name.startswith("backbone.")]
        assert kept
        for name in kept:
            assert torch.equal(own[name.removeprefix("backbone.")], state[name.removeprefix("backbone.")])
        assert trained.preprocessing.mean == (0.485, 0.456, 0.406)
        assert trained.preprocessing.input == (3, 32, 32)


def test_weights_that_do_not_fit_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(drawn("resnet34").state_dict() | {"bn1.weight": torch.ones(3)}, tmp_path / "other.pth")

    def refused(**options: str) -> str:
        with pytest.raises(UsageError) as error:
            run_module.begin(request(tmp_path, spec=CLASSIFIER, **options))
        return str(error.value)

    said = refused(weights="backbone=other.pth")
    assert "bn1.weight is 3, but should be 64; end the part before the layers that differ, with `until`" in said
    assert said.endswith("to copy only the tensors that match by name and shape, add --weights-partial")
    assert refused(weights="backbone=").startswith("--weights backbone= names no weights; write backbone=torchvision")
    said = refused(weights="bakbone=torchvision")
    assert said.endswith(": small has no part 'bakbone'. Did you mean 'backbone'? (its parts are backbone)")
    with pytest.raises(UsageError, match="is for a part of small; train it with them"):
        load_network(str(tmp_path / "small.yaml"), weights="backbone=torchvision")
