"""The end of a run: train to it, report on the best weights, and say what came out and where everything is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints import checkpoint
from cnn_cli.checkpoints.checkpoint import Metadata
from cnn_cli.checkpoints.header import BEST, LAST
from cnn_cli.data import ReadError
from cnn_cli.errors import CnnError, StoppedError
from cnn_cli.files import WriteError
from cnn_cli.pictures.film import FRAMES, STRIP, write_film
from cnn_cli.training import eval_report as score
from cnn_cli.training import speedups as fast
from cnn_cli.training.evaluate import evaluate
from cnn_cli.training.job import Job
from cnn_cli.training.signals import Signals, Stop
from cnn_cli.training.state import State
from cnn_cli.training.train import LOG, resume_hint, train

CURVES = "curves.png"  # the last file of a run: where it is, the run is finished


def to_the_end(job: Job, state: State, watch: Signals) -> dict[str, Any]:
    """Train and report. Where the report is stopped or a file cannot be written, the error names the way to go on."""
    stopped = f"stopped; every epoch is done, the report is not\n{resume_hint(job)}"
    try:
        train(job, state, watch)
        return finish(job, state, watch.check) if job.world.is_main else {}
    except Stop:
        raise StoppedError(stopped, watch.received) from None
    except ReadError as error:
        if watch.soon():
            raise StoppedError(stopped, watch.received) from None
        raise CnnError(f"{error}\n{resume_hint(job)}") from None
    except WriteError as error:
        raise CnnError(f"{error}\n{resume_hint(job)}") from None


def finish(job: Job, state: State, check: Callable[[], object]) -> dict[str, Any]:
    """Report on the best weights: on test, or on val where there is no test. Learning curves and confusion matrix.

    check: may raise to stop.
    """
    from cnn_cli.pictures.plots import learning_curves

    check()
    name = next((s for s in ("test", "val") if s in job.data.splits), None)
    if name:
        result = state.result
        if result is None or result.split != name or name == "val":  # not at hand, or not that of the best weights
            network = checkpoint.restore(checkpoint.load_network(str(job.run / BEST))).to(state.device)
            result = evaluate(
                fast.prepare(network, job["fast"]),
                job.data.splits[name],
                job.loss,
                len(job.metadata.classes),
                job["batch_size"],
                state.device,
                check,
                job.layout,
                job["tta"],
            )
        score.write(
            job.run, score.document(job.plan.network, job.data.name, result, job.metadata.classes, job.run / BEST)
        )
    if (job.run / FRAMES).is_file():
        write_film(job.run, job.plan.network, job.plan.input[0] == 3, job.run / STRIP)
    check()
    learning_curves(state.history, job.run / CURVES, f"{job.plan.network} on {Path(job.data.name).name}")
    return outcome(job.plan.network, job.metadata, job.run, state.history)


def outcome_text(document: dict[str, Any]) -> str:
    """The end of a run for people: the result, and where everything is."""
    lines = []
    if result := document["result"]:
        weights = f"weights of epoch {document['best_epoch']}"
        data = Path(document["data"]).name
        lines = [f"{document['network']} on {data}, {result['split']}: {result['n']:,} images, {weights}"]
        lines += [score.figures(result), ""]
    width = max(map(len, document["files"]))
    return "\n".join([*lines, *(f"{name:<{width}}  {path}" for name, path in document["files"].items())])


def outcome(network: str, metadata: Metadata, run: Path, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Where everything is, and what came out; from the files of the run."""
    names = {
        "weights": BEST,
        "state": LAST,
        "log": LOG,
        "settings": "config.yaml",
        "curves": CURVES,
        "result": "eval.json",
        "confusion": "confusion_matrix.png",
        "film": STRIP,
    }
    files = {what: str((run / name).resolve()) for what, name in names.items() if (run / name).is_file()}
    result = json.loads((run / "eval.json").read_text()) if "result" in files else None
    best = checkpoint.load_network(str(run / BEST)).metadata if "weights" in files else None
    epoch = best.facts["epoch"] if best else None
    last = history[-1] if history else None
    head = {"network": network, "data": metadata.data["name"], "run": str(run.resolve()), "epochs": len(history)}
    return head | {"best_epoch": epoch, "last_epoch": last, "result": result, "files": files}
