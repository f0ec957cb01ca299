"""The text of the networks that ship with the tool: all of models.yaml, or as much of it as one network needs."""

import re
from functools import cache
from pathlib import Path

from cnn_cli.errors import CnnError

BLOCKS = "blocks"
_KEY = re.compile(r"^(?:([a-z0-9][\w.-]*)|  ([A-Z]\w*)):", re.M)  # of a network, or of a block that networks share
_WORD = re.compile(r"[\w.-]+")


def shipped_path() -> Path:
    """The models.yaml of this installation: in the package, or beside it in a checkout, where nothing copies it."""
    package = Path(__file__).parents[1]
    path = next((p for p in (package / "models.yaml", package.parent / "models.yaml") if p.is_file()), None)
    if path is None:
        raise CnnError("models.yaml is missing from this installation; install cnn-cli again")
    return path


@cache
def sections() -> dict[str, str]:
    """The text of each network and each shared block by its name, in the order of the file; "" is the text before."""
    text = shipped_path().read_text(encoding="utf-8")
    keys = [*_KEY.finditer(text)]
    ends = [*[key.start() for key in keys[1:]], len(text)]
    parts = {key[1] or key[2]: text[key.start() : end] for key, end in zip(keys, ends, strict=True)}
    return {"": text[: keys[0].start()]} | parts


@cache
def network_names() -> tuple[str, ...]:
    return tuple(name for name in sections() if name and not name[0].isupper() and name != BLOCKS)


def network_text(name: str) -> str:
    """The file with what this network does not use replaced by empty lines, so that line numbers stay the same."""
    parts, used, waiting = sections(), {"", BLOCKS}, [name]
    while waiting:
        used.add(part := waiting.pop())
        waiting += {word for word in _WORD.findall(parts[part]) if word in parts} - used - {*waiting}
    return "".join(text if part in used else "\n" * text.count("\n") for part, text in parts.items())
