"""What is saved comes back bit for bit, or not at all: damage, strangers' files and other networks are told apart."""

import json
import os
import pickle
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import small_runs as small
import torch

import cnn_cli
from cnn_cli.checkpoints import checkpoint
from cnn_cli.checkpoints.checkpoint import Metadata, load_network, restore, save_weights
from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.cli import main
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan

CONV = "{Conv2d: {out_channels: 2, kernel_size: 3}}"
TINY = f"tiny: {{input: [1, 4, 4], layers: [{CONV}, BatchNorm2d, Flatten, {{Linear: 2}}]}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, shared: the tests copy what they damage."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        small.without_pictures(patch)
        return small.begin(tmp_path_factory.mktemp("trained"), epochs=1, normalize={"mean": [0.3], "std": [0.4]})


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A checkpoint small enough to try every byte of it."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    plan = find(str(tmp_path / "tiny.yaml"))
    metadata = Metadata(plan.document(), ("cat", "dog"), Preprocessing((1, 4, 4)))
    save_weights(tmp_path / "best.safetensors", build_plan(plan), metadata)
    return tmp_path / "best.safetensors"


def test_a_checkpoint_explains_itself(run: Path, tmp_path: Path) -> None:
    """On another machine, under another name, without its run, its spec or its data."""
    alone = tmp_path / "mine.safetensors"
    alone.write_bytes((run / "best.safetensors").read_bytes())
    loaded = load_network(str(alone))
    assert loaded.metadata is not None and loaded.run is None
    assert loaded.classes == tuple("0123456789")
    assert loaded.preprocessing == Preprocessing((1, 8, 8), "stretch", (0.3,), (0.4,))
    assert loaded.plan.network == "small" and loaded.plan.args == {"classes": 10}
    assert loaded.metadata.data["name"] == "digits"
    assert loaded.metadata.facts["settings"]["lr"] == 0.01
    x = torch.rand(3, 1, 8, 8)
    network = restore(loaded)
    assert not network.training
    assert network(x).equal(cnn_cli.load(run)(x))
    assert network(x).equal(cnn_cli.load(str(run))(x))  # as README has it
    plain = build_plan(loaded.plan).eval()
    plain.load_state_dict(safetensors.torch.load_file(alone))
    assert network(x).equal(plain((x - torch.tensor(0.3)) / torch.tensor(0.4)))  # it takes pixels in [0, 1]


def test_every_way_to_name_it(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = torch.rand(1, 1, 8, 8)
    expected = cnn_cli.load(run)(x)
    for name in (run, run / "best.safetensors", run / "last.pt"):
        assert restore(load_network(str(name)))(x).equal(expected)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for number in (2, 10):
        (tmp_path / "runs" / f"small-{number}").symlink_to(run)
    (tmp_path / "runs" / "small-11").mkdir()  # begun, with no finished epoch
    newest = load_network("small")
    assert newest.run == Path("runs/small-10")
    untrained = load_network(str(run.parent / "small.yaml"), trained=False)
    assert untrained.weights is None and untrained.preprocessing == Preprocessing((1, 8, 8))


def test_last_holds_tensors_and_plain_values_only(run: Path) -> None:
    def kinds(value: Any) -> set[type]:
        if isinstance(value, dict):
            return {dict} | set().union(*map(kinds, [*value.keys(), *value.values()]))
        if isinstance(value, list | tuple):
            return {type(value)} | set().union(*map(kinds, value))
        return {type(value)}

    plain = {dict, list, tuple, str, int, float, bool, type(None), torch.Tensor}
    assert kinds(dict(small.last(run), network=dict(small.last(run)["network"]))) <= plain


def test_every_flipped_bit_of_the_weights_is_noticed(tiny: Path) -> None:
    good = tiny.read_bytes()
    expected = checkpoint.load(tiny).state_dict()
    noticed = 0
    for position in range(len(good)):
        tiny.write_bytes(good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
        try:
            found = checkpoint.load(tiny).state_dict()
        except CnnError:
            noticed += 1
        else:
            assert small.same(found, expected)  # a flipped blank between two words of the header, say
    assert noticed > 0.98 * len(good)


def test_every_shorter_file_is_noticed(tiny: Path) -> None:
    good = tiny.read_bytes()
    for length in range(0, len(good), 7):
        tiny.write_bytes(good[:length])
        with pytest.raises(CnnError):
            checkpoint.load(tiny)


def test_flipped_bits_of_the_state_are_noticed(run: Path, tmp_path: Path) -> None:
    good, path = (run / "last.pt").read_bytes(), tmp_path / "last.pt"
    expected = read_state(run / "last.pt")
    for position in range(0, len(good), 41):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
        try:
            found = read_state(path)
        except CnnError as error:
            assert "weights_only" not in str(error) and "\n" not in str(error)
        else:
            assert small.same(found, expected)
    for length in range(0, len(good), 997):
        path.write_bytes(good[:length])
        with pytest.raises(CnnError):
            read_state(path)


def test_an_entry_that_is_marked_as_a_folder_is_damage(run: Path, tmp_path: Path) -> None:
    """No checksum covers this bit, with which PyTorch takes memory as it lies there for the numbers of a tensor."""
    good, path = (run / "last.pt").read_bytes(), tmp_path / "last.pt"
    entries = [m.start() for m in re.finditer(b"PK\1\2", good)]
    assert len(entries) > 20
    for entry in entries:
        position = entry + 38  # its external attributes
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        with pytest.raises(CnnError, match=r"last\.pt is damaged \(an entry is marked as a folder\)"):
            read_state(path)


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def zipped(compression: int, **entries: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"last/{name}", content)
    return buffer.getvalue()


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    path, marker = tmp_path / "last.pt", tmp_path / "marker"
    torch.save({"about": Runs(f"touch {marker}")}, path)
    with pytest.raises(CnnError) as error:
        load_network(str(path))
    assert str(error.value) == (
        f"{path} was rejected: the file contains executable code (posix.system); "
        "save the weights alone: torch.save(network.state_dict(), FILE)"
    )
    path.write_bytes(pickle.dumps(Runs(f"touch {marker}")))
    with pytest.raises(CnnError, match="is not a cnn checkpoint"):
        load_network(str(path))
    assert not marker.exists()


def test_a_file_that_would_explode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for content in (b"\0" * 50_000_000, os.urandom(1000)):
        path.write_bytes(zipped(zipfile.ZIP_DEFLATED, **{"data.pkl": content}))
        with pytest.raises(CnnError, match="was rejected: it is compressed, but a cnn checkpoint never is"):
            load_network(str(path))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "{} is not a cnn checkpoint: it is empty"),
        (b"hello", "{} is not a cnn checkpoint"),
        (zipped(0, version=b"3"), "{} is damaged (RuntimeError) and was not used"),
    ],
    ids=["empty", "text", "zip"],
)
def test_other_files_are_no_state(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CnnError) as raised:
        load_network(str(tmp_path / "last.pt"))
    assert str(raised.value) == error.format(tmp_path / "last.pt")


def test_anothers_state_dict_is_no_state(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "theirs.pt")
    with pytest.raises(CnnError, match=r"theirs\.pt is not a cnn checkpoint: it has no training state"):
        load_network(str(tmp_path / "theirs.pt"))


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "it has no header"),
        (b"hello there", "it has no header"),
        (header(b"{not json}"), "its header is not JSON"),
        (header(b"[1, 2]"), "its header does not describe tensors"),
        (header(b"[" * 100_000), "its header is not JSON"),
        (header(b'{"__metadata__": {"format": "pt"}}'), "it has no network and no class names"),
        (header(b'{"__metadata__": {"cnn": "{\\"format\\": 1}"}}'), "its metadata is incomplete"),
        (header(b'{"__metadata__": {"cnn": "{\\"format\\": 9, \\"cnn\\": \\"7.0\\"}"}}'), "newer version of cnn (7.0)"),
    ],
)  # fmt: skip
def test_other_files_are_no_weights(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CnnError) as raised:
        load_network(str(path))
    assert str(raised.value).startswith(str(path)) and error in str(raised.value)
    assert raised.value.exit_code == 1


def test_a_strangers_spec_is_checked_like_any_other(tiny: Path) -> None:
    loaded = load_network(str(tiny))
    assert loaded.metadata is not None
    spec = json.loads(json.dumps(loaded.metadata.spec).replace('"Flatten"', '{"Flatten": {"start": 1}}'))
    save_weights(tiny, build_plan(loaded.plan), Metadata(spec, loaded.classes, loaded.preprocessing))
    with pytest.raises(UsageError, match=r"best\.safetensors:1:\d+: tiny, layers\.2 \(Flatten\)"):
        load_network(str(tiny))


def test_weights_of_another_network_are_named(tiny: Path) -> None:
    loaded = load_network(str(tiny))
    assert loaded.metadata is not None
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    save_weights(tiny, other, loaded.metadata)
    with pytest.raises(UsageError) as error:
        checkpoint.load(tiny)
    assert str(error.value) == (
        f"{tiny} does not fit tiny: "
        "0.weight is 4x1x3x3, but should be 2x1x3x3; 0.bias is 4, but should be 2; 6 more differ"
    )


def test_weights_of_another_type_are_not_converted(tiny: Path) -> None:
    loaded = load_network(str(tiny))
    assert loaded.metadata is not None
    save_weights(tiny, build_plan(loaded.plan).double(), loaded.metadata)
    with pytest.raises(UsageError, match=r"0\.weight is 2x1x3x3 of float64, but should be 2x1x3x3"):
        checkpoint.load(tiny)


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pt", "missing"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(CnnError, match=r"missing.*no such run folder or checkpoint"):
        cnn_cli.load(tmp_path / name)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(CnnError) as error:
        cnn_cli.load(tmp_path)
    assert str(error.value) == f"{tmp_path} is not a run folder: it has neither best.safetensors nor last.pt"


def test_a_damaged_state_names_what_is_good(run: Path, tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    (tmp_path / "last.pt").write_bytes((run / "last.pt").read_bytes()[:-100])
    with pytest.raises(CnnError) as error:
        read_state(tmp_path / "last.pt")
    assert str(error.value) == (
        f"{tmp_path}/last.pt is damaged (truncated) and was not used; "
        f"use {tmp_path}/best.safetensors for eval or --weights"
    )


@pytest.mark.parametrize("command", ["summary", "shapes", "eval", "check"])
def test_a_truncated_checkpoint_is_named_with_its_size(
    tiny: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The header is whole, and says how many bytes follow it; summary and shapes read nothing else."""
    size = tiny.stat().st_size
    os.truncate(tiny, size - 20)
    monkeypatch.setattr("sys.argv", ["cnn", command, str(tiny)])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().err) == (
        1,
        f"error: {tiny} is damaged: {size - 20:,} bytes instead of {size:,}; "
        "restore it from a backup, or train again\n",
    )


def test_best_weights_hold_no_path_of_this_machine(quick: Path) -> None:
    """Neither that of the data, of the initial weights, nor of the run itself; metadata and header are plain text."""
    for i in range(8):
        small.picture(quick / "images" / "train" / f"{i % 2}" / f"{i}.png", 8, 8, "L", seed=i)
    data = str(quick / "images")
    first = small.begin(quick, "first", data=data, epochs=1, batch_size=4)
    second = small.begin(quick, "second", data=data, epochs=1, batch_size=4, weights=str(first))
    for run in (first, second):
        text = (run / "best.safetensors").read_bytes()
        assert str(quick).encode() not in text and str(Path.home()).encode() not in text
        assert str(quick).encode() in (run / "config.yaml").read_bytes()
