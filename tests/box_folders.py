"""Small folders with boxes in the formats of VOC, COCO and YOLO, all with the same images and boxes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import small_runs as small

WIDTH, HEIGHT = 40, 30
NAMES = ("cat", "dog", "red fox")
Edges = tuple[int, int, int, int, int]  # x0, y0, x1, y1, class

BOXES: tuple[tuple[Edges, ...], ...] = (
    ((0, 0, 40, 30, 0), (5, 6, 15, 26, 1)),
    ((10, 10, 20, 20, 2),),
    (),
    ((1, 2, 3, 4, 1), (30, 20, 40, 30, 1), (8, 8, 10, 18, 0)),
    ((12, 3, 36, 27, 2),),
    ((2, 2, 22, 12, 0), (2, 2, 22, 12, 1)),
)


def picture(path: Path, number: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return small.picture(path, WIDTH, HEIGHT, seed=number, **options)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def xml(boxes: Sequence[Edges], width: int = WIDTH, height: int = HEIGHT) -> str:
    """A line per element, as labelImg writes it; the first box's <bndbox> is in line 10."""
    objects = "".join(
        f"<object>\n<name>{NAMES[k]}</name>\n<difficult>{int(k == 2)}</difficult>\n<bndbox>\n<xmin>{x0 + 1}</xmin>\n"
        f"<ymin>{y0 + 1}</ymin>\n<xmax>{x1}</xmax>\n<ymax>{y1}</ymax>\n</bndbox>\n</object>\n"
        for x0, y0, x1, y1, k in boxes
    )
    size = f"<size>\n<width>{width}</width>\n<height>{height}</height>\n</size>\n"
    return f"<annotation>\n<filename>x</filename>\n{size}{objects}</annotation>\n"


def voc(root: Path, boxes: Sequence[Sequence[Edges]] = BOXES) -> Path:
    for i, rows in enumerate(boxes):
        picture(root / f"JPEGImages/{i}.png", i)
        write(root / f"Annotations/{i}.xml", xml(rows))
    for split, numbers in {"train": range(4), "val": range(4, len(boxes))}.items():
        write(root / f"ImageSets/Main/{split}.txt", "".join(f"{i}\n" for i in numbers))
    return root


def coco_document(boxes: Sequence[Sequence[Edges]], first: int = 0) -> dict[str, Any]:
    """Categories with gaps: 3, 7 and 90."""
    images = [
        {"id": 100 + i, "file_name": f"{first + i}.png", "width": WIDTH, "height": HEIGHT} for i in range(len(boxes))
    ]
    annotations = [
        {"image_id": 100 + i, "category_id": (3, 7, 90)[k], "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": int(k == 2)}
        for i, rows in enumerate(boxes)
        for x0, y0, x1, y1, k in rows
    ]
    categories = [{"id": number, "name": name} for number, name in zip((3, 7, 90), NAMES, strict=True)]
    numbered = [{"id": 1 + i, **annotation} for i, annotation in enumerate(annotations)]
    return {"images": images, "annotations": numbered, "categories": categories}


def coco(root: Path, boxes: Sequence[Sequence[Edges]] = BOXES) -> Path:
    for split, numbers in {"train": range(4), "val": range(4, len(boxes))}.items():
        for i in numbers:
            picture(root / f"{split}2017/{i}.png", i)
        document = coco_document([boxes[i] for i in numbers], numbers[0])
        write(root / f"annotations/instances_{split}2017.json", json.dumps(document, indent=1))
    write(root / "annotations/captions_train2017.json", '{"images": [], "annotations": []}')
    return root


def txt(boxes: Sequence[Edges]) -> str:
    fractions = [
        (k, (x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, (x1 - x0) / WIDTH, (y1 - y0) / HEIGHT)
        for x0, y0, x1, y1, k in boxes
    ]
    return "".join(f"{k} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n" for k, x, y, width, height in fractions)


def yolo(root: Path, boxes: Sequence[Sequence[Edges]] = BOXES) -> Path:
    for split, numbers in {"train": range(4), "val": range(4, len(boxes))}.items():
        for i in numbers:
            picture(root / f"images/{split}/{i}.png", i)
            write(root / f"labels/{split}/{i}.txt", txt(boxes[i]))
    write(root / "data.yaml", f"train: images/train\nval: images/val\nnc: 3\nnames: {list(NAMES)}\n")
    return root


FORMATS = {"voc": voc, "coco": coco, "yolo": yolo}
