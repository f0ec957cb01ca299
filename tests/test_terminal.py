"""On a terminal: colors, what the shell completes, help and lines that fit its width."""

import importlib
import os
import pty
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import small_runs
from pictures import cnn

from cnn_cli.cli import loading, main
from cnn_cli.cli.commands import FUNCTIONS, HELP

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
    title = next(line for line in on_terminal("summary", "lenet-5").splitlines() if "MACs" in line)
    assert title.startswith("\x1b[1mname ") and title.endswith(RESET)


def test_the_best_figures_of_a_run_are_in_color(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (quick / "small.yaml").write_text(small_runs.SPEC)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", screen := StringIO())
    screen.isatty = lambda: True  # type: ignore[method-assign]
    assert cnn("train", "small.yaml", "--epochs", "2", "-o", "run") == 0
    rows = [line for line in screen.getvalue().splitlines() if "2/2" in line and "%" in line]
    assert any("\x1b[32m" in row for row in rows), screen.getvalue()


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_color_where_none_is_wanted(variables: dict[str, str], workspace: Path) -> None:
    for arguments in (["summary", "nothing"], ["summary", "lenet-5"]):
        assert "\x1b[" not in on_terminal(*arguments, **variables)


def test_no_color_in_a_pipe(workspace: Path) -> None:
    result = subprocess.run([sys.executable, "-m", "cnn_cli", "summary", "lenet-5"], capture_output=True, text=True)
    assert result.stdout and "\x1b" not in result.stdout


@pytest.mark.parametrize(("due", "note"), [(0, "Loading Matplotlib …"), (9, "")])
def test_slow_loading_is_announced_and_erased(
    due: float, note: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "matplotlib.py").write_text("import time\ntime.sleep(0.3)\nVALUE = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", sys)  # so that what is imported here goes again
    monkeypatch.delitem(sys.modules, "matplotlib")
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    monkeypatch.setattr(sys, "stderr", screen := StringIO())
    monkeypatch.setattr(loading, "_PATIENCE", due)
    loading.announce_loading()
    module = importlib.import_module("matplotlib")
    assert module.VALUE == 5 and "cnn_cli" not in type(module.__loader__).__module__
    assert screen.getvalue() == (f"\r{note}\r\r{' ' * len(note)}\r" if note else "")


def test_the_table_of_commands_is_that_of_their_files() -> None:
    """`cnn --help` prints the table, without importing the files."""
    for path in sorted(Path(loading.__file__).parent.glob("*.py")):
        importlib.import_module(f"cnn_cli.cli.{path.stem}".removesuffix(".__init__"))
    first = {name: " ".join((run.__doc__ or "").partition("\n\n")[0].split()) for name, run in FUNCTIONS.items()}
    assert first == HELP


def test_the_functions_of_the_package_are_listed() -> None:
    import cnn_cli

    assert {"build", "load"} <= set(dir(cnn_cli))


def asked(*words: str) -> dict[str, str]:
    """The variables with which the shell asks for completions of the last of `words`."""
    return {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_CNN_COMPLETE": "complete_bash"}


def completions(*words: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as shown:
        for name, value in asked(*words).items():
            patch.setenv(name, value)
        assert cnn() == 0
    return shown.getvalue().split()


def test_names_complete_without_torch() -> None:
    code = """
import sys
from cnn_cli.cli import main
sys.argv = ["cnn"]
try:
    main()
except SystemExit:
    assert "torch" not in sys.modules
"""
    environment = {**os.environ, **asked("cnn", "summary", "lenet-5", "--optimizer", "ad")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout.split(), result.stderr) == (0, ["adam", "adamw"], "")


def test_names_complete(workspace: Path) -> None:
    assert {"resnet18", "resnet20", "resnet152"} <= {*completions("cnn", "train", "resnet")}
    assert completions("cnn", "train", "lenet-5", "--data", "fash") == ["fashion-mnist"]
    assert completions("cnn", "train", "lenet-5", "--schedule", "c") == ["constant", "cosine"]
    assert completions("cnn", "visualize-saliency", "lenet-5", "--method", "grad-") == ["grad-cam"]
    assert completions("cnn", "attack", "lenet-5", "--method", "") == ["pgd", "fgsm"]
    (workspace / "mine.yaml").write_text(small_runs.SPEC + "  recipes: {slow: {epochs: 9}}\n")
    assert completions("cnn", "train", "mine.yaml", "--recipe", "") == ["slow"]
    assert completions("cnn", "shapes", "mine.yaml", "") == ["0", "1", "2", "3", "4", "5", "6"]
    assert completions("cnn", "train", "no-such-network", "--recipe", "") == []


def test_classes_and_layers_of_a_run_complete(quick: Path) -> None:
    small_runs.begin(quick, "runs/small-1", epochs=1)
    assert completions("cnn", "attack", "runs/small-1", "--target", "") == [*"0123456789"]
    assert completions("cnn", "synthesize", "runs/small-1", "--layer", "6") == ["6"]
    assert "runs/small-1" in completions("cnn", "eval", "runs/")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["summary", "x", "--colums", "a"], "cnn summary has no option --colums. Did you mean --columns?"),
        (["train", "x", "--no-shufle"], "cnn train has no option --no-shufle. Did you mean --no-shuffle?"),
        (["train", "x", "--target", "mse"], "cnn train has no option --target. `cnn train --help` lists all options"),
        (["train", "x", "--task", "t"], "cnn train has no option --task. `cnn train --help` lists all options"),
    ],
    ids=lambda value: value[2] if isinstance(value, list) else "",
)
def test_only_options_that_are_near_are_suggested(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (cnn(*arguments), capsys.readouterr().err) == (2, f"error: {said}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "x", "--top", "x"], "cnn predict: --top must be an integer. `cnn predict --help` shows the"),
        (["eval", "x", "-b", "x"], "cnn eval: --batch-size must be an integer."),
        (["attack", "x", "--seed", "-1"], "cnn attack: --seed must be at least 0."),
        (["attack", "x", "--seed"], "cnn attack: --seed needs a value."),
        (["summary"], "cnn summary: NETWORK is missing."),
        (["summary", "x", "y", "z"], "cnn summary: unexpected argument y z."),
        (["summary", "x", "--json=1"], "cnn summary: --json takes no value."),
        (["trian"], "cnn: no command 'trian'. Did you mean 'train'?\n"),
        (["--foo"], "cnn: no option --foo. `cnn --help` shows the usage\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_of_usage_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1


@pytest.mark.parametrize("width", [60, 80])
def test_help_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in [[], *([name] for name in HELP)]:
        monkeypatch.setattr(sys, "argv", ["cnn", *map(str, name), "--help"])
        with pytest.raises(SystemExit, match="0"):
            main()
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width
        assert "<str>" not in text and "[default" not in text and "[env var:" not in text


@pytest.mark.parametrize(("arguments", "code"), [("summary tiny-cnn", 0), ("nosuch", 2)])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_change_no_exit_code(arguments: str, code: int, closed: str) -> None:
    command = f"{sys.executable} -m cnn_cli {arguments} {closed}"
    assert subprocess.run(command, shell=True, capture_output=True, timeout=60).returncode == code
