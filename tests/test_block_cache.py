"""Blocks whose layers are copied from an earlier use must be what they would be if they were expanded anew."""

from typing import Any

import pytest
import yaml

from cnn_cli.language import block_cache
from cnn_cli.language.plan import Child, Group, Layer, Plan
from cnn_cli.language.registry import draft_document, find
from cnn_cli.layers import SizeOf

BLOCKS = """
blocks:
  Norm: {layers: [BatchNorm2d, ReLU]}
  Conv:
    args: {width: , kernel: 3, act: ReLU, shortcut: []}
    layers:
      conv: {Conv2d: {out_channels: $width, kernel_size: $kernel, padding: same}}
      act: $act
      side: {from: input, layers: $shortcut}
      join: {Concat: [act, side]}
  Gate:
    layers:
      pool: {AdaptiveAvgPool2d: 1}
      up: {Upsample: {size: input}}
      head: {Conv2d: {out_channels: $in_channels, kernel_size: 1}}
      tail: {Again: head}
      out: {Multiply: [tail, input]}
  Width:
    layers:
      a: {Conv2d: {out_channels: $in_channels, kernel_size: 1}}
      fixed: {Conv2d: {out_channels: 3, kernel_size: 1}}
      b: {Conv: {width: 3, act: {Conv: {width: $a.out_channels, kernel: 1}}}}
  Pair: {layers: {a: {from: input.1, layers: {Gate: }}, b: {from: input.0, layers: {Gate: }}, c: {Add: [a, b]}}}
"""
NETWORKS = {
    "repeats": [{"Conv": 4}, {"Conv": {"width": 4}, "repeat": 3}, {"Gate": None}, {"Gate": None}],
    "values inside": {"a": {"Gate": None}, "b": {"Gate": None}, "c": {"Add": ["a.up", "b.up"]}},
    "several": {
        "x": {"Gate": None},
        "same": {"from": ["x", "x"], "layers": {"Pair": None}},
        "y": {"from": ["same", "input"], "layers": {"Pair": None}},
        "z": {"from": ["y", "x"], "layers": {"Pair": None}},
    },
    "pieces": {"split": {"Chunk": 3}, "a": {"from": "split.0", "layers": {"Gate": None}}, "b": {"Gate": None}},
    "arguments that hold layers": {
        "a": {"Conv": {"width": 3, "shortcut": {"Conv": {"width": 3, "act": "Tanh"}}}},
        "b": {"Conv": {"width": 3, "shortcut": {"Conv": {"width": 3, "act": "ReLU"}}}},
        "c": {"Conv": {"width": 3, "act": {"Conv": {"width": "$a.out_channels", "kernel": 1}}}},
        "d": {"Conv": 5},
        "e": {"Conv": {"width": 3, "act": {"Conv": {"width": "$d.out_channels", "kernel": 1}}}},
    },
    "sizes of siblings": [{"Width": None}, {"Conv": 5}, {"Width": None}],
    "warnings": {"a": {"Norm": None}, "b": {"Linear": 8}, "c": {"Permute": [0, 3, 2, 1]}, "d": {"Linear": 8}},
    "identity": [{"Conv": 3}, {"Conv": {"width": 3, "act": []}}, {"Conv": {"width": 3, "act": []}}],
}


def plain(part: Any) -> Any:
    """A part with everything in it, the rows that give sizes too."""
    if isinstance(part, Layer):
        names = [value.name for value in part.settings.values() if isinstance(value, SizeOf)]
        return part, names, part.params
    if isinstance(part, Child):
        return part.key, part.takes, plain(part.part)
    return (part.name, part.named, part.output, [plain(child) for child in part.children])


def everything(plan: Plan) -> Any:
    assert isinstance(plan.root, Group)
    layers = [plain(layer) for layer in plan.layers]
    return layers, plain(plan.root), plan.problems, plan.shapes, plan.ends, plan.blocks, plan.parts


def both_ways(monkeypatch: pytest.MonkeyPatch, make: Any) -> tuple[Plan, Plan]:
    """The plan with an empty cache, and without any."""
    block_cache.KEPT.clear()
    cached = make()
    monkeypatch.setattr(block_cache, "_key", lambda *_: None)
    return cached, make()


@pytest.mark.parametrize("network", NETWORKS)
def test_copies_equal_what_is_expanded_anew(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    document = {"n": {"input": [3, 8, 8], "layers": NETWORKS[network]}, **yaml.safe_load(BLOCKS)}
    cached, anew = both_ways(monkeypatch, lambda: draft_document(document, "test"))
    assert everything(cached) == everything(anew)
    assert cached.layers and not cached.errors


@pytest.mark.parametrize(
    "network", ["resnet152", "densenet-bc-100", "inception_v3", "convnext_tiny", "deeplabv3_resnet50"]
)
def test_shipped_networks(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    cached, anew = both_ways(monkeypatch, lambda: find(network))
    assert everything(cached) == everything(anew)


def test_a_resnet_is_mostly_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of its fifty Bottlenecks differ, and in the first of each stage there is a Project."""
    expanded, kept = [], block_cache._kept
    block_cache.KEPT.clear()
    monkeypatch.setattr(block_cache, "_kept", lambda *a: (expanded.append(a[1]), kept(*a))[1])
    find("resnet152")
    assert len(expanded) <= 20


def test_a_block_whose_mistake_is_reported_at_its_first_use_is_not_kept() -> None:
    """A mistake is reported once; a later use notes none, but has one, and may be the first in another expansion."""
    block = {"layers": [{"Conv2d": {"out_channels": 32, "kernel_size": 1}}, {"GroupNorm": {"num_groups": 32}}]}
    layers = {"a": {"Tower": None}, "b": {"from": "input", "Tower": None}, "c": {"Add": ["a", "b"]}}
    spec = {"input": [3, 1, 1], "layers": layers, "blocks": {"Tower": block}}
    block_cache.KEPT.clear()
    plans = [draft_document({"n": spec | {"input": [3, size, size]}}, "test") for size in (1, 1, 2)]
    assert [len(plan.errors) for plan in plans] == [1, 1, 0]
    assert "needs more than one value in each group" in plans[0].errors[0].message
    assert "the smallest that fits is 3x2x2" in plans[0].errors[0].message
    plan = find("fcos-resnet18", args={"width": 32}, input=(3, 160, 160))
    assert not plan.problems
