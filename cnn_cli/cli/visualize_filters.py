"""`cnn visualize-filters`."""

from dataclasses import dataclass
from typing import Annotated, Any

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Json, Network, Picture, Spec, Untrained, Weights, option
from cnn_cli.cli.output import emit, emit_json
from cnn_cli.errors import UsageError


@dataclass(frozen=True)
class Filters:
    """Which filters are drawn, and how."""

    layer: Annotated[
        str | None, option("--layer", panel="Filters", metavar="NAME", help="Convolution to draw [the first].")
    ] = None
    all: Annotated[bool, option("--all", panel="Filters", help="Draw all convolutions on one page.")] = False
    sort: Annotated[
        str | None,
        option("--sort", panel="Filters", metavar="ORDER", help="Order by norm [as in the weights]."),
    ] = None
    compare: Annotated[
        str | None,
        option(
            "--compare",
            panel="Filters",
            metavar="SOURCE",
            help="Compare with untrained weights (untrained), a run or a checkpoint.",
        ),
    ] = None
    every_epoch: Annotated[
        bool,
        option(
            "--every-epoch", panel="Filters", help="Draw the filters of every epoch (cnn train --filters-every-epoch)."
        ),
    ] = False
    per_filter: Annotated[
        bool, option("--per-filter", panel="Filters", help="Scale the colors of each filter separately.")
    ] = False

    def check(self, untrained: bool) -> None:
        """UsageError for options that exclude each other."""
        if self.sort not in (None, "norm"):
            raise UsageError(f"--sort must be norm, not {self.sort!r}")
        single = {"--layer": self.layer, "--compare": self.compare, "--per-filter": self.per_filter}
        excluded: dict[str, Any] = single | {"--every-epoch": self.every_epoch}
        if self.all and (other := next((name for name, value in excluded.items() if value), None)):
            raise UsageError(f"--all shows every convolution as it is; leave out {other}, or choose one with --layer")
        excluded = single | {"--sort": self.sort, "--untrained": untrained}
        if self.every_epoch and (other := next((name for name, value in excluded.items() if value), None)):
            raise UsageError(f"--every-epoch shows what training kept of the first convolution; leave out {other}")


@command("visualize-filters", "Interpretation")
def visualize_filters_command(
    network: Network,
    filters: Filters,
    spec: Spec,
    weights: Weights,
    untrained: Untrained,
    picture: Picture,
    json: Json = False,
) -> None:
    """Draw learned convolution filters."""
    filters.check(untrained.untrained)
    from cnn_cli.interpret.gallery import LayerView, show_all_filters, show_film, show_filters
    from cnn_cli.interpret.pictured import Pictured

    loaded, seed = untrained.load(network, spec, weights), untrained.seed or 0
    result: Pictured[Any]
    if filters.every_epoch:
        result = show_film(loaded, picture.target)
    elif filters.all:
        result = show_all_filters(loaded, picture.target, seed)
    else:
        view = LayerView(filters.layer, filters.per_filter, filters.sort == "norm", filters.compare)
        result = show_filters(loaded, view, picture.target, seed)
    emit_json(result.document()) if json else emit(result.text())
    picture.preview(result.path, result.body)
