"""Weights from elsewhere: torchvision's own loaders and presets are the oracle, and a file is checked before use."""

import json
import re
import shutil
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
from pictures import cnn
from PIL import Image
from pretrained_files import SMALL, entry_of, folder_of_images, photograph, publish, state_of, without_counters
from torch import Tensor
from torchvision import models

import cnn_cli
from cnn_cli.checkpoints.checkpoint import load_network, restore
from cnn_cli.checkpoints.pretrained import find_pretrained
from cnn_cli.data.preparation import read_image
from cnn_cli.errors import CnnError, StoppedError, UsageError
from cnn_cli.training import run as run_module
from cnn_cli.training.request import Request

NET = "squeezenet1_1"
DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))([12]\.)")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, a folder and a cache of its own, no drawing."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    small.without_pictures(monkeypatch)


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.yaml").write_text(SMALL)
    return str(tmp_path / "net.yaml")


def as_densenets_are(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {DENSE.sub(r"\1.\2", k): v for k, v in without_counters(state).items()}


# --- Published weights ----------------------------------------------------------------------------------------------

PUBLISHED: dict[str, dict[str, Any]] = {
    "squeezenet1_1": {"old": True},
    "shufflenet_v2_x0_5": {},
    "resnet18": {"change": without_counters},
    "efficientnet_b0": {},  # bicubic
    "densenet121": {"change": as_densenets_are, "old": True},
    "mnasnet0_5": {"change": lambda state: state},  # with the version that its loader insists on
    "googlenet": {"change": without_counters},  # two auxiliary heads, transform_input
    "inception_v3": {"change": without_counters, "old": True},
}
TRANSFORMED = ("googlenet", "inception_v3")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_say_what_they_say_in_torchvision(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded by torchvision itself, from the same file, behind its own preset. Bit for bit, where an image need not be
    resized and torchvision does not normalize twice."""
    path = publish(monkeypatch, tmp_path, name, **PUBLISHED[name])
    theirs, preset = models.get_model(name, weights="DEFAULT").eval(), entry_of(name).transforms()
    side = preset.resize_size[0]
    picture = photograph(tmp_path / "a.png", side + 31, side)

    loaded = load_network(name, weights="torchvision")
    assert loaded.weights == path and loaded.classes == tuple(entry_of(name).meta["categories"])
    with torch.no_grad():
        pixels = read_image(picture, loaded.preprocessing).float() / 255
        found, expected = restore(loaded)(pixels), theirs(preset(Image.open(picture)).unsqueeze(0))
    assert expected.isfinite().all() and expected.std() > 0
    if name in TRANSFORMED:
        assert theirs.transform_input
        assert loaded.preprocessing.mean == loaded.preprocessing.std == (0.5, 0.5, 0.5)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    else:
        assert found.equal(expected)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "inception_v3"])
@pytest.mark.parametrize("size", [(500, 375), (301, 900), (224, 224), (64, 48)])
def test_images_are_resized_and_cut_as_the_preset_does(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Within two of 255 levels, and equal in 95 % of the values: Pillow and PyTorch round at other places."""
    picture, preset = photograph(tmp_path / "a.png", *size), entry_of(name).transforms()
    how = find_pretrained("torchvision", name).preprocessing
    ours = read_image(picture, how)[0].float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preset.mean, preset.std))
    theirs = ((preset(Image.open(picture)) * std + mean) * 255).round()
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 2
    assert (ours != theirs).float().mean() < 0.05


def test_every_published_weight_is_understood() -> None:
    names = [n for n in models.list_models(module=models) if not n.startswith(("vit_", "swin", "maxvit"))]
    for name in names:
        for member in models.get_model_weights(name):
            entry, preset = find_pretrained(str(member), "any"), member.transforms()
            assert re.search(r"-[0-9a-f]{8,}\.pth$", entry.file)
            assert entry.preprocessing.input == (3, preset.crop_size[0], preset.crop_size[0])
            assert entry.preprocessing.resize_size == preset.resize_size[0] >= preset.crop_size[0]
            assert entry.preprocessing.interpolation == preset.interpolation.value
            if name not in TRANSFORMED:
                assert entry.preprocessing.mean == tuple(preset.mean)
                assert entry.preprocessing.std == tuple(preset.std)


def test_the_input_size_of_weights_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, tmp_path, NET)
    monkeypatch.setitem(entry_of(NET).value.transforms.keywords, "crop_size", 192)
    assert load_network(NET, weights="torchvision").plan.input == (3, 192, 192)
    smaller = load_network(NET, weights="IMAGENET1K_V1", input=(3, 64, 64))
    assert smaller.plan.input == (3, 64, 64)
    assert str(smaller.preprocessing).startswith("crop to 64x64; mean 0.485")


@pytest.mark.parametrize(
    ("text", "network", "message"),
    [
        ("torchvision", "my-net", "--weights torchvision: torchvision has no weights for 'my-net'; name a file (.pth"),
        ("IMAGENET1K_V2", NET, f"IMAGENET1K_V2: no such file, run or weights; {NET} has torchvision, IMAGENET1K_V1"),
        ("ResNet18_Weights.IMAGENET_V1", NET, "Did you mean 'ResNet18_Weights.IMAGENET1K_V1'?"),
        ("runs/tiny-7", "tiny", "torchvision has no weights for 'tiny', and no file or run has this name; name a file"),
    ],
)  # fmt: skip
def test_unknown_weights(text: str, network: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        find_pretrained(text, network)
    assert message in str(error.value)


# --- Fetching -------------------------------------------------------------------------------------------------------


def test_weights_are_downloaded_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = publish(monkeypatch, tmp_path, NET, cached=False)
    kept = tmp_path / "torch" / "hub" / "checkpoints" / source.name
    loaded = load_network(NET, weights="torchvision")
    assert loaded.weights == kept and kept.read_bytes() == source.read_bytes()
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("SqueezeNet1_1_Weights.IMAGENET1K_V1: downloading file://")
    source.unlink()
    assert load_network(NET, weights="torchvision").weights == kept
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    with pytest.raises(
        CnnError, match=rf"^{kept} is damaged: its SHA-256 begins with \w{{8}}; delete it and run again$"
    ):
        load_network(NET, weights="torchvision")


def test_a_download_that_is_not_what_it_should_be_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, tmp_path, NET, cached=False).write_bytes(b"another file")
    with pytest.raises(CnnError, match=r"could not be downloaded \(invalid hash value"):
        load_network(NET, weights="torchvision")
    assert not list((tmp_path / "torch" / "hub" / "checkpoints").iterdir())


def test_without_a_network_the_file_and_its_place_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(OSError("no route to host"))

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(CnnError) as error:
        load_network("resnet18", weights="torchvision")
    assert error.value.exit_code == 1
    assert str(error.value) == (
        f"ResNet18_Weights.IMAGENET1K_V1 is not in {tmp_path}/torch/hub/checkpoints and could not be downloaded "
        "(no route to host)\n"
        "download https://download.pytorch.org/models/resnet18-f37072fd.pth to this folder and run again "
        "(TORCH_HOME sets another cache)"
    )


def test_a_file_of_torchvisions_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publish(monkeypatch, tmp_path, NET)
    copy = Path(shutil.copy(path, tmp_path))
    loaded = load_network(NET, weights=str(copy))
    assert loaded.weights == copy and "tench" in loaded.classes
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(CnnError, match="is damaged: its SHA-256"):
        load_network(NET, weights=str(copy))
    plain = Path(shutil.copy(path, tmp_path / "mine.pth"))
    assert load_network(NET, weights=str(plain)).classes == ()


# --- Commands -------------------------------------------------------------------------------------------------------


def begin(network: str, folder: Path, output: str = "run", size: Any = None, **options: Any) -> tuple[Path, str]:
    """A run → its folder and what it said at its start."""
    said: list[str] = []
    given = {"data": str(folder), "epochs": 1, "batch_size": 4, "workers": 0, **options}
    run_module.begin(Request(network, given, input=size, output=Path(output), device="cpu", say=said.append))
    return Path(output), "\n".join(said)


def test_training_begins_with_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the head is frozen, so the run ends with the file's weights and a head of its own."""
    path = publish(monkeypatch, tmp_path, "shufflenet_v2_x0_5")
    monkeypatch.setitem(entry_of("shufflenet_v2_x0_5").value.transforms.keywords, "crop_size", 96)
    pets = folder_of_images(tmp_path / "pets")
    run, said = begin("shufflenet_v2_x0_5", pets, weights="torchvision", freeze=["conv*", "stage?"])
    assert f"ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1({path})" in "".join(said.split())
    assert "new: fc.weight 2x1024 (file: 1000x1024), fc.bias 2 (file: 1000)" in " ".join(said.split())
    assert "images: shorter side resized to 256, center crop of 96x96; mean 0.485" in " ".join(said.split())
    assert "input 3x96x96" in said and "\nweights    ShuffleNet" in said and "\nfrozen     341,792 of 343,842" in said
    assert re.search(r"checkpoint +resize crop, normalize \{mean: \[0\.485", said)
    loaded = load_network(str(run))
    assert loaded.preprocessing == find_pretrained("torchvision", "shufflenet_v2_x0_5").preprocessing
    assert loaded.classes == ("cat", "dog")
    published, own = torch.load(path), cnn_cli.load(run).state_dict()
    assert all(own[k].equal(v) for k, v in published.items() if not k.startswith("fc."))
    assert own["fc.weight"].shape == (2, 1024)


def test_the_encoder_of_a_segmentation_network_begins_with_published_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder is frozen, so the run ends with the file's weights in it; the file's fc has no place there."""
    path = publish(monkeypatch, tmp_path, "resnet18", without_counters)
    for i in range(4):
        photograph(tmp_path / "street/images" / f"{i}.png", 32, 32, seed=i)
        (tmp_path / "street/masks").mkdir(exist_ok=True)
        mask = Image.new("L", (32, 32), 0)
        mask.paste(1, (0, 0, 16 + i, 32))
        mask.save(tmp_path / "street/masks" / f"{i}.png")
    options: dict[str, Any] = {"weights": "encoder=torchvision", "freeze": ["encoder"]}
    run, said = begin("unet-resnet18", tmp_path / "street", size=(3, 32, 32), **options)
    assert f"ResNet18_Weights.IMAGENET1K_V1({path})" in "".join(said.split()) and "mean 0.485" in said
    own, published = cnn_cli.load(run).state_dict(), torch.load(path)
    assert all(own[f"encoder.{k}"].equal(v) for k, v in published.items() if not k.startswith("fc."))
    assert own["segmentation_head.0.weight"].shape[0] == 2


def test_what_is_set_is_obeyed_and_said(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, tmp_path, NET)
    pets = folder_of_images(tmp_path / "pets")
    own = {"mean": [0.5], "std": [0.25]}
    run, said = begin(NET, pets, size=(3, 48, 48), weights="torchvision", normalize=own, freeze=["features"])
    how = load_network(str(run)).preprocessing
    assert how.input == (3, 48, 48) and how.resize_size is None and how.resize == "crop"
    assert (how.mean, how.std) == ((0.5,) * 3, (0.25,) * 3)
    said = " ".join(said.split())
    assert "images: crop to 48x48; mean 0.5, std 0.25" in said
    assert "the weights were trained with: shorter side resized to 256, center crop of 224x224; mean 0.485" in said


def test_a_run_gives_its_weights_to_another(net: str, tmp_path: Path) -> None:
    pets, farm = folder_of_images(tmp_path / "pets"), folder_of_images(tmp_path / "farm", ("cow", "hen", "pig"))
    scale = {"mean": [0.4], "std": [0.2]}
    first, _ = begin(net, pets, "first", size=(3, 12, 12), normalize=scale, resize="pad")
    second, said = begin(net, farm, "second", weights="first", freeze=["conv", "bn"])
    assert "new: fc.weight 3x500 (file: 2x500), fc.bias 3 (file: 2)" in " ".join(said.split())
    assert load_network("second").preprocessing == load_network("first").preprocessing
    assert cnn_cli.load(second).conv.weight.equal(cnn_cli.load(first).conv.weight)
    birds = folder_of_images(tmp_path / "birds", ("wren", "tit"))
    _, said = begin(net, birds, "third", weights="first")
    assert (
        "copied all 9 tensors the head is copied too, although it was trained for other classes: cat, dog, …"
        in " ".join(said.split())
    )
    loaded = load_network(net, weights="first/last.pt")
    assert loaded.classes == ("cat", "dog") and loaded.plan.args == {"classes": 2} and loaded.run is None


def test_a_resumed_run_needs_the_file_no_more(net: str, tmp_path: Path) -> None:
    pets = folder_of_images(tmp_path / "pets", each=9)
    torch.save(state_of(net, classes=7), "start.pth")
    options: dict[str, Any] = {"weights": "start.pth", "freeze": "conv", "epochs": 2}
    whole, _ = begin(net, pets, "whole", **options)
    with small.at_step(2, small.interrupt), pytest.raises(StoppedError):
        begin(net, pets, "run", **options)
    Path("start.pth").unlink()
    asked = Request(net, {}, device="cpu", say=lambda _: None)
    with pytest.raises(UsageError, match=r"weights is .*, not start.pth"):
        run_module.resume(Request(net, {"weights": "start.pth"}), Path("run"))
    run_module.resume(asked, Path("run"))
    ends = [small.without_times(small.last(r)) for r in (whole, Path("run"))]
    assert small.same(*ends)


def test_eval_and_predict_with_weights(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = publish(monkeypatch, tmp_path, NET), photograph(tmp_path / "a.png", 300, 256)
    assert cnn("predict", NET, str(picture), "--weights", "torchvision", "--json", "--top", "1000") == 0
    out, err = capsys.readouterr()
    assert f"weights: SqueezeNet1_1_Weights.IMAGENET1K_V1 ({path})\nimages: shorter side resized to 256, center" in err
    shares = {a["class"]: a["probability"] for a in json.loads(out)["images"][0]["top"]}
    entry = entry_of(NET)
    with torch.no_grad():
        theirs = models.get_model(NET, weights=entry).eval()(entry.transforms()(Image.open(picture)).unsqueeze(0))
    wanted = dict(zip(entry.meta["categories"], theirs.softmax(1)[0].tolist(), strict=True))
    assert shares == pytest.approx(wanted, rel=1e-5)

    zoo = folder_of_images(tmp_path / "zoo", ("tabby", "goldfish"), each=2)
    assert cnn("eval", NET, "--weights", "torchvision", "--data", str(zoo), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 4 and len(found["classes"]) == 1000 and found["checkpoint"] == str(path)
    assert cnn("eval", NET, "--weights", "torchvision") == 2
    assert "these weights do not record a data set; name one with --data" in capsys.readouterr().err

    torch.save(state_of(net, classes=2), "mine.pth")  # of a bare file the number of outputs is told from its head
    assert cnn("eval", net, "--weights", "mine.pth", "--data", str(zoo), "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["goldfish", "tabby"]
    assert cnn("predict", net, str(picture), "--weights", "mine.pth", "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["0", "1"]


def test_pictures_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(monkeypatch, tmp_path, NET)
    assert cnn("visualize-filters", NET, "--weights", "torchvision", "--json") == 0
    assert json.loads(capsys.readouterr().out)["origin"].startswith("weights SqueezeNet1_1_Weights.IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["train", "a.pth"], "a.pth is a run or checkpoint"),
        (["eval", "a.pth", "--weights", "b.pth"], "a.pth has its own weights; with --weights, name a network"),
        (
            ["predict", "net.yaml", "x.png", "--weights", "nothing"],
            "--weights nothing: torchvision has no weights for 'net'",
        ),
        (["visualize-filters", "net.yaml", "--weights", "a.pth", "--untrained"], "exclude each other"),
    ],
)
def test_mistakes(net: str, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/last.pt").touch()
    assert cnn(*arguments) == 2
    assert error in capsys.readouterr().err
