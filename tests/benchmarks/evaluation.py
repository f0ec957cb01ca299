"""Evaluation: images per second of the loop of `cnn eval`, against training by the seed loop.

    python tests/benchmarks/evaluation.py --data-dir DIR [--rounds 5] [--batch 64]

DIR holds FashionMNIST/raw. Both take turns within one process: the seed loop trains for two seconds, then the 10,000
test images are evaluated with all figures of `cnn eval`. Prints a table in Markdown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402
from peers import seed_loop  # noqa: E402
from work import Done, Work  # noqa: E402

from cnn_cli.checkpoints.checkpoint import load_network  # noqa: E402
from cnn_cli.training.eval_report import EvaluationRequest, calibrated, evaluation_setup  # noqa: E402
from cnn_cli.training.evaluation import evaluate  # noqa: E402


def trained(folder: Path, data_dir: Path) -> Path:
    """A run of 20 steps: the weights do not matter here."""
    command = [sys.executable, "-m", "cnn_cli", "train", "fashion-convnet", "--epochs", "0.02"]
    command += ["--data-dir", str(data_dir), "-o", str(folder / "run")]
    subprocess.run(command, check=True, capture_output=True, cwd=HERE.parents[1])
    return folder / "run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=lambda p: Path(p).resolve(), required=True, help="holds FashionMNIST/raw")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="cnn-evaluation-") as folder:
        loaded = load_network(str(trained(Path(folder), options.data_dir)))
        request = EvaluationRequest(data_dir=options.data_dir, split="test", batch_size=options.batch)
        setup = evaluation_setup(loaded, request, device)
        task, split = calibrated(setup.task, loaded), setup.prepare(loaded).splits["test"]
        work = Work("speed", options.batch, "cpu", "fp32", options.data_dir, 0, 2.0, None)
        rows: list[tuple[float, float]] = []
        for _ in range(options.rounds):
            try:
                seed_loop(work)
            except Done as done:
                training = done.result["images_per_second"]
            start = time.perf_counter()
            evaluate(setup.network, split, task, setup.inference)
            rows.append((training, len(split) / (time.perf_counter() - start)))
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; medians of {len(rows)} rounds\n")
    print("| batch | seed loop, training | `cnn eval` | ratio |\n| ---: | ---: | ---: | ---: |")
    ratio = median(ours / theirs for theirs, ours in rows)
    cells = (f"{median(column):,.0f}" for column in zip(*rows, strict=True))
    print(f"| {options.batch} | {' | '.join(cells)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
