"""Fixtures that many tests share, and what all of them run with."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is loaded: the processes of pytest share the CPUs

import small_runs
import torch


def pytest_configure(config: pytest.Config) -> None:
    """One folder of caches for all processes of this session, in place of the user's own."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        caches = TemporaryDirectory(prefix="cnn-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(caches.cleanup)
        os.environ["XDG_CACHE_HOME"] = caches.name


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


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Chromium without a window, which logs its requests and its console."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, to drive a browser")
    options = webdriver.ChromeOptions()
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    chrome = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    chrome.set_script_timeout(120)
    yield chrome
    chrome.quit()
