"""`cnn shapes`."""

from typing import TYPE_CHECKING

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Format, Network, Spec, argument, flag, option
from cnn_cli.cli.output import emit, emit_json
from cnn_cli.errors import UsageError

if TYPE_CHECKING:
    from cnn_cli.language.plan import Plan


@command("shapes")
def shapes_command(
    network: Network,
    spec: Spec,
    format: Format,
    layer: str | None = argument("[LAYER]", "Explain only this layer or group of layers."),
    explain: bool = flag("Explain", "Derive every number step by step, in words and formulas."),
    valid_inputs: bool = flag("Explain", "List valid input sizes and their output shapes."),
    sizes: str | None = option("Explain", "A,B,…", "Check these input sizes, such as 28,32,48x64."),
) -> None:
    """Derive the output shape of each layer."""
    from cnn_cli.analysis.input_sizes import find_input_sizes
    from cnn_cli.analysis.shapes import ShapeDerivation

    if (valid_inputs or sizes) and (explain or layer):
        raise UsageError("--explain and --valid-inputs exclude each other; choose one")
    plan = spec.draft(network)
    if valid_inputs or sizes:
        format.emit(find_input_sizes(plan, sizes))
    elif explain or layer:
        _explain(plan.checked(), layer, format)
    else:
        format.emit(ShapeDerivation(plan))
    plan.checked()


def _explain(plan: "Plan", layer: str | None, format: Format) -> None:
    from cnn_cli.analysis import explanation
    from cnn_cli.analysis.summary import title
    from cnn_cli.tables import render, wrapped

    explanations = explanation.explain(plan, layer)
    unused = explanation.never_used(plan) if layer is None else []
    if format.json:
        layers = [entry.document() for entry in explanations]
        emit_json({"network": plan.network, "input": list(plan.input), "layers": layers, "never_used": unused})
    elif format.style != "text":
        emit(render(explanation.table(explanations), format.style))
    else:
        ends = [wrapped(line) for line in unused]
        emit("\n".join([title(plan), "", explanation.text(explanations), *([""] if ends else []), *ends]))
