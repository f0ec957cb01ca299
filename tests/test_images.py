"""Images as bytes: decoded as Pillow does, fitted to any input, and normalized inside the network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs as small
import torch
from PIL import Image

from cnn_cli.data.decoding import decode_image, read_shape
from cnn_cli.data.loading import load_dataset
from cnn_cli.data.preparation import prepare
from cnn_cli.data.preprocessing import Preprocessing, add_normalization, describe_changes, preprocess
from cnn_cli.errors import CnnError, UsageError

CPU = torch.device("cpu")


# --- Images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "CMYK"])
def test_colors_are_pillows(tmp_path: Path, mode: str) -> None:
    path = small.picture(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode=mode)
    for channels, target in ((1, "L"), (3, "RGB")):
        expected = np.array(Image.open(path).convert(target)).reshape(4, 6, channels)
        assert (decode_image(path, channels).permute(1, 2, 0).numpy() == expected).all()


def test_sixteen_bits_keep_the_high_byte(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256], [511, 40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", 1).tolist() == [(values >> 8).tolist()]


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.float32])
def test_tiff_files_of_32_bits_are_refused(tmp_path: Path, kind: type) -> None:
    """Whether 0–255 or 0–65,535 is meant is anybody's guess, and a wrong guess would be nearly black."""
    Image.fromarray(np.arange(12, dtype=np.int32).reshape(3, 4).astype(kind)).save(path := tmp_path / "a.tiff")
    for read in (lambda: decode_image(path, 1), lambda: read_shape(path)):
        with pytest.raises(CnnError) as error:
            read()
        assert str(error.value) == f"{path} has 32-bit pixels of unknown range; save it with 8 or 16 bits per channel"


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    path = small.picture(tmp_path / "a.png", width=6, height=4, exif=exif)
    stored = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    assert decode_image(path, 3).equal(torch.rot90(stored, -1, (1, 2)))


# --- Fitting to the input -------------------------------------------------------------------------------------------


def test_gray_is_pillows_luma() -> None:
    colors = torch.randint(0, 256, (1, 3, 50, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = np.array(Image.fromarray(colors[0].permute(1, 2, 0).numpy()).convert("L"))
    assert (preprocess(colors, Preprocessing((1, 50, 50)))[0, 0].numpy() == expected).all()


def test_gray_is_repeated_for_color() -> None:
    gray = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    assert preprocess(gray, Preprocessing((3, 4, 4))).equal(gray.repeat(1, 3, 1, 1))


@pytest.mark.parametrize(("resize", "across"), [("stretch", 0), ("crop", 0), ("pad", 2)])
def test_proportions(resize: str, across: int) -> None:
    """A white image of 4x8 on an input of 8x8: stretched or cropped it fills it, else it lies in black."""
    white = torch.full((1, 1, 4, 8), 255, dtype=torch.uint8)
    out = preprocess(white, Preprocessing((1, 8, 8), resize))[0, 0]
    expected = torch.full((8, 8), 255, dtype=torch.uint8)
    expected[:across] = expected[8 - across :] = 0
    assert out.equal(expected)


@pytest.mark.parametrize("size", [(3, 9), (9, 3), (50, 20), (28, 28), (1, 1)])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_every_size_fits(size: tuple[int, int], resize: str) -> None:
    image = torch.randint(0, 256, (2, 1, *size), dtype=torch.uint8)
    assert tuple(preprocess(image, Preprocessing((3, 28, 20), resize)).shape) == (2, 3, 28, 20)


@pytest.mark.parametrize("size", [None, 256])
def test_a_strip_is_cut_before_it_is_enlarged(size: int | None) -> None:
    """Enlarged as a whole it would be 224 x 11,200,000 pixels."""
    strip = torch.arange(200_000).div(200_000 / 255).byte().expand(1, 1, 4, -1)
    out = preprocess(strip, Preprocessing((1, 224, 224), "crop", resize_size=size))
    assert tuple(out.shape) == (1, 1, 224, 224) and set(out.unique().tolist()) <= {127, 128}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(375, 500), (30, 41), (8, 300), (64, 64)])
def test_decoded_pixels_are_resized_to_the_same_bits_as_planes(size: tuple[int, int], interpolation: str) -> None:
    decoded = torch.randint(0, 256, (*size, 3), dtype=torch.uint8).permute(2, 0, 1).unsqueeze(0)
    for resize in ("stretch", "crop", "pad"):
        how = Preprocessing((3, 64, 48), resize, interpolation=interpolation)
        assert preprocess(decoded, how).equal(preprocess(decoded.contiguous(), how))


def test_resizing_is_close_to_pillows() -> None:
    image = torch.randint(0, 256, (1, 1, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = np.array(Image.fromarray(image[0, 0].numpy()).resize((12, 16), Image.Resampling.BILINEAR))
    difference = preprocess(image, Preprocessing((1, 16, 12)))[0, 0].int() - torch.from_numpy(expected).int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize(
    ("before", "input", "line"),
    [
        ((1, (8, 8)), (1, 28, 28), "x: 1x8x8 enlarged to 1x28x28"),
        ((3, (32, 32)), (1, 28, 28), "x: 3x32x32 converted to grayscale and reduced to 1x28x28"),
        ((1, (28, 28)), (3, 28, 28), "x: 1x28x28 grayscale repeated in every channel to 3x28x28"),
        ((3, (20, 40)), (3, 32, 32), "x: 3x20x40 resized to 3x32x32 (stretch)"),
        ((3, None), (3, 32, 32), "x: images with 3 channels, various sizes, resized to 3x32x32 (stretch)"),
        ((3, (32, 32)), (3, 32, 32), ""),
    ],
)
def test_adaptations_are_said_in_one_line(before: Any, input: Any, line: str) -> None:
    assert describe_changes("x", *before, Preprocessing(input)) == line


def test_networks_of_other_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        prepare(load_dataset("digits", tmp_path), Preprocessing((5, 8, 8)), CPU)
    assert str(error.value) == (
        "the network takes 5 channels but the images have 1; images can be converted to 1 or 3 channels only"
    )


def test_normalizing_happens_inside_the_network() -> None:
    how = Preprocessing.from_settings((3, 2, 2), "stretch", {"mean": [0.5], "std": [0.25]})
    network = add_normalization(torch.nn.Identity(), how)
    x = torch.rand(2, 3, 2, 2)
    assert network(x).equal((x - 0.5) / 0.25)
    assert not network.state_dict()
    with pytest.raises(UsageError, match="normalize has 2 values, but the input has 3 channels; give one"):
        Preprocessing.from_settings((3, 2, 2), "stretch", {"mean": [0.5, 0.5], "std": [1.0, 1.0]})
