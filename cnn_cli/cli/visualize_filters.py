"""`cnn visualize-filters`."""

from dataclasses import dataclass
from typing import Any

from cnn_cli.cli.app import command
from cnn_cli.cli.options import JSON, Network, Picture, Spec, Untrained, Weights, flag, option
from cnn_cli.cli.output import emit_result
from cnn_cli.errors import UsageError

_COMPARE_HELP = "Compare with the initial weights (untrained), a run or a checkpoint."


@dataclass(frozen=True)
class Filters:
    """The filters to draw, and the options of the drawing."""

    layer: str | None = option("Filters", "NAME", "Convolution to draw [the first].")
    all: bool = flag("Filters", "Draw all convolutions on one page.")
    sort: str | None = option("Filters", "ORDER", "Order of the filters: norm (largest first) [as in the weights].")
    compare: str | None = option("Filters", "SOURCE", _COMPARE_HELP)
    every_epoch: bool = flag("Filters", "Draw the filters of every epoch, saved by `cnn train --filters-every-epoch`.")
    per_filter: bool = flag("Filters", "Scale the colors of each filter separately.")

    def check(self, untrained: bool) -> None:
        """UsageError for options that exclude each other."""
        if self.sort not in (None, "norm"):
            raise UsageError(f"--sort must be norm, not {self.sort!r}")
        single = {"--layer": self.layer, "--compare": self.compare, "--per-filter": self.per_filter}
        excluded: dict[str, Any] = single | {"--every-epoch": self.every_epoch}
        if self.all and (other := next((name for name, value in excluded.items() if value), None)):
            raise UsageError(
                f"--all draws every convolution; leave out {other}, or choose one convolution with --layer"
            )
        excluded = single | {"--sort": self.sort, "--untrained": untrained}
        if self.every_epoch and (other := next((name for name, value in excluded.items() if value), None)):
            raise UsageError(f"--every-epoch draws the saved filters of the first convolution; leave out {other}")


@command("visualize-filters")
def visualize_filters_command(
    network: Network,
    filters: Filters,
    spec: Spec,
    weights: Weights,
    untrained: Untrained,
    picture: Picture,
    json: bool = JSON,
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
    emit_result(result, json)
    picture.preview(result.path, result.body)
