"""Named data sets: the same pixels and labels as the reference readers, and one error without data and network."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs as small
import torch

from cnn_cli.data.catalog import DATASETS
from cnn_cli.data.loading import load_dataset
from cnn_cli.errors import CnnError, UsageError

CPU = torch.device("cpu")
REAL = Path(__file__).parents[2] / "shared" / "data"


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits", tmp_path)
    assert {name: len(part.targets) for name, part in dataset.splits.items()} == {"train": 1437, "test": 360}
    everything = torch.cat([dataset.splits["train"].images, dataset.splits["test"].images])  # type: ignore[list-item]
    expected = np.round(load_digits().images * 255 / 16)
    assert (everything[:, 0].numpy() == expected).all()


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist", "kmnist"])
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path: Path, name: str) -> None:
    from torchvision import datasets

    kind = DATASETS[name].torchvision
    noise = np.random.default_rng(0)
    for prefix, n in (("train", 7), ("t10k", 3)):
        small.write_idx(tmp_path / kind / "raw", f"{prefix}-images-idx3-ubyte", noise.integers(0, 256, (n, 28, 28)))
        small.write_idx(tmp_path / kind / "raw", f"{prefix}-labels-idx1-ubyte", noise.integers(0, 10, n))
    dataset = load_dataset(name, tmp_path)
    for part, train in (("train", True), ("test", False)):
        reference = getattr(datasets, kind)(tmp_path, train=train)
        assert dataset.splits[part].images[:, 0].equal(reference.data)  # type: ignore[call-overload]
        assert dataset.splits[part].targets.equal(reference.targets)
    if name != "mnist":  # whose classes torchvision calls `0 - zero`
        assert list(dataset.classes) == reference.classes


def test_svhn_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    noise, files = np.random.default_rng(0), {}
    for name, n in (("train", 7), ("test", 3)):
        path = tmp_path / f"{name}_32x32.mat"
        labels = np.arange(n, 0, -1, dtype=np.uint8)[:, None] + 3  # from 10, which stands for the digit 0
        savemat(path, {"X": noise.integers(0, 256, (32, 32, 3, n), dtype=np.uint8), "y": labels})
        files[name] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", files)
    dataset = load_dataset("svhn", tmp_path)
    for name, split in dataset.splits.items():
        reference = SVHN(tmp_path, split=name)
        assert len(split) == len(reference)
        for i, (image, label) in enumerate(reference):
            assert (split.images[i].permute(1, 2, 0).numpy() == np.array(image)).all()  # type: ignore[union-attr]
            assert dataset.classes[split.targets[i]] == str(label)
    assert dataset.splits["train"].targets.tolist() == [0, 9, 8, 7, 6, 5, 4]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize("name", ["FashionMNIST", "MNIST"])
def test_archives_that_lie_there_are_unpacked_without_a_network(tmp_path: Path, name: str) -> None:
    shutil.copytree(REAL / name, tmp_path / name, copy_function=shutil.copyfile)
    dataset = load_dataset({"FashionMNIST": "fashion-mnist", "MNIST": "mnist"}[name], tmp_path)
    assert tuple(dataset.splits["train"].images.shape) == (60_000, 1, 28, 28)
    assert dataset.splits["test"].targets.bincount().sum() == 10_000


def no_network(*_: Any, **__: Any) -> None:
    from urllib.error import URLError

    raise URLError("Name or service not known")


def test_without_data_and_network_one_error_says_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(CnnError) as error:
        load_dataset("fashion-mnist", tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    assert error.value.exit_code == 1
    assert str(error.value) == (
        f"fashion-mnist is not in {raw} and could not be downloaded (Name or service not known)\n"
        "copy train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
        "t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz there and run again (--data-dir names another folder),\n"
        "or use the data set that needs no download: --data digits"
    )
    assert list(tmp_path.iterdir()) == []


def test_cifar_without_data_names_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(CnnError, match=r"copy cifar-100-python\.tar\.gz there"):
        load_dataset("cifar100", tmp_path)
    with pytest.raises(CnnError, match=r"copy train_32x32\.mat, test_32x32\.mat there"):
        load_dataset("svhn", tmp_path)


def test_a_half_unpacked_file_is_noticed(tmp_path: Path) -> None:
    for prefix in ("train", "t10k"):
        small.write_idx(tmp_path / "MNIST" / "raw", f"{prefix}-images-idx3-ubyte", np.zeros((4, 28, 28)))
        small.write_idx(tmp_path / "MNIST" / "raw", f"{prefix}-labels-idx1-ubyte", np.zeros(4))
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CnnError) as error:
        load_dataset("mnist", tmp_path)
    assert str(error.value) == f"{path} is damaged (perhaps partly unpacked); delete it and run again"


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        load_dataset("fashion-minst", tmp_path)
    assert str(error.value) == "data fashion-minst: no such data set or folder. Did you mean 'fashion-mnist'?"
