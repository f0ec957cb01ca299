"""The plan of a network in a run folder or checkpoint, read without its weights and, if possible, without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.header import read_metadata
from cnn_cli.checkpoints.run_folder import BEST
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document


def read_plan(network: str, args: Mapping[str, Any] | None, input: Sequence[int] | None) -> Plan:
    """The plan of a run folder or checkpoint. Only files other than safetensors need torch to be read."""
    path = Path(network)
    if path.is_dir() and (path / BEST).is_file():
        path = path / BEST
    document = read_metadata(path) if path.suffix == ".safetensors" else None
    if document is None or not isinstance(document.get("spec"), dict):
        from cnn_cli.checkpoints.checkpoint import load_network  # reads last.pt, and reports what is wrong with others

        return load_network(network, args=args, input=input).plan
    return plan_document(document["spec"], str(path), args, input)
