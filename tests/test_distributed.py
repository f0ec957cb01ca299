"""Several processes train what one trains, say what one says, and end together, whatever ends one of them."""

import json
import shlex
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import processes
import pytest
import small_runs as small
import torch

from cnn_cli.data import preparation
from cnn_cli.distributed.process_group import first_host
from cnn_cli.distributed.world import ALONE, World, current_world
from cnn_cli.errors import CnnError
from cnn_cli.training import loop


@pytest.fixture(autouse=True)
def _specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes.ready(tmp_path, monkeypatch)


def difference(one: Path, other: Path) -> float:
    """The largest between two parameters."""
    a, b = small.last(one)["network"], small.last(other)["network"]
    return max(float((a[k] - b[k]).abs().max()) for k in a)


# --- The same mathematics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((2, 3), "plain -b 143"),  # 1437 = 10 · 143 + 7: the last batch is not divisible
        ((2, 3), "plain -b 359 --epochs 2"),  # 1437 = 4 · 359 + 1: the last batch is one image
        ((2,), "plain -b 144 --class-weights balanced --label-smoothing 0.1"),
        ((3,), "plain -b 144 --clip-grad-norm 0.5 --ema 0.9 --schedule cosine"),
        ((2, 3), "plain -b 5 --epochs 0.035 --class-weights [0,0,0,0,0,1,1,1,1,1]"),
        ((2,), "two -b 144"),
        ((2, 3), "plain -b 359 --epochs 2 --lookahead 0.9 --groups '[{parameters: \"0.*\", epochs: 1}]'"),
        ((2,), "plain -b 144 --balanced-sampling --shift 1 --flip random --cutout 2"),
        ((3,), "plain -b 144 --groups '[{parameters: \"*.weight\", lr: 0.05, weight_decay: 0.01}]'"),
    ],
)
def test_ten_steps_are_those_of_one_process(tmp_path: Path, sizes: tuple[int, ...], options: str) -> None:
    arguments = shlex.split(f"plain.yaml:{options}")
    one = processes.trained(tmp_path, 1, "one", *arguments)
    for size in sizes:
        many = processes.trained(tmp_path, size, f"many-{size}", *arguments)
        assert small.last(one)["step"] == small.last(many)["step"] in (10, 11)
        assert 0 < difference(one, many) < 1e-6
        for a, b in zip(processes.rows(one), processes.rows(many), strict=True):
            assert a["test_accuracy"] == b["test_accuracy"]
            assert a["test_loss"] == pytest.approx(b["test_loss"], abs=1e-6)
            if "--class-weights" not in options:
                assert a["train_accuracy"] == pytest.approx(b["train_accuracy"], abs=1e-12)
                assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-6)


def test_two_such_runs_are_bit_equal(tmp_path: Path) -> None:
    runs = [processes.trained(tmp_path, 3, name, "small.yaml", *processes.EVERYTHING) for name in ("a", "b")]
    a, b = (small.without_times(small.last(run)) for run in runs)
    assert small.same(a, b) and processes.rows(runs[0]) == processes.rows(runs[1])
    assert (runs[0] / "best.safetensors").stat().st_size == (runs[1] / "best.safetensors").stat().st_size


def _evaluations(sizes: tuple[int, ...], found: Path, rank: int) -> None:
    """In each process: how splits of these sizes are evaluated, of random images; the first process writes it down."""
    from cnn_cli.distributed.process_group import join_process_group
    from cnn_cli.language.registry import find
    from cnn_cli.network.builder import build
    from cnn_cli.tasks.selection import task_for
    from cnn_cli.training.evaluation import Inference, evaluate

    world, cpu, results = current_world(), torch.device("cpu"), []
    torch.manual_seed(0)
    plan, network = find("plain.yaml:plain"), build("plain.yaml:plain")
    with join_process_group(world, cpu):
        for n in sizes:
            draw = torch.Generator().manual_seed(n)
            images = torch.randint(0, 256, (n, 1, 8, 8), generator=draw, dtype=torch.uint8)
            split = preparation.PreparedSplit("test", images, torch.randint(0, 10, (n,), generator=draw))
            calls: list[int] = []
            for tta in ("none", "flip-shift"):
                after = partial(calls.append, n)
                task = task_for(plan, tuple("0123456789"))
                result = evaluate(network, split, task, Inference(7, cpu, tta=tta), after, world)
                results.append([result.n, result.loss, result.document()["confusion_matrix"]])
            assert len(world.gather(len(calls))) in (0, world.size)
            assert world.max(len(calls), -len(calls)) == [len(calls), -len(calls)]
    if world.is_main:
        found.write_text(json.dumps(results))
    sys.exit(0)


def test_evaluation_counts_every_image_once(tmp_path: Path) -> None:
    sizes, found = (1, 2, 3, 14, 15, 29, 131, 132), {}
    for size in (1, 2, 3):
        path = tmp_path / f"{size}.json"
        codes, team = processes.run(tmp_path, size, action=partial(_evaluations, sizes, path))
        assert codes == [0] * size, team.words()
        found[size] = json.loads(path.read_text())
        assert [n for n, _, _ in found[size]] == [n for n in sizes for _ in range(2)]
        assert [m for _, _, m in found[size]] == [m for _, _, m in found[1]]
        assert [x for _, x, _ in found[size]] == pytest.approx([x for _, x, _ in found[1]], abs=1e-6)


def _streamed(rank: int) -> None:
    """Images are not kept; each process writes down which it reads to train."""
    preparation.free_memory = lambda *_: 0  # type: ignore[attr-defined]
    original = preparation.ImageStream.__getitems__

    def getitems(self: preparation.ImageStream, index: list[int]) -> Any:
        with Path(f"read-{rank}").open("a") as file:
            file.write("".join(f"{i}\n" for i in index) if len(self) == 1437 else "")
        return original(self, index)

    preparation.ImageStream.__getitems__ = getitems  # type: ignore[method-assign]


def test_streamed_images_are_shared_out_and_under_srun_all_bits_are_the_same(tmp_path: Path) -> None:
    options = ("small.yaml", "--epochs", "1", "--shift", "1")
    kept = processes.trained(tmp_path, 2, "kept", *options)
    for workers in ("0", "1"):
        streamed = processes.trained(tmp_path, 2, workers, *options, "-j", workers, action=_streamed)
        assert small.same(small.last(kept)["network"], small.last(streamed)["network"])
        assert processes.rows(kept) == processes.rows(streamed)
        if workers == "0":
            read = [{int(i) for i in (tmp_path / f"read-{rank}").read_text().split()} for rank in range(2)]
            assert not read[0] & read[1] and read[0] | read[1] == set(range(1437))
    codes, team = processes.run(tmp_path, 2, "train", *options, "-o", "srun", env=processes.SLURM)
    assert codes == [0, 0], team.words()
    assert small.same(small.last(kept)["network"], small.last(tmp_path / "srun")["network"])


def _note_what_is_evaluated(rank: int) -> None:
    original = loop.evaluate

    def evaluate(network: torch.nn.Module, *rest: Any) -> Any:
        Path(f"sums-{rank}").write_text(repr([float(t.double().sum()) for t in network.state_dict().values()]))
        return original(network, *rest)

    loop.evaluate = evaluate


@pytest.mark.parametrize("average", [(), ("--ema", "0.9")], ids=["network", "average"])
def test_all_processes_evaluate_the_same_buffers(tmp_path: Path, average: tuple[str, ...]) -> None:
    processes.trained(tmp_path, 2, "run", "small.yaml", "--epochs", "1", *average, action=_note_what_is_evaluated)
    assert (tmp_path / "sums-0").read_text() == (tmp_path / "sums-1").read_text()


# --- One voice -------------------------------------------------------------------------------------------------------


def test_only_the_first_process_writes_and_speaks(tmp_path: Path) -> None:
    codes, team = processes.run(tmp_path, 2, "train", "small.yaml", "--epochs", "2", "--filters-every-epoch")
    assert codes == [0, 0] and team.said(1) == team.printed(1) == ""
    assert team.said(0).count("cpu, 1 thread, 2 processes") == 1 and team.printed(0).count("accuracy") == 1
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["small-1"]
    assert sorted(p.name for p in (tmp_path / "runs" / "small-1").iterdir()) == [
        *("best.safetensors", "config.yaml", "confusion_matrix.png", "curves.png", "eval.json", "filters-by-epoch.png"),
        *("filters-by-epoch.safetensors", "last.pt", "metrics.jsonl", "previous.pt", "reliability.png"),
    ]
    codes, team = processes.run(tmp_path, 2, "train", "runs/small-1", "--resume")
    assert codes == [0, 0] and team.said(1) == team.printed(1) == "" and "is finished" in team.said(0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("small.yaml", "--no-such-option"), 2, "cnn train has no option"),
        (("no-such-network",), 2, "no-such-network"),
        (("small.yaml", "--data", "no-such-data"), 2, "no such data set"),
        (
            ("small.yaml", "--seeds", "2"),
            2,
            "--seeds runs in a single process; under torchrun, train each seed with --seed",
        ),
        (("small.yaml", "-o", "small.yaml"), 2, "small.yaml is a file"),
    ],
    ids=["option", "network", "data", "seeds", "only the first knows"],
)
def test_a_mistake_is_told_once(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    codes, team = processes.run(tmp_path, 2, "train", *arguments)
    assert codes[0] == code and codes[1] in (code, 1, -signal.SIGTERM)
    assert team.said(0).count(words) == 1 and team.said(1) == "", team.words()
    assert len(team.said(0).splitlines()) <= 4


def _fail(*_: Any, **__: Any) -> Any:
    raise CnnError("this machine cannot read it")


def test_what_only_one_process_finds_wrong_is_told_by_it(tmp_path: Path) -> None:
    codes, team = processes.run(tmp_path, 2, "train", "small.yaml", action=partial(processes.at_step, {1: _fail}, 3))
    assert codes[1] == 1 and team.said(1) == "error: this machine cannot read it\n"
    assert "error" not in team.said(0), team.words()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}, World(1, 3, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, ALONE),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}, World(1, 2, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, ALONE),  # in a batch script, not under srun
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, ALONE),
    ],
)
def test_who_a_process_is(variables: dict[str, str], expected: World) -> None:
    assert current_world(variables) == expected


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "one", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "two"},
        {"SLURM_STEP_NUM_TASKS": "2"},
    ],
)
def test_variables_that_make_no_sense(variables: dict[str, str]) -> None:
    with pytest.raises(
        CnnError, match=r"invalid variables for a distributed run: .*; unset them to train in one process"
    ):
        current_world(variables)


def test_hosts_of_slurm() -> None:
    names = ("gpu[07-09,12],cpu1", "node3", "a[1,3]-b", "n1,n2")
    assert [first_host(n) for n in names] == ["gpu07", "node3", "a1-b", "n1"]
