"""`cnn data check`: each planted fault is found, and nothing in clean data."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import box_folders
import numpy as np
import pytest
from PIL import Image

from cnn_cli.cli import main
from cnn_cli.data import check as check_module
from cnn_cli.data import near_duplicates
from cnn_cli.data.annotations import InvalidAnnotationsError
from cnn_cli.data.check import check_data
from cnn_cli.data.loading import load_dataset
from cnn_cli.data.near_duplicates import find_near_duplicates
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.pictures.check_page import compose_page

SIZE = (48, 40)  # width, height


def photo(seed: int) -> Image.Image:
    """Soft spots over noise: different for each seed, with details, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    medium = Image.fromarray(rng.integers(0, 256, (16, 20, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    return Image.blend(coarse, medium, 0.4)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def clean(root: Path, classes: int = 3, splits: tuple[str, ...] = ("train", "test"), images: int = 4) -> Path:
    """Photos 0.jpg, 1.jpg, … of each class c0, c1, … in each split."""
    seed = 0
    for split in splits:
        for c in range(classes):
            for i in range(images):
                save(photo(seed), root / split / f"c{c}" / f"{i}.jpg", quality=90)
                seed += 1
    return root


def codes(root: Path, **options: Any) -> list[str]:
    return [finding.code for finding in check_data(str(root), **options).findings]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    photo(900).save(path, exif=exif)


def animated(path: Path) -> None:
    photo(901).save(path.with_suffix(".gif"), save_all=True, append_images=[photo(902)])


def deep(path: Path) -> None:
    Image.fromarray(np.random.default_rng(3).integers(0, 65536, SIZE[::-1], np.uint16)).save(path.with_suffix(".png"))


def compressed_again(path: Path, other: Path) -> None:
    with Image.open(path) as image:
        save(image.resize((60, 50), Image.Resampling.BICUBIC), other, quality=70)


PLANTED: dict[str, Callable[[Path], Any]] = {
    "empty_file": lambda r: (r / "train/c0/0.jpg").write_bytes(b""),
    "unreadable": lambda r: (r / "train/c0/0.jpg").write_text("no image"),
    "truncated": lambda r: truncate(r / "train/c1/1.jpg"),
    "animated": lambda r: animated(r / "train/c1/new.jpg"),
    "exif_rotation": lambda r: rotated(r / "train/c1/new.jpg"),
    "16_bit": lambda r: deep(r / "train/c1/new.jpg"),
    "cmyk": lambda r: photo(903).convert("CMYK").save(r / "test/c1/new.jpg"),
    "transparent": lambda r: Image.new("RGBA", SIZE, (9, 80, 200, 0)).save(r / "test/c1/new.png"),
    "constant": lambda r: Image.new("RGB", SIZE, (9, 80, 200)).save(r / "test/c1/new.png"),
    "mixed_modes": lambda r: photo(904).convert("L").save(r / "test/c1/new.jpg"),
    "unusual_size": lambda r: photo(905).resize((8, 8)).save(r / "test/c1/new.jpg"),
    "duplicates": lambda r: shutil.copy(r / "train/c0/0.jpg", r / "train/c0/copy.jpg"),
    "leak": lambda r: shutil.copy(r / "train/c0/0.jpg", r / "test/c0/copy.jpg"),
    "label_conflict": lambda r: shutil.copy(r / "train/c0/0.jpg", r / "train/c1/copy.jpg"),
    "near_duplicates": lambda r: compressed_again(r / "train/c0/0.jpg", r / "train/c0/copy.jpg"),
    "near_leak": lambda r: compressed_again(r / "train/c0/0.jpg", r / "test/c0/copy.jpg"),
    "near_label_conflict": lambda r: compressed_again(r / "train/c0/0.jpg", r / "train/c1/copy.jpg"),
    "similar_class_names": lambda r: (r / "train/c0").rename(r / "train/C1"),
    "class_not_in_train": lambda r: shutil.rmtree(r / "train/c1"),
    "class_missing": lambda r: shutil.rmtree(r / "test/c1"),
    "empty_class": lambda r: (r / "train/c99").mkdir(),
    "imbalance": lambda r: [save(photo(1000 + i), r / f"train/c0/new{i}.jpg", quality=90) for i in range(36)],
    "skipped_files": lambda r: (r / "train/c0/notes.txt").write_text("hello"),
}


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_nothing_is_found_in_clean_folders(tmp_path: Path, classes: int) -> None:
    check = check_data(str(clean(tmp_path, classes)))
    assert check.findings == () and check.text().endswith("no findings")
    assert check.splits == {"train": 4 * classes, "test": 4 * classes}


@pytest.mark.parametrize("code", PLANTED)
def test_planted_faults_are_found(tmp_path: Path, code: str) -> None:
    for classes in (2, 10):
        root = clean(tmp_path / str(classes), classes)
        PLANTED[code](root)
        assert code in codes(root), classes


def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    root = clean(tmp_path / "pets", 6)
    for i, code in enumerate(("empty_file", "truncated", "animated", "16_bit", "cmyk", "leak", "constant")):
        if code in ("empty_file", "leak"):
            PLANTED[code](root)
            continue
        part = clean(tmp_path / code, 2)
        PLANTED[code](part)
        for path in sorted([*part.rglob("new.*"), *([part / "train/c1/1.jpg"] if code == "truncated" else [])]):
            shutil.copy(path, root / f"train/c{i % 6}" / f"{code}{path.suffix}")
    (root / "train/c5/0.jpg").write_bytes(b"")
    found = codes(root)
    assert {"empty_file", "truncated", "animated", "16_bit", "cmyk", "constant"} <= set(found)
    severities = [finding.severity for finding in check_data(str(root)).findings]
    assert severities == sorted(severities, key=("error", "warning", "note").index)


def test_refusals_of_training_are_findings(tmp_path: Path) -> None:
    one = clean(tmp_path / "one", 1, ("train",))
    assert codes(one) == ["single_class"]
    with pytest.raises(UsageError, match="only one class"):
        load_dataset(str(one), tmp_path)
    several = clean(tmp_path / "several", 2)
    (several / "train/c7").mkdir()
    save(photo(77), several / "test/c8/0.jpg")
    assert {"empty_class", "class_not_in_train", "class_missing"} <= set(codes(several))


def test_a_folder_without_splits(tmp_path: Path) -> None:
    root = clean(tmp_path / "all", 2, ("",))
    assert codes(root) == []
    shutil.copy(root / "c0/0.jpg", root / "c0/copy.jpg")
    (finding,) = check_data(str(root)).findings
    assert finding.code == "duplicates" and "held out for testing" in finding.advice


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^data nothing: no such data set or folder\."):
        check_data("nothing")
    with pytest.raises(UsageError, match=r"is a file; name the folder"):
        check_data(str(save(photo(0), tmp_path / "a.jpg")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"^no images in "):
        check_data(str(tmp_path / "empty"))


def test_images_that_vanish_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scan = clean(tmp_path, 2), check_module.scan_files

    def scan_files(paths: list[Path]) -> Any:
        paths[0].unlink()
        return scan(paths)

    monkeypatch.setattr(check_module, "scan_files", scan_files)
    result = check_data(str(root))
    assert [f.code for f in result.findings] == ["unreadable"]
    assert "cannot be opened (No such file or directory)" in result.text()
    assert "cannot be shown" in compose_page(result)


def test_thousands_of_classes(tmp_path: Path) -> None:
    for i in range(2500):
        (tmp_path / f"c{i}").mkdir()
    save(photo(0), tmp_path / "c0/0.jpg")
    check = check_data(str(tmp_path))
    assert "… 2,480 more (--json" in check.text() and len(check.text()) < 8000
    assert len(check.document()["classes"]) == 2500


def test_text_fits_the_terminal_and_json_has_all(tmp_path: Path) -> None:
    root = clean(tmp_path / "pets", 3)
    for i in range(9):
        shutil.copy(root / f"train/c{i % 3}/{i // 3}.jpg", root / f"test/c{i % 3}/copied{i}.jpg")
    check = check_data(str(root))
    assert max(map(len, check.text().splitlines())) <= 80 and "4 more (--json lists all)" in check.text()
    (finding,) = check.document()["findings"]
    assert len(finding["items"]) == 9 and finding["items"][0]["files"] == ["train/c0/0.jpg", "test/c0/copied0.jpg"]
    assert check.document()["warnings"] == 1 and check.has_problems


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["cnn", "data", "check", *arguments])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    root = clean(tmp_path / "pets", 2)
    assert run(str(root), "--strict") == 0
    PLANTED["exif_rotation"](root)
    assert run(str(root), "--strict") == 0  # a note
    PLANTED["leak"](root)
    assert run(str(root)) == 0 and run(str(root), "--strict") == 1
    capsys.readouterr()
    assert run(str(root), "--json", "--html", str(tmp_path / "out/check.html")) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["code"] == "leak"
    text = (tmp_path / "out/check.html").read_text()
    assert text.count("<img") == 3 and "http" not in text.replace("http-equiv", "")
    assert run(str(root), "--html", str(tmp_path / "out/check.html")) == 2
    assert run(str(root), "--html", str(tmp_path / "check.txt")) == 2
    assert run(str(tmp_path / "missing")) == 2


def test_torch_is_not_loaded_for_folders(tmp_path: Path) -> None:
    folders = [clean(tmp_path / "classes", 2), masks(tmp_path / "masks"), box_folders.voc(tmp_path / "boxes")]
    code = f"""
import sys
from cnn_cli.data.check import check_data
for folder in {[str(folder) for folder in folders]!r}:
    check_data(folder).text()
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", box_folders.FORMATS)
def test_boxes(tmp_path: Path, name: str) -> None:
    root = box_folders.FORMATS[name](tmp_path / name)
    check = check_data(str(root))
    assert check.task == "detection" and not check.counts["error"], check.text()
    assert "Boxes per class" in compose_page(check) and "Images per class" not in compose_page(check)
    for path in sorted(root.rglob("0.png"))[:1]:
        path.unlink()
    for path in sorted(root.rglob("1.png"))[:1]:
        truncate(path)
    with pytest.raises(InvalidAnnotationsError) as error:
        load_dataset(str(root), root)
    finding = next(f for f in check_data(str(root)).findings if f.code == "annotations")
    assert [item.text for item in finding.items] == [e.text.replace(f"{root}/", "") for e in error.value.errors]
    assert "truncated" in codes(root)


def masks(root: Path) -> Path:
    for i in range(6):
        save(photo(i), root / f"images/{i}.jpg", quality=90)
        values = np.random.default_rng(i).integers(0, 3, (10, 12), np.uint8).repeat(4, 0).repeat(4, 1)
        save(Image.fromarray(values), root / f"masks/{i}.png")
    return root


def test_masks(tmp_path: Path) -> None:
    root = masks(tmp_path / "masks")
    assert codes(root) == []
    save(Image.fromarray(np.zeros((8, 8), np.uint8)), root / "masks/1.png")
    save(photo(50), root / "masks/2.png")
    save(Image.fromarray(np.full(SIZE[::-1], 255, np.uint8)), root / "masks/3.png")
    (root / "masks/4.png").unlink()
    save(photo(60), root / "images/9.jpg")
    with pytest.raises(CnnError, match="has no mask"):
        load_dataset(str(root), root)
    check = check_data(str(root))
    (pairs,) = [f for f in check.findings if f.code == "pairs"]
    assert [item.text for item in pairs.items] == ["images/4.jpg", "images/9.jpg"]
    (mistakes,) = [f for f in check.findings if f.code == "masks"]
    texts = " ".join(item.text for item in mistakes.items)
    assert "masks/1.png is 8x8 pixels" in texts and "masks/2.png has more than 256" in texts
    assert "masks/3.png has only void pixels" in texts and len(mistakes.items) == 3


def test_named_data_sets() -> None:
    check = check_data("digits")
    assert check.splits == {"train": 1437, "test": 360} and check.classes["0"] == {"train": 143, "test": 35}
    assert not [f for f in check.findings if "near" in f.code or f.code == "label_conflict"]


def test_near_duplicates_of_many_images() -> None:
    """Copies that were compressed again are found among 1,500 photos, and no others."""
    gray = np.stack([np.asarray(photo(i).convert("L").resize((32, 32), Image.Resampling.BOX)) for i in range(1500)])
    noise = np.random.default_rng(0).normal(0, 4, (20, 32, 32))
    copies = np.clip(gray[:20] * 0.8 + 20 + noise, 0, 255).astype(np.uint8)
    pairs = find_near_duplicates(np.concatenate([gray, copies]), np.arange(1520))
    assert sorted(pairs) == [(i, 1500 + i) for i in range(20)]


def test_candidates_of_which_none_is_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_candidates", lambda hashes: (np.array([0]), np.array([1])))
    gray = np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype(np.uint8)
    assert find_near_duplicates(gray, np.arange(2)) == []
