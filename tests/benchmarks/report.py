"""The tables of the benchmark, in Markdown, from what run.py wrote: `python tests/benchmarks/report.py FILE.json`."""

import json
import sys
from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

Run = dict[str, Any]
SEED, BARE, BARE_GRAPH = "seed 64 fp32", "bare {} fp32", "bare-graph {} fp32"
OURS, OURS_BF16 = "cnn {} fp32", "cnn 256 bf16 --precision bf16"
TENSORFLOW = "keras-tensorflow {} fp32"
TARGET = 0.91
DISTURBED = 0.1  # CPUs taken by others, above which a measurement is worth little


def report(document: Run) -> str:
    """All tables that there are runs for."""
    parts: dict[str, list[Run]] = {}
    for run in document["runs"]:
        if not run["error"]:
            parts.setdefault(run["part"], []).append(run)
    tables = {"speed": speed_table, "epoch": epoch_table, "overhead": overhead_table}
    tables |= {"accuracy": accuracy_table, "strong": accuracy_table}
    about = document["about"]
    sections = [opening(document), *(tables[part](runs, about) for part, runs in parts.items())]
    if "speed" in parts:
        sections.insert(2, overhead_table(parts["speed"], about))
    failed = sorted({run["key"] for run in document["runs"] if run["error"]})
    missing = [*document.get("not_installed", [])]
    sections += [f"Not installed: {', '.join(missing)}."] if missing else []
    sections += [f"FAILED: {', '.join(failed)}."] if failed else []
    return "\n\n".join([*sections, summary(parts, about)]) + "\n"


def opening(document: Run) -> str:
    about, runs = document["about"], document["runs"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    loads = [run["load_before"] for run in runs] or [0.0]
    disturbed = sum(run["others"] > DISTURBED for run in runs)
    return (
        f"{document['started']}, {document['device']}: {about['machine']}, {about['threads']} threads; {versions}.\n\n"
        "Fashion-MNIST, 225,034 parameters, Adam 1e-3. A figure is the median of n processes, interleaved; a ratio is\n"
        "the median of those of each round. `others`: CPUs busy with something else meanwhile, in the worst of the n\n"
        f"processes (above {DISTURBED} in {disturbed} of {len(runs)}). Load average before a process, of the\n"
        f"benchmark itself too: {min(loads):.1f} to {max(loads):.1f}."
    )


def speed_table(runs: list[Run], about: Run) -> str:
    """Images a second, and the part of the measured GEMM peak, at the FLOPs of the whole and of the cropped image."""
    whole, cropped = about["mflop"], about["mflop_without_border"]
    gemm, seed = of(runs, "gemm 64 fp32"), of(runs, SEED)
    rows = []
    for key, group in groups(runs):
        if key.startswith("gemm"):
            continue
        kind = group[0]["precision"]
        peak = middle(pairs(group, gemm, lambda run, peak, kind=kind: run["images_per_second"] / 1e3 / peak[kind]))
        speeds = [run["images_per_second"] for run in group]
        ratio = middle(pairs(group, seed, by("images_per_second")))
        rows.append([*head(group), *spread(speeds, ",.0f"), f"{ratio:.2f}", percent(peak * whole)])
        rows[-1] += [percent(peak * cropped), others(group)]
    columns = ["loop", "batch", "images/s", "min–max", "n", "to seed loop"]
    columns += [f"of peak at {whole:.2f}", f"at {cropped:.2f}", "others"]
    peaks = [(kind, [run[kind] for run in gemm]) for kind in ("fp32", "bf16")]
    size = gemm[0]["size"] if gemm else 0
    text = "; ".join(f"{kind} {median(v):,.0f} ({min(v):,.0f}–{max(v):,.0f})" for kind, v in peaks if v)
    note = f"Peak: the best matrix product ({size}³), GFLOP/s: {text}.\n"
    note += f"MFLOP to train on an image: {whole:.2f}, and {cropped:.2f} without its unused border."
    return f"## Images a second\n\n{table(columns, rows)}\n\n{note}"


def epoch_table(runs: list[Run], about: Run) -> str:
    seed = of(runs, SEED)
    rows = []
    for _, group in groups(runs):
        ratio = middle(pairs(seed, group, by("wall")))
        memory, right = median(run["peak_mb"] for run in group), median(run["accuracy"] for run in group)
        walls = [run["wall"] for run in group]
        rows.append([*head(group), *spread(walls, ".1f"), f"{ratio:.2f}", f"{memory:,.0f}", percent(right, 1)])
        rows[-1].append(others(group))
    columns = ["loop", "batch", "seconds", "min–max", "n", "times as fast", "peak MB", "test accuracy", "others"]
    return f"## One epoch, process start to exit: 60,000 images to train, 10,000 to evaluate\n\n{table(columns, rows)}"


def overhead_table(runs: list[Run], about: Run) -> str:
    rows = []
    for batch in (64, 256, 1024):
        ours = of(runs, OURS.format(batch))
        bare = of(runs, BARE_GRAPH.format(batch)) or of(runs, BARE.format(batch))
        if found := pairs(ours, bare, by("images_per_second")):
            speeds = [median(run["images_per_second"] for run in group) for group in (ours, bare)]
            part = f"{speeds[0] / speeds[1]:.3f}", f"{median(found):.3f}", f"{min(found):.3f}–{max(found):.3f}"
            rows.append([str(batch), *(f"{s:,.0f}" for s in speeds), *part, str(len(found))])
    columns = ["batch", "`cnn train`, images/s", "bare loop", "ratio of medians", "median of ratios", "min–max", "n"]
    return f"## `cnn train` and a bare loop with the same techniques\n\n{table(columns, rows)}"


def accuracy_table(runs: list[Run], about: Run) -> str:
    """Each run; then, for each kind, the mean accuracy with its deviation and the median time."""
    title = (
        "Test accuracy of the strong recipe"
        if runs[0]["part"] == "strong"
        else "Process time to 91.0 % of the test images"
    )
    rows, lines = [], []
    for _, group in groups(runs):
        for run in group:
            figures = [percent(run["accuracy"], 2), str(run["epochs"]), f"{run['wall']:.1f}", f"{run['others']:.2f}"]
            rows.append([run["label"], str(run["seed"]), *figures])
        scores, reached = [run["accuracy"] for run in group], sum(run["accuracy"] >= TARGET for run in group)
        deviation = f" ± {100 * stdev(scores):.2f}" if len(scores) > 1 else ""
        seconds, low_high, n = spread([run["wall"] for run in group], ".1f")
        lines.append(
            f"{group[0]['label']}: {percent(mean(scores), 2)}{deviation}, {reached} of {n} reach 91.0 %, "
            f"median {seconds} s ({low_high})."
        )
    return f"## {title}\n\n{table(['loop', 'seed', 'accuracy', 'epochs', 'seconds', 'others'], rows)}\n\n" + "\n".join(
        lines
    )


def summary(parts: dict[str, list[Run]], about: Run) -> str:
    """The figures that one asks for first."""
    rows = []

    def add(what: str, part: str, ours: str, other: str, measured: str = "images_per_second") -> None:
        a, b = of(parts.get(part, []), ours), of(parts.get(part, []), other)
        if found := pairs(a, b, by(measured)) if measured != "wall" else pairs(b, a, by(measured)):
            rows.append([what, f"{median(found):.2f}", f"{min(found):.2f}–{max(found):.2f}", str(len(found))])

    for batch in (64, 256):
        add(f"images/s, fp32, batch {batch}, to the seed loop at 64", "speed", OURS.format(batch), SEED)
    add("images/s, bf16, batch 256, to the seed loop at 64", "speed", OURS_BF16, SEED)
    for batch in (64, 256):
        add(
            f"images/s, fp32, batch {batch}, to Keras on TensorFlow",
            "speed",
            OURS.format(batch),
            TENSORFLOW.format(batch),
        )
    for batch in (64, 256):
        add(f"one epoch, process, batch {batch}, to the seed loop at 64", "epoch", OURS.format(batch), SEED, "wall")
    add("one epoch, process, bf16, batch 256, to the seed loop at 64", "epoch", OURS_BF16, SEED, "wall")
    if all(run["accuracy"] >= TARGET for run in parts.get("accuracy", [])):
        add("process time to 91.0 %, to the seed loop", "accuracy", "cnn 64 fp32 --recipe fast", SEED, "wall")
    return f"## `cnn train` is so many times as fast\n\n{table(['', 'ratio', 'min–max', 'n'], rows)}" if rows else ""


def groups(runs: list[Run]) -> list[tuple[str, list[Run]]]:
    """The runs of each variant, variants in the order in which they came first."""
    return [(key, of(runs, key)) for key in dict.fromkeys(run["key"] for run in runs)]


def of(runs: Sequence[Run], key: str) -> list[Run]:
    return [run for run in runs if run["key"] == key]


def pairs(ours: list[Run], theirs: list[Run], ratio: Callable[[Run, Run], float]) -> list[float]:
    """The ratio of what was measured in the same round."""
    rounds = {run["round"]: run for run in theirs}
    return [ratio(run, rounds[run["round"]]) for run in ours if run["round"] in rounds]


def by(measured: str) -> Callable[[Run, Run], float]:
    return lambda run, other: float(run[measured] / other[measured])


def middle(values: list[float]) -> float:
    """The median; not a number where there is nothing to compare with."""
    return median(values) if values else nan


def head(group: list[Run]) -> list[str]:
    return [group[0]["label"], str(group[0]["batch"])]


def spread(values: list[float], form: str) -> list[str]:
    """Median, min–max and n."""
    return [f"{median(values):{form}}", f"{min(values):{form}}–{max(values):{form}}", str(len(values))]


def others(group: list[Run]) -> str:
    return f"{max(run['others'] for run in group):.2f}"


def percent(part: float, digits: int = 0) -> str:
    return f"{100 * part:.{digits}f} %"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is of text, the others of numbers."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(report(json.loads(Path(sys.argv[1]).read_text())), end="")
