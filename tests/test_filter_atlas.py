"""The atlas of filters: what is dead or alike, the orders, two checkpoints side by side, all layers, a film strip."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import Array, cnn, make_run, pixels_of, values_of
from torch import nn

from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret import filter_pages, filters
from cnn_cli.language.registry import find
from cnn_cli.pictures import film, image


def layer_of(weights: Array, groups: int = 1, color: bool = False) -> filters.Filters:
    return filters.Filters("conv", "Conv2d", np.asarray(weights, np.float32), groups, color)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_dead_and_alike_filters_are_found() -> None:
    weights = random(9, 2, 3, 3)
    weights[3] *= 0.01
    weights[5] = 0
    weights[7] = 2.5 * weights[1] + 0.01 * weights[0]
    weights[8] = -weights[2]  # the opposite is not alike
    weights[6] = weights[1]
    found = filters.health(layer_of(weights))
    assert (found.dead, found.similar) == ((3, 5), ((1, 6, 7),))
    assert str(found) == "2 dead, 3 similar"
    assert str(filters.health(layer_of(random(9, 2, 3, 3)))) == ""


def test_the_cosine_decides_what_is_alike() -> None:
    """By hand: the angle between two filters of 9 weights."""
    for cosine, alike in ((0.951, ((0, 1),)), (0.949, ())):
        weights = np.zeros((2, 1, 3, 3), np.float32)
        weights[0, 0, 0, 0], weights[1, 0, 0, 0], weights[1, 0, 2, 2] = 1, cosine, np.sqrt(1 - cosine**2)
        assert filters.health(layer_of(weights)).similar == alike


def test_only_filters_that_see_the_same_channels_can_be_alike() -> None:
    weights = random(4, 1, 3, 3)
    weights[1] = weights[0]
    weights[3] = weights[2]
    assert filters.health(layer_of(weights, groups=4)).similar == ()
    assert filters.health(layer_of(weights, groups=2)).similar == ((0, 1), (2, 3))
    assert filters.health(layer_of(np.ones((4, 8, 1, 1)))).similar == ()  # too few weights to tell


def test_all_filters_may_be_dead() -> None:
    assert filters.health(layer_of(np.zeros((3, 1, 3, 3)))).dead == (0, 1, 2)


def test_the_orders() -> None:
    weights = random(20, 2, 3, 3)
    norms = np.sqrt((weights**2).sum((1, 2, 3)))
    assert filters.ordered(layer_of(weights)) == tuple(range(20))
    assert list(filters.ordered(layer_of(weights), by_norm=True)) == np.argsort(-norms).tolist()


def test_a_sorted_picture_can_be_read_back(tmp_path: Path) -> None:
    weights = random(12, 1, 3, 3)
    drawing = filter_pages.draw_filters(layer_of(weights), "a", "b", by_norm=True)
    image.save(drawing.page.image, tmp_path / "f.png")
    for place, number in enumerate(drawing.order):
        np.testing.assert_allclose(
            tile(drawing, tmp_path / "f.png", place), weights[number, 0], atol=drawing.scale / 254 * 1.001
        )


def tile(drawing: filter_pages.Drawing, path: Path, place: int, panel: int = 0) -> Array:
    (x, y), (left, top), zoom = drawing.grid.corner(place, (3, 3)), drawing.page.origins[panel], drawing.grid.zoom
    squares = pixels_of(path)[top + y : top + y + 3 * zoom, left + x : left + x + 3 * zoom]
    assert (squares.reshape(3, zoom, 3, zoom, 3) == squares[::zoom, ::zoom][:, None, :, None]).all()
    return values_of(squares[::zoom, ::zoom], drawing.scale)


def test_dead_and_alike_filters_are_framed(tmp_path: Path) -> None:
    weights = random(6, 1, 3, 3)
    weights[1] = 0
    weights[4] = weights[2]
    drawing = filter_pages.draw_filters(layer_of(weights), "a", "b")
    pixels = np.asarray(drawing.page.image)
    (left, top), inks = drawing.page.origins[0], []
    for number in range(6):
        x, y = drawing.grid.corner(number, (3, 3))
        inks.append(tuple(pixels[top + y - 1, left + x + 5].tolist()))
    alike, none = image.rgb(filter_pages.SIMILAR_INKS[0]), image.rgb(image.PANEL)
    assert inks == [none, image.rgb(image.INK), alike, none, alike, none]
    image.save(drawing.page.image, tmp_path / "f.png")
    for number in range(6):  # the frame is around the filter, not over it
        shown = tile(drawing, tmp_path / "f.png", number)
        np.testing.assert_allclose(shown, weights[number, 0], atol=drawing.scale / 254 * 1.001)


def test_two_checkpoints_stand_side_by_side(tmp_path: Path) -> None:
    ours, others = random(8, 1, 3, 3), 2 * random(8, 1, 3, 3, seed=1)
    drawing = filter_pages.draw_filters(layer_of(ours), "a", "b", by_norm=True, compared=(layer_of(others), "c"))
    assert drawing.scale == np.abs(others).max() and len(drawing.page.origins) == 2
    image.save(drawing.page.image, tmp_path / "f.png")
    for panel, weights in enumerate((ours, others)):
        for place, number in enumerate(drawing.order):
            shown = tile(drawing, tmp_path / "f.png", place, panel)
            np.testing.assert_allclose(shown, weights[number, 0], atol=drawing.scale / 254 * 1.001)
    with pytest.raises(UsageError, match="weights of shape 8x1x3x3, but 4x1x3x3 in the network of --comp"):
        filter_pages.draw_filters(layer_of(ours), "a", "b", compared=(layer_of(random(4, 1, 3, 3)), ""))


def test_cosine_similarity_to_the_counterpart() -> None:
    ours = random(3, 2, 3, 3)
    others = np.stack([5 * ours[0], -ours[1], 0 * ours[2]])
    np.testing.assert_allclose(filters.cosine_similarity(layer_of(ours), layer_of(others)), [1, -1, 0], atol=1e-6)


@pytest.mark.parametrize(
    "shapes",
    [
        [(64, 3, 7, 7), (64, 64, 3, 3)],
        [(512, 512, 3, 3)] * 4,
        [(32, 32, 1, 1), (9000, 4, 1, 1), (4, 9000, 3, 3), (5000, 1, 3, 3)],
        [(8, 8, 3, 3)] * 400,
        [(2, 2, 90, 1)] * 60,
        [(1, 1, 1, 1)],
    ],
    ids=lambda shapes: f"{len(shapes)} layers of {shapes[-1]}",
)
@pytest.mark.filterwarnings("error")
def test_an_atlas_has_bounded_size(shapes: list[tuple[int, ...]]) -> None:
    some = {shape: random(*shape) for shape in shapes}
    layers = [filters.Filters(f"block{i}.conv", "Conv2d", some[s], 1, s[1] == 3) for i, s in enumerate(shapes)]
    page, shown = filter_pages.draw_atlas(layers, "network", "untrained")
    assert max(page.image.size) <= image.LIMIT
    assert len(shown) == min(len(shapes), 180) and all(0 < n <= s[0] for n, s in zip(shown, shapes, strict=False))


def test_an_atlas_can_be_read_back() -> None:
    """A layer that fits: block by block, its strongest filters first."""
    weights = random(8, 4, 3, 3)
    page, shown = filter_pages.draw_atlas([layer_of(weights)], "network", "untrained")
    pixels, (left, top) = np.asarray(page.image), page.origins[0]
    scale, zoom, gap = float(np.abs(weights).max()), 10, 2
    assert shown == [8]
    for place, number in enumerate(filters.ordered(layer_of(weights), by_norm=True)):
        block, row = divmod(place, 4)  # two blocks of four filters
        for channel in range(4):
            y, x = (n * (3 * zoom + gap) + gap for n in (row, channel))
            x += block * (4 * (3 * zoom + gap) + gap + 12)
            square = pixels[top + y : top + y + 3 * zoom : zoom, left + x : left + x + 3 * zoom : zoom]
            np.testing.assert_allclose(values_of(square, scale), weights[number, channel], atol=scale / 254 * 1.001)


def test_a_film_shows_how_filters_form(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, kept = nn.Sequential(nn.Conv2d(1, 40, 3), nn.ReLU()), []
    film.add_frame(tmp_path, 1, network)
    assert list(tmp_path.iterdir()) == []  # nobody asked for a film
    film.begin_film(tmp_path, network)
    for epoch in (1, 2, 3, 2, 3):  # the second epoch was done twice: after a resume
        kept = [w for w in kept if w[0] < epoch]
        nn.init.normal_(network[0].weight)
        film.add_frame(tmp_path, epoch, network)
        kept.append((epoch, network[0].weight.detach().clone()))
    layer, frames = film.frames_of(tmp_path)
    assert (layer, [f.epoch for f in frames]) == ("0", [0, 1, 2, 3])
    for (_, weights), frame in zip(kept, frames[1:], strict=True):
        np.testing.assert_array_equal(frame.weights, weights[:32].numpy())
    page, layer, epochs = film.write_film(tmp_path, "network", False, tmp_path / "f.png")
    assert (layer, epochs) == ("0", [0, 1, 2, 3]) and max(page.image.size) < 2000
    change = np.abs(frames[-1].weights - frames[0].weights)
    first = np.sqrt((change**2).sum((1, 2, 3))).argmax()
    scale = max(float(np.abs(f.weights[order_of(frames)[:20]]).max()) for f in frames)
    left, top = page.origins[0]
    zoom = next(z for z in range(1, 60) if same_tile(pixels_of(tmp_path / "f.png"), left, top, z, frames, first, scale))
    assert zoom > 5


def order_of(frames: list[film.Frame]) -> list[int]:
    change = np.linalg.norm((frames[-1].weights - frames[0].weights).reshape(len(frames[0].weights), -1), axis=1)
    return np.argsort(-change, kind="stable").tolist()


def same_tile(
    pixels: Array, left: int, top: int, zoom: int, frames: list[film.Frame], number: int, scale: float
) -> bool:
    """Whether, at this enlargement, the first row of tiles is the filter in every frame."""
    gap = min(max(3 * zoom // 7, 1), 14)
    for i, frame in enumerate(frames):
        x, y = left + gap + i * (3 * zoom + gap), top + gap
        square = pixels[y : y + 3 * zoom : zoom, x : x + 3 * zoom : zoom]
        wanted = image.signed(frame.weights[number, 0], scale)
        if square.shape != wanted.shape or not (square == wanted).all():
            return False
    return True


def test_a_film_of_many_epochs_is_thinned_evenly() -> None:
    frames = [film.Frame(i, random(4, 3, 5, 5, seed=i)) for i in range(300)]
    page = film.draw_film("conv", frames, "network", True)
    assert max(page.image.size) <= image.LIMIT
    places = image.evenly_spaced(300, 24)
    assert (places[0], places[-1], len(set(places))) == (0, 299, 24)
    assert set(np.diff(places).tolist()) <= {12, 13, 14}


def test_a_network_without_convolutions_has_no_film(tmp_path: Path) -> None:
    (tmp_path / "linear.yaml").write_text("linear: {input: [1, 2, 2], layers: [Flatten, Linear: 2]}")
    with pytest.raises(
        UsageError, match="linear has no convolution, so there are no filters to save; leave out --filters-every"
    ):
        film.check_film(find(str(tmp_path / "linear.yaml")))
    with pytest.raises(CnnError, match="has no saved filters; train it again with --filters-every-epoch"):
        film.frames_of(tmp_path)
    (tmp_path / film.FRAMES).write_bytes(b"damaged")
    with pytest.raises(CnnError, match="cannot be read"):
        film.frames_of(tmp_path)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNN_MODELS", raising=False)
    make_run(tmp_path / "runs" / "tiny-cnn-1", "tiny-cnn", 1)
    return tmp_path


def test_a_run_beside_its_beginning(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("visualize-filters", "tiny-cnn", "--compare", "untrained", "--layer", "2", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    assert out["picture"] == "runs/tiny-cnn-1/filters-2-beside-untrained.png"
    assert out["compared"]["origin"] == "untrained (seed 0)"  # the run's own seed
    weights = []
    for seed in (1, 0):
        torch.manual_seed(seed)
        nn.Conv2d(1, 1, 3)
        weights.append(nn.Conv2d(1, 2, 7).weight.detach().flatten(1))
    wanted = nn.functional.cosine_similarity(*weights).tolist()
    assert out["compared"]["likeness"] == pytest.approx(wanted, abs=1e-6)


def test_a_run_beside_another(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(place / "runs" / "tiny-cnn-2", "tiny-cnn", 2)
    assert cnn("visualize-filters", "runs/tiny-cnn-2", "--compare", "runs/tiny-cnn-1", "--sort", "norm") == 0
    assert capsys.readouterr().out.startswith("runs/tiny-cnn-2/filters-0-by-norm-beside-tiny-cnn-1.png\n")
    assert cnn("visualize-filters", "tiny-cnn", "--compare", "alexnet") == 2
    assert capsys.readouterr().err == (
        "error: --compare alexnet: no trained weights; name a run folder, a checkpoint, or untrained\n"
    )


def test_the_atlas_of_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("visualize-filters", "tiny-cnn", "--all", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    assert out["picture"] == "runs/tiny-cnn-1/filters.png" and (place / out["picture"]).is_file()
    assert [(a["layer"], a["shape"], a["shown"]) for a in out["layers"]] == [
        ("0", [1, 1, 3, 3], 1),
        ("2", [2, 1, 7, 7], 2),
        ("4", [4, 2, 7, 7], 4),
    ]
    assert cnn("visualize-filters", "tiny-cnn", "--all", "-o", "a.png") == 0
    assert capsys.readouterr().out == "a.png\ntrained on digits, epoch 3 (runs/tiny-cnn-1/best.safetensors)\n"


def test_the_film_of_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("visualize-filters", "tiny-cnn", "--every-epoch") == 1
    assert "runs/tiny-cnn-1 has no saved filters" in capsys.readouterr().err
    network = nn.Sequential(nn.Conv2d(1, 1, 3))
    film.begin_film(place / "runs" / "tiny-cnn-1", network)
    film.add_frame(place / "runs" / "tiny-cnn-1", 1, network)
    assert cnn("visualize-filters", "tiny-cnn", "--every-epoch") == 0
    picture, what, _ = capsys.readouterr().out.splitlines()
    assert (picture, what) == ("runs/tiny-cnn-1/filters-by-epoch.png", "layer 0, epochs 0 to 1")


def test_training_keeps_a_film_if_asked(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also over a resume; the last frame is the network as it is, the first as its seed drew it."""
    spec = "{input: [1, 8, 8], layers: [Conv2d: {out_channels: 4, kernel_size: 3}, ReLU, Flatten, Linear: 10]}"
    (quick / "net.yaml").write_text(f"net: {spec}")
    options = ["--data", "digits", "--device", "cpu", "--epochs", "1", "-b", "500", "--seed", "3"]
    assert cnn("train", "net.yaml", *options, "--filters-every-epoch", "-o", "run") == 0
    assert cnn("train", "run", "--resume", "--epochs", "3", "--filters-every-epoch") == 0
    assert "filters-by-epoch.png" in capsys.readouterr().out
    _, frames = film.frames_of(quick / "run")
    torch.manual_seed(3)
    np.testing.assert_array_equal(frames[0].weights, nn.Conv2d(1, 4, 3).weight.detach().numpy())
    last = torch.load(quick / "run" / "last.pt", weights_only=True)["network"]["0.weight"]
    np.testing.assert_array_equal(frames[-1].weights, last.numpy())
    assert [f.epoch for f in frames] == [0, 1, 2, 3]
    assert cnn("train", "run", "--resume", "--epochs", "3.5") == 0
    assert [f.epoch for f in film.frames_of(quick / "run")[1]] == [0, 1, 2, 3, 3.5]
    assert cnn("train", "net.yaml", *options, "-o", "plain") == 0
    assert not list((quick / "plain").glob("filters*"))
    capsys.readouterr()
    assert cnn("train", "plain", "--resume", "--epochs", "2", "--filters-every-epoch") == 2
    wanted = "error: plain did not save the filters of its earlier epochs; leave out --filters-every-epoch, "
    wanted += "or start a new run\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sort size", "--sort must be norm, not 'size'"),
        ("--all --layer 0", "--all draws every convolution; leave out --layer, or choose one convolution with --layer"),
        ("--all --compare untrained", "--all draws every convolution; leave out --compare, {one}"),
        ("--every-epoch --sort norm", "--every-epoch draws the saved filters of the first convolution; {out} --sort"),
        ("--layer 9", "no layer '9'. Convolutions: 0, 2, 4"),
    ],
)
def test_options_that_mean_nothing_together(
    arguments: str, message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cnn("visualize-filters", "tiny-cnn", *arguments.split()) == 2
    wanted = message.format(one="or choose one convolution with --layer", out="leave out")
    assert capsys.readouterr() == ("", f"error: {wanted}\n")
