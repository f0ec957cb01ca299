"""`cnn runs` lists what the runs' own files say, and tells how far each is."""

import csv
import io
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pictures import cnn
from small_runs import without_pictures

SPEC = """
tiny: {input: [1, 8, 8], layers: [Flatten, {Linear: 10}, ReLU, {Linear: 10}],
  train: {data: digits, epochs: 2, optimizer: sgd, lr: 0.1}}
"""


def runs(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of `cnn runs`."""
    code = cnn("runs", *arguments)
    return code, *capsys.readouterr()


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    code, out, _ = runs(capsys, *arguments, "--json")
    assert code == 0
    return list(json.loads(out))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four runs: of lr 0.1 and 0.01, of two seeds, and one that diverged."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("CNN_MODELS", raising=False)
        without_pictures(patch)
        (folder / "tiny.yaml").write_text(SPEC)
        assert cnn("train", "tiny.yaml") == 0
        assert cnn("train", "tiny.yaml", "--lr", "0.01", "--val-fraction", "0.1", "--epochs", "3") == 0
        assert cnn("train", "tiny.yaml", "--seeds", "2", "--epochs", "1") == 0
        assert cnn("train", "tiny.yaml", "--lr", "1e30") == 3
    return folder


def test_each_row_says_what_the_files_of_its_run_say(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    rows = listed(capsys)
    assert [row["run"] for row in rows] == [f"runs/tiny-{i}" for i in (1, 2, 3, 4)]
    assert [row["state"] for row in rows] == ["finished", "finished", "finished", "diverged"]
    for row in rows[:2]:
        folder = Path(str(row["run"]))
        history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert row["settings"] == {name: field["value"] for name, field in config["settings"].items()}
        assert row["epochs"] == len(history)
        assert row["test"] == json.loads((folder / "eval.json").read_text())["accuracy"]
        assert row["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in history))
    best = max(
        map(json.loads, Path("runs/tiny-2/metrics.jsonl").read_text().splitlines()), key=lambda e: e["val_accuracy"]
    )
    assert (rows[1]["val"], rows[1]["best_epoch"]) == (best["val_accuracy"], best["epoch"])
    assert rows[0]["best_epoch"] == rows[0]["epochs"] == 2  # without a validation split, the last epoch is kept
    seeds = [json.loads((trained / f"runs/tiny-3/seed-{i}/eval.json").read_text())["accuracy"] for i in (0, 1)]
    assert rows[2]["test"] == pytest.approx(statistics.mean(seeds))
    assert rows[2]["standard_deviation"] == pytest.approx(statistics.stdev(seeds))


def test_a_diverged_run_that_is_resumed_is_no_longer_diverged(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not finite" in (trained / "runs/tiny-4/diverged.txt").read_text()
    run = trained / "runs/tiny-1"
    (run / "diverged.txt").write_text("the loss is not finite")
    assert listed(capsys, str(run))[0]["state"] == "diverged"
    assert cnn("train", "--resume", str(run)) == 0
    capsys.readouterr()
    assert listed(capsys, str(run))[0]["state"] == "finished"


def test_the_table_names_only_what_differs(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    code, out, _ = runs(capsys)
    assert code == 0
    assert out.startswith("tiny on digits\n")
    assert "lr 0.01" in out
    assert "momentum" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_runs_are_sorted_and_selected(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    scores = [row["test"] for row in listed(capsys, "--sort", "accuracy", "--where", "state=finished")]
    assert scores == sorted(scores, reverse=True)
    assert [row["run"] for row in listed(capsys, "--where", "lr=1e-2")] == ["runs/tiny-2"]
    assert [row["run"] for row in listed(capsys, "--where", "network=tiny", "--where", "epochs=1")] == ["runs/tiny-3"]
    assert next(csv.DictReader(io.StringIO(runs(capsys, "--sort", "lr", "--csv")[1])))["run"] == "tiny-2"


def test_damaged_and_foreign_files_are_no_obstacle(
    workspace: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = workspace / "runs" / "a"
    run.mkdir(parents=True)
    (workspace / "runs" / "notes").mkdir()
    (workspace / "runs" / "notes.txt").write_text("none")
    (run / "config.yaml").write_bytes(b"\xff\x00network: ")
    (run / "metrics.jsonl").write_text('{"epoch": 1, "seconds": null}\n{"epo')
    (run / "eval.json").write_text("[")
    rows = listed(capsys)
    assert [(row["run"], row["state"], row["epochs"]) for row in rows] == [("runs/a", "interrupted", 1)]


def test_a_run_in_progress_is_running(workspace: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lock is another process's, so it takes one to see it."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom cnn_cli.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    input()\n"
    )
    command = [sys.executable, "-c", program, str(trained / "runs" / "tiny-2")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        assert listed(capsys, str(trained / "runs"), "--where", "state=running")[0]["settings"]["lr"] == 0.01  # type: ignore[index]
        holder.stdin.write("\n")
        holder.stdin.close()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere: no such folder"),
        (["--where", "lr"], 2, "--where takes NAME=VALUE, not 'lr'"),
        (["--where", "lrr=1"], 2, "no 'lrr'. Did you mean 'lr'?"),
        (["--sort", "scor"], 2, "no 'scor'. Did you mean 'score'?"),
    ],
)
def test_mistakes_are_named(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(trained)
    ended, _, err = runs(capsys, *arguments)
    assert ended == code
    assert message in err


def test_the_best_epoch_among_equals_has_the_lowest_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (run := Path("runs/a")).mkdir(parents=True)
    (run / "config.yaml").write_text("network: n\nsettings:\n  epochs: {value: 3, source: option}\nspec: {}\n")
    losses = (7.0, 5.0, 6.0, None)
    rows = [{"epoch": i + 1, "val_loss": loss, "val_ap": 0.0} for i, loss in enumerate(losses)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert listed(capsys)[0]["best_epoch"] == 2


def test_without_runs_it_says_how_to_make_one(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs(capsys)[:2] == (0, "no runs in runs; train a network with `cnn train`\n")


def test_settings_that_come_from_the_spec_of_another_network_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for run, network, args, lr, source, groups in (
        ("a", "n", "{width: '8'}", 0.1, "spec", "null"),
        ("b", "n", "{}", 0.2, "recipe", "null"),
        ("c", "other", "{width: '4'}", 0.3, "spec", "[{lr: 1}]"),
        ("d", "third", "{}", 0.4, "CNN_LR", "null"),
    ):
        (folder := Path("runs", run)).mkdir(parents=True)
        settings = f"  lr: {{value: {lr}, source: {source}}}\n  groups:\n    value: {groups}\n    source: spec\n"
        (folder / "config.yaml").write_text(f"network: {network}\nargs: {args}\nsettings:\n{settings}spec: {{}}\n")
        (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "val_ap": 0.5}) + "\n")
    assert cnn("runs", "--csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["settings"] for row in table] == ["width 8, lr 0.1", "lr 0.2", "width 4", "lr 0.4"]
    assert [row["run"] for row in listed(capsys, "--where", "width=4")] == ["runs/c"]
    assert cnn("runs") == 0
    assert "val AP" in capsys.readouterr().out


def test_fractional_epochs_are_shown_and_settings_that_are_off_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, epochs, overfit in (("a", 0.5, "null"), ("b", 2, "8")):
        (run := Path("runs", name)).mkdir(parents=True)
        setting = f"  epochs: {{value: {epochs}, source: option}}\n  overfit: {{value: {overfit}, source: option}}\n"
        if name == "b":
            setting += "  normalize:\n    value:\n      mean: [0.3]\n      std: [0.2]\n    source: option\n"
            setting += "  groups:\n    value:\n    - parameters: ['*.bias']\n      lr: 0.1\n    source: spec\n"
            setting += "  freeze:\n    value: [a, b]\n    source: option\n  weights: {value: long,\n    source: spec}\n"
        (run / "config.yaml").write_text(f"network: n\nsettings:\n{setting}spec: {{}}\n")
        (run / "metrics.jsonl").write_text(json.dumps({"epoch": epochs, "val_accuracy": 0.5}) + "\n")
    rows = {row["run"]: row for row in listed(capsys)}
    assert [(rows[f"runs/{n}"]["epochs"], rows[f"runs/{n}"]["total_epochs"]) for n in "ab"] == [(0.5, 0.5), (2, 2)]
    assert cnn("runs", "--csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["epochs"], row["total_epochs"]) for row in table] == [("0.5", "0.5"), ("2", "2")]
    assert [row["settings"] for row in table] == [
        "",
        "overfit 8, normalize {mean: [0.3], std: [0.2]}, groups [{parameters: ['*.bias'], lr: 0.1}], freeze a, b, "
        "weights long",
    ]
    assert rows["runs/b"]["settings"]["groups"] == [{"parameters": ["*.bias"], "lr": 0.1}]
    assert cnn("runs") == 0
    assert "0.5/0.5" in capsys.readouterr().out


def test_settings_at_their_defaults_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for run, shift, source, fast in (
        *(("a", 0, "default", "[x]"), ("b", 2, "option", "[]")),
        ("c", 0, "config", "[x]"),  # a repeated run
    ):
        (folder := Path("runs", run)).mkdir(parents=True)
        setting = f"  shift: {{value: {shift}, source: {source}}}\n"
        setting += f"  fast:\n    value: {fast}\n    source: {source}\n"
        (folder / "config.yaml").write_text(f"network: n\nsettings:\n{setting}spec: {{}}\n")
    assert cnn("runs", "--csv") == 0
    assert [row["settings"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == [
        *("", "shift 2, fast none", "")
    ]


def test_the_default_of_one_optimizer_is_listed_where_it_was_given_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = (("adam", "default", "0.001"), ("sgd", "option", "0.001"), ("sgd", "default", "0.01"))
    for number, (optimizer, source, lr) in enumerate(cases, 1):
        folder = tmp_path / "runs" / f"net-{number}"
        folder.mkdir(parents=True)
        chosen = "option" if optimizer == "sgd" else "default"
        entries = {"optimizer": (optimizer, chosen), "lr": (lr, source), "epochs": ("1", "default")}
        lines = [f"  {name}: {{value: {value}, source: {own}}}\n" for name, (value, own) in entries.items()]
        (folder / "config.yaml").write_text(f"network: net\nsettings:\n{''.join(lines)}spec:\n")
        (folder / "eval.json").write_text("[1]")
    code, out, _ = runs(capsys)
    assert code == 0 and "optimizer sgd, lr 0.001" in out
