"""XML as elements with their lines; entities are refused, as they could expand a small file without limit."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from cnn_cli.errors import CnnError


class XmlError(CnnError):
    """Not well-formed; the message has file and line."""


@dataclass
class Element:
    tag: str
    line: int
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, tag: str) -> Iterator["Element"]:
        return (child for child in self.children if child.tag == tag)

    def find(self, tag: str) -> "Element | None":
        return next(self.all(tag), None)


def read_xml(path: Path) -> Element:
    """The outermost element. XmlError for a file that is empty, not well-formed or declares entities."""
    root = Element("", 1)
    stack = [root]
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        element = Element(tag, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def data(text: str) -> None:
        stack[-1].text += text

    def refuse(*_: object) -> NoReturn:
        raise XmlError(f"{path}:{parser.CurrentLineNumber}: declares an entity; write its text instead")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop() and None
    parser.CharacterDataHandler = data
    parser.EntityDeclHandler = refuse
    try:
        content = path.read_bytes()
        if not content.strip():
            raise XmlError(f"{path}:1: the file is empty; annotate its image again, or remove both")
        parser.Parse(content, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise XmlError(f"{path}:{error.lineno}: not well-formed XML ({reason}); repair or remove it") from None
    except (ValueError, LookupError) as error:  # of its encoding
        raise XmlError(f"{path}:1: cannot be read as text ({error}); save it as UTF-8") from None
    except OSError as error:
        raise XmlError(f"{path}:1: cannot be read ({error.strerror})") from None
    return root.children[0]
