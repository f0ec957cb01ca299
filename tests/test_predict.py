"""`cnn predict`: the same probabilities as a forward pass by hand, whatever the last layer; files, folders, numbers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import cnn, make_run, opened_run, save_image
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, Metadata, load_network, save_weights
from cnn_cli.data.loading import load_dataset
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret.inputs import ImageSelection
from cnn_cli.interpret.prediction import predict_images

BODY = "conv: {Conv2d: {out_channels: 2, kernel_size: 3}}, flat: Flatten, fc: {Linear: 3}"
TEN = f"ten: {{input: [1, 8, 8], layers: {{{BODY.replace('Linear: 3', 'Linear: 10')}}}}}"


def predict(loaded: LoadedNetwork, files: list[str], index: Sequence[int] = (), top: int = 5) -> dict[str, Any]:
    return predict_images(loaded, ImageSelection(files, index), top).document()


def spec_of(last: str, outputs: int = 3) -> str:
    body = BODY.replace("Linear: 3", f"Linear: {outputs}") + (f", last: {last}" if last else "")
    return f"net: {{input: [1, 8, 8], layers: {{{body}}}}}"


def softmax(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum()


@pytest.mark.parametrize("last", ["", "{LogSoftmax: {dim: 1}}", "{Softmax: {dim: 1}}"])
def test_probabilities_are_those_of_a_forward_pass_by_hand(last: str, tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, spec_of(last), classes=("a", "b", "c"))
    array = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    found = predict(loaded, [str(save_image(tmp_path / "a.png", array))], top=3)["images"][0]["top"]
    x = torch.from_numpy(array).float()[None, None] / 255
    wanted = softmax(network.fc(network.conv(x).flatten(1))[0])
    assert [a["index"] for a in found] == wanted.argsort(descending=True).tolist()
    assert [a["class"] for a in found] == ["abc"[a["index"]] for a in found]
    torch.testing.assert_close(torch.tensor([a["probability"] for a in found]), wanted.sort(descending=True).values)


@pytest.mark.parametrize("last", ["", "Sigmoid"])
def test_one_output_stands_for_two_classes(last: str, tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, spec_of(last, 1), classes=("no", "yes"))
    (shot,) = predict(loaded, [str(save_image(tmp_path / "a.png", np.full((8, 8), 200, np.uint8)))])["images"]
    yes = 1 / (1 + math.exp(-network.fc(network.conv(torch.full((1, 1, 8, 8), 200 / 255)).flatten(1)).item()))
    found = {a["class"]: a["probability"] for a in shot["top"]}
    assert found == pytest.approx({"no": 1 - yes, "yes": yes}, abs=1e-6)


def test_normalization_is_the_checkpoints_own(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, spec_of(""), classes=("a", "b", "c"))
    how = Preprocessing((1, 8, 8), "stretch", (0.3,), (0.2,))
    save_weights(tmp_path / "n.safetensors", network, Metadata(loaded.plan.document(), ("a", "b", "c"), how))
    save_image(tmp_path / "a.png", np.full((8, 8), 200, np.uint8))
    found = predict(load_network(str(tmp_path / "n.safetensors")), [str(tmp_path / "a.png")])["images"][0]["top"]
    wanted = softmax(network(torch.full((1, 1, 8, 8), (200 / 255 - 0.3) / 0.2))[0])
    assert found[0]["probability"] == pytest.approx(wanted.max().item(), abs=1e-6)


def test_unreadable_images_of_a_folder_are_skipped_and_named(tmp_path: Path) -> None:
    loaded, _ = opened_run(tmp_path, spec_of(""), classes=("a", "b", "c"))
    for i in range(3):
        save_image(tmp_path / "few" / f"{i}.png", np.full((8, 8), 3 * i, np.uint8))
    (bad := tmp_path / "few" / "1.png").write_bytes(b"no image")
    document = predict(loaded, [str(tmp_path / "few")], top=1)
    assert [Path(a["image"]).name for a in document["images"]] == ["0.png", "2.png"]
    assert len(document["skipped"]) == 1 and document["skipped"][0].startswith(f"{bad} is not an image")
    with pytest.raises(CnnError, match=r"1\.png is not an image"):
        predict(loaded, [str(tmp_path / "few" / "0.png"), str(bad)], top=1)


def test_any_number_of_images(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, TEN)
    for i in range(70):
        save_image(tmp_path / "many" / f"{i:03}.png", np.full((8, 8), 3 * i, np.uint8))
    document = predict(loaded, [str(tmp_path / "many")], index=range(100), top=1)
    assert [Path(a["image"]).name for a in document["images"][:70]] == [f"{i:03}.png" for i in range(70)]
    assert document["images"][70]["image"] == "digits test 0" and len(document["images"]) == 170
    test = load_dataset("digits", tmp_path).splits["test"]
    wanted = network(test.images[:100].float() / 255).argmax(1)
    assert [a["top"][0]["index"] for a in document["images"][70:]] == wanted.tolist()
    assert [a["true"] for a in document["images"][70:]] == [str(i) for i in test.targets[:100].tolist()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(network[1].weight)
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    spec = {"net": {"input": [1, 8, 8], "layers": ["Flatten", {"Linear": 3}]}}
    save_weights(tmp_path / "net.safetensors", network, Metadata(spec, ("cat", "dog", "eel"), Preprocessing((1, 8, 8))))
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name, np.zeros((8, 8), np.uint8))
    return tmp_path


ONE = """a.png

class  probability
──────────────────
cat          70.0%
dog          20.0%

images fitted to 1x8x8: stretch to 8x8; pixels in [0, 1]
"""
TWO = """image  predicted  probability  followed by
──────────────────────────────────────────────────
a.png  cat              70.0%  dog 20.0%, eel 10.0%
b.png  cat              70.0%  dog 20.0%, eel 10.0%

images fitted to 1x8x8: stretch to 8x8; pixels in [0, 1]
"""
CSV = """image,true,rank,class,probability
a.png,,1,cat,0.7
"""


def test_the_tables(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("predict", "net.safetensors", "a.png", "--top", "2") == 0
    assert capsys.readouterr() == (ONE, "")
    assert cnn("predict", "net.safetensors", "?.png") == 0
    rows = [line.rstrip("─") for line in TWO.splitlines()]
    assert [line.rstrip("─") for line in capsys.readouterr().out.splitlines()] == rows
    assert cnn("predict", "net.safetensors", "a.png", "--top", "1", "--csv") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert (head == CSV.splitlines()[0] and row.startswith("a.png,,1,cat,0.7")) or row.startswith("a.png,,1,cat,0.69")
    assert cnn("predict", "net.safetensors", "a.png", "b.png", "--top", "1", "--markdown") == 0
    assert "| a.png |  | 1 | cat | 70.0% |" in capsys.readouterr().out


def test_the_document(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("predict", "net.safetensors", "b.png", "--top", "1", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    (likeliest,) = out["images"][0].pop("top")
    assert out == {
        "network": "net",
        "checkpoint": "net.safetensors",
        "classes": ["cat", "dog", "eel"],
        "temperature": None,
        "preprocessing": "stretch to 8x8; pixels in [0, 1]",
        "accuracy": None,
        "images": [{"image": "b.png", "true": None}],
        "skipped": [],
    }
    assert likeliest == {"class": "cat", "index": 0, "probability": pytest.approx(0.7)}


def test_the_true_class_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", "tiny-cnn", 1)
    assert cnn("predict", "run", *[f"--index={i}" for i in range(40)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("digits")]
    assert len(lines) == 40
    for line in lines:
        true, predicted = line.split()[3], line.split()[4]
        assert ("✓" in line) == (true == predicted)
    assert any("✓" in line for line in lines)


def test_folders_of_classes_give_an_accuracy_and_a_contact_sheet(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network always says cat; an image in a folder that is no class has none, and does not count."""
    for name in ("set/cat/1.png", "set/dog/2.png", "set/dog/3.png", "set/others/4.png"):
        save_image(place / name, np.zeros((8, 8), np.uint8))
    assert cnn("predict", "net.safetensors", "set", "-o", "sheet.png", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    assert [shot["true"] for shot in out["images"]] == ["cat", "dog", "dog", None]
    assert out["accuracy"] == pytest.approx(1 / 3) and out["picture"] == "sheet.png"
    assert (place / "sheet.png").stat().st_size
    assert cnn("predict", "net.safetensors", "set", "-o", "sheet.png") == 2
    assert capsys.readouterr().err == "error: sheet.png exists already; --force overwrites it, -o writes elsewhere\n"
    assert cnn("predict", "net.safetensors", "set") == 0
    assert "accuracy 33.3%: 1 of 3 images whose class is known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("net.safetensors", 2, "no images; name files or folders, or choose images of the data set with --index 0"),
        ("net.safetensors a.png --top 0", 2, "--top 0: must be 1 or more"),
        ("net.safetensors no.png", 1, "no.png: no such file; looked in {place}"),
        (
            "net.safetensors net.safetensors",
            1,
            "net.safetensors is not an image (PNG, JPEG, BMP, {formats}); leave it out",
        ),
        ("net.safetensors --index 0", 2, "net has no data set; name one with --data"),
        (
            "tiny-cnn a.png",
            2,
            "no trained weights for tiny-cnn in {place}/runs; train it: cnn train tiny-cnn\n"
            "or load weights: --weights torchvision, a file or a run",
        ),
        ("net.safetensors a.png --csv --markdown", 2, "--json, --csv and --markdown exclude each other; choose one"),
    ],
)
def test_errors_say_what_to_do(
    arguments: str, code: int, message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cnn("predict", *arguments.split()) == code
    assert capsys.readouterr() == ("", f"error: {message.format(place=place, formats='GIF, WebP, TIFF or PPM')}\n")


def test_outputs_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    loaded, network = opened_run(tmp_path, spec_of(""), classes=("a", "b", "c"))
    nn.init.constant_(network.fc.weight, math.nan)
    save_weights(tmp_path / "run" / "best.safetensors", network, loaded.metadata)
    with pytest.raises(CnnError, match=r"fc.weight: 216 of 216 values are not finite numbers"):
        predict(load_network(str(tmp_path / "run")), [str(tmp_path / "a.png")])
    nn.init.constant_(network.fc.weight, 3e38)
    save_weights(tmp_path / "run" / "best.safetensors", network, loaded.metadata)
    with pytest.raises(CnnError, match=r"outputs are not finite numbers; train it again with a smaller --lr"):
        predict(
            load_network(str(tmp_path / "run")), [str(save_image(tmp_path / "b.png", np.full((8, 8), 255, np.uint8)))]
        )


def test_outputs_that_are_not_those_of_the_classes_are_refused(tmp_path: Path) -> None:
    loaded, _ = opened_run(tmp_path, spec_of(""))
    with pytest.raises(UsageError, match="net outputs 3 scores, but the data has 10 classes"):
        predict(loaded, [], index=[0])


def test_third_party_weights_say_once_how_images_are_fitted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.yaml").write_text("net: {input: [1, 8, 8], layers: [Flatten, {Linear: 3}]}")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).state_dict(), "net.pth")
    assert cnn("predict", "net.yaml", "a.png", "b.png", "--weights", "net.pth") == 0
    said = capsys.readouterr()
    assert (said.out + said.err).count("stretch to 8x8") == 1
