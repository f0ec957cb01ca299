"""`cnn page`."""

from pathlib import Path

from cnn_cli.cli.app import command
from cnn_cli.cli.options import JSON, Data, Images, Network, Spec, Untrained, Weights, flag, option
from cnn_cli.cli.output import emit_result, note, note_weights

_OUTPUT_HELP = "HTML file [page.html in the run folder, or NETWORK.html]."


@command("page")
def page_command(
    network: Network,
    images: Images,
    spec: Spec,
    data: Data,
    weights: Weights,
    untrained: Untrained,
    output: Path | None = option("Output", "FILE", _OUTPUT_HELP, "-o", "--output"),
    force: bool = flag("Output", "Overwrite an existing file outside the run folder."),
    json: bool = JSON,
) -> None:
    """Export a network as a self-contained HTML page that runs it and explains every value.

    The gallery shows IMAGE…, or test images of the data set. A network without a run is shown untrained.
    """
    from cnn_cli.checkpoints.checkpoint import load_network
    from cnn_cli.page.document import page_path, write_page

    if untrained.untrained or untrained.seed is not None:
        loaded = untrained.load(network, spec, weights)
    else:
        loaded = load_network(network, models=spec.files, args=spec.args, input=spec.size, weights=weights.weights)
    path = page_path(loaded, output, force)
    if loaded.weights is None and not untrained.untrained:
        note(f"{loaded.plan.network} has no run, so the page shows it untrained; train it: cnn train {network}")
    note_weights(network, loaded)
    emit_result(write_page(loaded, images.selection(data), path, untrained.seed or 0), json)
