"""The cache of folders that do not fit into memory: the same pixels, whatever happens to it, and `cnn data cache`."""

import json
import os
import pickle
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
from pictures import cnn

from cnn_cli.checkpoints import checkpoint
from cnn_cli.data import batches, image_cache, preparation
from cnn_cli.data.batches import ReadError, epoch_order, iterate_batches
from cnn_cli.data.image_cache import ImageCache, cache_folder, list_caches
from cnn_cli.data.loading import load_dataset
from cnn_cli.data.preparation import ImageStream, PreparedData, prepare
from cnn_cli.data.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("quick")
CPU, HOW = torch.device("cpu"), Preprocessing((3, 6, 8))
COUNT, SIZE = 12, 3 * 6 * 8


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve photos of two classes, a memory that holds none of them, and a cache of the test's own."""
    for i in range(COUNT):
        small.picture(tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.jpg", width=20 + i, height=17, seed=i)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(preparation, "free_memory", lambda *_: 0)
    return tmp_path / "photos"


def opened(photos: Path, workers: int = 0, how: Preprocessing = HOW) -> PreparedData:
    return prepare(load_dataset(str(photos), photos), how, CPU, workers)


def stream(data: PreparedData) -> ImageStream:
    images = data.splits["all"].images
    assert isinstance(images, ImageStream)
    return images


def cache(data: PreparedData) -> ImageCache:
    result = stream(data).cache
    assert result is not None
    return result


def epoch(data: PreparedData, number: int = 1) -> torch.Tensor:
    order = epoch_order(COUNT, 0, number)
    return torch.cat([x for x, _ in iterate_batches(data.splits["all"], order.split(5), CPU)])[order.argsort()]


def decoded(photos: Path) -> torch.Tensor:
    files = load_dataset(str(photos), photos).files
    return torch.cat([preparation.read_image(file, HOW) for file in files]).float() / 255


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded."""
    names: list[str] = []
    original = preparation.read_image

    def read_image(path: Path, preprocessing: Preprocessing) -> torch.Tensor:
        names.append(path.name)
        return original(path, preprocessing)

    monkeypatch.setattr(preparation, "read_image", read_image)
    return names


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_decoded_once(photos: Path, reads: list[str], workers: int) -> None:
    data, expected = opened(photos, workers), decoded(photos)
    folder = cache_folder()
    assert data.notes[-1].endswith(f"0.0 GB as bytes; caching 12 images ({cache(data).size / 1e3:.1f} kB) in {folder}")
    reads.clear()
    assert epoch(data, 1).equal(expected)
    assert sorted(reads) == ([] if workers else [f"{i:02}.jpg" for i in range(COUNT)])  # workers read in processes
    reads.clear()
    assert epoch(data, 2).equal(expected) and not reads
    again = opened(photos, workers)
    assert f"cached: 12 images ({cache(data).size / 1e3:.1f} kB) in {folder}" in again.notes[-1]
    assert epoch(again).equal(expected) and not reads


def test_training_gives_the_same_bits_with_and_without_a_cache(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnn_cli.training.preparation.free_memory", lambda *_: 10**9)
    spec = small.SPEC.replace("[1, 8, 8]", "[3, 8, 8]")
    options: dict[str, Any] = {"spec": spec, "data": str(photos), "epochs": 2, "batch_size": 4, "workers": 0}
    filling = small.begin(tmp_path, "filling", **options)
    reading = small.begin(tmp_path, "reading", **options)
    assert len(list_caches().caches) == 1
    monkeypatch.setattr(preparation, "open_cache", lambda *_: "not cached")
    decoding = small.begin(tmp_path, "decoding", **options)
    for run in (filling, reading):
        assert small.same(checkpoint.load(run).state_dict(), checkpoint.load(decoding).state_dict())


def flip(data: PreparedData, position: int) -> None:
    file = bytearray(cache(data).path.read_bytes())
    file[position] ^= 4
    cache(data).path.write_bytes(file)


@pytest.mark.parametrize("part", ["header", "digest", "checksum", "pixels"])
def test_a_damaged_byte_is_noticed_and_mended(photos: Path, reads: list[str], part: str) -> None:
    data, expected = opened(photos), decoded(photos)
    epoch(data)
    flip(data, {"header": 20, "digest": 4096, "checksum": 4096 + 8, "pixels": cache(data).size - SIZE * 12}[part])
    reads.clear()
    again = opened(photos)
    assert epoch(again).equal(expected)
    assert len(reads) == (COUNT if part == "header" else 1)
    reads.clear()
    assert epoch(again, 2).equal(expected) and not reads


def test_a_cache_cut_short_is_completed(photos: Path, reads: list[str]) -> None:
    data, expected = opened(photos), decoded(photos)
    epoch(data)
    size = cache(data).size
    for length in (0, 1000, 4100, size // 2, size - 1):
        os.truncate(cache(data).path, length)  # also while the run goes on
        assert epoch(data).equal(expected)
        os.truncate(cache(data).path, length)
        again = opened(photos)
        assert epoch(again).equal(expected) and cache(again).path.stat().st_size == size
        reads.clear()
        assert epoch(again).equal(expected) and not reads


def test_a_changed_file_is_decoded_again(photos: Path, reads: list[str]) -> None:
    epoch(opened(photos))
    small.picture(photos / "a" / "04.jpg", width=24, height=17, seed=77)
    data = opened(photos)
    reads.clear()
    assert epoch(data).equal(decoded(photos)) and reads[0] == "04.jpg" and len(reads) == 1 + COUNT
    small.picture(photos / "a" / "more.jpg", seed=3)
    data = opened(photos)
    assert len(cache(data).digests) == 13 and cache(data).missing().all() and len(list_caches().caches) == 1


def test_another_preprocessing_has_a_cache_of_its_own(photos: Path) -> None:
    hows = [HOW, Preprocessing((3, 8, 6)), Preprocessing((3, 6, 8), "crop"), Preprocessing((1, 6, 8))]
    hows.append(Preprocessing((3, 6, 8), interpolation="bicubic"))
    assert len({cache(opened(photos, how=how)).path for how in hows}) == 5
    normalized = Preprocessing((3, 6, 8), mean=(0.5,) * 3, std=(0.5,) * 3)  # happens in the network
    assert cache(opened(photos, how=normalized)).path == cache(opened(photos)).path


def test_seeds_and_splits_share_a_cache(photos: Path) -> None:
    from cnn_cli.data.loading import select_split, split_dataset

    dataset = load_dataset(str(photos), photos)
    data = [prepare(split_dataset(dataset, 0.2, seed), HOW, CPU, 0) for seed in (0, 1)]
    data.append(prepare(select_split(split_dataset(dataset), "test"), HOW, CPU, 0))
    caches = [split.images.cache for d in data for split in d.splits.values() if isinstance(split.images, ImageStream)]
    assert len(caches) == 7 and len({c.path for c in caches if c}) == 1


def test_runs_at_the_same_time_share_a_cache(photos: Path, reads: list[str]) -> None:
    first, second = opened(photos), opened(photos)
    expected = decoded(photos)
    reads.clear()
    order = torch.arange(COUNT).split(1)
    both = zip(*(iterate_batches(d.splits["all"], order, CPU) for d in (first, second)), strict=True)
    for i, ((x, _), (y, _)) in enumerate(both):
        assert x.equal(y) and x[0].equal(expected[i])
    assert len(reads) == COUNT  # what one has decoded, the other reads


def test_a_worker_without_the_file_decodes(photos: Path) -> None:
    data = opened(photos)
    epoch(data)
    image = torch.empty(3, 6, 8, dtype=torch.uint8)
    copy = pickle.loads(pickle.dumps(cache(data)))
    assert copy.read(3, image) and not copy.missing().any()
    cache(data).path.unlink()
    copy = pickle.loads(pickle.dumps(cache(data)))
    assert copy.missing().all() and not copy.read(3, image)
    copy.write(3, image)
    assert cache(data).read(3, image)  # the run itself still has it


def test_a_full_disk_costs_only_the_cache(photos: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    data, expected = opened(photos), decoded(photos)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert epoch(data).equal(expected)
        patch.setattr(os, "pwrite", lambda fd, buffer, place: 10)  # half of an image
        assert epoch(data).equal(expected)
        cache(data).path.unlink()
        patch.setattr(os, "posix_fallocate", full)
        note = opened(photos, 3).notes[-1]
        assert "read again every epoch by 3 workers" in note and "not cached: " in note and "No space left" in note
    assert not list(cache_folder().iterdir())


def test_the_cache_is_private(photos: Path) -> None:
    path = cache(opened(photos)).path
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.chmod(0o777)
    assert "other users can write to it" in opened(photos).notes[-1]
    shutil.rmtree(path.parent)
    path.parent.write_text("a file")
    assert "not cached: " in opened(photos).notes[-1]


def test_all_caches_together_take_half_of_the_free_space(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for i, how in enumerate((HOW, Preprocessing((3, 6, 9)), Preprocessing((3, 6, 10)))):
        kept.append(cache(opened(photos, how=how)).path)
        os.utime(kept[-1], (1000 + i, 1000 + i))
    os.utime(kept[0], (2000, 2000))
    used = sum(c.size for c in list_caches().caches)
    free = os.statvfs_result((1, 1, 0, 0, used + 2000, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    fourth = cache(opened(photos, how=Preprocessing((3, 7, 8)))).path
    assert {p for p in (*kept, fourth) if p.exists()} == {kept[0], kept[2], fourth}
    note = opened(photos, how=Preprocessing((3, 60, 80))).notes[-1]
    assert "not cached: the cache would take 181.0 kB, more than half of the free space" in note
    assert len(list_caches().caches) == 3


def test_a_damaged_image_that_cannot_be_decoded_is_named(photos: Path) -> None:
    data = opened(photos, 1)
    epoch(data)
    flip(data, cache(data).size - 1)
    (photos / "b" / "11.jpg").write_bytes(b"now this")
    with pytest.raises(ReadError, match=r"11\.jpg is not an image"):
        epoch(data)


def test_reading_ahead_ends_with_its_reader(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = opened(photos, 2)
    epoch(data)
    monkeypatch.setattr(batches, "_stream", lambda *_: pytest.fail("workers were started"))
    batch = iterate_batches(data.splits["all"], torch.arange(COUNT).split(1), CPU)
    next(batch)
    batch.close()  # type: ignore[attr-defined]


def test_the_command_lists_and_clears(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cnn("data", "cache") == 0
    assert capsys.readouterr().out == f"no cached images in {cache_folder()}\n"
    path = cache(opened(photos)).path
    os.utime(path, (path.stat().st_mtime - 7300,) * 2)
    (cache_folder() / "damaged.images").write_bytes(b"\0" * 5000)
    assert cnn("data", "cache") == 0
    text = capsys.readouterr().out
    assert "3x6x8" in text and "2 hours ago" in text and "delete with: cnn data cache --clear" in text
    assert cnn("data", "cache", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["caches"]
    assert entry["images"] == 12 and entry["input"] == [3, 6, 8] and entry["file"] == str(path)
    assert cnn("data", "cache", "--clear") == 0
    assert "no cached images" in capsys.readouterr().out and not list(cache_folder().iterdir())


def test_a_checksum_is_never_that_of_an_empty_place() -> None:
    assert image_cache._checksum(memoryview(bytes(SIZE))) == 2**32 + zlib.crc32(bytes(SIZE)) > 0
