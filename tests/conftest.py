"""Fixtures that many tests share."""

from pathlib import Path

import pytest
import small_runs
import torch


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and none of the user's own settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNN_MODELS", raising=False)
    return tmp_path


@pytest.fixture
def quick(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory for training runs: one thread, no pictures."""
    torch.set_num_threads(1)
    small_runs.without_pictures(monkeypatch)
    return workspace
