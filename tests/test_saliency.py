"""Saliency maps against gradients written by hand; what they are worth; why one is flat; nothing is left behind."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cnn
from PIL import Image
from scipy.stats import spearmanr
from small_networks import images, living, loaded, photograph, scored
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_cli.errors import UsageError
from cnn_cli.interpret import saliency
from cnn_cli.interpret.inputs import Inputs
from cnn_cli.interpret.pictured import Target
from cnn_cli.interpret.saliency import METHODS, Query, attribute, why_flat
from cnn_cli.interpret.saliency_maps import Map, SaliencyRequest, overlaid, shade, show_saliency
from cnn_cli.interpret.sanity import ORDERS, areas, randomized, rank_correlation
from cnn_cli.interpret.scores import Scores

CLASSES = torch.tensor([1, 4, 0])


def gradient(scores: nn.Module, pixels: Tensor, classes: Tensor) -> Tensor:
    """The gradient of each image's class score, by plain PyTorch."""
    x = pixels.clone().requires_grad_()
    scores(x)[range(len(x)), classes].sum().backward()
    assert x.grad is not None
    return x.grad


def asked(name: str, layer: str | None = None) -> tuple[Tensor, Query]:
    pixels = images(3, 3 if name in ("color", "one", "sigmoid") else 1)
    return pixels, Query(pixels, CLASSES if name not in ("one", "sigmoid") else CLASSES.clamp(0, 1), layer)


@pytest.mark.parametrize("name", ["gray", "color", "one", "logs"])
def test_gradient(name: str, tmp_path: Path) -> None:
    scores, (pixels, question) = scored(tmp_path, name), asked(name)
    expected = gradient(scores, pixels, question.classes).sum(1)
    torch.testing.assert_close(attribute(scores, "gradient", question), expected)


def test_smoothgrad_with_the_same_noise(tmp_path: Path) -> None:
    scores, (pixels, question) = scored(tmp_path, "color"), asked("color")
    found = attribute(scores, "smoothgrad", question)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        left, total = saliency.SAMPLES, torch.zeros_like(pixels)
        while left:  # captum draws noise for as many copies at a time, image by image
            copies = min(left, 64 // 3)
            noisy = torch.normal(pixels.repeat_interleave(copies, 0), saliency.NOISE)
            found_here = gradient(scores, noisy, CLASSES.repeat_interleave(copies))
            total += found_here.view(3, copies, *pixels.shape[1:]).sum(1)
            left -= copies
    torch.testing.assert_close(found, (total / saliency.SAMPLES).sum(1), atol=1e-5, rtol=1e-4)
    assert not attribute(scores, "smoothgrad", Query(pixels, CLASSES, seed=1)).equal(found)


@pytest.mark.parametrize("name", ["color", "tanh"])
def test_integrated_gradients_are_a_riemann_sum_and_add_up_to_the_score(name: str, tmp_path: Path) -> None:
    scores, (pixels, question) = scored(tmp_path, name), asked(name)
    found = attribute(scores, "integrated-gradients", question)
    steps = 1000
    total = sum(gradient(scores, pixels * ((k + 0.5) / steps), CLASSES) for k in range(steps))
    torch.testing.assert_close(found, (pixels * total / steps).sum(1), atol=2e-3, rtol=0.02)
    with torch.no_grad():
        rise = (scores(pixels) - scores(torch.zeros_like(pixels)))[range(3), CLASSES]
    torch.testing.assert_close(found.sum((1, 2)), rise, atol=5e-3, rtol=0.01)


def test_guided_backprop_by_hooks_of_our_own(tmp_path: Path) -> None:
    scores, (pixels, question) = scored(tmp_path, "color"), asked("color")
    found = attribute(scores, "guided-backprop", question)
    hooks = [
        m.register_full_backward_hook(lambda m, grads, outs: (grads[0].clamp_min(0),))
        for m in scores.modules()
        if isinstance(m, nn.ReLU)
    ]
    expected = gradient(scores, pixels, CLASSES).sum(1)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, gradient(scores, pixels, CLASSES).sum(1))


@pytest.mark.parametrize(("name", "layer"), [("gray", "2"), ("gray", "1"), ("color", "add")])
def test_grad_cam_by_hand(name: str, layer: str, tmp_path: Path) -> None:
    scores, (pixels, question) = scored(tmp_path, name), asked(name, layer)
    caught: list[Tensor] = []

    def keep(_: nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        caught.append(output)

    with scores.network.get_submodule(layer).register_forward_hook(keep):
        scores(pixels.clone().requires_grad_())[range(3), CLASSES].sum().backward()
    (maps,) = caught
    assert maps.grad is not None
    small = (maps * maps.grad.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    expected = F.interpolate(small, size=(8, 8), mode="bilinear", align_corners=False).squeeze(1).detach()
    scores.zero_grad()
    torch.testing.assert_close(attribute(scores, "grad-cam", question), expected)


def test_occlusion_by_hand(tmp_path: Path) -> None:
    """Squares of 2x2 (a seventh of 8, rounded up), moved by 1; each pixel gets the mean over the squares on it."""
    scores, (pixels, question) = scored(tmp_path, "color"), asked("color")
    fall, count = torch.zeros(3, 8, 8), torch.zeros(8, 8)
    with torch.no_grad():
        whole = scores(pixels)[range(3), CLASSES]
        for y in range(7):
            for x in range(7):
                covered = pixels.clone()
                covered[:, :, y : y + 2, x : x + 2] = pixels.mean((2, 3), keepdim=True)
                fall[:, y : y + 2, x : x + 2] += (whole - scores(covered)[range(3), CLASSES]).view(3, 1, 1)
                count[y : y + 2, x : x + 2] += 1
    torch.testing.assert_close(attribute(scores, "occlusion", question), fall / count, atol=1e-5, rtol=1e-4)


def test_a_final_softmax_makes_no_difference(tmp_path: Path) -> None:
    """The score before it is asked about, so a saturated one does not flatten the map."""
    logs, shares = scored(tmp_path, "logs"), scored(tmp_path, "shares")
    logs.network.load_state_dict(shares.network.state_dict())
    pixels, question = asked("logs", "0")
    plain = nn.Sequential(*list(logs.network.children())[:-1])
    for method in METHODS:
        assert attribute(logs, method, question).equal(attribute(shares, method, question))
    torch.testing.assert_close(attribute(logs, "gradient", question), gradient(plain, pixels, CLASSES).sum(1))


def test_the_two_classes_of_one_output_are_opposite(tmp_path: Path) -> None:
    scores, pixels = scored(tmp_path, "one"), images(2, 3)
    for method in ("gradient", "integrated-gradients", "occlusion"):
        first, second = (attribute(scores, method, Query(pixels, torch.tensor([k, k]))) for k in (0, 1))
        torch.testing.assert_close(first, -second)


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_was(method: str, tmp_path: Path) -> None:
    scores = scored(tmp_path, "color")
    scores.network.train()
    next(scores.network.parameters()).requires_grad_(False)
    before = photograph(scores)
    pixels = images(3, 3)
    attribute(scores, method, Query(pixels, CLASSES, "conv2"))
    assert photograph(scores) == before
    assert not pixels.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_memory_returns(method: str, tmp_path: Path) -> None:
    scores, question = scored(tmp_path, "gray"), asked("gray", "2")[1]
    attribute(scores, method, question)
    before = living()
    attribute(scores, method, question)
    assert living() == before


def test_hooks_are_removed_also_after_an_error(tmp_path: Path) -> None:
    scores = scored(tmp_path, "gray")
    before = photograph(scores)
    for method in METHODS:
        with pytest.raises(RuntimeError):
            attribute(scores, method, Query(images(3, 2), CLASSES, "2"))
    assert photograph(scores) == before


def test_guided_backprop_without_relu_is_refused(tmp_path: Path) -> None:
    """captum would give the plain gradient and say nothing."""
    with pytest.raises(UsageError, match="guided backpropagation changes the gradients of ReLU layers"):
        attribute(scored(tmp_path, "tanh"), "guided-backprop", asked("tanh")[1])
    assert saliency.remark(scored(tmp_path, "mixed"), "guided-backprop") == (
        "guided backpropagation affects ReLU only; SiLU passes plain gradients"
    )
    assert saliency.remark(scored(tmp_path, "gray"), "guided-backprop") == ""


def test_captum_missing_is_an_instruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UsageError) as error:
        attribute(scored(tmp_path, "gray"), "gradient", asked("gray")[1])
    assert str(error.value) == "this needs captum, which is not installed: pip install 'cnn-cli[explain]'"


def test_why_a_map_is_flat(tmp_path: Path) -> None:
    pixels = images(1)
    dead = scored(tmp_path, "gray")
    with torch.no_grad():
        dead.network.get_parameter("2.bias").fill_(-1e3)
    question = Query(pixels, torch.tensor([0]), "2")
    assert not attribute(dead, "gradient", question).any()
    assert why_flat(dead, "gradient", question, 0) == "layer 3 (ReLU) is dead: it outputs only zeros for this image"
    full = scored(tmp_path, "tanh")
    with torch.no_grad():
        full.network.get_parameter("0.bias").fill_(1e3)
    assert not attribute(full, "gradient", question).any()
    assert why_flat(full, "gradient", question, 0) == (
        "layer 1 (Tanh) is saturated for this image, so no gradient passes"
    )
    against = scored(tmp_path, "logs")
    with torch.no_grad():
        against.network.get_parameter("0.bias").fill_(10)
        against.network.get_parameter("3.weight").fill_(-1)
    question = Query(pixels, torch.tensor([0]), "0")
    assert not attribute(against, "grad-cam", question).any()
    assert why_flat(against, "grad-cam", question, 0) == (
        "no feature map of layer 0 raises the class score, and Grad-CAM omits those that lower it"
    )


def test_rank_correlation_is_scipys() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(9, 9)), generator.normal(size=(9, 9))
    a[:4] = 0  # ties
    expected = spearmanr(np.abs(a).ravel(), np.abs(b).ravel()).statistic
    assert rank_correlation(a, b) == pytest.approx(expected)
    assert rank_correlation(a, -3 * a) == pytest.approx(1)
    assert rank_correlation(a, np.zeros((9, 9))) is None


class Counting(nn.Module):
    """The probability of class 1 is the mean of the left half of the image."""

    def forward(self, x: Tensor) -> Tensor:
        share = x[:, 0, :, :4].mean((1, 2)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([(1 - share).log(), share.log()], 1)


def test_deletion_and_insertion() -> None:
    """Half the pixels carry everything: with them first the probability falls to the mean in half the way."""
    pixels = torch.zeros(1, 8, 8)
    pixels[..., :4] = 1
    best = areas(Counting(), pixels, 1, pixels[0])
    worst = areas(Counting(), pixels, 1, -pixels[0])
    assert best.deletion == pytest.approx(0.625, abs=0.01)  # from 1 to 0.5 in half the way, then 0.5
    assert best.insertion == pytest.approx(0.875, abs=0.01)
    assert worst.deletion == pytest.approx(0.875, abs=0.01)
    assert best.deletion_random == pytest.approx(0.75, abs=0.03) == best.insertion_random
    assert (best.deletion_random, best.insertion_random) == (worst.deletion_random, worst.insertion_random)
    assert ORDERS > 1


def test_randomised_weights_are_other_ones(tmp_path: Path) -> None:
    run = loaded(tmp_path, "gray")
    before = torch.random.get_rng_state()
    one, two = randomized(run, 3), randomized(run, 3)
    assert torch.random.get_rng_state().equal(before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    trained = scored(tmp_path, "gray")
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), trained.parameters(), strict=True))


def test_red_raises_and_blue_lowers() -> None:
    values = np.array([[-1.0, 0.0, 1.0]])
    left, middle, right = shade(values)[0].astype(int)
    assert left[2] > left[0] and right[0] > right[2] and len(set(middle.tolist())) == 1
    assert len(np.unique(shade(np.zeros((4, 4))))) == 1


def test_an_overlay_colors_what_matters_and_keeps_the_rest() -> None:
    """Sensitivities count by their size; of contributions only those that raise the score."""
    shown = np.full((2, 2, 3), 100, np.uint8)
    values = np.array([[0.0, -1.0], [1.0, 0.0]])
    gradient = overlaid(shown, Map("gradient", values), 1.0)
    assert gradient[0, 0].tolist() == [100, 100, 100] and gradient[0, 1].tolist() == gradient[1, 0].tolist()
    assert gradient[1, 0, 0] > 200 > gradient[1, 0, 2]
    occlusion = overlaid(shown, Map("occlusion", values), 1.0)
    assert occlusion[0, 1].tolist() == [100, 100, 100] and occlusion[1, 0].tolist() == gradient[1, 0].tolist()
    assert (overlaid(shown, Map("gradient", values), 0.0) == shown).all()
    with pytest.raises(UsageError, match=r"--overlay 2: must be from 0 \(no overlays\) to 1 \(opaque\)"):
        SaliencyRequest(overlay=2)


@pytest.mark.parametrize("name", ["gray", "color", "one", "sigmoid", "logs"])
def test_a_picture_of_every_kind_of_network(name: str, tmp_path: Path) -> None:
    run, (pixels, _) = loaded(tmp_path, name), asked(name)
    inputs = Inputs(pixels, ("a b.png", "c.png", "test 7"), (None, 1, 0))
    result = show_saliency(run, inputs, SaliencyRequest(sanity=True), Target(tmp_path / "s.png"))
    document = result.document()
    assert "lower is better" in " ".join(result.text().split())
    with Image.open(tmp_path / "s.png") as picture:
        assert max(picture.size) <= 4000
    assert [shot["image"] for shot in document["images"]] == list(inputs.names)
    for shot in document["images"]:
        assert [m["method"] for m in shot["maps"]] == list(METHODS)
        assert shot["class"] == shot["predicted"]["class"]
        for m in shot["maps"]:
            assert 0 <= m["deletion"] <= 1 and 0 <= m["insertion_random"] <= 1
            assert m["correlation_with_random_weights"] is None or -1 <= m["correlation_with_random_weights"] <= 1
    json.dumps(document, allow_nan=False)


@pytest.fixture
def shot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The working directory has runs and an image file, whose name is given."""
    monkeypatch.chdir(tmp_path)
    for name in ("gray", "tanh", "linear", "color"):
        loaded(tmp_path, name)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save("shot.png")
    return "shot.png"


def test_the_command(shot: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("visualize-saliency", "runs/gray-1", shot, "--class", "c", "--method", "grad-cam", "--layer", "1") == 0
    assert capsys.readouterr().out.endswith("runs/gray-1/saliency-grad-cam-c-shot.png\n")
    assert cnn("visualize-saliency", "runs/tanh-1", shot, "--json", "-o", "t.png") == 0
    found = capsys.readouterr()
    methods = [m["method"] for m in json.loads(found.out)["images"][0]["maps"]]
    assert methods == [m for m in METHODS if m != "guided-backprop"]
    assert found.err == (
        "left out: guided backpropagation changes the gradients of ReLU layers, but the network has none\n"
    )
    assert cnn("visualize-saliency", "runs/linear-1", shot, "--json", "-o", "l.png") == 0
    methods = [m["method"] for m in json.loads(capsys.readouterr().out)["images"][0]["maps"]]
    assert methods == ["gradient", "smoothgrad", "integrated-gradients", "occlusion"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            "gray-1 --method grad-kam",
            2,
            "no method 'grad-kam'. Did you mean 'grad-cam'? Methods: gradient, smoothgrad, integrated-gradients, "
            "guided-backprop, grad-cam, occlusion",
        ),
        (
            "tanh-1 --method guided-backprop",
            2,
            "guided backpropagation changes the gradients of ReLU layers, but the network has none; choose another "
            "--method: gradient, smoothgrad, integrated-gradients, grad-cam, occlusion",
        ),
        (
            "linear-1 --method grad-cam",
            2,
            "linear has no spatial feature map that every path passes through, so there is nothing to show",
        ),
        ("gray-1 --layer 9", 2, "no layer '9'. Layers with feature maps: 0, 1, 2, 3, 4"),
        ("gray-1 --layer 6", 2, "layer 6 outputs 10, not feature maps. Layers with feature maps: 0, 1, 2, 3, 4"),
        (
            "gray-1 --layer 2 --method gradient",
            2,
            "--layer is for Grad-CAM; add --method grad-cam, or leave --layer out",
        ),
        ("gray-1 --class k", 2, "no class 'k'. Classes: a, b, c, d, e, f, g, h, i, j; or 0 to 9"),
        ("gray-1 --class 10", 2, "no class '10'. Classes: a, b, c, d, e, f, g, h, i, j; or 0 to 9"),
        ("gray-1 text.png", 1, "text.png is not an image (PNG, JPEG, BMP, GIF, WebP, TIFF or PPM); leave it out"),
        ("gray-1 -o a.jpg", 2, "a.jpg: the picture is written as .png; choose such a name with -o"),
    ],
)
def test_errors_say_what_to_do(
    arguments: str, code: int, message: str, shot: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("no picture")
    network, *others = arguments.split()
    assert cnn("visualize-saliency", f"runs/{network}", shot, *others) == code
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert not list(Path().glob("**/saliency*.png"))


def test_scores_leave_no_trace_in_the_network(tmp_path: Path) -> None:
    scores = scored(tmp_path, "logs")
    before = photograph(scores.network)
    Scores(scores.network, loaded(tmp_path, "logs").plan)(images(1))
    assert photograph(scores.network) == before
