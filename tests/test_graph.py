"""Drawings: what is drawn is the network, nothing overlaps, and strangers' names stay text."""

import io
import re
from collections.abc import Sequence
from itertools import accumulate, combinations, groupby, pairwise, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from test_receptive_field import planned
from test_summary import cnn

from cnn_cli.analysis.rows import layer_rows
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.graph import READABLE, draw, readable_depth, render
from cnn_cli.graph.boxes import Arrow, Box, collect_boxes
from cnn_cli.graph.columns import RANK_GAP, arrange_in_columns
from cnn_cli.graph.curves import Arrangement, Size
from cnn_cli.graph.figure import COLORS, arrange, box_size, render_figure
from cnn_cli.graph.layout import lay_out
from cnn_cli.graph.markup import to_dot, to_mermaid
from cnn_cli.graph.u_shape import arrange_as_u, find_encoder
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find

NETWORKS = [("fashion-convnet", None), ("resnet18", None), ("resnet50", 2), ("googlenet", 2), ("googlenet", 1)]
NETWORKS += [("densenet121", 2), ("shufflenet_v2_x1_0", 3), ("efficientnet_b0", 2), ("inception_v3", None)]
WIDTHS = [80.0, 120.0, 60.0, 200.0, 80.0, 40.0, 90.0]
CROSSED = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 5), (4, 6), (5, 6), (0, 6)]


def arranged(name: str, depth: int | None) -> tuple[Arrangement, list[Size]]:
    plan = find(name)
    found, arrows = collect_boxes(plan, depth if depth is not None else readable_depth(plan))
    sizes = [box_size(box) for box in found]
    return arrange(sizes, arrows), sizes


@pytest.mark.parametrize(("name", "depth"), NETWORKS, ids=str)
def test_every_layer_is_in_a_box_and_every_arrow_has_its_shape(name: str, depth: int | None) -> None:
    plan = find(name)
    found, arrows = collect_boxes(plan, depth)
    rowed = layer_rows(plan, depth=depth)
    inside = sum(1 + len(box.after) for box in found) - sum(box.kind == "input" for box in found)
    assert inside == len(rowed)
    shapes = {"x".join(map(str, row.output_shape)) for row in rowed} | {"x".join(map(str, plan.input))}
    assert {arrow.shape for arrow in arrows} <= shapes
    assert all(0 <= arrow.start < arrow.end < len(found) for arrow in arrows)
    joins = [n for n, box in enumerate(found) if box.title.startswith(("Add", "Concat", "Multiply"))]
    assert all(sum(arrow.end == n for arrow in arrows) >= 2 for n in joins)


def test_shortcuts_are_arrows() -> None:
    found, arrows = collect_boxes(find("resnet18"), None)
    add = next(n for n, box in enumerate(found) if box.title == "Add")
    assert sorted(found[arrow.start].name for arrow in arrows if arrow.end == add) == ["layer1.0.conv2", "maxpool"]
    assert found[add].after == ("ReLU",)


def test_what_follows_a_layer_stands_in_its_box() -> None:
    found, _ = collect_boxes(find("resnet18"), 1)
    assert found[1] == Box(
        "convolution", "conv1", "Conv2d 64, 7x7", ("stride 2, padding 3, no bias",), ("BatchNorm2d", "ReLU")
    )
    block = next(box for box in found if box.name == "layer2")
    assert (block.kind, block.title) == ("block", "layer2")
    assert block.texts == ["5 Conv2d, 5 BatchNorm2d,", "4 ReLU, 2 Add", "526 k parameters"]


def test_an_output_that_two_take_is_no_part_of_another_box() -> None:
    plan = planned(
        {"a": {"Conv2d": {"out_channels": 4, "kernel_size": 1}}, "b": "ReLU", "c": {"Add": ["a", "b"]}}, (4, 4)
    )
    assert plan is not None
    assert [box.title.split()[0] for box in collect_boxes(plan, None)[0]] == [
        "input",
        "Conv2d",
        "ReLU",
        "Add",
        "output",
    ]


def test_places_of_a_rank_keep_apart_and_arrows_lead_down() -> None:
    found = lay_out(WIDTHS, CROSSED)
    for rank in found.ranks:
        for left, right in pairwise(rank):
            a, b = found.places[left], found.places[right]
            assert b.x - a.x >= (a.width + b.width) / 2 - 1e-6
    for (start, end), way in zip(CROSSED, found.routes, strict=True):
        assert [way[0], way[-1]] == [start, end]
        ranks = [found.places[n].rank for n in way]
        assert ranks == list(range(ranks[0], ranks[-1] + 1))


@pytest.mark.parametrize(("name", "depth"), NETWORKS, ids=str)
def test_boxes_do_not_overlap_and_all_is_on_the_page(name: str, depth: int | None) -> None:
    page, sizes = arranged(name, depth)
    rects = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(page.centers, sizes, strict=True)]
    for a, b in combinations(rects, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    corners = [corner for left, top, right, bottom in rects for corner in ((left, top), (right, bottom))]
    points = [point for pieces in page.arrows for piece in pieces for point in piece]
    assert all(-1e-6 <= x <= page.width + 28 and -1e-6 <= y <= page.height + 28 for x, y in corners + points)
    for pieces in page.arrows:
        assert all(a[3] == b[0] for a, b in pairwise(pieces)), "an unbroken line"


@pytest.mark.parametrize(("name", "depth"), [("fashion-convnet", None), ("resnet50", 2), ("googlenet", 1)], ids=str)
def test_drawings_are_of_a_shape_that_fits_a_slide(name: str, depth: int | None) -> None:
    page, _ = arranged(name, depth)
    assert 0.8 < page.width / page.height < 2.4


def test_columns_are_as_equally_long_as_can_be() -> None:
    """Against all ways to cut a chain into as many columns."""
    heights = [60.0, 200.0, 40.0, 40.0, 150.0, 60.0, 90.0, 40.0, 300.0, 50.0, 50.0, 70.0, 40.0, 110.0]
    arrows = [Arrow(n, n + 1, "1x1x1") for n in range(len(heights) - 1)]
    page = arrange_in_columns([(120.0, height) for height in heights], arrows)
    columns = [len(list(group)) for _, group in groupby(x for x, _ in page.centers)]

    def unevenness(counts: Sequence[int]) -> float:
        ends = [0, *accumulate(counts)]
        return sum(sum(height + RANK_GAP for height in heights[a:b]) ** 2 for a, b in pairwise(ends))

    ways = [c for c in product(range(1, 14), repeat=len(columns)) if sum(c) == len(heights)]
    assert len(columns) > 1 and unevenness(columns) == pytest.approx(min(map(unevenness, ways)))


def test_svg_is_xml_with_all_texts() -> None:
    plan = find("resnet18")
    root = ElementTree.fromstring(render(plan, ".svg"))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"resnet18", "input", "output", "conv1", "Conv2d 64, 7x7", "BatchNorm2d · ReLU", "512x7x7"} <= texts
    groups = [e.get("id", "") for e in root.iter("{http://www.w3.org/2000/svg}g")]
    assert sum(name.startswith("arrow-") for name in groups) == len(collect_boxes(plan, None)[1])


def test_pdf_is_one_page_whose_texts_are_letters() -> None:
    content = render(find("resnet18"), ".pdf", 1)
    assert content.startswith(b"%PDF-") and content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") == 1
    assert b"/Subtype /Type3" not in content and b"DejaVuSans" in content
    assert content == render(find("resnet18"), ".pdf", 1), "the same network, the same file"


def test_png_is_a_picture() -> None:
    image = Image.open(io.BytesIO(render(find("fashion-convnet"), ".png")))
    assert image.format == "PNG" and 600 < image.width < 2500
    colors = {color for _, color in image.convert("RGB").getcolors(10**6) or []}
    for kind in ("convolution", "pooling", "linear"):
        fill = COLORS[kind][0]
        assert tuple(int(fill[n : n + 2], 16) for n in (1, 3, 5)) in colors


def test_a_figure_too_large_for_a_picture_says_so() -> None:
    found = [Box("linear", str(n), "Linear 1") for n in range(300)]
    arrows = [Arrow(n, m, "1") for n in range(300) for m in (n + 1, n + 2) if m < 300]  # nowhere can a column end
    with pytest.raises(CnnError, match=r"too large for a PNG; fold it with --depth, or write an \.svg or \.pdf"):
        render_figure("net", "caption", found, arrows, "png")


HOSTILE = 'x"]; evil <script>&\\\n\x1b[0m'


def test_names_are_escaped_where_they_are_written() -> None:
    found, arrows = [Box("input", HOSTILE, HOSTILE), Box("linear", "b", HOSTILE, (HOSTILE,))], [Arrow(0, 1, HOSTILE)]
    root = ElementTree.fromstring(render_figure(HOSTILE, HOSTILE, found, arrows, "svg"))
    assert not [e for e in root.iter() if e.tag.endswith("script")]
    text = to_dot(HOSTILE, found, arrows)
    outside = re.sub(r'"(\\.|[^"\\])*"', '""', text)
    assert "evil" not in outside and "\x1b" not in text and text.count("\n") == 7
    text = to_mermaid(HOSTILE, found, arrows)
    assert "<script>" not in text and "\x1b" not in text and 'x"' not in text.replace('\\"', "").replace("x#34;", "")


def test_mermaid_and_dot_have_every_box_and_arrow() -> None:
    plan = find("googlenet")
    found, arrows = collect_boxes(plan, 2)
    text = to_mermaid("googlenet", found, arrows)
    assert len(re.findall(r"^  n\d+ -->\|", text, re.M)) == len(arrows)
    assert len(re.findall(r":::\w+$", text, re.M)) == len(found)
    text = to_dot("googlenet", found, arrows)
    assert text.count(" -> ") == len(arrows) and text.count("fillcolor=") == len(found) and text.endswith("}\n")


def unet(depth: int) -> Plan:
    """Halves `depth` times and doubles as often; what was there before each halving is joined again."""
    conv = {"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1}}
    up = {"ConvTranspose2d": {"out_channels": 4, "kernel_size": 2, "stride": 2}}
    layers: dict[str, Any] = {}
    for n in range(depth):
        layers |= {f"down{n}": conv, f"pool{n}": {"MaxPool2d": 2}}
    layers["bottom"] = conv
    for n in reversed(range(depth)):
        layers |= {f"up{n}": up, f"cat{n}": {"Concat": [f"down{n}", f"up{n}"]}, f"dec{n}": conv}
    plan = planned(layers, (64, 64))
    assert plan is not None
    return plan


@pytest.mark.parametrize("depth", [2, 4])
def test_an_encoder_decoder_is_drawn_as_a_u(depth: int) -> None:
    found, arrows = collect_boxes(unet(depth), None)
    encoder = find_encoder(len(found), arrows)
    assert encoder and not encoder.beside and not encoder.through
    skips = encoder.skips
    assert [found[a.start].name for a in skips] == [f"down{n}" for n in range(depth)]
    page = arrange_as_u([(100.0, 50.0 + n % 3) for n in range(len(found))], arrows, encoder)
    x, y = zip(*page.centers, strict=True)
    assert all(abs(y[a.start] - y[a.end]) < 1e-6 and x[a.start] < x[a.end] for a in skips), "straight across"
    left = [n for n in range(len(found)) if x[n] == x[0]]
    right = [n for n in range(len(found)) if x[n] != x[0]]
    assert left == list(range(len(left))) and len(set(x)) == 2
    assert all(y[b] - y[a] >= 50 for a, b in pairwise(left)) and all(y[a] - y[b] >= 50 for a, b in pairwise(right))
    assert len(page.arrows) == len(page.labels) == len(arrows)


@pytest.mark.parametrize("name", ["fashion-convnet", "resnet18", "googlenet", "densenet121"])
def test_other_networks_are_not(name: str) -> None:
    found, arrows = collect_boxes(find(name), 2)
    assert find_encoder(len(found), arrows) is None


def test_residual_blocks_and_convolutions_on_a_skip_leave_a_u() -> None:
    found, arrows = collect_boxes(find("unet"), None)
    encoder = find_encoder(len(found), arrows)
    assert encoder
    assert [found[n].name for n in encoder.through.values()] == ["fine1"]
    assert [found[a.start].name for a in encoder.skips] == ["down1.0", "down2.1.add"]
    assert all(found[a.end].kind == "join" for a in encoder.beside)
    page = arrange_as_u([(100.0, 50.0)] * len(found), arrows, encoder)
    y = [place[1] for place in page.centers]
    arrow, over = next(iter(encoder.through.items()))
    assert all(y[a.start] == y[a.end] for a in encoder.skips) and y[over] == y[arrow.start]


@pytest.mark.parametrize("name", ["resnet152", "densenet201", "googlenet"])
def test_large_networks_are_folded_until_they_can_be_read(name: str) -> None:
    plan = find(name)
    assert len(collect_boxes(plan, readable_depth(plan))[0]) <= READABLE
    assert readable_depth(find("fashion-convnet")) is None


def test_files(tmp_path: Path) -> None:
    plan: Plan = find("fashion-convnet")
    for kind in (".svg", ".pdf", ".png", ".mmd", ".dot", ".SVG"):
        path = tmp_path / f"net{kind}"
        if path.exists():  # where names differ in case only
            continue
        assert draw(plan, path) == path and path.stat().st_size > 300
        with pytest.raises(UsageError, match="exists already; --force overwrites it"):
            draw(plan, path)
        draw(plan, path, force=True)
    with pytest.raises(UsageError, match=r"unknown format; the name must end in \.svg, \.pdf, \.png, \.mmd or \.dot"):
        draw(plan, tmp_path / "net.jpg")
    with pytest.raises(CnnError, match="cannot write"):
        draw(plan, tmp_path / "none" / "net.svg")


def test_command_line(tmp_path: Path) -> None:
    path = tmp_path / "net.svg"
    done = cnn("summary", "resnet18", "--depth", "1", "--graph", str(path))
    assert done.returncode == 0 and done.stderr.strip() == f"wrote {path}" and b"layer4" in path.read_bytes()
    again = cnn("summary", "resnet18", "--graph", str(path))
    assert again.returncode == 2 and "--force" in again.stderr
