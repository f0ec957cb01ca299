"""`cnn data check`: errors and suspicious findings in a data set, before training.

A folder is read by the readers that training uses, and all of their errors are reported rather than the first. Folders
are checked without torch.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_cli.data.check_content import Content, read_content
from cnn_cli.data.dataset import DETECTION
from cnn_cli.data.finding import ERROR, SEVERITIES, WARNING, Finding
from cnn_cli.data.image_findings import find_in_images
from cnn_cli.data.image_scan import Array, Scan, scan_arrays, scan_files
from cnn_cli.tables import Column, Table, counted, render, wrapped

_MOST_CLASSES = 20  # in the text
_EXACT = ("duplicates", "leak")  # of images with boxes they are annotation errors


_MODES = {
    "1": "black and white",
    "L": "grayscale",
    "LA": "grayscale with alpha",
    "I;16": "16-bit grayscale",
    "P": "with a palette",
}  # Pillow's modes in words


@dataclass(frozen=True)
class DataCheck:
    """The findings of a check, errors first, and what was checked."""

    data: str
    task: str
    layout: str
    splits: dict[str, int]
    classes: dict[str, dict[str, int]]
    sizes: tuple[tuple[int, int], ...]  # (width, height): all different ones, by area
    modes: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        return {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}

    @property
    def has_problems(self) -> bool:
        """Whether there are errors or warnings."""
        return bool(self.counts[ERROR] or self.counts[WARNING])

    @property
    def counted(self) -> str:
        """What `classes` counts."""
        return "boxes" if self.task == DETECTION else "images"

    def document(self) -> dict[str, Any]:
        smallest, largest = (list(self.sizes[i]) if self.sizes else None for i in (0, -1))
        return {
            "data": self.data,
            "task": self.task,
            "layout": self.layout or None,
            "splits": self.splits,
            "classes": self.table().rows,
            "sizes": {"different": len(self.sizes), "smallest": smallest, "largest": largest},
            "modes": self.modes,
            **{f"{severity}s": n for severity, n in self.counts.items()},
            "findings": [finding.document() for finding in self.findings],
        }

    def text(self) -> str:
        lines = [*self.facts(), "", render(self._short_table())]
        if hidden := max(0, len(self.classes) - _MOST_CLASSES):
            lines.append(f"… {hidden:,} more (--json lists all)")
        for finding in self.findings:
            lines += ["", *map(wrapped, finding.lines())]
        return "\n".join([*lines, "", self.verdict()])

    def facts(self) -> list[str]:
        """What was checked, in lines."""
        splits = ", ".join(f"{n:,}{f' in {name}' * (name != 'all')}" for name, n in self.splits.items())
        ends = [f"{width}x{height}" for width, height in self.sizes[:1] + self.sizes[-1:]]
        sizes = f"from {ends[0]} to {ends[-1]} pixels" if len(self.sizes) > 1 else f"{''.join(ends[:1])} pixels"
        modes = ", ".join(f"{n:,} {_MODES.get(mode, mode)}" for mode, n in self.modes.items())
        return [
            f"{Path(self.data).name}: {self.task}" + (f", read as {self.layout}" if self.layout else ""),
            f"images: {splits}" + (f"; {sizes}; {modes}" if self.modes else ""),
        ]

    def verdict(self) -> str:
        if not self.findings:
            return "no findings"
        return ", ".join(counted(n, severity) for severity, n in self.counts.items() if n)

    def table(self) -> Table:
        columns = [Column("class", "class", wraps=True)]
        columns += [Column(split, self.counted if split == "all" else split, number=True) for split in self.splits]
        return Table(tuple(columns), [{"class": c, **by_split} for c, by_split in self.classes.items()])

    def _short_table(self) -> Table:
        table = self.table()
        return Table(table.columns, table.rows[:_MOST_CLASSES])


def check_data(
    name: str, data_dir: Path | None = None, task: str | None = None, annotations: str | None = None
) -> DataCheck:
    """Check a named data set or a folder. UsageError for a name that is neither, and for a folder without images."""
    path = Path(name).expanduser()
    if path.is_dir():
        content = read_content(path.resolve(), task, annotations)
        scans, gray = scan_files([image.source for image in content.images])
    else:
        from cnn_cli.data.named_content import read_named  # with torch

        content, pixels = read_named(name, data_dir, task, annotations)
        scans, gray = scan_arrays(pixels)
    return _checked(content, scans, gray)


def _checked(content: Content, scans: list[Scan], gray: Array) -> DataCheck:
    findings = [*content.findings, *find_in_images(content.images, scans, gray)]
    if content.task == DETECTION and content.layout:
        findings = [finding for finding in findings if finding.code not in _EXACT]
    readable = [scan for scan in scans if not scan.kind]
    splits = Counter(image.split for image in content.images)
    return DataCheck(
        content.name,
        content.task,
        content.layout,
        dict(splits),
        {c: {split: by_split[split] for split in splits} for c, by_split in content.counts.items()},
        tuple(sorted({scan.size for scan in readable}, key=lambda size: (size[0] * size[1], size))),
        dict(Counter(scan.mode for scan in readable).most_common()),
        tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
    )
