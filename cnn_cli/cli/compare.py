"""`cnn compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import DEVICE, SPLIT, Data, Format, Spec, flag, option
from cnn_cli.cli.output import note
from cnn_cli.errors import UsageError

if TYPE_CHECKING:
    from cnn_cli.training.run_comparison import RunComparison

_RUNS_HELP = "Run folders, checkpoints, or folders of seeds (cnn train --seeds); each is compared with the first."
Runs = Annotated[list[str], typer.Argument(metavar="A B...", help=_RUNS_HELP)]
_FOLDER_HELP = "Folder for the pictures [comparison/ in the working directory]."


@command("compare")
def compare_command(
    runs: Runs,
    spec: Spec,
    data: Data,
    format: Format,
    split: str | None = SPLIT,
    device: str = DEVICE,
    limit: int = option("Output", "N", "Number of images per network in each picture.", default=12, min=1, max=100),
    output: Path = option("Output", "FOLDER", _FOLDER_HELP, "-o", "--output", default=Path("comparison")),
    force: bool = flag("Output", "Overwrite existing pictures."),
) -> None:
    """Compare trained networks on the same images, with significance tests.

    Reports the difference with its confidence interval and McNemar's exact test (mIoU, AP: a bootstrap; seeds: Welch's
    t test), and the settings that differ. Draws learning curves, and the images that only one network gets right.
    """
    from cnn_cli.checkpoints.checkpoint import load_trained
    from cnn_cli.checkpoints.run_folder import find_run
    from cnn_cli.device import pick
    from cnn_cli.training.eval_report import EvaluationRequest
    from cnn_cli.training.run_comparison import compare_runs
    from cnn_cli.training.seeds import seed_runs

    request = EvaluationRequest(data.data, data.data_dir, split)
    if not 2 <= len(runs) <= 26:
        raise UsageError(f"cnn compare takes 2 to 26 runs, not {len(runs)}")
    format.check()
    candidates = []
    for name in runs:
        run = find_run(name, spec.files)
        seeds = list(map(str, seed_runs(Path(run)).values())) or [run]
        loaded = [load_trained(one, models=spec.files, args=spec.args, input=spec.size) for one in seeds]
        candidates.append((name, loaded))
    _check_targets(output, force)
    comparison = compare_runs(candidates, request, pick(device))
    paths = _draw(comparison, output, limit)
    format.emit(comparison)
    note("\n" + "\n".join(str(path.resolve()) for path in paths))


def _check_targets(folder: Path, force: bool) -> None:
    if not force and folder.is_dir() and any(folder.glob("*.png")):
        raise UsageError(f"{folder} already contains pictures; --force overwrites them, -o writes elsewhere")


def _draw(comparison: "RunComparison", folder: Path, limit: int) -> list[Path]:
    """The learning curves and, for single runs, a sheet for each pair → the paths of those written."""
    from cnn_cli.files import make_folder
    from cnn_cli.interpret.comparison_sheet import draw_sides
    from cnn_cli.pictures import image
    from cnn_cli.pictures.run_curves import draw_curves
    from cnn_cli.training.run_comparison import histories

    make_folder(folder)
    paths = []
    logs = {one.title: histories(one) for one in comparison.candidates}
    curves = {name: lines for name, lines in logs.items() if lines}
    if curves:
        paths.append(folder / "curves.png")
        draw_curves(curves, comparison.metric, paths[-1])
    for other in comparison.candidates[1:] if len(comparison.candidates[0].runs) == 1 else ():
        if sheet := draw_sides(comparison, other, limit):
            paths.append(folder / f"{comparison.candidates[0].letter}-{other.letter}.png")
            image.save(sheet.image, paths[-1])
    return paths
