"""Saliency maps and attacks of networks that have scores for each pixel.

The small network has windows of one pixel, so that what happens in a pixel depends on that pixel alone.
"""

from pathlib import Path

import pytest
import torch
from small_networks import images, loaded, scored
from torch.nn import functional as F

from cnn_cli.errors import UsageError
from cnn_cli.interpret.activations import choose_layer
from cnn_cli.interpret.attacks import Attack, attack_images, gradient, measure_robustness
from cnn_cli.interpret.inputs import Inputs
from cnn_cli.interpret.pictured import Target
from cnn_cli.interpret.saliency import Query, attribute
from cnn_cli.interpret.saliency_maps import SaliencyRequest, show_saliency
from cnn_cli.interpret.scores import main_class, parse_region, region_of


def test_the_score_of_a_class_is_its_mean_over_a_region(tmp_path: Path) -> None:
    scores, x = scored(tmp_path, "dense"), images(2)
    logits = scores.network(x)
    torch.testing.assert_close(scores.logits(x), logits)
    torch.testing.assert_close(scores(x), logits.mean((2, 3)))
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:5, 1:3] = True
    with scores.over(region):
        torch.testing.assert_close(scores(x), logits[:, :, 2:5, 1:3].mean((2, 3)))
    assert scores.region is None


def test_each_image_is_explained_over_its_own_region(tmp_path: Path) -> None:
    pytest.importorskip("captum")
    scores, x = scored(tmp_path, "dense"), images(2)
    classes = torch.tensor([0, 2])
    regions = torch.zeros(2, 8, 8, dtype=torch.bool)
    regions[0, :3, :3], regions[1, 5:, 2:] = True, True
    for method in ("gradient", "smoothgrad", "integrated-gradients", "occlusion"):
        maps = attribute(scores, method, Query(x, classes, regions=regions))
        assert maps.shape == (2, 8, 8) and all(maps[i][regions[i]].any() for i in (0, 1))
        if method != "occlusion":  # whose squares reach over the edge of the region
            assert not maps[~regions].any()


def test_the_class_explained_is_the_most_frequent_one_beside_the_background() -> None:
    logits = torch.zeros(3, 2, 4)
    logits[0, :, :2], logits[2, :, 2] = 1, 1
    logits[1, 0, 3] = logits[2, 1, 3] = 1  # pixels: 4 of class 0, 1 of class 1, 3 of class 2
    assert main_class(logits, ("background", "b", "c")) == 2
    assert main_class(logits, ("a", "b", "c")) == 0
    assert region_of(logits, 2, None).tolist() == [[False, False, True, False], [False, False, True, True]]
    assert region_of(logits, 1, (1, 0, 3, 1)).tolist() == [[False, True, True, False], [False] * 4]
    assert region_of(torch.stack([logits[0], logits[0] - 1]), 1, None).all()  # predicted nowhere: all pixels


@pytest.mark.parametrize("text", ["1,2,3", "0,0,9,8", "3,0,3,8", "a,0,3,8", "-1,0,3,8"])
def test_a_region_that_is_none_is_refused(text: str) -> None:
    assert parse_region("1, 2, 8, 8", (8, 8)) == (1, 2, 8, 8)
    with pytest.raises(UsageError, match="--region must be x0,y0,x1,y1 in pixels"):
        parse_region(text, (8, 8))


def test_a_page_of_a_dense_network_and_a_region_without_one(tmp_path: Path) -> None:
    pytest.importorskip("captum")
    network = loaded(tmp_path, "dense")
    inputs = Inputs(images(2), ("one", "two"), (None, None))
    request = SaliencyRequest(("gradient", "grad-cam"), region="0,0,4,4", sanity=True)
    shown = show_saliency(network, inputs, request, Target(tmp_path / "s.png"))
    assert [shot["region"] for shot in shown.document()["images"]] == [0.25, 0.25]
    assert shown.result.layer == "1"  # the last feature map before the scores
    assert shown.path.is_file() and shown.text().startswith("one: ")
    with pytest.raises(UsageError, match="--region is for networks with scores of each pixel"):
        show_saliency(loaded(tmp_path, "gray"), inputs, request, Target(tmp_path / "t.png"))


def test_grad_cam_of_a_classifier_keeps_its_last_map(tmp_path: Path) -> None:
    network = loaded(tmp_path, "gray")
    assert choose_layer(network, scored(tmp_path, "gray").network) == "4"


def test_an_attack_raises_the_mean_loss_of_the_valid_pixels(tmp_path: Path) -> None:
    scores, x = scored(tmp_path, "dense"), images(2)
    masks = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    masks[:, :2] = 255
    own = x.clone().requires_grad_()
    F.cross_entropy(scores.network(own), masks.long(), ignore_index=255, reduction="sum").div(64).backward()
    slope = gradient(scores, x, masks)
    torch.testing.assert_close(slope, own.grad)
    assert not slope[:, :, :2].any() and slope[:, :, 2:].any()


def test_accuracy_under_attack_counts_valid_pixels(tmp_path: Path) -> None:
    scores, x = scored(tmp_path, "dense"), images(3)
    masks = scores.logits(x).argmax(1).to(torch.uint8)
    masks[0, 0, :4] = 255
    masks[1, :2] = (masks[1, :2] + 1) % 3  # 16 of 188 pixels are wrong
    measured = measure_robustness(scores, [(x, masks)], [0.0, 0.5], Attack("fgsm"))
    assert measured.n == 3 and measured.rows[0]["accuracy"] == pytest.approx(172 / 188)
    (attacked,) = attack_images(scores, x, [None] * 3, [0.5], Attack("fgsm"))
    expected = (scores.logits(attacked.pixels).argmax(1) != scores.logits(x).argmax(1)).double().mean((1, 2))
    assert attacked.dense and attacked.changed(None) == pytest.approx(expected.tolist())
