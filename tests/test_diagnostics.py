"""Mistakes that `cnn check` and `cnn list` find beside those of the language."""

from pathlib import Path

import pytest
from test_summary import cnn

NETWORK = """
seven:
  input: [1, 8, 8]
  args: {{classes: 7}}
  layers: [Flatten, Linear: $classes]
  train: {{epochs: 1, {train}}}
"""


def write(folder: Path, train: str, outputs: int = 7) -> str:
    path = folder / "net.yaml"
    path.write_text(NETWORK.format(train=train).replace("classes: 7", f"classes: {outputs}"))
    return str(path)


@pytest.mark.parametrize("source", ["{path}", "{path}:seven"])
def test_outputs_that_do_not_suit_the_data_are_a_mistake(source: str, tmp_path: Path) -> None:
    path = write(tmp_path, "data: digits")
    result = cnn("check", source.format(path=path))
    message = "digits has 10 classes, but the network has 7 outputs; change one of them"
    assert result.returncode == 2
    assert result.stdout == f"{path}:6:28: seven, train.data: {message}\n"
    assert result.stderr == "1 network checked: 1 mistake\n"


def test_a_recipe_has_data_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, "data: digits", outputs=10)
    Path(path).write_text(Path(path).read_text() + "  recipes: {large: {data: cifar100}}\n")
    result = cnn("check", path)
    assert result.returncode == 2 and "seven, recipes.large.data: cifar100 has 100 classes" in result.stdout


@pytest.mark.parametrize(
    ("train", "outputs", "options"),
    [
        ("data: digits", 10, []),
        ("data: ./photos", 7, []),
        ("lr: 0.1", 7, []),
        ("data: digits", 10, ["--set", "classes=7"]),  # for data named on the command line
    ],
)
def test_outputs_that_suit_the_data_or_may(train: str, outputs: int, options: list[str], tmp_path: Path) -> None:
    result = cnn("check", write(tmp_path, train, outputs), *options)
    assert (result.returncode, result.stdout) == (0, "")


def test_a_list_names_the_networks_with_mistakes_and_shows_the_others(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "good: {input: [1, 8, 8], layers: [Flatten, Linear: 10]}\n"
        "bad: {input: [1, 8, 8], layers: [Flatten, Conv2d: {out_channels: 2, kernel_size: 3}]}\n"
        "worse: {input: [1, 8, 8], layers: [Relu]}\n"
    )
    result = cnn("list", "--models", str(path))
    names = [line.split()[0] for line in result.stdout.splitlines() if line and not line.startswith(" ")]
    assert result.returncode == 2
    assert "good" in names and "resnet18" in names and not {"bad", "worse"} & set(names)
    assert "two.yaml:2:" in result.stderr and "bad, " in result.stderr and "two.yaml:3:" in result.stderr
