"""The page's scripts, each after those that it needs."""

import re
from functools import cache
from pathlib import Path

# The computing scripts need no DOM: they run in a worker, and in bare V8.
_COMPUTING = (
    *("tensor", "matmul", "operations", "activations", "convolution", "pooling", "normalization", "layers"),
    *("explanation", "network", "detection", "training", "fitting", "worker"),
)
_DRAWING = (
    *("drawing", "graph", "image_panel", "prediction", "network_panel", "layer_panel", "value_panel", "tools"),
    *("training_panel", "tour", "app"),
)


@cache
def read_source(file: str) -> str:
    """A file of this folder."""
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


def computing() -> str:
    """The scripts that compute."""
    return _joined(_COMPUTING)


def page_script() -> str:
    """The scripts that draw."""
    return _joined(_DRAWING)


def compact(source: str) -> str:
    """A script without indentation, empty lines and comment lines; no string in the scripts spans several lines."""
    lines = (line.strip() for line in re.sub(r"^ */\*.*?\*/$", "", source, flags=re.MULTILINE | re.DOTALL).splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _joined(names: tuple[str, ...]) -> str:
    return compact("\n".join(read_source(f"{name}.js") for name in names))
