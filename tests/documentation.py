"""The documentation as data: its pages, their code blocks, and the parts that are generated from the code.

`python tests/documentation.py` rewrites generated tables and the output of console blocks; test_documentation.py tells
where they are out of date.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import processes

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "cnn_cli" / "guide"
PAGES = [ROOT / "README.md", *sorted(GUIDE.glob("*.md")), ROOT / ".github" / "CONTRIBUTING.md"]

_BLOCK = re.compile(r"^```(\S+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"(<!-- generated: ([^\n]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced code block: its language, the words behind it (`fails`, `network`, …), its text and where it starts."""

    language: str
    words: frozenset[str]
    text: str
    start: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(m[1], frozenset((m[2] or "").split()), m[3], text[: m.start()].count("\n") + 1)
        for m in _BLOCK.finditer(text)
    ]


def commands(block: Block) -> list[str]:
    """The command lines of a block, without comments: all lines of `sh`, those after `$ ` of `console`."""
    lines = block.text.replace("\\\n", "").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [stripped for line in lines if (stripped := re.sub(r"(^|\s)#.*", "", line).strip())]


def with_generated(text: str) -> str:
    """The page with every generated part made anew."""
    return _GENERATED.sub(lambda m: f"{m[1]}{GENERATORS[m[2]]()}\n{m[3]}", text)


def with_output(page: Path, text: str, sandbox: Path) -> str:
    """The page with the output of every console block made anew, by running its commands in `sandbox`."""

    def rerun(match: re.Match[str]) -> str:
        language, words, body = match[1], match[2] or "", match[3]
        if language != "console" or "example" in words:
            return match[0]
        parts = []
        for line in (line for line in body.splitlines() if line.startswith("$ ")):
            result = run(line[2:], sandbox)
            parts.append(f"{line}\n{result.stdout}{result.stderr if 'fails' in words else ''}")
        return f"```{' '.join(['console', *words.split()])}\n{''.join(parts)}```"

    return _BLOCK.sub(rerun, text)


def run(command: str, sandbox: Path) -> subprocess.CompletedProcess[str]:
    """A command of the documentation in a folder of its own, in a terminal of 80 columns."""
    words = shlex.split(command)
    if words[0] == "cnn":
        return processes.command(sandbox, words[1:], _environment())
    if words[0] == "torchrun":
        words[:1] = [sys.executable, "-m", "torch.distributed.run"]
    return subprocess.run(words, cwd=sandbox, env=_environment(), capture_output=True, text=True, timeout=300)


def _environment() -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("CNN_")},
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def write_specs(page: Path, sandbox: Path) -> None:
    """Every YAML block that begins with `# name.yaml` becomes that file."""
    for block in blocks(page):
        if block.language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block.text)):
            (sandbox / name[1]).write_text(block.text)


def _cells(rows: Iterator[tuple[str, ...]], head: tuple[str, ...]) -> str:
    escaped = (tuple(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * len(head), *escaped])


def _command_table() -> str:
    from cnn_cli.cli.commands import HELP

    rows = ((f"`cnn {name}`", text.removesuffix(".")) for name, text in HELP.items())
    return _cells(rows, ("command", "description"))


def _guide_table() -> str:
    rows = ((f"[{p.stem}](cnn_cli/guide/{p.name})", _title(p)) for p in sorted(GUIDE.glob("*.md")))
    return _cells(rows, ("topic", "about"))


def _title(page: Path) -> str:
    return page.read_text().partition("\n")[0].removeprefix("# ")


def _settings_table() -> str:
    from cnn_cli.settings import SETTINGS

    groups = dict.fromkeys(field.group for field in SETTINGS.values())
    parts = []
    for group in groups:
        rows = ((f"`{name}`", field.help) for name, field in SETTINGS.items() if field.group == group)
        parts.append(f"### {group}\n\n{_cells(rows, ('setting', 'meaning'))}\n")
    return "\n".join(parts)


def _layer_table() -> str:
    from cnn_cli.layers import LAYERS, REQUIRED

    def setting(name: str, default: object, inferred: bool) -> str:
        if inferred:
            return f"*{name}*"
        if default is REQUIRED:
            return name
        if default is None or isinstance(default, bool):
            return f"{name} {'null' if default is None else str(default).lower()}"
        return f"{name} {list(default) if isinstance(default, tuple) else default}"

    rows = (
        (f"`{name}`", ", ".join(setting(n, s.default, s.inferred) for n, s in row.settings.items()))
        for name, row in sorted(LAYERS.items())
    )
    return _cells(rows, ("layer", "settings"))


def _data_table() -> str:
    from cnn_cli.data.catalog import DATASETS

    rows = (
        (f"`{name}`", d.title, "x".join(map(str, d.shape)), str(d.class_count), f"{d.train:,}", f"{d.test:,}", d.source)
        for name, d in DATASETS.items()
    )
    return _cells(rows, ("name", "data set", "image", "classes", "training images", "test images", "source"))


GENERATORS: dict[str, Callable[[], str]] = {
    "commands": _command_table,
    "guide": _guide_table,
    "settings": _settings_table,
    "layers": _layer_table,
    "data sets": _data_table,
}


def main() -> None:
    import tempfile

    for page in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            sandbox = Path(folder)
            write_specs(page, sandbox)
            page.write_text(with_output(page, with_generated(page.read_text()), sandbox))


if __name__ == "__main__":
    main()
