"""What commands read and import before they do what was asked, and how that grows."""

import cProfile
import subprocess
import sys
from pathlib import Path
from pstats import Stats

import pytest

from cnn_cli.analysis.summary import estimates, setup
from cnn_cli.data.folder import list_folder
from cnn_cli.language.registry import load_registry, plan_spec, shipped
from cnn_cli.language.spec import parse, used_blocks


def test_a_shipped_network_is_read_without_the_others() -> None:
    """Every node at the same place, and every block that it needs."""
    registry, everything = load_registry(), shipped().networks
    for name, spec in everything.items():
        alone = registry[name]
        assert (alone.node, alone.problems) == (spec.node, spec.problems), name
        assert used_blocks(alone) == used_blocks(spec), name
    assert [*registry] == [*everything] and len(registry) == len(everything)


@pytest.mark.parametrize(
    "arguments",
    [
        ["summary", "resnet18", "-b", "8", "--depth", "1", "--models", "more.yaml"],
        ["train", "no-such-network", "-o", "runs/x", "--data-dir", "data", "--freeze", "a", "--lr", "0.1"],
        ["predict", "no-such-network", "a.png", "--top", "3", "--min-score", "0.25", "-o", "out"],
        ["attack", "no-such-network", "--seed", "7", "-o", "out"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_usual_values_are_converted_without_pydantic(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("small: {input: [1, 4, 4], layers: [Flatten]}\n")
    code = f"""
import sys
sys.argv = ["cnn", *{arguments!r}]
from cnn_cli.cli import main
try:
    main()
except SystemExit:
    pass
assert not {{"pydantic", "torchvision", "matplotlib", "sklearn", "torch._dynamo"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_listing_a_folder_grows_with_its_classes_not_with_their_square(tmp_path: Path) -> None:
    calls = []
    for classes in (200, 800):
        for number in range(classes):
            (tmp_path / f"{classes}" / f"{number:04}").mkdir(parents=True)
        (tmp_path / f"{classes}" / "0000" / "a.png").touch()
        with cProfile.Profile() as profile:
            list_folder(tmp_path / f"{classes}")
        calls.append(Stats(profile).total_calls)  # type: ignore[attr-defined]
    assert calls[1] < 6 * calls[0]


def test_a_memory_estimate_grows_with_the_layers_not_with_their_square() -> None:
    calls = []
    for count in (100, 400):
        body = "".join(f"    r{n}: {{layers: [ReLU]}}\n" for n in range(count))
        plan = plan_spec(parse(f"net:\n  input: [1, 4, 4]\n  layers:\n{body}", "x").networks["net"], None, None)
        with cProfile.Profile() as profile:
            estimates(plan, setup(plan, None, None, None, None))
        calls.append(Stats(profile).total_calls)  # type: ignore[attr-defined]
    assert calls[1] < 6 * calls[0]


@pytest.mark.parametrize(("end", "code"), [("None", 0), ("sys.exit(3)", 3), ("sys.exit('no')", 1), ("1 / 0", 1)])
def test_the_program_ends_with_its_own_exit_code_once_all_handlers_have_run(end: str, code: int) -> None:
    program = f"""
import atexit, sys
from cnn_cli import cli

def main():
    atexit.register(print, "handlers,")
    print("output,")
    {end}

atexit.register(print, "destructors")  # what Python does at the very end
cli.main = main
cli.run_program()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (result.stdout.split(), result.returncode) == (["output,", "handlers,"], code)
