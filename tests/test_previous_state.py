"""The state before the last one: kept beside it, named where the last one is damaged, and gone on from."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch

from cnn_cli import cli, files
from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.checkpoints.run_state import read_state
from cnn_cli.errors import CnnError, StoppedError, UsageError
from cnn_cli.tables import counted
from cnn_cli.training import loop
from cnn_cli.training import run as run_module

pytestmark = pytest.mark.usefixtures("quick")


def damage(path: Path) -> None:
    """One bit of the file in the middle, in place."""
    with path.open("r+b") as file:
        file.seek(position := path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


def refuse_links(patch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    patch.setattr(os, "link", link)


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_what_was_there_stays_under_its_other_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        refuse_links(monkeypatch)
    path, keep = tmp_path / "state", tmp_path / "before"
    files.write_bytes(path, b"0", keep)
    assert not keep.exists()
    for number in range(1, 4):
        files.write_bytes(path, b"%d" % number, keep)
        assert (path.read_bytes(), keep.read_bytes()) == (b"%d" % number, b"%d" % (number - 1))
    files.put_back(keep, path)
    assert path.read_bytes() == keep.read_bytes() == b"2"
    files.write_bytes(path, b"4", keep)  # now both names were those of one file
    assert (path.read_bytes(), keep.read_bytes()) == (b"4", b"2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["before", "state"]


def test_a_link_that_a_killed_process_left_is_never_written_through(tmp_path: Path) -> None:
    """In a container every process may have the same number, and so the same temporary names."""
    path, keep = tmp_path / "state", tmp_path / "before"
    path.write_bytes(b"good")
    for name in (path, keep):
        os.link(path, name.with_name(f".{name.name}.{os.getpid()}.cnn-tmp"))
    other = tmp_path / "other"
    os.link(path, other)
    files.write_bytes(path, b"new", keep)
    assert (path.read_bytes(), keep.read_bytes(), other.read_bytes()) == (b"new", b"good", b"good")


@pytest.mark.parametrize("step", [5, 8])
def test_a_damaged_state_costs_no_more_than_the_time_since_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The command that the error names goes on from there, and ends as if nothing had happened."""
    whole = small.begin(tmp_path, "whole", epochs=3, batch_size=512)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    with small.at_step(step, small.interrupt), pytest.raises(CnnError):
        small.begin(tmp_path, "a run", epochs=3, batch_size=512)
    run = tmp_path / "a run"
    damage(run / "last.pt")
    bad, good = (run / "last.pt").read_bytes(), (run / "previous.pt").read_bytes()
    before = read_state(run / "previous.pt")
    with pytest.raises(CnnError) as error:
        small.resume(tmp_path, "a run")
    stands = f"step {before['step']}, {counted(len(before['history']), 'epoch')} done"
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{run}/last.pt is damaged (entry data/")
    assert first.endswith(f": wrong checksum) and was not used; {run}/previous.pt is good ({stands})")
    assert second == f"resume with: cnn train '{run}' --resume '{run}/previous.pt'"
    assert ((run / "last.pt").read_bytes(), (run / "previous.pt").read_bytes()) == (bad, good)

    torch.manual_seed(99)
    monkeypatch.setattr("sys.argv", shlex.split(second.removeprefix("resume with: ")))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert small.same(small.without_times(small.last(run)), small.without_times(small.last(whole)))
    assert bad not in [p.read_bytes() for p in run.iterdir()]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_it_takes_the_place_before_anything_else_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails on the way there leaves both as they are; from then on last.pt is whole again."""
    run = small.begin(tmp_path, epochs=2)
    damage(run / "last.pt")
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(UsageError, match="its own settings"):
        run_module.resume(small.request(tmp_path, lr=0.5), run / "previous.pt")
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "write_log", lambda job, state: small.interrupt_at(1, state))
        run_module.resume(small.request(tmp_path), run / "previous.pt")
    assert (run / "last.pt").read_bytes() == (run / "previous.pt").read_bytes() == before["previous.pt"]
    small.resume(tmp_path)
    assert len(small.last(run)["history"]) == 2


def test_the_previous_state_of_a_finished_run_finishes_it_again(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=2)
    expected = small.without_times(small.last(run))
    damage(run / "last.pt")
    run_module.resume(small.request(tmp_path), run / "previous.pt")
    assert small.same(small.without_times(small.last(run)), expected)


def test_both_damaged(tmp_path: Path) -> None:
    run = small.begin(tmp_path, epochs=1)
    damage(run / "last.pt")
    damage(run / "previous.pt")
    with pytest.raises(CnnError) as error:
        read_state(run / "last.pt")
    end = f"; use {run}/best.safetensors for eval or --weights"
    assert str(error.value).endswith(f" and was not used; {run}/previous.pt is damaged, too{end}")
    with pytest.raises(CnnError) as error:
        small.resume(tmp_path, "run/previous.pt")
    assert str(error.value).startswith(f"{run}/previous.pt is damaged (") and str(error.value).endswith(
        f"not used{end}"
    )


@pytest.mark.parametrize("gone", [True, False], ids=["missing", "damaged"])
def test_whoever_falls_back_to_the_last_state_names_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """In the middle of the first epoch there are no best weights."""
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    with small.at_step(5, small.interrupt), pytest.raises(CnnError):
        small.begin(tmp_path)
    run = tmp_path / "run"
    if gone:
        (run / "last.pt").unlink()
        with pytest.raises(CnnError, match=r"previous\.pt is good \(step 4, 0 epochs done\)\nresume with: cnn train "):
            small.resume(tmp_path)
        return
    damage(run / "last.pt")
    for use in (
        lambda: load_network(str(run)),
        lambda: small.begin(tmp_path, "other", weights=str(run)),
    ):
        with pytest.raises(CnnError, match=r"previous\.pt is good \(step 4, 0 epochs done\)\nresume with: cnn train "):
            use()


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_a_signal_while_a_state_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = small.begin(tmp_path)
    if name == "previous.pt":
        damage(run / "last.pt")
    load = torch.load

    def stopped(file: Any, **options: Any) -> Any:
        if Path(file.name).name == name:
            small.interrupt()
        return load(file, **options)

    monkeypatch.setattr(torch, "load", stopped)
    with pytest.raises(StoppedError, match="stopped before the first step") as error:
        small.resume(tmp_path, epochs=3)
    assert error.value.exit_code == 143
