"""cnn: train and inspect convolutional networks from a short YAML text."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnn_cli.checkpoints.checkpoint import load as load
    from cnn_cli.network.builder import build as build

__version__ = "0.1.0"
__all__ = ["__version__", "build", "load"]


def __getattr__(name: str) -> Any:
    """`cnn_cli.build` and `cnn_cli.load` bring in torch, so they are imported when first used."""
    if name == "build":
        from cnn_cli.network.builder import build

        return build
    if name == "load":
        from cnn_cli.checkpoints.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
