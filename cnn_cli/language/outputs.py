"""What leaves a network: the output of its last layer, or those that `outputs:` names."""

from dataclasses import replace

from cnn_cli.errors import closest, listed
from cnn_cli.language.context import Context, Output
from cnn_cli.language.plan import Group, Layer
from cnn_cli.layers import sizes


def choose_outputs(context: Context, root: Layer | Group, output: Output) -> tuple[Layer | Group, Output]:
    """With `outputs:`, the first of them is the network's output, and all are children of the outermost mapping."""
    keys = context.spec.node.value["outputs"].keys
    children = {name: x for name, x in context.root_outputs.items() if name != "input"}
    main = next(iter(context.spec.outputs))
    wanted = children[main].shape if main in children else None
    valid = isinstance(root, Group)
    for name in context.spec.outputs:
        child = children.get(name)
        if child is None:
            fix = closest(name[:60], children) or f" Expected one of {listed(list(children))}"
            message = f"{name[:60]!r} is not a child of the outermost mapping.{fix}"
        elif child.pieces or child.bare:
            message = (
                f"{name!r} is {'split into pieces' if child.pieces else 'a Parameter'}; name the output of a layer"
            )
        elif wanted and child.shape and child.shape != wanted:
            shapes = f"{name!r} is {sizes(child.shape)} and {main!r} is {sizes(wanted)}"
            message = f"all outputs must have the same shape, but {shapes}; make them equal"
        else:
            continue
        context.problem(keys[name], "outputs", message)
        valid = False
    if not valid or not isinstance(root, Group):
        return root, output
    return replace(root, output=main), context.root_outputs[main]


def warn_no_scores(context: Context, output: Output) -> None:
    """Warn of a network that is to be trained, but ends neither in one score per class nor in a map of them."""
    if context.spec.train and output.shape and len(output.shape) == 2:
        message = f"outputs {sizes(output.shape)}, but `train` needs one score per class; end with Flatten and Linear"
        context.warn(context.spec.node.keys["layers"], "layers", message)
