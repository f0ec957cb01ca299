"""From YAML text to nodes that know their line, without YAML's pitfalls.

The text is read as a stream of events and the tree is built here, without recursion, so that depth, size, anchors,
aliases (and with them merge bombs), tags and repeated keys are refused as they appear. Plain scalars follow YAML 1.2's
core schema: `1e-3` is a number, while `no`, `010`, `3:30` and dates are text, which the kinds of the settings then
refuse. Source: yaml.org/spec/1.2.2, section 10.3.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from cnn_cli.errors import Problem, SpecError

MOST_BYTES = 1_000_000
MOST_NODES = 100_000
MOST_DEPTH = 40

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_VALUES = {"null": None, "true": True, "false": False}
_WORDS = {form: v for word, v in _VALUES.items() for form in (word, word.capitalize(), word.upper())}
_WORDS |= {"": None, "~": None}
_CONTROL = r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml if available: the same events, ten times faster


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place. Mappings are dicts of nodes (`keys` has the places of the keys), sequences are lists."""

    value: Any
    line: int
    column: int
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def place(self) -> tuple[int, int]:
        return self.line, self.column

    @property
    def plain(self) -> Any:
        """The value without places, as json.loads would give it."""
        if isinstance(self.value, dict):
            return {k: n.plain for k, n in self.value.items()}
        return [n.plain for n in self.value] if isinstance(self.value, list) else self.value


def read_yaml(text: bytes | str, origin: str) -> Node:
    """The one document in `text`; SpecError names the place in `origin` of whatever is wrong."""
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(data) > MOST_BYTES:
        raise _error(origin, 1, 1, f"the file has more than {MOST_BYTES:,} bytes, the limit for a spec; split it")
    try:
        plain = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _error(origin, line, 1, "the file is not encoded as UTF-8; save it as UTF-8") from None
    try:
        return _document(yaml.parse(plain, Loader=_LOADER), origin)
    except yaml.MarkedYAMLError as error:
        line, column, message = _not_yaml(error, plain)
        raise _error(origin, line, column, f"invalid YAML: {message}") from None
    except yaml.YAMLError:
        match = re.search(_CONTROL, plain)
        line, column = _place(plain, match.start()) if match else (1, 1)
        code = f" U+{ord(match.group()):04X}" if match else ""
        raise _error(origin, line, column, f"invalid character{code}; remove it") from None


def _not_yaml(error: yaml.MarkedYAMLError, text: str) -> tuple[int, int, str]:
    """Line, column and message: our own for common mistakes, the parser's for the rest."""
    problem, mark = str(error.problem or error.context), error.problem_mark or error.context_mark
    assert mark is not None
    line, column = mark.line + 1, mark.column + 1
    lines, context = text.splitlines(), str(error.context)
    character = lines[line - 1][column - 1 : column] if line <= len(lines) else ""
    if "nesting depth" in problem:
        return line, column, f"nested more than {MOST_DEPTH} levels deep; simplify the file"
    if character == "\t" or "\\t" in problem:
        return line, column, "found a tab; indent with spaces"
    if character in ("@", "`", "%") and "token" in problem:
        return line, column, f"text that starts with {character} must be quoted"
    if character in ("}", "]") and "flow" not in context:
        return line, column, "this bracket was never opened; remove it"
    if "mapping values are not allowed" in problem and ":" not in lines[line - 1][: column - 1]:
        line = next((n for n in range(line - 1, 0, -1) if lines[n - 1].strip()), line)  # where that text begins
        column = len(lines[line - 1]) - len(lines[line - 1].lstrip()) + 1
        return line, column, "a key without a colon, or text that continues on the next line; write `key: value`"
    if error.context_mark and ("flow" in context or "quoted" in context or "simple key" in context):
        line, column = error.context_mark.line + 1, error.context_mark.column + 1
        if "simple key" in context:
            return line, column, "a key without a colon, or text that continues on the next line; write `key: value`"
        kind = "quote" if "quoted" in context else "bracket"
        return (
            line,
            column,
            f"this {kind} is never closed" + ", or a comma or colon is missing in it" * ("flow" in context),
        )
    if "mapping values are not allowed" in problem:
        return line, column, "a second colon on one line; quote text that contains a colon, or start a new line"
    if "block" in context or "expected key" in problem:
        return line, column, "this line is not aligned with any line above; indent it like its siblings"
    return line, column, f"{problem}; quote text with special characters"


def _place(text: str, at: int) -> tuple[int, int]:
    """Line and column of a position."""
    before = text[:at]
    return before.count("\n") + 1, at - before.rfind("\n")


def _document(events: Iterator[yaml.Event], origin: str) -> Node:
    """Build the tree with an explicit stack: no input can exhaust Python's recursion limit."""
    root: Node | None = None
    stack: list[Node] = []
    pending: list[tuple[str, int, int] | None] = []  # the key that waits for its value, one for each open collection
    count = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise _at(event, origin, "a second YAML document starts here, but a file has only one; remove the ---")
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
            pending.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        _refuse(event, origin)
        count += 1
        if count > MOST_NODES or len(stack) > MOST_DEPTH:
            limit = (
                f"nested more than {MOST_DEPTH} levels deep"
                if len(stack) > MOST_DEPTH
                else f"more than {MOST_NODES:,} values"
            )
            raise _at(event, origin, f"{limit}; split or simplify the file")
        line, column = _start(event)
        if stack and isinstance(stack[-1].value, dict) and pending[-1] is None:
            pending[-1] = (_key(event, stack[-1], origin), line, column)
            continue
        node = Node(_value(event, origin), line, column)
        root = root or node
        if stack:
            _put(node, stack[-1], pending)
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append(node)
            pending.append(None)
    if root is None:
        raise _error(origin, 1, 1, "the file is empty; write `name: {input: …, layers: …}`")
    return root


def _refuse(event: yaml.NodeEvent, origin: str) -> None:
    """Reject anchors, aliases and tags: a spec is data that reads line by line."""
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _at(event, origin, "anchors and aliases (& and *) are not supported; use `blocks:` for repeated layers")
    tag: str | None = getattr(event, "tag", None)
    if tag is not None:
        raise _at(event, origin, f"the tag {tag[:40]!r} is not supported; write plain values")


def _key(event: yaml.NodeEvent, mapping: Node, origin: str) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise _at(event, origin, "a key must be text, not a list or a mapping; quote a key that starts with a bracket")
    key: str = event.value
    if key == "<<":
        raise _at(event, origin, "merge keys (<<) are not supported; use `blocks:` for repeated layers")
    if key in mapping.value:
        raise _at(
            event, origin, f"duplicate key {key[:60]!r} (first on line {mapping.keys[key][0]}); remove one of them"
        )
    return key


def _value(event: yaml.NodeEvent, origin: str) -> Any:
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    assert isinstance(event, yaml.ScalarEvent)
    text: str = event.value
    if not event.implicit[0]:  # quoted: always text
        return text
    if text in _WORDS:
        return _WORDS[text]
    number = int if _INT.fullmatch(text) else float if _FLOAT.fullmatch(text) else None
    if number is None:
        return text
    if len(text) > 40 or not math.isfinite(float(text)):
        raise _at(event, origin, f"the number {text[:20]}… is too large or has too many digits; write a smaller one")
    return number(text)


def _put(node: Node, parent: Node, pending: list[tuple[str, int, int] | None]) -> None:
    if isinstance(parent.value, list):
        parent.value.append(node)
    else:
        assert pending[-1] is not None
        key, line, column = pending[-1]
        parent.value[key] = node
        parent.keys[key] = (line, column)
        pending[-1] = None


def _at(event: yaml.Event, origin: str, message: str) -> SpecError:
    return _error(origin, *_start(event), message)


def _start(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column + 1


def _error(origin: str, line: int, column: int, message: str) -> SpecError:
    return SpecError([Problem(origin, line, column, "", message)])
