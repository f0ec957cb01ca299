"""Sizes of siblings and parts of values, against the same in plain torch, at other input sizes too."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from cnn_cli.analysis.explanation import explain
from cnn_cli.analysis.input_sizes import trials
from cnn_cli.analysis.rows import layer_rows
from cnn_cli.analysis.summary import setup, summarize
from cnn_cli.analysis.verification import verify
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document
from cnn_cli.network.builder import build_plan

DOWN: dict[str, Any] = {"Conv2d": {"out_channels": 6, "kernel_size": 3, "stride": 2}}


def planned(layers: Any, input: tuple[int, ...] = (6, 11, 14), **args: Any) -> Plan:
    return plan_document({"n": {"input": list(input), "args": args, "layers": layers}}, "n")


def upsampled(mode: str, **more: Any) -> Any:
    return lambda x, d: F.interpolate(d, x.shape[2:], mode=mode, **more)


CASES: list[tuple[str, dict[str, Any], Any]] = [  # children behind `down`, and the same of the input and of `down`
    ("nearest", {"out": {"Upsample": {"size": "input"}}}, upsampled("nearest")),
    ("bilinear", {"out": {"Upsample": {"size": "input", "mode": "bilinear"}}}, upsampled("bilinear")),
    (
        "corners",
        {"out": {"Upsample": {"size": "$of", "mode": "bilinear", "align_corners": True}}},
        upsampled("bilinear", align_corners=True),
    ),
    (
        "crop",
        {"out": {"CenterCrop": "down", "from": "input"}},
        lambda x, d: torchvision.transforms.functional.center_crop(x, d.shape[2:]),
    ),
    (
        "split",
        {"s": {"Split": [4, 2]}, "a": {"from": "s.1", "ReLU": None}, "out": {"Concat": ["a", "s.0"]}},
        lambda x, d: torch.cat((d[:, 4:].relu(), d[:, :4]), 1),
    ),
    (
        "split evenly but for the last",
        {"s": {"Split": 4}, "out": {"Concat": ["s.1", "s.0"]}},
        lambda x, d: torch.cat((d[:, 4:], d[:, :4]), 1),
    ),
    ("slice", {"out": {"Slice": {"start": 1, "end": -2, "step": 2}}}, lambda x, d: d[:, 1:-2:2]),
    (
        "option A",
        {"out": [*({"Slice": {"dim": dim, "step": 2}} for dim in (2, -1)), {"ZeroPad2d": [0, 0, 0, 0, 2, 3]}]},
        lambda x, d: F.pad(d[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3)),
    ),
    (
        "negative",
        {"out": {"ConstantPad2d": {"padding": [-1, 0, 1, -2], "value": 1}}},
        lambda x, d: F.pad(d, (-1, 0, 1, -2), value=1),
    ),
    (
        "inside of a group",
        {"out": {"from": ["down", "input"], "layers": {"up": {"from": "input.0", "Upsample": {"size": "input.1"}}}}},
        upsampled("nearest"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("children", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_parts_and_sizes_are_those_of_pytorch(children: dict[str, Any], expected: Any) -> None:
    plan = planned({"down": DOWN, **children}, of="input")
    assert verify(plan).disagreements == ()
    network = build_plan(plan)
    for size in ((11, 14), (8, 9), (15, 22)):  # the sizes of siblings are read at run time
        x, y = (torch.linspace(-1, 1, 12 * size[0] * size[1]).view(2, 6, *size).clone().requires_grad_() for _ in "xy")
        ours, theirs = network(x), expected(y, network.down(y))
        assert torch.equal(ours, theirs)
        for output in (ours, theirs):
            (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        assert x.grad is not None and y.grad is not None and torch.allclose(x.grad, y.grad, atol=1e-6)
        fits, _ = trials(plan)((6, *size))
        assert fits


def test_they_are_shown_and_explained() -> None:
    skip = {"from": "input", "CenterCrop": "up"}
    body = {"down": DOWN, "s": {"Split": [4, 2]}, "up": {"from": "s.1", "Upsample": {"size": "input"}}, "skip": skip}
    plan = planned(body | {"out": {"Slice": {"dim": 2, "start": 1, "end": -2, "step": 3}}})
    lines = [" ".join(line.split()) for line in summarize(plan, setup(plan)).text().splitlines()]
    assert "s Split 4, 2 4x5x6 0 0" in lines and "up Upsample size of input ← s.1 2x11x14 0 0" in lines
    texts = {e.layer.name: " ".join([e.what, *e.parts.get("size", ())]) for e in explain(plan)}
    assert "the output size is that of input" in texts["up"] and "cropped to the size of up" in texts["skip"]
    assert "channels 4 + 2 = 6" in texts["s"]
    assert (
        "Positions 1 to 8 along axis 2, counted from 0, 3 apart" in texts["out"] and "⌈(9 − 1)/3⌉ = 3" in texts["out"]
    )


def test_pieces_of_a_split_have_the_receptive_field_of_what_is_split() -> None:
    body = {"down": DOWN, "s": {"Split": [4, 2]}, "a": {"from": "s.1", "Conv2d": {"out_channels": 1, "kernel_size": 3}}}
    rows = {row.name: row for row in layer_rows(planned(body))}
    assert rows["s"].field is not None and (rows["s"].field.size, rows["s"].field.stride) == ((3, 3), (2, 2))
    assert rows["a"].field is not None and (rows["a"].field.size, rows["a"].field.stride) == ((7, 7), (2, 2))


def test_sizes_in_arithmetic() -> None:
    body: dict[str, Any] = {
        "down": [DOWN, "ReLU"],
        "a": {"Conv2d": {"out_channels": "${round(0.75 * down.out_channels)}", "kernel_size": 1}},
        "b": {"Conv2d": {"out_channels": "$down.0.out_channels", "kernel_size": 1}},
        "c": {"Upsample": {"size": ["${2 * in_height + 1}", "${min(in_width, input.out_width) * 2}"]}},
        "d": {"Conv2d": {"out_channels": "${max(8, (width * 0.75 + 4) // 8 * 8)}", "kernel_size": 1}},
        "e": {"Conv2d": {"out_channels": "${round(width / 8)}", "kernel_size": 1}},
    }
    plan = planned(body, width=30)
    shapes = [(4, 5, 6), (6, 5, 6), (6, 11, 12), (24, 11, 12), (4, 11, 12)]
    assert [layer.output_shape for layer in plan.layers[2:]] == shapes


def test_the_names_of_siblings_end_with_their_mapping() -> None:
    block = {"args": {"width": ""}, "layers": {"a": {"Conv2d": {"out_channels": "$width", "kernel_size": 1}}}}
    spec = {"input": [6, 8, 8], "blocks": {"B": block}}
    spec["layers"] = {"x": {"Chunk": 2}, "y": {"from": "x.0", "B": "$x.0.out_channels"}}  # its text is written here
    assert plan_document({"n": spec}, "n").output == (3, 8, 8)


def test_a_network_with_sizes_of_siblings_runs_on_both_passes() -> None:
    """Odd sizes of segmentation: the scores have the size of the image, whatever it is."""
    network = build_plan(planned({"down": DOWN, "up": {"Upsample": {"size": "input", "mode": "bilinear"}}}))
    for size in ((13, 17), (37, 22)):
        output: Tensor = network(torch.rand(1, 6, *size))
        assert output.shape[2:] == size
