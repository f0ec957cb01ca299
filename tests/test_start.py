"""What commands read and import before they do what was asked."""

import subprocess
import sys
from pathlib import Path

import pytest

from cnn_cli.language.registry import load_registry, shipped
from cnn_cli.language.spec import used_blocks


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
