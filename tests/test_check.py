"""What `check` accepts builds and runs a training step; what it refuses, it refuses with a located message.

Specs are generated from the grammar, valid and broken. CNN_EXAMPLES=100000 tries more of them than the suite does.
"""

import json
import os
import warnings
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_layers import values
from torch import nn

from cnn_cli.errors import SpecError
from cnn_cli.language.plan import Group, Layer, Plan
from cnn_cli.language.registry import find, plan_document, plan_spec
from cnn_cli.language.spec import parse
from cnn_cli.layers import JOINS, LAYERS, REQUIRED
from cnn_cli.network.builder import build_plan
from cnn_cli.network.modules import Chunk

EXAMPLES = int(os.environ.get("CNN_EXAMPLES", 150))
MOST_VALUES = 3_000_000  # what a generated network may have in all to be run

SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="CNN_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# --- The grammar ------------------------------------------------------------------------------------------------------

ARGS = {"w": 4, "k": 3, "deep": 2, "act": ["ReLU"], "p": 0.25, "none": []}
NUMBERS = st.sampled_from([1, 2, 3, 4, "$w", "$k", "${2 * w}", "${w // 2}", "${in_channels}", "$in_channels"])
COPIES = st.sampled_from([0, 1, 2, 3, "$deep", "${deep - 1}"])
FRIENDLY: list[Any] = [
    "ReLU", "BatchNorm2d", "Tanh", "Identity", "Dropout", "Flatten", "$act", [], "$none", {"MaxPool2d": 2},
    {"AvgPool2d": {"kernel_size": 3, "stride": 1, "padding": 1}}, {"AdaptiveAvgPool2d": 1}, {"Dropout": "$p"},
    {"Conv2d": {"out_channels": "$w", "kernel_size": "$k", "padding": "${k // 2}"}}, "LayerNorm2d", {"Linear": 3},
    {"Conv2d": {"out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1, "bias": False}}, "InstanceNorm2d",
    {"GroupNorm": 1}, {"Upsample": {"scale_factor": 2}}, {"SqueezeExcitation": 2}, {"Permute": [0, 2, 3, 1]}, "Unit",
    {"Unit": "$w"}, {"Unit": {"width": 4, "act": ["Tanh"]}}, {"Unit": {"short": "BatchNorm2d"}},
]  # fmt: skip


@st.composite
def table_layers(draw: st.DrawFn) -> Any:
    """Any layer of the table, with values that may fit and others."""
    layer = LAYERS[draw(st.sampled_from(sorted(LAYERS)))]
    chosen = {}
    for name, setting in layer.settings.items():
        required = setting.default is REQUIRED and not setting.inferred
        if (required and draw(st.integers(0, 30))) or (not required and draw(st.integers(0, 4)) == 0):
            fits, behind = values(layer.name, name)
            chosen[name] = draw(st.sampled_from(fits) if draw(st.integers(0, 15)) else st.sampled_from(fits + behind))
    return {layer.name: chosen} if chosen or draw(st.booleans()) else layer.name


def with_repeat(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda p, n: {**(p if isinstance(p, dict) else {"layers": p}), "repeat": n}, part, COPIES)


LAYER = st.one_of(st.sampled_from(FRIENDLY), st.sampled_from(FRIENDLY), table_layers())
PART = st.deferred(lambda: st.one_of(LAYER, LAYER, LAYER, lists(), mappings()))


def lists() -> st.SearchStrategy[Any]:
    return st.lists(st.one_of(PART, PART, with_repeat(LAYER)), max_size=5)


@st.composite
def mappings(draw: st.DrawFn) -> Any:
    """Named children that take earlier ones, mostly."""
    found: dict[str, Any] = {}
    for name in ("a", "b", "c", "d", "e", "f")[: draw(st.integers(1, 6))]:
        known = [*found, "input"] if draw(st.integers(0, 30)) else [*found, "input", "zz", name]
        known += [f"{n}.{i}" for n, v in found.items() if isinstance(v, dict) and "Chunk" in v for i in range(2)]
        sibling = st.sampled_from(known)
        kind = draw(st.integers(0, 9))
        if kind < 4:
            found[name] = draw(PART)
        elif kind == 4:
            part = draw(PART)
            found[name] = {"layers": part, "from": draw(sibling)}
        elif kind < 8:
            found[name] = {
                draw(st.sampled_from(["Add", "Multiply", "Concat"])): draw(st.lists(sibling, min_size=2, max_size=3))
            }
        elif kind == 8:
            shape = draw(st.sampled_from([["$in_channels", 1, 1], [1], [4, 1, 1], [8], [2, 1, 1, 1]]))
            found[name] = {"Parameter": {"shape": shape, "init": draw(st.sampled_from(["zeros", "normal", 0.5]))}}
        else:
            found[name] = {"Chunk": draw(st.sampled_from([1, 2, 3, "$deep"])), "from": draw(sibling)}
    if draw(st.integers(0, 8)) == 0:
        found["g{1}"] = draw(with_repeat(LAYER))
    return found


UNIT = {
    "args": {"width": 2, "act": "ReLU", "short": []},
    "layers": {
        "conv": {"Conv2d": {"out_channels": "${width * 2}", "kernel_size": 3, "padding": 1}},
        "act": "$act",
        "short": {"from": "input", "layers": "$short"},
        "join": {"Concat": ["act", "short"]},
    },
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A file with one network."""
    sizes = st.sampled_from([1, 2, 3, 4, 5, 8, 9])
    network = {
        "input": [draw(sizes), draw(sizes), draw(sizes)],
        "args": ARGS,
        "layers": draw(st.one_of(lists(), mappings())),
    }
    if isinstance(network["layers"], dict) and draw(st.integers(0, 5)) == 0:
        names = draw(st.lists(st.sampled_from(["a", "b", "c", "f"]), min_size=1, max_size=2, unique=True))
        network["outputs"] = {name: draw(st.sampled_from([1.0, 0.3, 0])) for name in names}
    if draw(st.integers(0, 5)) == 0:
        network["train"] = {"lr": 0.1, "epochs": draw(st.sampled_from([1, 2]))}
    return {"n": network, "blocks": {"Unit": UNIT}}


JUNK = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1.5, 10**9, 10**17, 1e300, "", "$", "${", "${}", "$zz", "${1 //  0}", "{1}"]
    ),
    st.sampled_from(
        ["Conv2D", "relu", "from", "input", "layers", "repeat", [], {}, [[]], {"": None}, {"ReLU": {}}, "\x1b"]
    ),
    st.sampled_from([{"repeat": 2}, {"from": "a"}, {"Add": ["a", "a"]}, {"layers": []}, [None], {"x": None}, "$act"]),
    st.text(max_size=6),
    st.floats(allow_nan=False, allow_infinity=False),
)


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """A generated file with a value, or a key, replaced by something else."""
    document = json.loads(json.dumps(draw(documents())))
    for _ in range(draw(st.integers(1, 3))):
        places = list(containers(document))
        place = places[draw(st.integers(0, len(places) - 1))]
        if not place:
            continue
        key: Any = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place, dict) and draw(st.integers(0, 2)) == 0:
            new = draw(
                st.one_of(st.sampled_from([*LAYERS, *JOINS, "from", "repeat", "a", "zz{1}"]), st.text(max_size=6))
            )
            place[new] = place.pop(key)
        else:
            place[key] = json.loads(json.dumps(draw(JUNK)))  # a copy: the next round may change it
    return document


def containers(node: Any) -> Any:
    if isinstance(node, dict | list):
        yield node
        for inner in node.values() if isinstance(node, dict) else node:
            yield from containers(inner)


# --- The property -----------------------------------------------------------------------------------------------------


def accepted(document: Any) -> list[Plan]:
    """The plans of a file's networks, or none where it is refused as it must be."""
    text = json.dumps(document)
    try:
        file = parse(text, "test")
        plans = [plan_spec(spec, None, None) for spec in file.networks.values()]
        problems = [*file.problems, *(p for plan in plans for p in plan.errors)]
    except SpecError as error:
        plans, problems = [], list(error.problems)
    for problem in problems:
        assert problem.line == 1
        assert 1 <= problem.column <= len(text) + 1
        assert problem.message
    assert plans or problems
    if problems:
        return []
    for plan in plans:
        assert plan_document(plan.document(), "again").document() == plan.document()
    return plans


def leaves(part: Layer | Group) -> list[Layer]:
    return [part] if isinstance(part, Layer) else [leaf for child in part.children for leaf in leaves(child.part)]


def small(plan: Plan) -> bool:
    return plan.params + sum(prod(layer.output_shape) for layer in plan.layers) + plan.macs < MOST_VALUES


def runs(plan: Plan) -> None:
    """Builds, holds the tensors that the plan says, gives the shapes that it says, and takes a training step."""
    module = build_plan(plan)
    assert plan.layers == tuple(leaves(plan.root))
    named = {f"{layer.name}.{t.name}".strip("."): t.shape for layer in plan.layers for t in layer.tensors}
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == named
    assert plan.params == sum(p.numel() for p in module.parameters())
    shapes: dict[str, tuple[int, ...]] = {}
    watch(module, shapes)
    given = module.train()(torch.randn(2, *plan.input))
    outputs = list(given.values()) if isinstance(given, dict) else [given]
    assert tuple(outputs[0].shape[1:]) == plan.output
    assert list(given) == list(plan.outputs) if isinstance(given, dict) else not plan.outputs
    for layer in plan.layers:
        assert layer.type == "Parameter" or shapes[layer.name] == layer.output_shape, layer
    if any(o.requires_grad for o in outputs):
        torch.stack([o.sum() for o in outputs]).sum().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0.0
    assert tuple(module.eval()(torch.randn(1, *plan.input)).shape[1:]) == plan.output


def watch(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    """Note what comes out of each module, without the batch; of pieces, the shape of each."""
    for name, part in module.named_modules():

        def note(part: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            first = output[0] if isinstance(part, Chunk) else output
            if isinstance(first, torch.Tensor):
                shapes[name] = tuple(first.shape[1:])

        part.register_forward_hook(note)


COUNT = {"accepted": 0, "refused": 0, "too large to run": 0}


def holds(document: Any) -> None:
    plans = accepted(document)
    COUNT["refused"] += not plans
    for plan in plans:
        COUNT["accepted" if small(plan) else "too large to run"] += 1
        if small(plan):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's remarks on odd settings
                runs(plan)


@SETTINGS
@given(documents())
def test_generated_specs(document: Any) -> None:
    holds(document)


@SETTINGS
@given(broken())
def test_broken_specs(document: Any) -> None:
    holds(document)


def test_both_kinds_were_tried() -> None:
    """A generator whose specs all fail, or none, would show nothing."""
    if not COUNT["accepted"] + COUNT["refused"]:
        pytest.skip("the generated specs ran in another process")
    assert COUNT["accepted"] > 0.2 * EXAMPLES
    assert COUNT["refused"] > 0.2 * EXAMPLES


# --- Text -------------------------------------------------------------------------------------------------------------

CHARACTERS = "{}[]:,-&*!|>%@`#'\"?~<$ \t\n\r\0\x1b\ufeff\u2028ab1."
LETTERS = st.sampled_from([*CHARACTERS, "- ", ": ", "\n  ", "<<: ", "!!"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A spec's text with some characters put in, taken out or exchanged."""
    text = json.dumps(draw(documents()), indent=draw(st.sampled_from([None, 1])))
    text = text.replace('"', "") if draw(st.booleans()) else text
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.one_of(LETTERS, st.just(""))) + text[at + draw(st.integers(0, 3)) :]
    return text


@SETTINGS
@given(texts())
def test_damaged_texts(text: str) -> None:
    try:
        problems = [p for spec in parse(text, "test").networks.values() for p in plan_spec(spec, None, None).problems]
    except SpecError as error:
        problems = list(error.problems)
    lines = text.replace("\r\n", "\n").count("\n") + sum(text.count(c) for c in "\r\u2028\u2029\x85") + 1
    assert all(1 <= p.line <= lines + 1 and p.column >= 1 for p in problems)


@pytest.mark.parametrize("name", ["fashion-convnet", "resnet18", "shufflenet_v2_x0_5", "mobilenet_v2", "squeezenet1_0"])
def test_networks_that_ship_run(name: str) -> None:
    small = {"fashion-convnet": (1, 28, 28)}.get(name, (3, 64, 64))
    runs(find(name, input=small))


def test_a_list_hides_no_missing_setting() -> None:
    """A bare list is the value of the first setting; the second one is missing, and nothing behind it may vanish."""
    with pytest.raises(SpecError, match=r"layers\.0 \(ConstantPad2d\): value is missing; write"):
        plan_document({"n": {"input": [1, 8, 8], "layers": [{"ConstantPad2d": [1, 1, 1, 1]}, "Flatten"]}}, "n")
