"""The page's scripts, in the order in which one needs the next."""

from functools import cache
from pathlib import Path

# What computes needs no page: it runs in a worker, and in V8 alone.
_COMPUTING = (
    *("tensor", "matmul", "operations", "layers", "explanation", "network", "detection", "training", "fitting"),
    "worker",
)
_DRAWING = ("drawing", "graph", "layer_panel", "tools", "tour", "app")


@cache
def read_source(file: str) -> str:
    """A file of this folder."""
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


def computing() -> str:
    return _joined(_COMPUTING)


def page_script() -> str:
    return _joined(_DRAWING)


def _joined(names: tuple[str, ...]) -> str:
    return "\n".join(read_source(f"{name}.js") for name in names)
