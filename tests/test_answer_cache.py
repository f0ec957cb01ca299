"""What is kept of `cnn list` and `cnn check` between calls is never trusted beyond the installation that made it."""

import json
from pathlib import Path
from typing import Any

import pytest

from cnn_cli.analysis import answer_cache, diagnostics, networks
from cnn_cli.analysis.answer_cache import cache_file, cached_answer
from cnn_cli.language import registry
from cnn_cli.language.shipped import shipped_path


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def kept_after(change: Any) -> list[int]:
    """How often the answer was worked out before, and after, `change`."""
    calls: list[int] = []

    def compute() -> list[int]:
        calls.append(1)
        return [len(calls)]

    assert cached_answer("a", compute) == cached_answer("a", compute) == [1]
    before = len(calls)
    change()
    cached_answer("a", compute)
    return [before, len(calls)]


def test_an_answer_is_worked_out_once() -> None:
    assert kept_after(lambda: cached_answer("b", lambda: 2)) == [1, 1]
    assert json.loads(cache_file().read_text())["answers"] == {"a": [1], "b": 2}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"digest": 1, "answers": {"a": [1]}}', b"[" * 100_000, b"\xff"])
def test_a_damaged_file_is_not_trusted(damage: bytes) -> None:
    assert kept_after(lambda: cache_file().write_bytes(damage)) == [1, 2]


def test_another_models_yaml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "models.yaml"
    other.write_bytes(shipped_path().read_bytes() + b"\n")
    assert kept_after(lambda: monkeypatch.setattr(answer_cache, "shipped_path", lambda: other)) == [1, 2]


def test_other_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text("x = 1\n")
    monkeypatch.setattr(answer_cache, "PACKAGE", tmp_path)
    assert kept_after(lambda: (tmp_path / "layers.py").write_text("x = 12\n")) == [1, 2]


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    assert (cached_answer("a", lambda: 1), cached_answer("a", lambda: 2)) == (1, 2)


def test_the_commands_say_the_same_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six networks stand for all."""
    file = registry.shipped()
    few = {name: file.networks[name] for name in list(file.networks)[:6]}
    for module in (registry, diagnostics):
        monkeypatch.setattr(module, "shipped", lambda: type(file)(file.origin, few, file.blocks, ()))
    first, second = ((networks.list_networks(), diagnostics.diagnose([], [], {}, None)) for _ in range(2))
    assert json.dumps(first[0].document()) == json.dumps(second[0].document())
    assert first[0].text() == second[0].text()
    assert first[1] == second[1] and first[1].networks == 6
    assert any(problem.warning for problem in first[1].problems)  # blocks that these six do not use
    monkeypatch.setattr(diagnostics, "cached_answer", lambda *_: pytest.fail("arguments change the answer"))
    assert diagnostics.diagnose([], [], {"classes": 3}, None).networks == 6
    assert diagnostics.diagnose([], [], {}, (3, 64, 64)).networks == 6
