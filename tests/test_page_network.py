"""Whole networks in the page's JavaScript beside PyTorch: outputs, training steps, and how images are fitted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from page_engine import Engine, engine, fresh, relative
from torch import nn
from torch.nn import functional as F

from cnn_cli.data.preprocessing import Preprocessing, add_normalization, preprocess
from cnn_cli.language.registry import find
from cnn_cli.page.description import describe
from cnn_cli.tasks.detection import detection_task

SMALL = ("fashion-convnet", "mnist-net", "tiny-cnn", "block-cnn", "lenet-5", "resnet20", "unet")


@pytest.fixture(scope="module")
def v8() -> Engine:
    return engine()


@pytest.mark.parametrize("name", SMALL)
def test_a_network_gives_the_outputs_of_pytorch(name: str, v8: Engine) -> None:
    plan = find(name)
    module = fresh(plan)
    pixels = torch.rand(8 if plan.macs < 5_000_000 else 2, *plan.input)
    v8.open(plan, module)
    v8.set("x", pixels)
    with torch.no_grad():
        expected = module(pixels)
    found = v8.get("run(net, x).output.data")
    assert relative(found, expected) < 1e-4
    assert torch.equal(found.view(expected.shape).argmax(1), expected.argmax(1))


def test_auxiliary_outputs_are_left_out_and_pieces_keep_their_number() -> None:
    plan = find("googlenet")
    document = describe(plan, fresh(plan).state_dict()).network
    assert not any(row["name"].startswith("aux") for row in document["rows"])
    shuffle = find("shufflenet_v2_x0_5")
    rows = describe(shuffle, fresh(shuffle).state_dict()).network["rows"]
    pieces = {taken[1] for row in rows for taken in row["takes"]}
    assert pieces == {None, 0, 1}


def test_pixels_are_normalized_as_the_checkpoint_says(v8: Engine) -> None:
    plan = find("block-cnn")
    module = fresh(plan)
    channels, height, width = plan.input
    mean, std = tuple(0.1 * (c + 1) for c in range(channels)), tuple(0.5 + 0.1 * c for c in range(channels))
    pixels = torch.rand(2, *plan.input)
    document = describe(plan, module.state_dict(), mean, std).document()
    v8.open_document(document)
    v8.set("x", pixels)
    normalized = add_normalization(module, Preprocessing((channels, height, width), mean=mean, std=std))
    assert relative(v8.get("run(net, x).output.data"), normalized(pixels)) < 1e-4


@pytest.mark.parametrize("name", ["fashion-convnet", "block-cnn", "resnet20"])
def test_the_gradient_of_a_class_score_is_that_of_autograd(name: str, v8: Engine) -> None:
    plan = find(name)
    module = fresh(plan)
    pixels = torch.rand(1, *plan.input)
    v8.open(plan, module)
    v8.set("x", pixels)
    v8.context.eval("var found = classGradients(net, run(net, x), 1); 0")
    # In float64, whose maxima and signs are right: rounding may turn two that are almost equal.
    leaf = pixels.double().requires_grad_()
    (expected,) = torch.autograd.grad(module.double()(leaf)[0, 1], leaf)
    assert relative(v8.get("found.get(x)"), expected) < 1e-4
    assert not v8.value("[...net.weights.values()].some((weight) => found.has(weight))")  # nobody reads theirs


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_steps_equal_pytorch(optimizer: str, v8: Engine, tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(
        "net:\n  input: [1, 10, 10]\n  layers:\n    - Conv2d: {out_channels: 4, kernel_size: 3, bias: false}\n"
        "    - BatchNorm2d\n    - ReLU\n    - MaxPool2d: 2\n    - Flatten\n    - Linear: 10\n"
    )
    plan = find(str(tmp_path / "net.yaml"))
    module = fresh(plan).train()
    steps = [(torch.rand(6, *plan.input), torch.randint(10, (6,))) for _ in range(4)]
    v8.open(plan, module)
    v8.context.eval(f'var training = newTraining(net, {{optimizer: "{optimizer}", lr: 0.01, momentum: 0.9}}); 0')
    kinds = {"sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9), "adam": lambda p: torch.optim.Adam(p, 0.01)}
    chosen = kinds[optimizer](module.parameters())
    for pixels, labels in steps:
        v8.set("x", pixels)
        ours = v8.value(f"trainStep(net, training, x, {labels.tolist()}).loss")
        loss = F.cross_entropy(module(pixels), labels)
        chosen.zero_grad()
        loss.backward()
        chosen.step()
        assert ours == pytest.approx(loss.item(), rel=1e-4)
    for name, value in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert relative(v8.get(f'net.weights.get("{name}").data'), value) < 1e-4, name


def test_images_are_shifted_as_a_padded_crop_is(v8: Engine) -> None:
    image = torch.arange(1, 41, dtype=torch.uint8).view(2, 4, 5)
    wide = F.pad(image, (2, 2, 2, 2))
    expected = {tuple(wide[:, y : y + 4, x : x + 5].flatten().tolist()) for y in range(5) for x in range(5)}
    v8.context.eval(f"var image = Uint8Array.from({image.flatten().tolist()}); var random = randomFrom(1); 0")
    draws = [v8.value("Array.from(shifted(image, [2, 4, 5], 2, random))") for _ in range(300)]
    assert {tuple(draw) for draw in draws} == expected
    assert v8.value("Array.from(shifted(image, [2, 4, 5], 0, random))") == image.flatten().tolist()


@pytest.mark.parametrize("last", ["Softmax: {dim: 1}", "LogSoftmax: {dim: 1}", "Identity"])
def test_the_loss_and_the_probabilities_follow_the_last_layer(last: str, v8: Engine, tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(
        f"net:\n  input: [1, 4, 4]\n  layers:\n    - Flatten\n    - Linear: 3\n    - {last}\n"
    )
    plan = find(str(tmp_path / "net.yaml"))
    module = fresh(plan)
    pixels = torch.rand(1, 1, 4, 4)
    v8.open(plan, module)
    v8.set("x", pixels)
    scores = nn.Sequential(*list(module)[:-1])(pixels)
    assert v8.value("probabilities(net, run(net, x).output)") == pytest.approx(scores.softmax(1)[0].tolist(), abs=1e-6)
    loss = v8.value("crossEntropy(net, run(net, x).output, [2]).data[0]")
    assert loss == pytest.approx(F.cross_entropy(scores, torch.tensor([2])).item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resize": "crop"},
        {"resize": "pad"},
        {"resize": "crop", "resize_size": 40},
        {"interpolation": "bicubic"},
        {"channels": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(70, 45), (20, 31), (33, 300)], ids=str)
def test_images_are_fitted_as_predict_fits_them(settings: dict, size: tuple[int, int], v8: Engine) -> None:
    settings = dict(settings)
    fit = Preprocessing((settings.pop("channels", 3), 32, 36), **settings)
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = preprocess(images, fit).flatten().numpy()
    image = f"{{channels: 3, height: {size[0]}, width: {size[1]}, data: Uint8Array.from({images.flatten().tolist()})}}"
    found = np.array(v8.value(f"Array.from(fitted({image}, {v8.literal(fit.document())}).data)"))
    difference = np.abs(found - expected.astype(int))
    assert difference.max() <= 1  # PyTorch rounds the weights of its integer arithmetic
    assert (difference == 0).mean() > 0.9


def test_weights_of_a_large_network_are_rounded_to_16_bits(v8: Engine, tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(
        "net:\n  input: [1, 40, 40]\n  layers:\n    - Flatten\n    - Linear: 2600\n    - ReLU\n    - Linear: 3\n"
    )
    plan = find(str(tmp_path / "net.yaml"))
    module = fresh(plan)
    assert v8.open(plan, module)["half"]
    pixels = torch.rand(1, *plan.input)
    v8.set("x", pixels)
    exact = module(pixels)
    assert relative(v8.get("run(net, x).output.data"), module.half().float()(pixels)) < 1e-4
    assert relative(v8.get("run(net, x).output.data"), exact) < 1e-2


DETECTOR = """
net:
  input: [3, 32, 48]
  layers:
    a: {Conv2d: {out_channels: 8, kernel_size: 3, stride: 4, padding: 1}}
    b: {Conv2d: {out_channels: 8, kernel_size: 3, stride: 2, padding: 1}}
    cls1: {from: a, Conv2d: {out_channels: 3, kernel_size: 1}}
    box1: {from: a, Conv2d: {out_channels: 4, kernel_size: 1}}
    cls2: {from: b, Conv2d: {out_channels: 3, kernel_size: 1}}
    box2: {from: b, layers: [{Conv2d: {out_channels: 4, kernel_size: 1}}, Softplus]}
  detects: [{scores: cls1, boxes: box1}, {scores: cls2, boxes: box2}]
"""


def test_a_detector_finds_the_boxes_that_predict_finds(v8: Engine, tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(DETECTOR)
    plan = find(str(tmp_path / "net.yaml"))
    module = fresh(plan)
    pixels = torch.rand(1, *plan.input)
    v8.open(plan, module)
    v8.set("x", pixels)
    with torch.no_grad():
        expected = detection_task(plan, ("a", "b", "c")).detections(module(pixels), torch.device("cpu"))[0]
    found = v8.value("detections(net, run(net, x))")
    assert len(found) == len(expected.scores) > 10
    assert [one["label"] for one in found] == expected.labels.tolist()
    assert torch.tensor([one["box"] for one in found]) == pytest.approx(expected.boxes, abs=1e-3)
    assert [one["score"] for one in found] == pytest.approx(expected.scores.tolist(), abs=1e-5)
