"""A temporary note in the terminal while a large library is imported, which can take seconds."""

import sys
import threading
import time
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_TITLES = {"torch": "PyTorch", "torchvision": "torchvision", "matplotlib": "Matplotlib", "captum": "Captum"}
_PATIENCE = 1.0  # seconds from the start of the command until the note


def announce_loading() -> None:
    """From now on, show a note on stderr, which is a terminal, while a large library is imported."""
    sys.meta_path.insert(0, _Finder(time.monotonic() + _PATIENCE))


class _Finder(MetaPathFinder):
    """Import finder of the large libraries, whose loader shows a note from the time `due` on."""

    def __init__(self, due: float) -> None:
        self.due = due

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _TITLES else None
        if spec and spec.loader:
            spec.loader = _Announced(spec.loader, _TITLES[fullname], self.due)
        return spec


class _Announced(Loader):
    """A loader that shows a note until it is done."""

    def __init__(self, loader: Loader, title: str, due: float) -> None:
        self.loader, self.title, self.due = loader, title, due

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__
        module.__spec__.loader = module.__loader__ = self.loader  # nothing of this remains in the module
        shown = threading.Event()
        timer = threading.Timer(max(0.0, self.due - time.monotonic()), self._show, [shown])
        timer.start()
        try:
            self.loader.exec_module(module)
        finally:
            timer.cancel()
            timer.join()
            if shown.is_set():
                _write(" " * len(self.note))

    @property
    def note(self) -> str:
        return f"Loading {self.title} …"

    def _show(self, shown: threading.Event) -> None:
        _write(self.note)
        shown.set()


def _write(text: str) -> None:
    """Write to the current line, without ending it."""
    sys.stderr.write(f"\r{text}\r")
    sys.stderr.flush()
