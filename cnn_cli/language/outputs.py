"""The outputs of a network: that of its last layer, or those that `outputs:` or `detects:` names."""

from collections.abc import Mapping
from dataclasses import replace

from cnn_cli.errors import closest, listed
from cnn_cli.language.context import Context, Output
from cnn_cli.language.detection_scales import check_scales
from cnn_cli.language.plan import Group, Layer
from cnn_cli.language.siblings import may_be, paths, value_at
from cnn_cli.language.spec import DETECTOR, scales
from cnn_cli.language.yaml_nodes import Node
from cnn_cli.layers import sizes

_MAPPING = " Write `layers:` as a mapping, `name: …`"


def choose_outputs(context: Context, root: Layer | Group, output: Output) -> tuple[Layer | Group, dict[str, Output]]:
    """The network and its outputs by name, the main one first; a single one has the name "".

    A mapping `outputs:` names auxiliary outputs with their weights in the loss: children of the outermost mapping, of
    equal shapes. A list names several outputs of any shapes, by their paths; the network returns all of them, as it
    returns those that `detects:` names.
    """
    spec = context.spec
    names, key = [*spec.outputs, *spec.named_outputs], "detects" if spec.detects else "outputs"
    node: Node | None = spec.node.value[key] if names else None
    if node is None or (output.shape is None and not output.inside):
        return root, {"": output}
    valid, weighted = True, bool(spec.outputs)
    inside = output.inside if isinstance(root, Group) and (root.named or not weighted) else {}
    for place, name in zip(_places(node, key, names), names, strict=True):
        refused = _is_refused(name, inside)
        message = "" if refused else _mistake(name, names[0], inside, weighted)
        if message:
            context.problem(place, key, message)
        valid = valid and not (message or refused)
    if not valid or not isinstance(root, Group):
        return root, {"": output}
    context.taken.update(names)
    outputs = {name: value_at(output.inside, name) or output for name in names}
    if spec.detects:
        check_scales(context, outputs)
    return replace(root, output=names[0]), outputs


def _is_refused(name: str, inside: Mapping[str, Output]) -> bool:
    """Whether this may be one of the copies `layer{1}` whose number is not known, because of an earlier mistake."""
    head = name.partition(".")[0]
    return value_at(inside, name) is None and any("{" in key and may_be(key, head) for key in inside)


def _places(node: Node, key: str, names: list[str]) -> list[Node | tuple[int, int]]:
    """Where each output is named."""
    if key == "detects":
        return [pair.value[name] for pair in scales(node) for name in DETECTOR if name in pair.value]
    return [node.keys[name] for name in names] if node.keys else list(node.value)


def _mistake(name: str, main: str, inside: Mapping[str, Output], weighted: bool) -> str:
    """The mistake of an output named in `outputs:`, or an empty text. inside: the values of the network."""
    child, wanted = value_at(inside, name), value_at(inside, main)
    if child is None or (weighted and name not in inside):
        known = [*inside] if weighted else [*inside, *paths(inside, name.partition(".")[0])]
        fix = closest(name[:60], known) or (f" Expected one of {listed(list(inside))}" if inside else _MAPPING)
        kind = "child of the outermost mapping" if weighted else "value of the network"
        return f"{name[:60]!r} is not a {kind}.{fix}"
    if child.pieces or child.bare:
        return f"{name!r} is {'split into pieces' if child.pieces else 'a Parameter'}; name the output of a layer"
    if weighted and wanted and wanted.shape and child.shape and child.shape != wanted.shape:
        shapes = f"{name!r} is {sizes(child.shape)} and {main!r} is {sizes(wanted.shape)}"
        fix = f"make them equal, or name outputs without weights, [{main}, {name}]"
        return f"all outputs with weights must have the same shape, but {shapes}; {fix}"
    return ""


def warn_no_scores(context: Context, output: Output) -> None:
    """Warn of a network with a `train` block whose output is neither one score per class nor a map of scores."""
    names = context.spec.named_outputs
    if context.spec.detects:
        return
    if context.spec.train and names:
        fix = f"write weights in the loss, {{{names[0]}: 1.0, …}}, for auxiliary outputs, or name one"
        message = f"`train` needs a single output, not {listed(names)}; {fix}"
        context.warn(context.spec.node.keys["outputs"], "outputs", message)
    elif context.spec.train and output.shape and len(output.shape) == 2:
        message = f"outputs {sizes(output.shape)}, but `train` needs one score per class; end with Flatten and Linear"
        context.warn(context.spec.node.keys["layers"], "layers", message)
