"""`cnn summary`. Only --time and --verify load torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_cli.cli.app import command
from cnn_cli.cli.options import DEVICE, MEMORY, Estimate, Format, Network, Spec, flag, option
from cnn_cli.cli.output import note
from cnn_cli.errors import CnnError

if TYPE_CHECKING:
    from cnn_cli.analysis.timing import Timing
    from cnn_cli.language.plan import Plan


@dataclass(frozen=True)
class Checks:
    """Options to measure, verify and draw the network."""

    timed: bool = flag("Measure", "Measure the forward and backward time of each layer.", "--time")
    device: str = DEVICE
    verify: bool = flag("Measure", "Build and run the network to verify every number.")
    graph: Path | None = option("Output", "FILE", "Draw the network to a .svg, .pdf, .png, .mmd or .dot file.")
    force: bool = flag("Output", "Overwrite the --graph file if it exists.")

    def times(self, plan: "Plan", batch_size: int | None) -> "Timing":
        from cnn_cli.analysis.timing import measure_times
        from cnn_cli.device import pick

        return measure_times(plan, pick(self.device), batch_size or 1)

    def draw(self, plan: "Plan", path: Path, depth: int | None) -> None:
        from cnn_cli.graph import draw, readable_depth

        note(f"wrote {draw(plan, path, depth=depth, force=self.force).absolute()}")
        if depth is None and (folded := readable_depth(plan)):
            note(f"folded with --depth {folded} to be readable; another --depth shows more or less")


@command("summary")
def summary_command(
    network: Network,
    spec: Spec,
    estimate: Estimate,
    checks: Checks,
    format: Format,
    columns: str | None = option("Table", "A,B,…", "Columns to show, such as name,output,params,macs,rf,memory."),
    depth: int | None = option("Table", "N", "Fold layers nested deeper than N into subtotals.", min=1),
    freeze: list[str] | None = option(MEMORY, "GLOB", "Layers or parameters to freeze, such as features.*."),
) -> None:
    """Show layers, output shapes, parameters, MACs and memory."""
    from cnn_cli.analysis.summary import choose_columns, setup, summarize

    plan = spec.draft(network)
    chosen = setup(plan, estimate.batch_size, estimate.optimizer, estimate.precision, freeze)
    keys = choose_columns(columns, checks.timed, bool(chosen.frozen))
    times = checks.times(plan.checked(), estimate.batch_size) if checks.timed else None
    if checks.graph:
        checks.draw(plan.checked(), checks.graph, depth)
    format.emit(summarize(plan, chosen, columns=keys, depth=depth, timing=times))
    plan.checked()
    if checks.verify:
        _verify(plan)


def _verify(plan: "Plan") -> None:
    from cnn_cli.analysis.verification import verify

    result = verify(plan)
    if result.disagreements:
        raise CnnError(f"{result.text()}; please report this")
    note(result.text())
