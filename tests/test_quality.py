"""Checks of the code: lint, types, layout, imports, what light commands load, what the wheel holds."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cnn_cli"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "torchvision", "matplotlib", "sklearn", "PIL", "captum", "safetensors"}

# A file imports only from lines above its own, imports inside functions included.
ORDER = [
    "__init__",
    "errors",
    "colors",
    "values",
    "files",
    "tables",
    "progress",
    "device",
    "setting_kinds",
    "setting_conflicts",
    "settings",
    "layers",
    "language",
    "network",
    "distributed",
    "data",
    "checkpoints",
    "analysis",
    "graph",
    "pictures",
    "tasks",
    "training",
    "interpret",
    "page",
    "report",
    "cli",
    "__main__",
]
ROW = {name: row for row, name in enumerate(ORDER)}


def run(*command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, *arguments)


def module_name(path: Path) -> str:
    """cnn_cli/pictures/image.py → pictures.image; a package is named as its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def row_of(name: str) -> int | None:
    """The place of a module's top folder or file in ORDER."""
    return ROW.get(name.partition(".")[0])


def is_ours(name: str) -> bool:
    """Whether a full name is a module of this package, rather than something in one."""
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[tuple[str, int, bool]]:
    """Each module that a file imports: its full name, the line, and whether it is loaded with the file.

    An import inside a function is not loaded with the file; one under `if TYPE_CHECKING` is none.
    """
    found: list[tuple[str, int, bool]] = []

    def walk(node: ast.AST, loaded: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, loaded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            source = node.module or ""
            names = [f"{source}.{alias.name}" for alias in node.names]
            found.extend((name, node.lineno, loaded) for name in {n if is_ours(n) else source for n in names})
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        for child in ast.iter_child_nodes(node):
            walk(child, loaded and not in_function)

    walk(tree(path), True)
    return found


def functions(path: Path) -> list[tuple[str, int]]:
    """Every function of a file with its length in lines."""
    nodes = ast.walk(tree(path))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [(n.name, n.end_lineno - n.lineno + 1) for n in nodes if isinstance(n, kinds) and n.end_lineno]


def test_ruff_finds_nothing() -> None:
    result = python("-m", "ruff", "check", ".")
    assert result.returncode == 0, result.stdout


def test_code_is_formatted() -> None:
    result = python("-m", "ruff", "format", "--check", ".")
    assert result.returncode == 0, result.stdout


def test_types_are_right() -> None:
    result = python("-m", "mypy", "--strict", "-p", "cnn_cli")
    assert result.returncode == 0, result.stdout


def test_every_file_has_a_row() -> None:
    assert [module_name(f) for f in FILES if row_of(module_name(f)) is None] == []


def test_no_module_is_named_as_its_own_function() -> None:
    """A module is a noun and a function a verb; commands alone share their file's name with what the user types."""
    outside = [f for f in FILES if "cli" not in f.parts]
    assert [f for f in outside if re.search(rf"^def {f.stem}\(", f.read_text(), re.MULTILINE)] == []


def test_imports_point_downward_only() -> None:
    """Also those within functions. `cnn_cli.build` alone looks up: it imports network when it is first used."""
    wrong = []
    for path in FILES:
        name = module_name(path)
        for imported, line, _ in imports(path):
            package, _, inside = imported.partition(".")
            beside = name.partition(".")[0] == inside.partition(".")[0]
            if package == "cnn_cli" and name != "__init__" and not beside:
                row, own = row_of(inside or "__init__"), row_of(name)
                upward = row is None or own is None or (row >= own and not inside.startswith(f"{name}."))
                if upward:
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {imported}")
    assert wrong == []


def test_no_circle_of_imports() -> None:
    """Between files, with imports inside functions counted; only `if TYPE_CHECKING` may look anywhere."""
    graph = {
        module_name(f): {n.removeprefix("cnn_cli.") for n, _, _ in imports(f) if n.startswith("cnn_cli.")}
        for f in FILES
        if module_name(f) != "__init__"
    }
    while free := [n for n in graph if not graph[n] & (graph.keys() - {n}) or not any(n in graph[m] for m in graph)]:
        for name in free:
            del graph[name]
    assert sorted(graph) == []


def test_tests_stay_readable() -> None:
    assert [f.name for f in (ROOT / "tests").glob("*.py") if len(f.read_text().splitlines()) > 400] == []


def test_no_call_passes_ten_positional_arguments() -> None:
    calls = [(f.name, n) for f in FILES for n in ast.walk(tree(f)) if isinstance(n, ast.Call)]
    long = [(name, call) for name, call in calls if len(call.args) >= 10]
    assert [(name, c.lineno) for name, c in long if not isinstance(c.func, ast.Subscript)] == []  # which calls a kernel


def test_files_and_functions_stay_readable() -> None:
    assert [f.name for f in FILES if len(f.read_text().splitlines()) > 400] == []
    lengths = [(f.name, name, lines) for f in FILES for name, lines in functions(f)]
    assert [row for row in lengths if row[2] > 60 and row[1] != "train"] == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["summary", "fashion-convnet"], ["shapes", "fashion-convnet"]], ids=" ".join
)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["cnn", *{arguments!r}]
from cnn_cli.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = sorted({HEAVY!r} & set(sys.modules))
assert not loaded, loaded
"""
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_command_line_files_name_nothing_heavy_at_the_top() -> None:
    commands = [f for f in FILES if row_of(module_name(f)) == row_of("cli")]
    names = [(f.name, name) for f in commands for name, _, loaded in imports(f) if loaded]
    assert [(file, name) for file, name in names if name.split(".")[0] in HEAVY] == []


def test_pictures_are_drawn_without_pyplot(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from cnn_cli.pictures.plots import confusion_picture
confusion_picture([[3, 1], [0, 2]], ["a", "b"], Path({str(tmp_path / "confusion.png")!r}), "two classes")
assert "matplotlib.pyplot" not in sys.modules
"""
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_wheel_holds_the_networks(tmp_path: Path) -> None:
    result = python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("cnn_cli/models.yaml") == (ROOT / "models.yaml").read_bytes()
        names = archive.namelist()
        assert "cnn_cli/py.typed" in names and "cnn_cli/guide/language.md" in names
        assert not [n for n in names if not n.startswith(("cnn_cli/", "cnn_cli-"))]
        (entry,) = (n for n in names if n.endswith("entry_points.txt"))
        assert "cnn = cnn_cli.cli:run_program" in archive.read(entry).decode()
