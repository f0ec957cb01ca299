"""Receptive fields and borders that nothing reads, against gradients: which input pixels does this output depend on?

The networks are made linear (positive weights, sums in place of maxima), so that a gradient is zero only where nothing
is read.
"""

import json
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_cli.analysis.receptive_field import Sight, field, never_read, sights, unused
from cnn_cli.analysis.summary import setup, summarize
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document
from cnn_cli.layers import LAYERS
from cnn_cli.network.builder import build_plan

MENU: list[Any] = [
    {"Conv2d": {"out_channels": 4, "kernel_size": 3}},
    {"Conv2d": {"out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1}},
    {"Conv2d": {"out_channels": 4, "kernel_size": [1, 4], "stride": [1, 2], "padding": [0, 2], "dilation": [1, 2]}},
    {"Conv2d": {"out_channels": 4, "kernel_size": 4, "padding": "same"}},
    {"Conv2d": {"out_channels": 4, "kernel_size": 1, "stride": 2}},
    {"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 2, "padding_mode": "reflect"}},
    {"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1, "padding_mode": "circular"}},
    {"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1, "padding_mode": "replicate", "groups": 2}},
    {"ConvTranspose2d": {"out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}},
    {"ConvTranspose2d": {"out_channels": 4, "kernel_size": 2, "stride": 3}},
    {"ConvTranspose2d": {"out_channels": 4, "kernel_size": 3, "dilation": 2}},
    {"MaxPool2d": 2},
    {"MaxPool2d": {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1}},
    {"MaxPool2d": {"kernel_size": 2, "dilation": 3, "stride": 1}},
    {"MaxPool2d": {"kernel_size": 3, "stride": 2, "ceil_mode": True}},
    {"AvgPool2d": {"kernel_size": 3, "stride": 1, "padding": 1}},
    {"LPPool2d": {"norm_type": 2, "kernel_size": 2}},
    {"AdaptiveAvgPool2d": [4, 3]},
    {"AdaptiveMaxPool2d": [None, 5]},
    {"ZeroPad2d": [1, 2, 0, 3]},
    {"ReflectionPad2d": [2, 1, 0, 1]},
    {"ReplicationPad2d": 1},
    {"CircularPad2d": [0, 1, 2, 0]},
    {"PixelUnshuffle": 2},
    {"Upsample": {"scale_factor": 2}},
    {"Upsample": {"scale_factor": 1.5, "mode": "nearest-exact"}},
    {"Upsample": {"scale_factor": 3, "mode": "bilinear"}},
    {"Upsample": {"size": [9, 7], "mode": "bicubic"}},
    {"UpsamplingBilinear2d": {"size": 11}},
    {"Permute": [0, 1, 3, 2]},
    {"GLU": 2},
    "LayerNorm2d",
    "BatchNorm2d",
    "ReLU",
]
GLOBAL: list[Any] = [
    {"GroupNorm": 1},
    "InstanceNorm2d",
    {"SqueezeExcitation": 2},
    {"Softmax": 2},
    {"LocalResponseNorm": 2},
    {"Linear": 4},
    {"Flatten": 2},
]
SAME: list[Any] = [
    {"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1}},
    {"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 4, "dilation": 4}},
    {"MaxPool2d": {"kernel_size": 5, "stride": 1, "padding": 2}},
    "ReLU",
]


class Summed(nn.Module):
    """A pooling layer that averages what the other one would compare."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        pair = lambda v: (v, v) if isinstance(v, int) else tuple(v)  # noqa: E731
        self.pool, self.kernel = pool, pair(pool.kernel_size)
        self.stride = pair(pool.stride or pool.kernel_size)
        self.padding, self.dilation = pair(getattr(pool, "padding", 0)), pair(getattr(pool, "dilation", 1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.pool(x.detach()).shape[2:]
        (py, px), extra = self.padding, 20
        ones = torch.ones(x.shape[1], 1, *self.kernel, dtype=x.dtype) / (self.kernel[0] * self.kernel[1])
        y = F.conv2d(F.pad(x, (px, px + extra, py, py + extra)), ones, None, self.stride, 0, self.dilation, x.shape[1])
        return y[:, :, :height, :width]


def linear(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d | nn.LPPool2d):
            setattr(module, name, Summed(child))
        elif isinstance(child, nn.AdaptiveMaxPool2d):
            setattr(module, name, nn.AdaptiveAvgPool2d(child.output_size))
        elif isinstance(child, nn.AdaptiveMaxPool1d):
            setattr(module, name, nn.AdaptiveAvgPool1d(child.output_size))
        elif isinstance(child, nn.ReLU | nn.Sigmoid):
            setattr(module, name, nn.Identity())
        else:
            linear(child)
    with torch.no_grad():
        for p in module.parameters(recurse=False):
            p.copy_(
                (torch.rand_like(p) + 0.5) / max(p[0].numel(), 1) / 1.5
            )  # a mean again: values stay where gradients live
    return module


def planned(layers: Any, size: tuple[int, int]) -> Plan | None:
    try:
        return plan_document({"probe": {"input": [4, *size], "layers": layers}}, "probe")
    except Exception:
        return None


def outputs(plan: Plan, x: Tensor) -> dict[str, Tensor]:
    """Every row's value."""
    net = linear(build_plan(plan)).double().eval()
    values: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: values.__setitem__(name, o))
    net(x)
    return {layer.name: values[layer.name] for layer in plan.layers if torch.is_tensor(values.get(layer.name))}


def reached(value: Tensor, x: Tensor) -> list[int]:
    """The rows and the columns of x on which value depends, as bits."""
    if not value.requires_grad:
        return [0, 0]
    weights = torch.rand_like(value) + 0.5  # the sum of what was normalized is constant
    (grad,) = torch.autograd.grad((value * weights).sum(), x, retain_graph=True, allow_unused=True)
    hit = torch.zeros(x.shape[2:]) if grad is None else grad[0].abs().sum(0) != 0
    return [sum(1 << i for i, on in enumerate(hit.any(1 - n).tolist()) if on) for n in (0, 1)]


def probe(plan: Plan, rng: random.Random, positions: int = 3) -> int:
    """Compare every row at some positions, and as a whole; how many comparisons were made."""
    found = sights(plan)
    x = (torch.rand(1, *plan.input, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    compared = 0
    for name, value in outputs(plan, x).items():
        sight = found[name]
        whole = [_any(side.seen) for side in sight.sides]
        if all(whole):
            assert reached(value, x) == whole, (name, plan.document())
            compared += 1
        if any(len(a) != 1 for a in sight.axes):
            continue
        for n, side in enumerate(sight.sides):  # a whole line of positions: some way leads to the image from it
            along = next((a for a, factors in enumerate(sight.axes) if factors[0][0] == n), None)
            for _ in range(positions if along else 0):
                place = rng.randrange(value.shape[1 + along])  # type: ignore[operator]
                seen = side.seen[place if len(side.seen) > 1 else 0]
                line = value.select(1 + along, place)  # type: ignore[operator]
                assert reached(line, x)[n] == seen, (name, along, place, plan.document())
                compared += 1
    return compared


def _any(masks: tuple[int, ...]) -> int:
    seen = 0
    for m in masks:
        seen |= m
    return seen


def books(plan: Plan) -> int:
    """Where the window of the books lies within the image, its ends are pixels that are really seen."""
    compared = 0
    for sight in sights(plan).values():
        for side, size in zip(sight.sides, plan.input[1:], strict=True):
            for o, seen in enumerate(side.seen if side.step else ()):
                span = side.at(o)
                if span and span[0] >= 0 and span[1] < size and seen:
                    compared += 1
                    assert ((seen & -seen).bit_length() - 1, seen.bit_length() - 1) == span, plan.document()
    return compared


def chain(rng: random.Random) -> list[Any]:
    layers = [rng.choice(MENU) for _ in range(rng.randint(1, 4))]
    return layers + ([rng.choice(GLOBAL)] if rng.random() < 0.3 else [])


def branching(rng: random.Random) -> dict[str, Any]:
    """Two or three branches that meet again, between chains."""
    if rng.random() < 0.5:
        ways: list[Any] = [[rng.choice(SAME) for _ in range(rng.randint(0, 3))] for _ in range(rng.randint(2, 3))]
    else:  # each way halves, by layers of its own
        halves = [MENU[1], MENU[4], MENU[12], [MENU[0], MENU[1]]]
        ways = [[rng.choice(halves), rng.choice(SAME)] for _ in range(2)]
    names = [f"way{n}" for n in range(len(ways))]
    parts: dict[str, Any] = {"before": [rng.choice(MENU)]}
    parts |= {name: {"from": "before", "layers": way} for name, way in zip(names, ways, strict=True)}
    first, join = parts["before"][0], rng.choice(["Add", "Concat", "Multiply"])
    if join == "Multiply" and next(iter(first), "") in ("ZeroPad2d", "ConvTranspose2d", "Conv2d"):
        join = "Add"  # zeros that stand for nothing would hide what they are multiplied with
    parts["join"] = {join: names}
    return parts | {"after": chain(rng)}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("make", [chain, branching], ids=["chains", "branches"])
@pytest.mark.parametrize("seed", range(2))
def test_fields_are_what_gradients_reach(make: Any, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    nets = compared = inside = 0
    while nets < 25:
        plan = planned(make(rng), (rng.randint(9, 17), rng.randint(9, 17)))
        if plan is None or max(plan.output) > 60:
            continue
        nets += 1
        compared += probe(plan, rng)
        inside += books(plan)
    assert compared > 150 and inside > 20


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_reads_what_its_gradient_reaches(name: str) -> None:
    """A layer that is missing in the table of what layers read would be taken for one that works value by value."""
    from cnn_cli.layers import REQUIRED

    known = {"out_channels": 4, "kernel_size": 2, "out_features": 3, "output_size": 3, "padding": 1, "block_size": 1}
    known |= {
        "squeeze_channels": 2,
        "num_groups": 1,
        "normalized_shape": 6,
        "groups": 2,
        "size": 2,
        "p": 0.5,
        "value": 0.5,
    }
    known |= {"threshold": 0.0, "norm_type": 2, "upscale_factor": 1, "downscale_factor": 2, "mode": "row"}
    known |= {"dims": [0, 1, 2, 3], "dim": 1, "unflattened_size": [2, 2]}
    settings = {k: known[k] for k, s in LAYERS[name].settings.items() if s.default is REQUIRED and not s.inferred}
    if name.startswith("Upsampl"):
        settings = {"scale_factor": 2}
    layers: list[Any] = [{name: settings} if settings else name]
    if name == "Fold":
        mixed = {"Conv1d": {"out_channels": 8, "kernel_size": 1}}  # else each value comes back to where it was
        layers = [{"Unfold": 2}, mixed, {"Fold": {"output_size": 6, "kernel_size": 2}}]
    plan = (
        planned(layers, (6, 6)) or planned([{"Flatten": 2}, *layers], (6, 6)) or planned(["Flatten", *layers], (6, 6))
    )
    assert plan is not None
    assert probe(plan, random.Random(0), positions=6) > 0 or name == "LogSoftmax"


def test_books() -> None:
    """Published: AlexNet 195 after the last pooling, VGG-16 212 (Araujo et al. 2019, Table 1); stride 32 for both."""
    plan = find("alexnet")
    found = field(sights(plan)["features.12"], plan.input[1:])
    assert found is not None and found.size == (195, 195) and found.stride == (32, 32)
    convolutions: list[Any] = []
    for width, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        convolutions += [{"Conv2d": {"out_channels": width, "kernel_size": 3, "padding": 1}}] * times + [
            {"MaxPool2d": 2}
        ]
    vgg = plan_document({"vgg": {"input": [3, 224, 224], "layers": convolutions}}, "test")
    found = field(sights(vgg)[vgg.layers[-1].name], vgg.input[1:])
    assert found is not None and found.size == (212, 212) and found.stride == (32, 32)


def test_rows_that_no_output_sees() -> None:
    plan = find("fashion-convnet")
    assert unused(plan, sights(plan)) == ([26, 27], [26, 27])
    pool = next(layer for layer in plan.layers if layer.name == "5")
    assert never_read(pool) == {1: [10], 2: [10]}
    fitting = find("fashion-convnet", input=(1, 30, 30))
    assert unused(fitting, sights(fitting)) == ([], [])


def test_a_join_of_unequal_strides() -> None:
    """5 pixels become 3 by a stride of 2, or by a window of 3: the two branches move unevenly over the image."""
    one = {"from": "input", "layers": [{"Conv2d": {"out_channels": 4, "kernel_size": 1, "stride": 2}}]}
    two = {"from": "input", "layers": [{"Conv2d": {"out_channels": 4, "kernel_size": 3}}]}
    plan = planned({"one": one, "two": two, "join": {"Add": ["one", "two"]}}, (5, 5))
    assert plan is not None
    sight: Sight = sights(plan)["join"]
    found = field(sight, plan.input[1:])
    assert found is not None and found.size == (3, 3) and found.stride == (None, None)
    assert [side.at(2) for side in sight.sides] == [(2, 4), (2, 4)]
    assert json.dumps(found.stride) == "[null, null]"


@pytest.mark.parametrize("order", [["conv", "scale"], ["scale", "conv"]], ids=str)
def test_a_parameter_sees_nothing_and_hides_nothing(order: list[str]) -> None:
    scale = {"Parameter": {"shape": [4, 1, 1], "init": "ones"}}
    plan = planned({"scale": scale, "conv": {"from": "input", **MENU[0]}, "join": {"Multiply": order}}, (8, 8))
    assert plan is not None
    found = sights(plan)
    assert field(found["scale"], (8, 8)) is None and found["join"].sides == found["conv"].sides
    assert probe(plan, random.Random(0)) > 0


SERIES: list[Any] = [
    {"Conv1d": {"out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1}},
    {"Conv1d": {"out_channels": 4, "kernel_size": 3, "dilation": 2}},
    {"AvgPool1d": 2},
    {"AdaptiveAvgPool1d": 5},
    {"ReflectionPad1d": 1},
    {"ConvTranspose1d": {"out_channels": 4, "kernel_size": 3, "stride": 2}},
]


@pytest.mark.parametrize("seed", range(5))
def test_series_see_what_gradients_reach(seed: int) -> None:
    """An image of one row, flattened to channels x length."""
    rng = random.Random(seed)
    plan = planned([{"Flatten": 2}, *(rng.choice(SERIES) for _ in range(3))], (1, 40))
    assert plan is not None
    assert probe(plan, rng, positions=6) > 15
    last = field(sights(plan)[plan.layers[1].name], plan.input[1:])
    assert last is not None and last.size[1] < 10 and not last.whole


def test_adaptive_pooling_sees_no_more_than_is_there() -> None:
    """7 values become 2: positions 0 to 3 and 3 to 6, of which each reaches beyond a border of the image."""
    conv = {"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1}}
    plan = planned([conv, {"AdaptiveAvgPool2d": 2}], (7, 7))
    assert plan is not None
    found = field(sights(plan)["1"], (7, 7))
    assert found is not None and found.size == (5, 5) and found.offset == (0, 0)
    assert probe(plan, random.Random(0), positions=6) > 0


def test_strides_that_alternate_are_averages() -> None:
    plan = planned([{"Upsample": {"scale_factor": 2}}, {"MaxPool2d": 2}], (8, 8))
    assert plan is not None
    up, pooled = (field(sights(plan)[name], (8, 8)) for name in ("0", "1"))
    assert up is not None and up.stride == (0.5, 0.5) and up.average
    assert pooled is not None and pooled.stride == (1, 1) and not pooled.average
    table = summarize(plan, setup(plan), columns=("rf", "rf-stride")).text()
    assert [line.split("  ")[-1].strip() for line in table.splitlines()[5:7]] == ["0.5x0.5 on average", "1x1"]


@pytest.mark.parametrize(("scale", "stride"), [(1, [1, 1]), (1.05, [None, None])])
def test_a_chain_of_resizings_has_no_endless_period(scale: float, stride: list[int | None]) -> None:
    """Grids of 9, 10, … 38 positions in turn would repeat together only after 10^14 of them."""
    chain = {"repeat": 30, "layers": [{"ZeroPad2d": [0, 1, 0, 1]}, {"Upsample": {"scale_factor": scale}}]}
    plan = plan_document({"chain": {"input": [1, 8, 8], "layers": [chain]}}, "test")
    last = field(sights(plan)[plan.layers[-1].name], plan.input[1:])
    assert last is not None
    assert (last.size, list(last.stride)) == ((1, 1), stride)


def test_a_gate_sees_the_whole_image_everywhere() -> None:
    gate = {"from": "conv", "layers": [{"AdaptiveAvgPool2d": 1}, {"Conv2d": {"out_channels": 4, "kernel_size": 1}}]}
    plan = planned({"conv": MENU[0], "gate": gate, "scale": {"Multiply": ["conv", "gate"]}}, (8, 8))
    assert plan is not None
    found = field(sights(plan)["scale"], (8, 8))
    assert found is not None and found.whole and found.size == (8, 8)
    assert probe(plan, random.Random(0)) > 0
