"""Images for a picture or a prediction: whose they are, how they enter the network, and what is no image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import opened_run, save_image
from PIL import Image
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, load_network
from cnn_cli.data.catalog import NamedDataset
from cnn_cli.data.decoding import ReadImageError
from cnn_cli.data.loading import load_dataset, split_dataset
from cnn_cli.data.preprocessing import preprocess
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret.activations import captured, choose_layer, layer_names, trunk, untouched
from cnn_cli.interpret.ascent import choose_units
from cnn_cli.interpret.inputs import ImageSelection, files_of, load_inputs, whole_split
from cnn_cli.language.registry import find

GRAY = "gray: {input: [1, 8, 8], layers: [Conv2d: {out_channels: 2, kernel_size: 3}, Flatten, Linear: 10]}"
COLOR = GRAY.replace("1, 8", "3, 8").replace("gray", "color")


@pytest.fixture
def gray(tmp_path: Path) -> LoadedNetwork:
    return opened_run(tmp_path, GRAY)[0]


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_file_enters_as_in_training(tmp_path: Path, gray: LoadedNetwork) -> None:
    array = random_image(8, 8)
    inputs = load_inputs(gray, ImageSelection([str(save_image(tmp_path / "a.png", array))]))
    np.testing.assert_array_equal(inputs.pixels[0, 0].numpy(), array.astype(np.float32) / 255)
    assert inputs.names == (str(tmp_path / "a.png"),) and inputs.labels == (None,)


def test_colors_and_sizes_are_adapted(tmp_path: Path, gray: LoadedNetwork) -> None:
    """Gray as Pillow makes it, then resized as PyTorch does with antialiasing."""
    path = save_image(tmp_path / "a.png", random_image(20, 12, 3))
    inputs = load_inputs(gray, ImageSelection([str(path)]))
    with Image.open(path) as picture:
        luma = torch.from_numpy(np.array(picture.convert("L")))[None, None]
    wanted = nn.functional.interpolate(luma, size=(8, 8), mode="bilinear", antialias=True)
    assert torch.equal(inputs.pixels, wanted.float() / 255)
    color = load_inputs(opened_run(tmp_path / "c", COLOR)[0], ImageSelection([str(path)]))
    assert color.pixels.shape == (1, 3, 8, 8) and color.pixels.max() <= 1


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    names = ["b/2.png", "b/1.PNG", "b/c/3.jpg", "a[1].png", "b/.hidden/4.png"]
    for name in names:
        save_image(tmp_path / name.lower(), random_image(4, 4))
    (tmp_path / "b" / "notes.txt").touch()
    (tmp_path / "b" / "link.png").symlink_to(tmp_path / "a[1].png")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    found = [str(p.relative_to(tmp_path)) for p in files_of([str(tmp_path / "b"), str(tmp_path / "a[1].png")])]
    assert found == ["b/1.png", "b/2.png", "b/c/3.jpg", "b/link.png", "a[1].png"]
    assert files_of([str(tmp_path / "b" / "?.png")]) == [tmp_path / "b" / "1.png", tmp_path / "b" / "2.png"]
    assert len(files_of([str(tmp_path / "**" / "*.jpg")])) == 1


def test_images_of_the_data_set_by_number(tmp_path: Path, gray: LoadedNetwork) -> None:
    save_image(tmp_path / "a.png", random_image(8, 8))
    inputs = load_inputs(gray, ImageSelection([str(tmp_path / "a.png")], index=[359, 0]))
    test = load_dataset("digits", tmp_path).splits["test"]
    assert torch.equal(inputs.pixels[1:], test.images[[359, 0]].float() / 255)
    assert inputs.names[1:] == ("digits test 359", "digits test 0")
    assert inputs.labels == (None, int(test.targets[359]), int(test.targets[0]))


def test_val_is_divided_as_it_was_in_training(tmp_path: Path, gray: LoadedNetwork) -> None:
    val = split_dataset(load_dataset("digits", tmp_path), 0.2, 0).splits["val"]
    assert torch.equal(
        load_inputs(gray, ImageSelection([], index=[5], split="val")).pixels, val.images[5:6].float() / 255
    )


def folder_of(root: Path, classes: str) -> Path:
    for name in classes:
        for i in range(3):
            save_image(root / name / f"{i}.png", np.full((8, 8), 10 * i + ord(name), np.uint8))
    return root


def test_weights_of_a_run_bring_its_data_set(tmp_path: Path) -> None:
    opened_run(tmp_path, GRAY)
    named = load_network(str(tmp_path / "spec.yaml"), weights=str(tmp_path / "run"))
    assert named.metadata is not None and named.metadata.data["name"] == "digits"
    assert load_inputs(named, ImageSelection(index=(3,))).names == ("digits test 3",)


def test_labels_follow_the_names_of_the_network(tmp_path: Path) -> None:
    loaded = opened_run(tmp_path, GRAY.replace("10]", "3]"), data="elsewhere", classes=("c", "b", "x"))[0]
    root = folder_of(tmp_path / "images", "bc")
    inputs = load_inputs(loaded, ImageSelection([], index=[0, 5], data=str(root)))
    assert inputs.labels == (1, 0) and inputs.names[0] == "images test 0"
    assert whole_split(loaded, "test", str(root)).splits["test"].targets.tolist() == [1, 1, 1, 0, 0, 0]
    strange = folder_of(tmp_path / "strange", "bz")
    assert load_inputs(loaded, ImageSelection([], index=[0, 5], data=str(strange))).labels == (1, None)
    with pytest.raises(UsageError, match="strange has classes that the network does not know: z"):
        whole_split(loaded, "test", str(strange))


def test_an_untrained_network_knows_its_data_set() -> None:
    loaded = load_network("tiny-cnn", trained=False)
    with pytest.raises(CnnError, match="mnist is not in"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_cli.data.catalog._download", _no_network)
        load_inputs(loaded, ImageSelection([], index=[0], data_dir=Path("nowhere")))
    inputs = load_inputs(loaded, ImageSelection([], index=[0], data="digits"))
    digits = load_dataset("digits", Path()).splits["test"].images[:1]
    assert torch.equal(inputs.pixels, preprocess(digits, loaded.preprocessing).float() / 255) and inputs.labels == (
        None,
    )


def _no_network(entry: NamedDataset, *_: object) -> None:
    raise CnnError(f"{entry.name} is not in nowhere")


@pytest.mark.parametrize(
    ("images", "options", "kind", "message"),
    [
        ([], {}, UsageError, "no images; name files or folders, or choose images of the data set with --index 0"),
        (["no.png"], {}, CnnError, "no.png: no such file; looked in {place}"),
        (["*.png"], {}, CnnError, "no file matches '*.png'"),
        (["empty"], {}, CnnError, "no images in empty"),
        (["t.txt"], {}, ReadImageError, "t.txt is not an image (PNG, JPEG, BMP, GIF, WebP, TIFF or PPM); leave it out"),
        ([], {"index": [360]}, UsageError, "--index 360: the test split of digits has images 0 to 359"),
        ([], {"index": [-1]}, UsageError, "--index -1: the test split of digits has images 0 to 359"),
        ([], {"index": [0], "split": "tset"}, UsageError, "--split must be test, val or train, not 'tset'"),
        ([], {"index": range(9), "limit": 8}, UsageError, "9 images, but one picture holds 8; name fewer"),
        ([], {"index": [0], "data": "digit"}, UsageError, "data digit: no such data set or folder. {near}"),
    ],
)
def test_what_is_no_image_is_said(
    images: list[str], options: dict, kind: type, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = opened_run(tmp_path, GRAY)[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.txt").write_text("words")
    with pytest.raises(CnnError) as error:
        limit = options.pop("limit", 64)
        load_inputs(loaded, ImageSelection(images, **options), limit)
    assert (type(error.value), str(error.value)) == (
        kind,
        message.format(place=tmp_path, near="Did you mean 'digits'?"),
    )


def test_a_network_of_two_channels_takes_no_images(tmp_path: Path) -> None:
    loaded = opened_run(tmp_path, GRAY.replace("1, 8", "2, 8"))[0]
    with pytest.raises(UsageError, match="takes 2 channels, but images have 1"):
        load_inputs(loaded, ImageSelection([], index=[0]))


CHAIN = """
chain:
  input: [1, 8, 8]
  layers:
    conv: {Conv2d: {out_channels: 3, kernel_size: 3}}
    relu: ReLU
    flat: Flatten
    fc: {Linear: 10}
"""


def test_what_is_captured_is_what_a_hook_sees(tmp_path: Path) -> None:
    """Also where the next layer works in place."""
    _, network = opened_run(tmp_path, CHAIN)
    network.relu.inplace = True
    x, seen = torch.rand(2, 1, 8, 8), {}
    handle = network.conv.register_forward_hook(lambda m, i, o: seen.update(conv=o.clone()))
    with captured(network, ["conv", "relu"]) as caught:
        output = network(x)
    handle.remove()
    assert torch.equal(caught["conv"], seen["conv"]) and caught["conv"].min() < 0
    assert torch.equal(caught["relu"], seen["conv"].relu()) and not caught["relu"].requires_grad
    assert torch.equal(output, network(x))


def test_gradients_of_what_is_captured(tmp_path: Path) -> None:
    _, network = opened_run(tmp_path, CHAIN)
    network.relu.inplace = True
    x = torch.rand(1, 1, 8, 8)
    with captured(network, ["conv"], grad=True) as caught:
        network(x)[0, 3].backward()
    z = network.conv(x).detach().requires_grad_()
    (wanted,) = torch.autograd.grad(network.fc(z.relu().flatten(1))[0, 3], z)
    torch.testing.assert_close(caught["conv"].grad, wanted)


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in network.modules())


def test_no_hook_is_left_behind(tmp_path: Path) -> None:
    _, network = opened_run(tmp_path, CHAIN)
    with pytest.raises(ZeroDivisionError), captured(network, ["conv", "relu"]):
        assert hooks(network) == 2
        raise ZeroDivisionError
    with pytest.raises(AttributeError), captured(network, ["conv", "nothing"]):
        pass
    assert hooks(network) == 0


def test_a_network_is_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    network[1].eval()
    network[0].bias.requires_grad_(False)
    network[0].weight.grad = gradient = torch.ones(2, 1, 3, 3)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(ZeroDivisionError), untouched(network):
        x: Tensor = torch.rand(4, 1, 8, 8, requires_grad=True)
        assert not network.training
        network.train()(x).sum().backward()
        assert x.grad is not None and torch.equal(network[0].weight.grad, torch.ones(2, 1, 3, 3))
        raise ZeroDivisionError
    assert [m.training for m in network] == [True, False, True] and network.training
    assert [p.requires_grad for p in network.parameters()] == [True, False, True, True]
    assert network[0].weight.grad is gradient
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_last_spatial_map_is_the_default_layer(tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, CHAIN)
    assert layer_names(network, loaded.plan) == ["conv", "relu"]
    assert choose_layer(loaded, network) == "relu" and choose_layer(loaded, network, "relu") == "relu"


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4.1.relu2"), ("densenet121", "features.norm5.relu")])
def test_the_default_layer_is_on_every_path(name: str, layer: str) -> None:
    """Not a shortcut, a branch, or a convolution before the addition."""
    plan = find(name)
    names = [a.name for a in trunk(plan)]
    assert not any("downsample" in n or "conv2" in n for n in names if name == "resnet18")
    takers = {a.name for a in plan.layers if names[-1] in a.takes}
    assert len(takers) == 1 and all(len(a.output_shape) == 3 for a in plan.layers if a.name in names)


def test_layers_of_auxiliary_outputs_are_not_shown(tmp_path: Path) -> None:
    spec = "two: {input: [1, 8, 8], outputs: {fc: 1.0, aux: 0.3}, layers: {conv: {Conv2d: {out_channels: 2, "
    spec += "kernel_size: 3}}, fc: {layers: [Flatten, Linear: 10]}, aux: {from: conv, layers: [{Conv2d: "
    spec += "{out_channels: 2, kernel_size: 3}}, Flatten, Linear: 10]}}}"
    loaded, network = opened_run(tmp_path, spec)
    assert layer_names(network, loaded.plan) == ["conv"] and choose_layer(loaded, network) == "conv"
    with pytest.raises(UsageError, match=r"layer aux.0 belongs to an auxiliary output, which runs in training only"):
        choose_layer(loaded, network, "aux.0")
    with pytest.raises(UsageError, match=r"layer aux.0 belongs to an auxiliary output, which runs in training only"):
        choose_units(loaded, "aux.0")


@pytest.mark.parametrize(
    ("spec", "layer", "message"),
    [
        (CHAIN, "rely", "no layer 'rely'. Did you mean 'relu'? Layers with feature maps: conv, relu"),
        (CHAIN, "fc", "layer fc outputs 10, not feature maps. Layers with feature maps: conv, relu"),
        (
            "p: {input: [1, 4, 4], layers: [AvgPool2d: 4, Flatten, Linear: 10]}",
            None,
            "p has no spatial feature map that every path passes through; choose another with --layer: 0",
        ),
        (
            "p: {input: [1, 4, 4], layers: [Flatten, Linear: 10]}",
            None,
            "p has no spatial feature map that every path passes through, so there is nothing to show",
        ),
    ],
)
def test_a_wrong_layer_names_those_there_are(spec: str, layer: str | None, message: str, tmp_path: Path) -> None:
    loaded, network = opened_run(tmp_path, spec)
    with pytest.raises(UsageError) as error:
        choose_layer(loaded, network, layer)
    assert str(error.value) == message
