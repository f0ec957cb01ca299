"""Pictures in the terminal: half blocks hold the pixels, and only a terminal with colors gets them."""

import io
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import Array, cnn
from PIL import Image
from rich.console import Console

from cnn_cli.pictures.preview import can_preview, half_blocks

_CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+)(?:;48;2;(\d+);(\d+);(\d+))?m(▀+)")


def printed(array: Array, columns: int, lines: int, system: str = "truecolor") -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=system, width=200)  # type: ignore[arg-type]
    console.print(half_blocks(Image.fromarray(array), columns, lines), end="")
    return out.getvalue()


def pixels_in(text: str) -> Array:
    """What a terminal would show, (H, W, 3); the lower half of an odd last line is left out."""
    rows: list[list[tuple[int, ...]]] = []
    for line in text.splitlines():
        upper: list[tuple[int, ...]] = []
        lower: list[tuple[int, ...]] = []
        for *colors, blocks in _CELL.findall(line):
            numbers = [int(c) for c in colors if c]
            upper += [tuple(numbers[:3])] * len(blocks)
            lower += [tuple(numbers[3:])] * len(blocks) if numbers[3:] else []
        rows += [upper, *([lower] if lower else [])]
    return np.array(rows, np.uint8)


@pytest.mark.parametrize("shape", [(6, 9), (7, 4), (1, 1), (2, 30)])
def test_a_picture_that_fits_is_shown_pixel_for_pixel(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels_in(printed(array, 40, 20)), array)


def test_a_larger_one_is_averaged() -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    shown = pixels_in(printed(array, 20, 20))
    assert shown.shape == (10, 20, 3)  # as wide as there is room, in proportion
    means = array.reshape(10, 4, 20, 4, 3).mean((1, 3))
    np.testing.assert_allclose(shown, means, atol=1)
    assert pixels_in(printed(array, 80, 5)).shape == (10, 20, 3)  # as high as there is room


def test_fewer_colors_do_too() -> None:
    array = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    assert "38;5;" in printed(array, 9, 9, "256") and "\x1b[" in printed(array, 9, 9, "standard")


def test_without_colors_there_is_no_preview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not can_preview()
    assert cnn("visualize-filters", "tiny-cnn", "--untrained", "--show", "-o", "f.png") == 0
    assert capsys.readouterr().err == "--show needs a terminal with colors; open the file instead\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("variables", "shown"), [({"COLORTERM": "truecolor"}, True), ({"NO_COLOR": "1"}, False)])
def test_in_a_terminal_the_picture_is_shown(variables: dict[str, str], shown: bool, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "30", **variables}
    command = [sys.executable, "-m", "cnn_cli", "visualize-filters", "tiny-cnn", "--untrained", "--show"]
    main, side = pty.openpty()
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=side, stdout=subprocess.PIPE, stderr=side, close_fds=True
    )
    os.close(side)
    said = read_all(main)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out.decode().startswith("tiny-cnn-filters-0.png\n")
    assert ("▀" in said) is shown and ("--show needs" in said) is not shown
    if shown:
        lines = [line for line in said.splitlines() if "▀" in line]
        assert 0 < len(lines) <= 28 and all(line.count("▀") <= 60 for line in lines)


def read_all(main: int) -> str:
    """Everything that comes out of a pseudo-terminal until its other side is closed."""
    found = b""
    while select.select([main], [], [], 60)[0]:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux says so where macOS gives nothing more
            break
        if not part:
            break
        found += part
    os.close(main)
    return found.decode(errors="replace")
