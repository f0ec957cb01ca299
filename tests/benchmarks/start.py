"""Start-up: the CPU time of commands beyond that of Python, or of `import torch`, alone.

    python tests/benchmarks/start.py [--data-dir DIR] [--rounds 9]

Every measurement is a process of its own; a round takes each once. The CPU time (user and system) depends less on what
else the machine does than the time on the clock. Prints a table in Markdown: medians, and the least of all rounds.
DIR holds FashionMNIST/raw; without it, training and prediction use the digits of scikit-learn.
"""

import argparse
import compileall
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
FIRST_STEP = """
import os
import sys
from cnn_cli.training.optimizer import Optimizer

take = Optimizer.step

def step(self):
    take(self)
    sys.stdout.flush()
    os._exit(0)  # what is left is not the start

Optimizer.step = step
from cnn_cli.cli import main
main()
"""
COMMAND = "from cnn_cli.cli import run_program; run_program()"


def cpu(command: list[str], folder: Path) -> tuple[float, float]:
    """CPU seconds of a process, and its peak memory in MB. CalledProcessError if it fails."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    error = process.stderr.read()
    _, status, own = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command, stderr=error)
    return own.ru_utime + own.ru_stime, own.ru_maxrss / 1024


def commands(folder: Path, data_dir: Path | None) -> dict[str, tuple[str, list[str]]]:
    """By title: beyond which other one it is measured, and the command."""
    python = [sys.executable, "-c"]
    data = ["--data-dir", str(data_dir)] if data_dir else ["--data", "digits"]
    train = ["train", "fashion-convnet", "--epochs", "1", *data]
    trained = folder / "trained"
    subprocess.run(
        [*python, COMMAND, "train", "tiny-cnn", "--data", "digits", "--epochs", "1", "-o", str(trained)],
        check=True,
        capture_output=True,
    )
    picture = folder / "image.png"
    subprocess.run([*python, f"from PIL import Image; Image.new('L', (28, 28)).save({str(picture)!r})"], check=True)
    light = {
        name: ("python", [*python, COMMAND, *name.split()])
        for name in ("--help", "list", "check", "summary fashion-convnet", "summary resnet152")
    }
    return {
        "python": ("", [*python, "pass"]),
        "import torch": ("", [*python, "import torch"]),
        **light,
        "train, to the first step": ("import torch", [*python, FIRST_STEP, *train]),
        "predict, one image": ("import torch", [*python, COMMAND, "predict", str(trained), str(picture)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=lambda p: Path(p).resolve(), help="holds FashionMNIST/raw")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", help="a part of the titles, such as summary")
    options = parser.parse_args()
    compileall.compile_dir(ROOT / "cnn_cli", quiet=1)  # as an installation does
    os.environ |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory(prefix="cnn-start-") as name:
        folder = Path(name)
        rows = commands(folder, options.data_dir)
        if options.only:
            rows = {k: v for k, v in rows.items() if options.only in k or not v[0]}
        seconds: dict[str, list[float]] = {title: [] for title in rows}
        memory: dict[str, float] = {}
        for number in range(options.rounds):
            for title, (_, command) in rows.items():
                run = ["-o", str(folder / f"run-{number}")] if title.startswith("train") else []
                used, peak = cpu([*command, *run], folder)
                seconds[title].append(used)
                memory[title] = peak
    print(f"CPU seconds, {options.rounds} rounds; load {os.getloadavg()[0]:.1f}\n")
    print("| command | median | beyond | median | least | memory |\n| --- | ---: | --- | ---: | ---: | ---: |")
    for title, (base, _) in rows.items():
        used = seconds[title]
        beyond = [a - b for a, b in zip(used, seconds[base], strict=True)] if base else []
        cells = f"{median(beyond):.3f} | {min(used) - min(seconds[base]):.3f}" if base else " | "
        print(f"| {title} | {median(used):.3f} | {base} | {cells} | {memory[title]:.0f} MB |")


if __name__ == "__main__":
    main()
