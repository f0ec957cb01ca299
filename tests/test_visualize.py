"""Pictures of filters: what they show is read back from their pixels; their size is bounded whatever the network."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cnn, make_run, pixels_of, values_of
from torch import nn

from cnn_cli.checkpoints.checkpoint import Metadata, save_weights
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret import filter_pages, filters
from cnn_cli.language.registry import find, plan_document
from cnn_cli.network.builder import build_plan
from cnn_cli.pictures import image

Array = image.Array


def draw(conv: nn.Module, **options: bool) -> tuple[filters.Filters, filter_pages.Drawing]:
    chosen = filters.filters_of(nn.Sequential(conv))
    return chosen, filter_pages.draw_filters(chosen, "a network", "untrained (seed 0)", **options)


def read_tiles(drawing: filter_pages.Drawing, path: Path, tile: tuple[int, int], count: int, across: int) -> Array:
    """The first `count` tiles of each panel of a written picture, (panels, count, H, W, 3), `across` of them a row.

    Every value must be one square of a single color: enlarged by an integer factor, not smoothed.
    """
    image.save(drawing.page.image, path)
    pixels, zoom, gap = pixels_of(path), drawing.grid.zoom, drawing.grid.gap
    height, width = tile[0] * zoom, tile[1] * zoom
    found = []
    for left, top in drawing.page.origins:
        for i in range(count):
            row, column = divmod(i, across)
            y = top + gap + row * (height + gap + drawing.grid.below)
            x = left + gap + column * (width + gap)
            squares = pixels[y : y + height, x : x + width].reshape(tile[0], zoom, tile[1], zoom, 3)
            assert (squares == squares[:, :1, :, :1]).all()
            found.append(squares[:, 0, :, 0])
    return np.stack(found).reshape(len(drawing.page.origins), count, *tile, 3)


def test_no_color_stands_for_two_weights() -> None:
    table = image.diverging().tolist()
    assert len({tuple(c) for c in table}) == 255
    assert max(table[127]) - min(table[127]) == 0  # zero has no hue
    assert table[0][2] > table[0][0] and table[254][0] > table[254][2]  # blue below, red above


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(1, 32, 3), nn.Conv2d(1, 7, (2, 5)), nn.Conv2d(12, 24, 3, groups=12)], ids=repr
)
def test_filters_of_one_channel_can_be_read_back(conv: nn.Conv2d, tmp_path: Path) -> None:
    _, drawing = draw(conv)
    tiles = read_tiles(drawing, tmp_path / "f.png", conv.weight.shape[2:], conv.out_channels, drawing.grid.columns)
    weights = conv.weight.detach()[:, 0].numpy()
    assert drawing.shown == (conv.out_channels, 1)
    np.testing.assert_allclose(values_of(tiles[0], drawing.scale), weights, atol=drawing.scale / 254 * 1.001)


@pytest.mark.parametrize("conv", [nn.Conv2d(6, 16, 5), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 12, 3, groups=2)], ids=repr)
def test_deeper_filters_can_be_read_back(conv: nn.Conv2d, tmp_path: Path) -> None:
    """Rows are filters and columns are channels; the rows go on in the next panel."""
    _, drawing = draw(conv)
    outputs, inputs, *tile = conv.weight.shape
    tiles = read_tiles(
        drawing, tmp_path / "f.png", (tile[0], tile[1]), outputs // len(drawing.page.origins) * inputs, inputs
    )
    weights = conv.weight.detach().numpy().reshape(-1)
    assert drawing.shown == (outputs, inputs)
    np.testing.assert_allclose(values_of(tiles, drawing.scale).reshape(-1), weights, atol=drawing.scale / 254 * 1.001)


def test_color_filters_can_be_read_back(tmp_path: Path) -> None:
    conv = nn.Conv2d(3, 8, 4)
    chosen, drawing = draw(conv)
    tiles = read_tiles(drawing, tmp_path / "f.png", (4, 4), 8, drawing.grid.columns)[0]
    weights = conv.weight.detach().movedim(1, -1).numpy()
    assert chosen.color
    np.testing.assert_allclose(
        (tiles.astype(float) - 128) / 127 * drawing.scale, weights, atol=drawing.scale / 254 * 1.001
    )


def test_each_filter_may_have_its_own_scale(tmp_path: Path) -> None:
    conv = nn.Conv2d(1, 6, 3)
    with torch.no_grad():
        conv.weight[0] /= 1000
    _, drawing = draw(conv, per_filter=True)
    tiles = read_tiles(drawing, tmp_path / "f.png", (3, 3), 6, drawing.grid.columns)[0]
    shares = conv.weight.detach()[:, 0] / conv.weight.detach().abs().amax((1, 2, 3))[:, None, None]
    np.testing.assert_allclose(values_of(tiles, 1.0), shares.numpy(), atol=1.001 / 254)


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution_are_what_an_impulse_brings_out(groups: int) -> None:
    conv = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    weights = filters.filters_of(nn.Sequential(conv)).weights  # (O, I / groups, H, W)
    for channel in range(4):
        impulse = torch.zeros(1, 4, 1, 1)
        impulse[0, channel] = 1
        shown = conv(impulse)[0].detach().numpy()  # (O, H, W)
        group, within = divmod(channel, 4 // groups)
        outputs = slice(group * 6 // groups, (group + 1) * 6 // groups)
        np.testing.assert_array_equal(weights[outputs, within], shown[outputs])


def test_weights_that_are_all_zero_are_white() -> None:
    conv = nn.Conv2d(1, 4, 3)
    nn.init.zeros_(conv.weight)
    _, drawing = draw(conv)
    left, top = drawing.page.origins[0]
    assert drawing.page.image.getpixel((left + drawing.grid.gap, top + drawing.grid.gap)) == (247, 247, 247)


def test_half_precision_is_drawn_too() -> None:
    chosen, _ = draw(nn.Conv2d(1, 4, 3).bfloat16())
    assert chosen.weights.dtype == np.float32


def test_drawing_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    filter_pages.draw_filters(filters.filters_of(network), "a", "b", per_filter=True)
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    "shape",
    [
        (900, 900, 3, 3),
        (5000, 2, 3, 3),
        (2, 5000, 3, 3),
        (3000, 1, 7, 7),
        (1, 1, 3000, 1),
        (4096, 64, 1, 1),
        (1, 1, 1, 1),
    ],
    ids=str,
)
def test_a_picture_has_bounded_size(shape: tuple[int, int, int, int]) -> None:
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    name = "a.very.long.name." * 30
    drawing = filter_pages.draw_filters(filters.Filters(name, "Conv2d", weights, 1, False), name, "many words " * 50)
    assert max(drawing.page.image.size) <= image.LIMIT
    assert all(shown == there or shown > 200 for shown, there in zip(drawing.shown, shape, strict=False))


@pytest.mark.parametrize("panels", [1, 2, 5, 12])
@pytest.mark.parametrize("tile", [(1, 1), (3, 3), (1, 7), (11, 11), (64, 64)])
@pytest.mark.parametrize("rows", [1, 10, 10_000])
@pytest.mark.parametrize("columns", [1, 10, 10_000])
def test_a_grid_fits_and_could_not_be_larger(rows: int, columns: int, tile: tuple[int, int], panels: int) -> None:
    grid = image.fit(rows, columns, tile, panels)
    height = grid.rows * (tile[0] * grid.zoom + grid.gap) + grid.gap
    width = grid.columns * (tile[1] * grid.zoom + grid.gap) + grid.gap
    assert height <= image.BODY and panels * (width + image.BESIDE) <= image.BODY
    assert grid.rows == rows or height + tile[0] * grid.zoom + grid.gap > image.BODY
    assert (grid.rows, grid.columns) == (rows, columns) or grid.zoom == 1
    if grid.zoom < image.LARGEST_ZOOM and (grid.rows, grid.columns) == (rows, columns):
        higher = rows * (tile[0] * (grid.zoom + 1) + grid.gap + 2) + grid.gap + 2
        wider = columns * (tile[1] * (grid.zoom + 1) + grid.gap + 2) + grid.gap + 2
        assert higher > image.SLIDE[0] or panels * (wider + image.BESIDE // 2) > image.SLIDE[1] - panels


def test_a_map_larger_than_any_picture_is_refused() -> None:
    with pytest.raises(CnnError, match="one map of 1x9999 values is larger than the largest picture"):
        image.fit(1, 1, (1, 9999))


def test_what_does_not_fit_is_said() -> None:
    weights = np.ones((900, 900, 3, 3), np.float32)
    chosen = filters.Filters("conv", "Conv2d", weights, 1, False)
    shown = filter_pages.draw_filters(chosen, "a", "b").shown
    assert filters.describe(chosen, shown) == (
        f"layer conv (Conv2d): 900 filters of 3x3 on 900 channels; "
        f"shown: the first {shown[0]} of 900 filters, {shown[1]} of 900 channels"
    )


NETWORK = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(2, 2, 1)))


@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU()),
            None,
            "the network has no convolution, so no filters to show; its layers: Flatten, Linear, ReLU",
        ),
        (NETWORK, "1", "layer 1 is not a convolution (ReLU). Convolutions: 0, 2.0"),
        (NETWORK, "2.1", "no layer '2.1'. Convolutions: 0, 2.0"),
        (NETWORK, "", "no layer ''. Convolutions: 0, 2.0"),
    ],
)
def test_a_wrong_layer_names_those_there_are(network: nn.Module, layer: str | None, message: str) -> None:
    with pytest.raises(UsageError) as error:
        filters.filters_of(network, layer)
    assert str(error.value) == message


def test_weights_that_are_not_numbers_are_refused() -> None:
    conv = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        conv.weight[0, 0, 0] = torch.tensor([math.nan, math.inf, 1.0])
    with pytest.raises(CnnError) as error:
        filters.filters_of(nn.Sequential(conv))
    assert str(error.value) == (
        "layer 0: 2 of 18 weights are not finite numbers, so there is nothing to draw; "
        "the training diverged: train again with a smaller --lr"
    )


def test_an_existing_picture_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "f.png"
    image.check_target(path, force=False)
    path.touch()
    image.check_target(path, force=True)
    with pytest.raises(UsageError) as error:
        image.check_target(path, force=False)
    assert str(error.value) == f"{path} exists already; --force overwrites it, -o writes elsewhere"
    with pytest.raises(UsageError) as error:
        image.check_target(tmp_path / "f.jpg", force=True)
    assert str(error.value) == f"{tmp_path / 'f.jpg'}: the picture is written as .png; choose such a name with -o"


def test_the_newest_run_is_drawn_into_its_folder(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(workspace / "runs" / "tiny-cnn-9", "tiny-cnn", 1)
    network = make_run(workspace / "runs" / "tiny-cnn-10", "tiny-cnn", 2)
    assert cnn("visualize-filters", "tiny-cnn", "--layer", "4") == 0
    path = Path("runs/tiny-cnn-10/filters-4.png")
    weights = network.get_parameter("4.weight").detach()
    assert capsys.readouterr() == (
        f"{path}\nlayer 4 (Conv2d): 4 filters of 7x7 on 2 channels, weights within ±{weights.abs().max():.3g}\n"
        "trained on digits, epoch 3 (runs/tiny-cnn-10/best.safetensors)\n",
        "",
    )
    drawing = filter_pages.draw_filters(
        filters.filters_of(network, "4"), "tiny-cnn", "trained on digits, epoch 3 (runs/tiny-cnn-10/best.safetensors)"
    )
    image.save(drawing.page.image, workspace / "expected.png")
    assert path.read_bytes() == (workspace / "expected.png").read_bytes()


@pytest.mark.parametrize(
    "name", ["runs/tiny-cnn-1", "runs/tiny-cnn-1/", "runs/tiny-cnn-1/best.safetensors", "moved.safetensors"]
)
def test_a_run_folder_and_a_checkpoint_are_drawn_too(
    name: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(workspace / "runs" / "tiny-cnn-1", "tiny-cnn", 1)
    shutil.copy("runs/tiny-cnn-1/best.safetensors", "moved.safetensors")
    assert cnn("visualize-filters", name, "--json") == 0
    out = json.loads(capsys.readouterr().out)
    assert Path(out["picture"]).is_file()
    assert (out["network"], out["layer"], out["shape"]) == ("tiny-cnn", "0", [1, 1, 3, 3])
    assert out["shown"] == {"filters": 1, "channels": 1}
    assert out["checkpoint"].endswith(".safetensors")


def test_untrained_weights_are_those_of_the_seed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(workspace / "runs" / "alexnet-1", "tiny-cnn", 1)  # not looked at
    assert cnn("visualize-filters", "alexnet", "--untrained", "--seed", "7", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    torch.manual_seed(7)
    weights = torch.nn.Conv2d(3, 64, 11).weight
    assert (out["picture"], out["checkpoint"]) == ("alexnet-filters-features.0.png", None)
    assert out["origin"] == "untrained (seed 7)"
    assert out["colour"] and out["largest_weight"] == weights.abs().max().item()


def test_a_trained_run_can_be_shown_untrained(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(workspace / "runs" / "tiny-cnn-1", "tiny-cnn", 1)
    assert cnn("visualize-filters", "runs/tiny-cnn-1", "--untrained", "-o", "fresh.png", "--json") == 0
    out = json.loads(capsys.readouterr().out)
    torch.manual_seed(0)
    assert out["largest_weight"] == nn.Conv2d(1, 1, 3).weight.abs().max().item()
    assert (out["picture"], out["checkpoint"], out["origin"]) == ("fresh.png", None, "untrained (seed 0)")


def test_names_cannot_lead_a_picture_elsewhere() -> None:
    assert image.file_name("../a b", "filters", "x/1.conv") == ".._a_b-filters-x_1.conv.png"
    assert len(image.file_name("a" * 1000)) < 255


def test_only_force_replaces_a_picture_outside_the_run_folder(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(workspace / "runs" / "tiny-cnn-1", "tiny-cnn", 1)
    assert cnn("visualize-filters", "tiny-cnn") == 0
    (own := workspace / "runs" / "tiny-cnn-1" / "filters-0.png").write_bytes(b"mine")
    assert cnn("visualize-filters", "tiny-cnn") == 0
    assert own.read_bytes() != b"mine"
    Path("mine.png").write_bytes(b"mine")
    capsys.readouterr()
    assert cnn("visualize-filters", "tiny-cnn", "-o", "mine.png") == 2
    wanted = "error: mine.png exists already; --force overwrites it, -o writes elsewhere\n"
    assert capsys.readouterr() == ("", wanted)
    assert Path("mine.png").read_bytes() == b"mine"
    assert cnn("visualize-filters", "tiny-cnn", "-o", "mine.png", "--force") == 0
    assert Path("mine.png").read_bytes() == own.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            "tiny-cnn",
            2,
            "no trained weights for tiny-cnn in {workspace}/runs; train it: cnn train tiny-cnn\n"
            "or load weights: --weights torchvision, a file or a run; or use initial weights: --untrained",
        ),
        (
            "tiny-cmn",
            2,
            "unknown network 'tiny-cmn'. Did you mean 'tiny-cnn'? `cnn list` shows all; for a file, write FILE.yaml",
        ),
        (
            "linear.yaml --untrained",
            2,
            "the network has no convolution, so no filters to show; its layers: Flatten, Linear",
        ),
        ("tiny-cnn --untrained --layer 1", 2, "layer 1 is not a convolution (ReLU). Convolutions: 0, 2, 4"),
        ("tiny-cnn --seed 1", 2, "--seed is for random initial weights; add --untrained"),
        ("tiny-cnn --untrained -o a.gif", 2, "a.gif: the picture is written as .png; choose such a name with -o"),
        (
            "tiny-cnn --untrained --compare other.safetensors",
            2,
            "--compare other.safetensors: other has no convolution '0'; name one that both have with --layer. "
            "Its convolutions: first",
        ),
        ("runs", 1, "runs is not a run folder: it has neither best.safetensors nor last.pt"),
    ],
)
def test_errors_say_what_to_do(
    arguments: str, code: int, message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "linear.yaml").write_text("linear: {input: [1, 2, 2], layers: [Flatten, Linear: 2]}")
    (workspace / "runs").mkdir()
    network = {"input": [1, 8, 8], "layers": {"first": {"Conv2d": {"out_channels": 2, "kernel_size": 3}}}}
    plan = plan_document({"other": network}, "other")
    facts = Metadata(plan.document(), tuple("01"), Preprocessing((1, 8, 8)), {}, {})
    save_weights(workspace / "other.safetensors", build_plan(plan), facts)
    assert cnn("visualize-filters", *arguments.split()) == code
    assert capsys.readouterr() == ("", f"error: {message.format(workspace=workspace)}\n")
    assert sorted(p.name for p in workspace.iterdir()) == ["linear.yaml", "other.safetensors", "runs"]


def test_a_folder_that_is_missing_is_made_or_refused_first(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("visualize-filters", "tiny-cnn", "--untrained", "-o", "new/folder/f.png") == 0
    Path("file").touch()
    capsys.readouterr()
    assert cnn("visualize-filters", "tiny-cnn", "--untrained", "-o", "file/f.png") == 1
    assert capsys.readouterr().err.startswith("error: cannot write to file: ")


def test_diverged_weights_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = make_run(workspace / "runs" / "tiny-cnn-1", "tiny-cnn", 1)
    nn.init.constant_(network.get_parameter("0.weight"), math.nan)
    plan = find("tiny-cnn")
    metadata = Metadata(plan.document(), tuple("0123456789"), Preprocessing(plan.input))
    save_weights(workspace / "nan.safetensors", network, metadata)
    assert cnn("visualize-filters", "nan.safetensors") == 1
    assert "layer 0: 9 of 9 weights are not finite numbers" in capsys.readouterr().err
