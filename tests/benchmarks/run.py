"""The benchmark: `cnn train` against other loops, on the same work, in one run.

    python tests/benchmarks/run.py --data-dir DIR --out benchmark.json

DIR holds FashionMNIST/raw, as torchvision downloads it. Every measurement is a process of its own; a round takes every
variant once, so that what the machine does meanwhile falls on all alike, and ratios are made within a round. Peers are
measured where they are installed beside this Python. Prints tables in Markdown; `report.py FILE` prints them again.
"""

import argparse
import compileall
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from peers import LOOPS, NEEDS, installed
from report import report

HERE = Path(__file__).resolve().parent
PARTS = ("speed", "epoch", "accuracy")  # what is measured unless --only chooses
SEEDS = range(5)


@dataclass(frozen=True)
class Variant:
    """A row of the tables: a loop of peers.py, or `cnn` with its options."""

    loop: str
    label: str
    batch: int = 64
    precision: str = "fp32"
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return " ".join((self.loop, str(self.batch), self.precision, *self.options))


OURS = [
    Variant("cnn", "`cnn train --plain`", options=("--plain",)),
    Variant("cnn", "`cnn train`"),
    Variant("bare", "bare loop, same techniques"),
    Variant("cnn", "`cnn train`", 256),
    Variant("bare", "bare loop, same techniques", 256),
    Variant("cnn", "`cnn train --precision bf16`", 256, "bf16", ("--precision", "bf16")),
]
ON_GPU = [
    Variant("cnn", "`cnn train`", 1024),
    *(Variant("bare-graph", "bare loop as a CUDA graph", batch) for batch in (64, 256, 1024)),
    *(Variant("bare-compiled", "bare loop, torch.compile", batch) for batch in (64, 256)),
]
PEERS = [
    Variant("lightning", "Lightning"),
    Variant("lightning-lean", "Lightning, all extras off"),
    Variant("accelerate", "Accelerate"),
    Variant("fastai", "fastai"),
    Variant("skorch", "skorch"),
    Variant("keras-tensorflow", "Keras on TensorFlow"),
    Variant("keras-tensorflow", "Keras on TensorFlow", 256),
    Variant("keras-tensorflow", "Keras on TensorFlow, mixed_bfloat16", 256, "bf16"),
    Variant("keras-torch", "Keras on torch"),
    Variant("keras-jax", "Keras on jax"),
]
SEED_LOOP = Variant("seed", "seed loop")
GEMM = Variant("gemm", "matrix product")


class Bench:
    """The runs so far, written to --out after each of them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.environment = dict(os.environ)
        if "-m" in options.cnn:
            path = [str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            self.environment["PYTHONPATH"] = os.pathsep.join(path)
        if options.device == "cpu":
            self.environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        self.failed: set[str] = set()
        self.document: dict[str, Any] = {"command": shlex.join(["python", *sys.argv]), "device": options.device}
        self.document |= {"started": time.strftime("%Y-%m-%d %H:%M:%S %z"), "about": {}, "runs": []}

    def run(self, part: str, variant: Variant, number: int, mode: str = "speed", seed: int = 0, **facts: Any) -> None:
        """One process → one more entry of `runs`. A variant that fails is reported, and not tried again."""
        if variant.key in self.failed:
            return
        print(f"{part}, round {number + 1}: {variant.label}, batch {variant.batch}", file=sys.stderr, flush=True)
        run = self.folder / f"run-{len(self.document['runs'])}"
        command = self._cnn(variant, mode, seed, run) if variant.loop == "cnn" else self._peer(variant, mode, seed)
        outcome = measure(command, self.environment, self.folder)
        if not outcome["error"]:
            try:
                outcome |= read_run(run) if variant.loop == "cnn" else json.loads(outcome["stdout"].splitlines()[-1])
            except (OSError, ValueError, LookupError) as error:
                outcome["error"] = repr(error)
        if outcome["error"]:
            self.failed.add(variant.key)
            print(f"FAILED: {shlex.join(command)}\n{outcome['error']}", file=sys.stderr, flush=True)
        del outcome["stdout"]
        entry = {"part": part, "key": variant.key, "label": variant.label, "precision": variant.precision}
        entry |= {"round": number, "seed": seed, "command": shlex.join(command), **facts, **outcome}
        self.document["runs"].append(entry | {"batch": variant.batch})
        self.write()

    def write(self) -> None:
        if self.options.out:
            self.options.out.write_text(json.dumps(self.document, indent=1) + "\n")

    def _peer(self, variant: Variant, mode: str, seed: int) -> list[str]:
        given = self.options
        command = [sys.executable, str(HERE / "peers.py"), variant.loop, "--mode", mode, "--batch", str(variant.batch)]
        command += ["--precision", variant.precision, "--device", given.device, "--seed", str(seed)]
        command += ["--data-dir", str(given.data_dir)]
        return [*command, "--seconds", "0.2", "--limit", "640"] if given.quick else command

    def _cnn(self, variant: Variant, mode: str, seed: int, run: Path) -> list[str]:
        given = self.options
        command = [*given.cnn, "train", "fashion-convnet", *variant.options, "--seed", str(seed), "-o", str(run)]
        command += ["--device", given.device, "--data-dir", str(given.data_dir)]
        if mode != "target":  # a recipe has batch size and epochs of its own
            epochs = 1 if mode == "epoch" else 2 if given.device == "cpu" else 10
            command += ["--batch-size", str(variant.batch), "--epochs", str(epochs)]
        return [*command, "--data", "digits"] if given.quick else command


def measure(command: Sequence[str], environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run a process → its wall-clock time, peak memory, processor time, and what the machine did beside it.

    `peak_mb` is that of the largest process; `others` is how many CPUs were busy with something else meanwhile.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        load, busy, start = os.getloadavg()[0], _busy(), time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        wall, busy = time.perf_counter() - start, _busy() - busy
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        stdout, stderr = out.read(), err.read()
    cpu = usage.ru_utime + usage.ru_stime
    error = f"exit status {process.returncode}\n{stderr[-2000:]}" if process.returncode else None
    facts = {"wall": wall, "peak_mb": usage.ru_maxrss / 1024, "cpu": cpu, "others": max(0.0, (busy - cpu) / wall)}
    return facts | {"load_before": load, "error": error, "stdout": stdout}


def read_run(run: Path) -> dict[str, Any]:
    """What a run of `cnn train` wrote down. Its first epoch warms up: the speed is that of the later ones."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "eval.json").read_text())
    if result["split"] != "test":
        raise ValueError(f"evaluated on {result['split']}")
    speed = median(row["images_per_second"] for row in rows[1:] or rows)
    facts = {"images_per_second": speed, "accuracy": result["accuracy"], "tested": result["n"]}
    return facts | {"epochs": rows[-1]["epoch"], "metrics": rows}


def _busy() -> float:
    """Seconds of all CPUs since the start of the machine, in which they worked or were taken away; 0 if not known."""
    try:
        values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = values
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def rounds(count: int, variants: Sequence[Variant]) -> Iterator[tuple[int, Variant]]:
    """Every variant once a round, each second round in the reverse order: a slow drift falls on none in particular."""
    for number in range(count):
        yield from ((number, v) for v in (reversed(variants) if number % 2 else variants))


def accuracy(bench: Bench, count: int) -> None:
    """Time to 91 %: the seed loop, evaluated after every epoch, in turn with the fast recipe, seed by seed."""
    recipe = Variant("cnn", "`cnn train --recipe fast`", options=("--recipe", "fast"))
    for seed in SEEDS:
        if seed < count:
            bench.run("accuracy", SEED_LOOP, seed, "target", seed)
        bench.run("accuracy", recipe, seed, "target", seed)


def strong(bench: Bench) -> None:
    recipe = Variant("cnn", "`cnn train --recipe strong`", options=("--recipe", "strong"))
    for seed in SEEDS:
        bench.run("strong", recipe, seed, "target", seed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--data-dir", type=lambda p: Path(p).resolve(), required=True, help="holds FashionMNIST/raw")
    parser.add_argument("--peers", help="a,b,c of these, in place of all: " + ", ".join(NEEDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=(*PARTS, "overhead", "strong"), help="one part, in place of the first three")
    parser.add_argument("--out", type=lambda p: Path(p).resolve(), metavar="FILE.json")
    parser.add_argument("--cnn", type=shlex.split, help="the command [cnn beside this Python, else python -m cnn_cli]")
    parser.add_argument("--quick", action="store_true", help="a few images of everything: does the benchmark work?")
    options = parser.parse_args()
    options.peers = list(NEEDS) if options.peers is None else list(filter(None, options.peers.split(",")))
    if unknown := set(options.peers) - set(NEEDS):
        parser.error(f"--peers {','.join(sorted(unknown))}: must be of {', '.join(NEEDS)}")
    beside = Path(sys.executable).with_name("cnn")
    options.cnn = options.cnn or ([str(beside)] if beside.exists() else [sys.executable, "-m", "cnn_cli"])
    return options


def main() -> None:
    options = arguments()
    compileall.compile_dir(HERE.parents[1] / "cnn_cli", quiet=1)  # as an installation does
    with tempfile.TemporaryDirectory(prefix="cnn-benchmark-") as folder:
        bench = Bench(options, Path(folder))
        bench.run("about", Variant("about", "versions"), 0)
        bench.document["about"] = bench.document["runs"].pop()
        if bench.failed:
            sys.exit(1)
        wanted = [loop for loop in options.peers if loop in LOOPS]
        bench.document["not_installed"] = [loop for loop in wanted if not installed(loop)]
        peers = [v for v in PEERS if v.loop in wanted and installed(v.loop)]
        parts = [options.only] if options.only else PARTS
        if "speed" in parts:
            on_gpu = ON_GPU if options.device == "cuda" else []
            for number, variant in rounds(options.rounds, [GEMM, SEED_LOOP, *OURS, *on_gpu, *peers]):
                bench.run("speed", variant, number)
        if "overhead" in parts:
            bare, rows = ("bare-graph", [*OURS, *ON_GPU]) if options.device == "cuda" else ("bare", OURS)
            both = [v for v in rows if v.loop == bare or (v.loop == "cnn" and v.precision == "fp32" and not v.options)]
            for number, variant in rounds(options.rounds, both):
                bench.run("overhead", variant, number)
        if "epoch" in parts:
            for number, variant in rounds(options.rounds, [SEED_LOOP, *OURS, *peers]):
                bench.run("epoch", variant, number, "epoch")
        if "accuracy" in parts:
            accuracy(bench, options.rounds)
        if "strong" in parts:
            strong(bench)
        bench.write()
    print(report(bench.document))
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
