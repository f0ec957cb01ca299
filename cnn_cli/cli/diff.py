"""`cnn diff`."""

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Estimate, Format, Spec, argument, flag, option, parse_args, parse_size
from cnn_cli.errors import UsageError

First = Annotated[str, typer.Argument(metavar="A", help="Network, as in `cnn summary`.")]


@dataclass(frozen=True)
class Sides:
    """Settings of one of the two networks, which override --set and --input."""

    set_a: list[str] | None = option("Network", "NAME=VALUE", "Set an argument of A only.")
    set_b: list[str] | None = option("Network", "NAME=VALUE", "Set an argument of B only.")
    input_a: str | None = option("Network", "CxHxW", "Input size of A.")
    input_b: str | None = option("Network", "CxHxW", "Input size of B.")


@command("diff")
def diff_command(
    a: First,
    spec: Spec,
    sides: Sides,
    estimate: Estimate,
    format: Format,
    b: str | None = argument("[B]", "Network to compare A with."),
    dense: bool = flag("Network", "Compare A with its fully connected equivalent (each convolution as a matrix)."),
) -> None:
    """Compare two networks layer by layer.

    --set and --input apply to both networks, --set-b and --input-b to B alone: cnn diff vgg11 vgg11 --set-b classes=10.
    """
    from cnn_cli.analysis.comparison import compare
    from cnn_cli.analysis.dense_equivalent import compare_by_building, count_dense
    from cnn_cli.analysis.summary import setup

    if dense:
        if b is not None or any((*vars(sides).values(), *vars(estimate).values())):
            raise UsageError("--dense takes one network, and no options but --set, --input and output formats")
        format.check()
        return format.emit(compare_by_building(count_dense(spec.draft(a).checked())))
    if b is None:
        raise UsageError("name a second network, or compare A with its fully connected equivalent: --dense")
    first = _override(spec, "a", sides.set_a, sides.input_a).draft(a).checked()
    second = _override(spec, "b", sides.set_b, sides.input_b).draft(b).checked()
    format.emit(compare(first, second, setup(first, estimate.batch_size, estimate.optimizer, estimate.precision)))


def _override(spec: Spec, side: str, args: list[str] | None, input: str | None) -> Spec:
    """The options for one network: later values of an argument replace earlier ones."""
    parse_args(args, f"--set-{side}")
    parse_size(input, f"--input-{side}")
    return replace(spec, set=[*(spec.set or []), *(args or [])], input=spec.input if input is None else input)
