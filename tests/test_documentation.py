"""README, the guide and CONTRIBUTING say what is there: generated parts are current, and every command in them runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from documentation import GUIDE, PAGES, ROOT, blocks, commands, run, with_generated, with_output, write_specs
from PIL import Image

from cnn_cli.language.registry import plan_spec, with_registry
from cnn_cli.language.spec import parse

README = ROOT / "README.md"


def ids(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_generated_parts_are_current(page: Path) -> None:
    assert with_generated(page.read_text()) == page.read_text(), "run python tests/documentation.py"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_console_blocks_show_what_the_commands_print(page: Path, tmp_path: Path) -> None:
    write_specs(page, tmp_path)
    assert with_output(page, page.read_text(), tmp_path) == page.read_text(), "run python tests/documentation.py"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples speak of: a folder of images, third-party weights, a run of fashion-convnet."""
    folder = tmp_path_factory.mktemp("material")
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (folder / "pets" / split / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (40, 30), (10 * i, 200 * number, 50)).save(folder / "pets" / split / name / f"{i}.png")
    torchvision = pytest.importorskip("torchvision")
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    assert run("cnn train fashion-convnet --data digits --epochs 1", folder).returncode == 0
    return folder


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_run(page: Path, material: Path, tmp_path: Path) -> None:
    """Those of `sh` blocks in their order, one epoch in place of ten; not installations, nor those with `network`."""
    shutil.copytree(material, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    write_specs(page, tmp_path)
    marked = [b for b in blocks(page) if b.language == "sh" and "network" not in b.words]
    lines = [(b, line) for b in marked for line in commands(b) if "pip install" not in line and "pytest" not in line]
    for block, line in lines:
        if "slow" in block.words and not os.environ.get("CNN_SLOW_TESTS"):
            continue
        result = run(line.replace("--epochs 10", "--epochs 1"), tmp_path)
        assert result.returncode == 0, f"{page.name}:{block.start}: {line}\n{result.stderr}"


def test_every_command_and_option_named_in_the_documentation_exists() -> None:
    from typer.main import get_command

    from cnn_cli.cli.app import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    for page in PAGES:
        shell = [line for b in blocks(page) if b.language in ("sh", "console") for line in commands(b)]
        inline = re.findall(r"`((?:\S+/)?cnn [^`\n]+)`", page.read_text())
        for line in [*shell, *inline]:
            for text in re.findall(r"(?:^|\s|/)cnn (.+)", line):
                words = " ".join(text.split()[:2])
                name = words if words in known else text.split()[0]
                if name in ("COMMAND", "…") or name.startswith("-"):
                    continue
                assert name in known, f"{page.name}: {line}"
                options = {o for p in known[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--debug"}
                assert set(re.findall(r"(?<!\S)(--[a-z][a-z-]*)", text)) <= options, f"{page.name}: {line}"


def test_every_yaml_example_is_right() -> None:
    for page in PAGES:
        for block in (b for b in blocks(page) if b.language == "yaml" and not b.text.startswith("# mistakes.yaml")):
            file = with_registry(parse(block.text, f"{page.name}:{block.start}"), ())
            assert [str(p) for p in file.problems] == []
            for spec in file.networks.values():
                plan_spec(spec, None, None).checked()


def test_python_example_runs(material: Path) -> None:
    for block in (b for b in blocks(GUIDE / "python.md") if b.language == "python"):
        command = [
            sys.executable,
            "-c",
            block.text + "\nassert sum(p.numel() for p in trained.parameters()) == 225_034",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, cwd=material, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= 1200


def test_readme_marks_its_test_command() -> None:
    text = README.read_text()
    assert re.search(r"^<!-- test-command -->\n```sh\n[^`]*pytest[^`]*\n```$", text, re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
