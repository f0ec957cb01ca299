"""Synthetic images: the ascent finds what is liked, is the same for a seed, and says where a unit is dead."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from pictures import cnn
from PIL import Image
from scipy.ndimage import gaussian_filter, shift
from small_networks import images, living, loaded, photograph, scored
from torch import Tensor

from cnn_cli.errors import UsageError
from cnn_cli.interpret import ascent as s
from cnn_cli.interpret.ascent import (
    TRANSFORMS,
    Ascent,
    Canvas,
    ascend,
    channel_numbers,
    channels_of,
    choose_units,
    maximize,
    transformed,
)
from cnn_cli.interpret.pictured import CPU, Target
from cnn_cli.interpret.scores import scores_of
from cnn_cli.interpret.synthesis import UnitRequest, background, show_synthesis, stretched, units_of

SHORT = Ascent(steps=12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["fourier", "pixels"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_favourite_of_a_linear_unit_is_the_sign_of_its_weights(
    kind: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transforms and penalties the optimum is known: white where a weight is positive, black elsewhere."""
    monkeypatch.setattr(s, "_SMOOTH", 0.0)
    monkeypatch.setattr(s, "_PLAIN", 0.0)
    weights = torch.randn(2, channels, 6, 7, generator=generator(5))
    if channels == 3:
        weights[:] = weights[:, :1]  # of one sign in all colors, which share their parameters

    def objective(x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, weights)

    found = ascend(objective, [0, 1], Canvas((channels, 6, 7), (0.5,) * channels, CPU), Ascent(kind, (), 600))
    best = weights.clamp_min(0).sum((1, 2, 3))
    worst = -weights.clamp_max(0).sum((1, 2, 3))
    for i in range(2):
        assert found.values[i] > best[i] - 0.1 * (best[i] + worst[i])
        agree = ((found.pixels[i] > 0.5) == (weights[i] > 0)).float().mean()
        assert agree > 0.9
    assert found.dead == (False, False)


def test_the_score_rises_above_that_of_any_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "_SMOOTH", 0.0)
    monkeypatch.setattr(s, "_PLAIN", 0.0)
    scores = scored(tmp_path, "gray")
    found = maximize(scores, scores, range(10), Canvas((1, 8, 8), (0.0,), CPU), Ascent(steps=100))
    with torch.no_grad():
        others = scores(torch.cat([images(200), torch.zeros(1, 1, 8, 8)])).amax(0)
    assert (torch.tensor(found.values) > others).float().mean() >= 0.9
    assert found.pixels.min() >= 0 and found.pixels.max() <= 1


def test_penalties_make_an_image_smooth_and_near_its_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = scored(tmp_path, "gray")
    found = []
    for smooth, plain in ((0.0, 0.0), (20.0, 0.0), (0.0, 20.0)):
        monkeypatch.setattr(s, "_SMOOTH", smooth)
        monkeypatch.setattr(s, "_PLAIN", plain)
        found.append(maximize(scores, scores, range(10), Canvas((1, 8, 8), (0.2,), CPU), Ascent(steps=60)).pixels)
    free, even, near = found
    assert s.variation(even).mean() < 0.5 * s.variation(free).mean()
    assert (near - 0.2).abs().mean() < 0.5 * (free - 0.2).abs().mean()


@pytest.mark.parametrize("kind", ["fourier", "pixels"])
@pytest.mark.parametrize("name", ["gray", "color", "one"])
def test_a_seed_gives_the_same_image(kind: str, name: str, tmp_path: Path) -> None:
    scores = scored(tmp_path, name)
    shape, ground = ((1, 8, 8), (0.0,)) if name == "gray" else ((3, 8, 8), (0.5,) * 3)
    one, two, other = (
        maximize(scores, scores, [0, 1], Canvas(shape, ground, CPU), Ascent(kind, steps=8, seed=seed)).pixels
        for seed in (3, 3, 4)
    )
    assert one.equal(two) and not one.equal(other)
    assert one.shape == (2, *shape)


def test_an_image_does_not_depend_on_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scored(tmp_path, "gray")
    together = maximize(scores, scores, range(10), Canvas((1, 8, 8), (0.0,), CPU), SHORT)
    monkeypatch.setattr(s, "_BATCH_PIXELS", 64 * 3)
    parts = maximize(scores, scores, range(10), Canvas((1, 8, 8), (0.0,), CPU), SHORT)
    alone = maximize(scores, scores, [7], Canvas((1, 8, 8), (0.0,), CPU), SHORT)
    torch.testing.assert_close(together.pixels, parts.pixels, atol=1e-4, rtol=0)
    torch.testing.assert_close(together.pixels[7:8], alone.pixels, atol=1e-4, rtol=0)
    assert len(parts.values) == len(parts.dead) == 10


def test_no_transforms_change_nothing() -> None:
    x = images(3, 3)
    assert transformed(x, (), generator()) is x
    for name in TRANSFORMS:
        assert not transformed(x, (name,), generator(2)).equal(x)
        flat = torch.full((2, 1, 9, 9), 0.3)
        torch.testing.assert_close(transformed(flat, (name,), generator()), flat)


def test_jitter_shifts_all_images_alike() -> None:
    x = images(2)
    x[1] = x[0]
    moved = transformed(x, ("jitter",), generator(2))
    assert moved[0].equal(moved[1])
    draws = 2 * torch.rand(2, generator=generator(2)) - 1
    expected = shift(x[0, 0].numpy(), (-draws * s._SHIFT * 8).tolist(), order=1, mode="nearest")
    np.testing.assert_allclose(moved[0, 0].numpy(), expected, atol=1e-5)


def test_blur_is_gaussian() -> None:
    x = images(2, 3)
    expected = gaussian_filter(x.numpy(), (0, 0, 0.9, 0.9), mode="nearest", radius=(0, 0, 3, 3))
    np.testing.assert_allclose(s.blurred(x, 0.9).numpy(), expected, atol=1e-5)
    assert s.blurred(x, 0.0).equal(x)


def test_variation_is_the_mean_difference_of_neighbors() -> None:
    x = torch.tensor([[[[0.0, 1.0, 1.0], [0.0, 0.0, 0.5]]]])
    assert s.variation(x).tolist() == pytest.approx([(0 + 1 + 0.5) / 3 + (1 + 0 + 0 + 0.5) / 4])
    assert s.variation(torch.ones(2, 1, 1, 1)).tolist() == [0, 0]


def test_a_channel_is_the_mean_of_its_map(tmp_path: Path) -> None:
    run, scores, x = loaded(tmp_path, "gray"), scored(tmp_path, "gray"), images(3)
    first = scores.network.get_submodule("0")
    torch.testing.assert_close(channels_of(scores, choose_units(run, "0"))(x), first(x).mean((2, 3)))
    torch.testing.assert_close(
        channels_of(scores, choose_units(run, "1"))(x), first(x).mean((2, 3))
    )  # before the ReLU cuts
    assert channels_of(scores, choose_units(run, "6"))(x).shape == (3, 10)


def test_the_forward_pass_ends_at_the_layer(tmp_path: Path) -> None:
    """So images of another size do for a convolution, whatever the layers behind it take."""
    scores = scored(tmp_path, "gray")
    assert channels_of(scores, choose_units(loaded(tmp_path, "gray"), "2"))(images(2).repeat(1, 1, 3, 3)).shape == (
        2,
        6,
    )


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    scores, run = scored(tmp_path, "color"), loaded(tmp_path, "color")
    scores.network.train()
    next(scores.network.parameters()).requires_grad_(False)
    before = photograph(scores)
    for objective in (scores, channels_of(scores, choose_units(run, "relu1"))):
        maximize(scores, objective, [0, 1], Canvas((3, 8, 8), (0.5,) * 3, CPU), SHORT)
    assert photograph(scores) == before


def test_memory_returns(tmp_path: Path) -> None:
    scores = scored(tmp_path, "gray")
    maximize(scores, scores, [0], Canvas((1, 8, 8), (0.0,), CPU), SHORT)
    before = living()
    maximize(
        scores,
        channels_of(scores, choose_units(loaded(tmp_path, "gray"), "2")),
        [0],
        Canvas((1, 8, 8), (0.0,), CPU),
        SHORT,
    )
    assert living() == before


def test_a_dead_unit_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cnn_cli.checkpoints.checkpoint import restore, save_weights

    run = loaded(tmp_path, "gray")
    network = restore(run)
    with torch.no_grad():
        network.get_parameter("0.weight")[1] = 0  # no gradient
        network.get_parameter("0.bias")[2] = -100  # a gradient, but never above 0
        network.get_parameter("6.weight")[4] = 0
    assert run.metadata and run.weights
    save_weights(run.weights, network, run.metadata)
    document = show_synthesis(run, UnitRequest(layer="1", channels="0-3"), SHORT, Target(tmp_path / "c.png")).document()
    dead = [fact["dead"] for fact in document["images"]]
    assert dead[1:3] == ["dead: no gradient reaches the image", "dead: it stays at 0"]
    assert (
        cnn("synthesize", str(run.run), "--layer", "6", "--channel", "4", "--steps", "3", "-o", "/dev/null/x.png") == 1
    )
    capsys.readouterr()
    path = tmp_path / "d.png"
    assert cnn("synthesize", str(run.run), "--layer", "6", "--channel", "4", "--steps", "3", "-o", str(path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path) and lines[1].split() == ["unit", "activation"]
    assert lines[3].startswith("unit 4") and lines[3].endswith("dead: no gradient reaches the image")


@pytest.mark.parametrize(
    ("text", "expected"), [("3", [3]), ("0-3", [0, 1, 2, 3]), ("7, 2-3,3", [7, 2, 3]), ("5-5", [5])]
)
def test_numbers(text: str, expected: list[int]) -> None:
    assert channel_numbers(text, 8) == tuple(expected)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1.5", "1,,2", "9" * 20, "²"])
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--channels takes numbers such as 3, 0-15 or 3,5,8-10, not "):
        channel_numbers(text, 8)


def test_a_faint_image_is_stretched_and_a_flat_one_is_not() -> None:
    pixels, factor = stretched(torch.tensor([[[0.2, 0.3], [0.25, 0.4]]]))
    assert factor == pytest.approx(5) and pixels.min() == 0 and pixels.max() == 1
    for plain in (torch.tensor([[[0.0, 0.9]]]), torch.full((1, 2, 2), 0.4)):
        assert stretched(plain)[0] is plain and stretched(plain)[1] == 1


def test_the_background_is_what_the_network_takes_for_the_mean(tmp_path: Path) -> None:
    assert background(loaded(tmp_path / "a", "gray")) == (0,)
    assert background(loaded(tmp_path / "b", "color")) == (0.5, 0.5, 0.5)
    assert background(loaded(tmp_path / "c", "gray", (0.13,), (0.3,))) == (0.13,)


def test_digits_are_recognized_by_another_network(tmp_path: Path) -> None:
    """What one network likes best is to another one, of other weights, a digit too, for most classes."""
    from cnn_cli.checkpoints.checkpoint import load_network
    from cnn_cli.interpret.scores import scores_of

    made, judge = (scores_of(load_network(str(small_runs.begin(tmp_path, f"r{n}", epochs=8, seed=n)))) for n in (1, 2))
    found = maximize(made, made, range(10), Canvas((1, 8, 8), (0.0,), CPU), Ascent(steps=150))
    with torch.no_grad():
        guessed = judge(found.pixels).argmax(1)
    assert (guessed == torch.arange(10)).sum() >= 7


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    loaded(tmp_path, "color")
    assert cnn("synthesize", "runs/color-1", "--all-classes", "--steps", "2", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    assert out["picture"] == "runs/color-1/synthesis-classes.png"
    assert [fact["name"] for fact in out["images"]] == ["a", "b", "c", "d", "e"]
    assert all(0 <= fact["confidence"] <= 1 for fact in out["images"])
    options = ["--layer", "conv2", "--channels", "0-2", "--steps", "2", "--size", "40", "--transforms", "none"]
    assert cnn("synthesize", "runs/color-1", *options, "--parametrization", "pixels", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    assert out["picture"] == "runs/color-1/synthesis-conv2-0-2.png" and out["size"] == [3, 40, 40]
    assert (out["ascent"]["transforms"], out["ascent"]["steps"]) == ([], 2)
    with Image.open(out["picture"]) as picture:
        assert max(picture.size) <= 4000
    first = Path(out["picture"]).read_bytes()
    assert cnn("synthesize", "runs/color-1", *options, "--parametrization", "pixels", "--force") == 0
    assert Path(out["picture"]).read_bytes() == first
    assert cnn("synthesize", "runs/color-1", "--class", "b", "--class", "3", "--steps", "1") == 0
    assert Path("runs/color-1/synthesis-b-d.png").is_file()
    assert re.search(r"^b +−?[\d.]+ +\d+\.\d%$", capsys.readouterr().out, re.M)


WHAT = (
    "choose what to maximize: --all-classes, --class NAME, or --layer NAME with --channels 0-15 "
    "(classes or channels, not both)"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", WHAT),
        ("--layer 0", WHAT),
        ("--channels 1", WHAT),
        ("--class a --layer 0 --channels 1", WHAT),
        ("--class x", "no class 'x'. Classes: a, b, c, d, e, f, g, h, i, j; or 0 to 9"),
        ("--layer 00 --channels 1", "no layer '00'. Layers: 0, 1, 2, 3, 4, 5, 6, 7, 8"),
        ("--layer 0 --channels 2-4", "--channels 2-4: the channels are 0 to 3"),
        ("--class a --steps 0", "--steps must be at least 1, not 0"),
        ("--class a --parametrization fft", "--parametrization must be fourier or pixels, not 'fft'"),
        (
            "--class a --transforms jitter,blurr",
            "--transforms: no 'blurr'. Did you mean 'blur'? Transforms: jitter, scale, rotate, blur; or none",
        ),
        (
            "--class a --size 20",
            "--size 20: gray takes 1x8x8, and its output cannot be computed for 1x20x20; leave out --size, "
            "or choose an earlier layer",
        ),
        (
            "--layer 0 --channels 0-3 --size 3000",
            "4 images of 3000x3000, but a picture holds 1; choose fewer classes or channels",
        ),
    ],
)
def test_errors_say_what_to_do(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded(tmp_path, "gray")
    assert cnn("synthesize", "runs/gray-1", *arguments.split()) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert not list(tmp_path.glob("**/*.png"))


def test_titles_name_what_is_maximized(tmp_path: Path) -> None:
    run = loaded(tmp_path, "color")
    scores = scores_of(run)
    for request, title in (
        (UnitRequest(all_classes=True), "inputs that maximize class scores"),
        (UnitRequest(["b"]), "the input that maximizes the score of class b"),
        (UnitRequest(layer="conv2", channels="0-2"), "inputs that maximize channels of layer conv2 (Conv2d)"),
        (UnitRequest(layer="conv2", channels="2"), "the input that maximizes channel 2 of layer conv2 (Conv2d)"),
    ):
        assert units_of(run, scores, request).title == title


def test_channels_of_layers_and_all_classes_can_be_chosen(tmp_path: Path) -> None:
    run = loaded(tmp_path, "maps")
    assert scored(tmp_path, "maps").dense
    assert choose_units(run, "0").type == "Conv2d"
    assert units_of(loaded(tmp_path, "gray"), scored(tmp_path, "gray"), UnitRequest(all_classes=True)).names == tuple(
        "abcdefghij"
    )
