"""`cnn report`."""

from pathlib import Path
from typing import Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import DEVICE, JSON, SPLIT, Data, flag, option
from cnn_cli.cli.output import emit, emit_json
from cnn_cli.errors import UsageError

_RUNS_HELP = "Run folders; the first is compared with each of the others."
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help=_RUNS_HELP)]
_OUTPUT_HELP = "HTML file [report.html in the run folder; for several runs, in the working directory]."


@command("report")
def report_command(
    runs: Runs,
    data: Data,
    split: str | None = SPLIT,
    device: str = DEVICE,
    output: Path | None = option("Output", "FILE", _OUTPUT_HELP, "-o", "--output"),
    force: bool = flag("Output", "Overwrite an existing file outside the run folder."),
    json: bool = JSON,
) -> None:
    """Write a self-contained HTML report of one run, or a comparison of several.

    Shows the result with confidence intervals, settings and their sources, the network, learning curves, a confusion
    matrix with the images of each cell, the worst mistakes, calibration, filters, speed and environment. The file
    contains images of the data set and makes no network requests.
    """
    from cnn_cli.device import pick
    from cnn_cli.report.document import report_path, write_report
    from cnn_cli.report.run_facts import load_run
    from cnn_cli.training.eval_report import EvaluationRequest

    request = EvaluationRequest(data.data, data.data_dir, split)
    if len(runs) > 8:
        raise UsageError(f"cnn report takes at most 8 runs, not {len(runs)}; `cnn runs` lists any number")
    loaded = [load_run(name) for name in runs]
    path = report_path(loaded, output, force)
    written = write_report(loaded, path, request, pick(device))
    emit_json(written.document()) if json else emit(written.text())
