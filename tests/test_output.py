"""Where the output cannot be written, and names that are empty."""

import subprocess
import sys
from pathlib import Path

import pytest
from pictures import cnn

COMMAND = [sys.executable, "-m", "cnn_cli"]


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    """`cnn list | head -1`: done, and nothing to say about it."""
    process = subprocess.Popen(
        [*COMMAND, "list"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (0, "")
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["list"], ["summary", "tiny-cnn", "--json"]], ids=" ".join)
def test_a_full_disk(arguments: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    said = "error: cannot write the output: No space left on device; make room, or write elsewhere\n"
    assert (result.returncode, result.stderr) == (1, said)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("check", "error: a file or network name is empty; name one, or leave it out to check all networks\n"),
        ("eval", "error: the network name is empty; `cnn list` shows all networks\n"),
    ],
)
def test_an_empty_name(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (cnn(command, ""), capsys.readouterr().err) == (2, said)
