"""On a terminal: colors, and what the shell completes."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs

RESET = "\x1b[0m"


def on_terminal(*arguments: str, **variables: str) -> str:
    """What a command shows on a terminal of 80 columns, where its stdout and stderr are the same."""
    ours, its = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    environment |= {"COLUMNS": "80", "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen([sys.executable, "-m", "cnn_cli", *arguments], stdout=its, stderr=its, env=environment)
    os.close(its)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # what Linux says at the end
            part = b""
        if not part:
            break
        shown += part
    process.wait(60)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_errors_warnings_and_titles_are_in_color(workspace: Path) -> None:
    assert on_terminal("summary", "nothing").startswith(f"\x1b[1;31merror:{RESET} unknown network")
    (workspace / "a.yaml").write_text("a:\n  input: [1, 8, 8]\n  blocks: {B: {layers: [ReLU]}}\n  layers: [Flatten]\n")
    assert f"\x1b[33ma.yaml:3:12: warning:{RESET} " in on_terminal("check", "a.yaml")
    title = next(line for line in on_terminal("list").splitlines() if "parameters" in line)
    assert title.startswith("\x1b[1mname ") and title.endswith(RESET)


def test_the_best_figures_of_a_run_are_in_color(workspace: Path) -> None:
    (workspace / "small.yaml").write_text(small_runs.SPEC)
    shown = on_terminal("train", "small.yaml", "--epochs", "2", "-o", "run")
    rows = [line for line in shown.splitlines() if "2/2" in line and "%" in line]
    assert any("\x1b[32m" in row for row in rows), shown


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_color_where_none_is_wanted(variables: dict[str, str], workspace: Path) -> None:
    for arguments in (["summary", "nothing"], ["list"]):
        assert "\x1b[" not in on_terminal(*arguments, **variables)


def test_no_color_in_a_pipe(workspace: Path) -> None:
    result = subprocess.run([sys.executable, "-m", "cnn_cli", "list"], capture_output=True, text=True)
    assert "\x1b" not in result.stdout


def test_the_functions_of_the_package_are_listed() -> None:
    import cnn_cli

    assert {"build", "load"} <= set(dir(cnn_cli))
