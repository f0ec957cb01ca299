"""Two networks aligned: what was done to the one to get the other is what is found."""

import json
from typing import Any

import pytest
from test_summary import cnn

from cnn_cli.analysis.comparison import (
    ADDED,
    CHANGED,
    REMOVED,
    SAME,
    Pair,
    align,
    document,
    signed,
    table,
    text,
    totals_table,
    verdict,
)
from cnn_cli.analysis.rows import rows
from cnn_cli.analysis.summary import setup
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document
from cnn_cli.tables import render

BASE: list[Any] = [
    {"Conv2d": {"out_channels": 8, "kernel_size": 3}},
    "ReLU",
    {"MaxPool2d": 2},
    {"Conv2d": {"out_channels": 16, "kernel_size": 3}},
    "ReLU",
    "Flatten",
    {"Linear": 10},
]


def network(layers: Any) -> Plan:
    return plan_document({"net": {"input": [1, 28, 28], "layers": layers}}, "test")


def pairs(a: Any, b: Any) -> list[Pair]:
    return align(rows(network(a)), rows(network(b)))


def marks(found: list[Pair]) -> str:
    return "".join(pair.mark for pair in found)


def test_a_network_is_the_same_as_itself() -> None:
    found = pairs(BASE, BASE)
    assert marks(found) == SAME * 7 and verdict(found) == text(found) == "the same 7 layers"


@pytest.mark.parametrize("place", range(1, 7))
def test_a_layer_that_was_put_in_is_found_though_all_names_move(place: int) -> None:
    longer = [*BASE[:place], "BatchNorm2d" if place < 6 else "Dropout", *BASE[place:]]
    assert marks(pairs(BASE, longer)) == SAME * place + ADDED + SAME * (7 - place)
    assert marks(pairs(longer, BASE)) == SAME * place + REMOVED + SAME * (7 - place)


def test_a_changed_layer_and_what_follows_from_it() -> None:
    wider = [{"Conv2d": {"out_channels": 12, "kernel_size": 5}}, *BASE[1:]]
    found = pairs(BASE, wider)
    assert found[0].changes() == ["out_channels 8 → 12", "kernel_size 3x3 → 5x5", "output 8x26x26 → 12x24x24"]
    assert found[3].changes() == ["in_channels 8 → 12", "output 16x11x11 → 16x10x10"]
    assert marks(found) == CHANGED * 7 and verdict(found) == "7 changed; 0 the same"


def test_names_that_somebody_gave_lead() -> None:
    a = {"first": BASE[0], "act": "ReLU", "second": BASE[3], "last": "ReLU"}
    b = {"first": BASE[0], "act": "ReLU", "more": BASE[3], "extra": "ReLU", "second": BASE[3], "last": "ReLU"}
    found = pairs(a, b)
    assert [(p.mark, p.after and p.after.name) for p in found if p.mark == ADDED] == [(ADDED, "more"), (ADDED, "extra")]


def test_resnet34_is_resnet18_with_more_blocks() -> None:
    found = align(rows(find("resnet18")), rows(find("resnet34")))
    assert set(marks(found)) == {SAME, ADDED}
    added = {p.after.name.rsplit(".", 1)[0] for p in found if p.mark == ADDED and p.after}
    assert added == {
        f"layer{n}.{m}" for n, blocks in ((1, [2]), (2, [2, 3]), (3, [2, 3, 4, 5]), (4, [2])) for m in blocks
    }


@pytest.mark.parametrize(
    ("a", "b"), [("vgg11", "vgg16_bn"), ("resnet18", "densenet121"), ("fashion-convnet", "lenet-5")]
)
def test_differences_add_up(a: str, b: str) -> None:
    first, second = find(a), find(b)
    found = align(rows(first), rows(second))
    assert [p.before.name for p in found if p.before] == [layer.name for layer in first.layers]
    assert [p.after.name for p in found if p.after] == [layer.name for layer in second.layers]
    result = document(first, second, setup(first, None, None, None), found)
    for key in ("params", "macs"):
        assert sum(layer[key] for layer in result["layers"]) == result["difference"][key]
        assert result["difference"][key] == result["b"]["total"][key] - result["a"]["total"][key]
    total = table(found).total
    assert total is not None and (total["params"], total["macs"]) == (
        second.params - first.params,
        second.macs - first.macs,
    )


def test_texts() -> None:
    assert [signed(n) for n in (1234, 0, -5)] == ["+1,234", "0", "−5"]
    a, b = find("vgg11"), find("vgg13")
    lines = render(totals_table(a, b, setup(a, None, None, None)), width=100)
    assert "A vgg11" in lines and "+184,512" in lines and "×1.49" in lines
    assert "18 layers the same" in render(table(align(rows(find("resnet18")), rows(find("resnet34")))), width=100)


def test_command_line() -> None:
    result = cnn("diff", "vgg11", "vgg13", "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["difference"]["params"] == 184_512
    assert "4 added; 30 the same" in cnn("diff", "vgg11", "vgg13").stdout
    assert cnn("diff", "vgg11", "vgg13", "--csv").stdout.startswith("mark,a,b,layer,params,macs\n")
    assert cnn("diff", "vgg11", "vgg99").returncode == 2
