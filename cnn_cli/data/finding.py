"""The findings of a check of a data set, of three severities, with the images concerned and what to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_cli.tables import counted

ERROR, WARNING, NOTE = "error", "warning", "note"  # training stops; results may suffer; worth knowing
SEVERITIES = (ERROR, WARNING, NOTE)
_LISTED = 5  # items of a finding in the text
_LONGEST = 400  # characters of an item in the text


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image of a data set: its name within the data set, split and class, and its file or pixels (h, w[, 3])."""

    name: str
    split: str
    label: str | None
    source: Any

    @property
    def path(self) -> Path | None:
        return self.source if isinstance(self.source, Path) else None


@dataclass(frozen=True)
class Item:
    """Images that belong together, and a text about them."""

    images: tuple[CheckedImage, ...] = ()
    text: str = ""

    def __str__(self) -> str:
        names = "  ".join(image.name for image in self.images[:_LISTED])
        more = f"  … ({counted(len(self.images), 'image')})" if len(self.images) > _LISTED else ""
        return f"{names}{more}{': ' * bool(names and self.text)}{self.text}"


@dataclass(frozen=True)
class Finding:
    """code: a stable name, for scripts. title: the fact. advice: what to do."""

    code: str
    severity: str
    title: str
    advice: str
    items: tuple[Item, ...] = ()

    def document(self) -> dict[str, Any]:
        items = [{"files": [image.name for image in item.images], "text": item.text} for item in self.items]
        return {
            "code": self.code,
            "severity": self.severity,
            "title": self.title,
            "advice": self.advice,
            "items": items,
        }

    def lines(self) -> list[str]:
        """The finding with its first items, as lines of prose."""
        shown = [str(item) for item in self.items[:_LISTED]]
        shown = [text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …" for text in shown]
        more = [f"… {len(self.items) - _LISTED:,} more (--json lists all)"] if len(self.items) > _LISTED else []
        return [f"{self.severity}: {self.title}", *(f"  {text}" for text in (*shown, *more)), f"  → {self.advice}"]


def relative_text(root: Path, text: str) -> str:
    """A message in which the paths are relative to the data set's folder."""
    return text.replace(f"{root}/", "")
