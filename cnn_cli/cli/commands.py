"""The table of commands. A command's file is imported only when it is called or completed.

`visualize-filters` is in `visualize_filters.py`, `data check` in `data_check.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

COMMANDS = {  # section → name → first paragraph of the help, in the order of `cnn --help`
    "Networks": {
        "list": "List all networks with their inputs and parameters.",
        "check": "Check specs for mistakes, without running anything.",
        "summary": "Show layers, output shapes, parameters, MACs and memory.",
        "shapes": "Derive the output shape of each layer.",
        "diff": "Compare two networks layer by layer.",
        "schema": "Print the JSON Schema of specs, for editors.",
    },
    "Training": {
        "data": "Check a data set, and show its task, splits and classes.",
        "data check": "Check a data set for problems: unreadable images, duplicates, leaks between splits, "
        "conflicting labels, and more.",
        "data preview": "Draw images as a network sees them: resized, augmented, with masks or boxes.",
        "data cache": "List the cached images of folders that do not fit in memory, or delete them.",
        "train": "Train a network, or resume a run.",
        "eval": "Evaluate a trained network on a data set.",
        "errors": "Show what a trained network gets wrong: the worst mistakes, and the classes that it confuses.",
        "predict": "Predict the classes of images or pixels, or detect objects.",
        "runs": "List runs with the settings that differ, epochs, metrics and state.",
        "compare": "Compare trained networks on the same images, with significance tests.",
        "report": "Write a self-contained HTML report of one run, or a comparison of several.",
    },
    "Interpretation": {
        "visualize-filters": "Draw learned convolution filters.",
        "visualize-features": "Draw the feature maps (activations) of images.",
        "visualize-saliency": "Draw saliency maps: pixels that drive a class score.",
        "attack": "Generate adversarial examples (FGSM, PGD).",
        "synthesize": "Draw inputs that maximize a class score or channel.",
        "stylize": "Draw an image in the style of another (neural style transfer).",
        "convolve": "Turn a classifier into a fully convolutional network.",
        "page": "Export a network as a self-contained HTML page that runs it and explains every value.",
    },
    "Documentation": {
        "guide": "Read the guide; without a topic, list its pages.",
    },
}
HELP = {name: text for section in COMMANDS.values() for name, text in section.items()}
FUNCTIONS: dict[str, Callable[..., None]] = {}  # by command name, from the files imported so far


class Commands(Mapping[str, Any]):
    """The commands by name; `build` makes one from its name and its function."""

    def __init__(self, build: Callable[[str, Callable[..., None]], Any]) -> None:
        self._build = cache(build)

    def __getitem__(self, name: str) -> Any:
        if name not in HELP:
            raise KeyError(name)
        import_module(f"cnn_cli.cli.{name.replace(' ', '_').replace('-', '_')}")
        return self._build(name, FUNCTIONS[name])

    def __contains__(self, name: object) -> bool:
        return name in HELP

    def __iter__(self) -> Iterator[str]:
        return iter(HELP)

    def __len__(self) -> int:
        return len(HELP)
