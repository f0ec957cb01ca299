"""Augmentation: the same as torchvision's, image by image; a function of (seed, epoch, index) and of nothing else."""

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from cnn_cli.data.augmentation import Augmentation, augment, draw_augmentations, mix, tta_views
from cnn_cli.data.batches import epoch_order

KINDS = [
    Augmentation(flip="random"),
    Augmentation(flip="alternating"),
    Augmentation(shift=3),
    Augmentation("random", 4, padding_mode="reflect"),
    Augmentation(crop=0.4),
    Augmentation(cutout=5, fill=(0.1, 0.5, 0.9)),
    Augmentation("random", 2, 0.4, 6),
]


def noise(n: int, c: int = 3, h: int = 12, w: int = 17) -> Tensor:
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def augmented(images: Tensor, how: Augmentation, seed: int = 0, epoch: int = 1) -> Tensor:
    return augment(images, draw_augmentations(len(images), seed, epoch, how, tuple(images.shape[-2:])), how)  # type: ignore[arg-type]


def slowly(image: Tensor, row: list[int], how: Augmentation) -> Tensor:
    """One image (C, H, W), by torchvision and loops."""
    H, W = image.shape[-2:]
    flip, down, right, top, left, height, width, y, x = row
    if how.crop < 1:
        image = TF.resized_crop(image, top, left, height, width, [H, W], antialias=False)
    image = TF.crop(TF.pad(image, [how.shift], padding_mode=how.padding_mode), down, right, H, W)
    image = TF.hflip(image) if flip else image.clone()
    for i in range(y - how.cutout // 2, y - how.cutout // 2 + how.cutout):
        for j in range(x - how.cutout // 2, x - how.cutout // 2 + how.cutout):
            if 0 <= i < H and 0 <= j < W:
                image[:, i, j] = torch.tensor([round(255 * v) for v in how.fill] or 0, dtype=torch.uint8)
    return image


@pytest.fixture(autouse=True)
def global_random_numbers_are_left_alone():  # type: ignore[no-untyped-def]
    before = torch.get_rng_state(), random.getstate()
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


# --- Images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", KINDS, ids=str)
def test_each_image_is_as_torchvision_makes_it(how: Augmentation) -> None:
    images = noise(60)
    table = draw_augmentations(60, 7, 2, how, (12, 17))
    result = augment(images, table, how)
    assert result.dtype == torch.uint8
    expected = torch.stack([slowly(image, row, how) for image, row in zip(images, table.tolist(), strict=True)])
    difference = (result.int() - expected.int()).abs()
    assert difference.max() <= (1 if how.crop < 1 else 0)
    assert (result != images).flatten(1).any(1).sum() > 20
    assert torch.equal(images, noise(60))  # what was given is left as it was


@pytest.mark.parametrize("how", KINDS, ids=str)
def test_neither_batch_nor_order_nor_threads_matter(how: Augmentation) -> None:
    images = noise(300)
    table = draw_augmentations(300, 3, 1, how, (12, 17))
    together, threads = augment(images, table, how), torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(augment(images, table, how), together)
    finally:
        torch.set_num_threads(threads)
    order = epoch_order(300, 0, 1)
    for size in (1, 7, 128):
        parts = [augment(images[index], table[index], how) for index in order.split(size)]
        assert torch.equal(torch.cat(parts), together[order])


@pytest.mark.parametrize("how", KINDS, ids=str)
def test_no_step_needs_a_value(how: Augmentation) -> None:
    """Tensors without values stand for a device that must not be waited for."""
    table = draw_augmentations(8, 0, 1, how, (12, 17))
    result = augment(noise(8).to("meta"), table.to("meta"), how)
    assert (result.shape, result.dtype) == ((8, 3, 12, 17), torch.uint8)


def test_nothing_is_done_unless_asked() -> None:
    nothing = Augmentation()
    assert torch.equal(augmented(noise(5), nothing), noise(5))
    assert not nothing and not Augmentation(fill=(0.5,))
    assert all(KINDS)


def test_cutout_in_the_mean_is_nothing_to_a_network() -> None:
    mean = (0.2, 0.4, 0.6)
    result = augmented(torch.full((9, 3, 8, 8), 255, dtype=torch.uint8), Augmentation(cutout=4, fill=mean))
    blank = (result != 255).all(1)
    assert blank.flatten(1).sum(1).min() >= 4  # in a corner, a quarter of it is left
    assert (result.float().div(255).permute(0, 2, 3, 1)[blank] - torch.tensor(mean)).abs().max() < 0.5 / 255 + 1e-6


# --- Draws ----------------------------------------------------------------------------------------------------------


def test_draws_are_of_the_seed_the_epoch_and_the_index_alone() -> None:
    how = KINDS[-1]
    table = draw_augmentations(100, 1, 12, how, (28, 28))
    assert torch.equal(table, draw_augmentations(100, 1, 12, how, (28, 28)))
    assert torch.equal(table[:10], draw_augmentations(10, 1, 12, how, (28, 28)))
    for other in ((1, 13), (2, 12), (12, 1), (11, 2)):
        assert (draw_augmentations(100, *other, how, (28, 28)) != table).any(0).all()
    alone = draw_augmentations(100, 1, 12, Augmentation(shift=2), (28, 28))
    assert torch.equal(alone[:, 1:3], table[:, 1:3])


def test_shifts_flips_and_cutouts_are_uniform() -> None:
    n = 20_000
    table = draw_augmentations(n, 0, 1, Augmentation("random", 2, cutout=3), (6, 5)).long()
    cells = {"flip": table[:, 0], "shift": table[:, 1] * 5 + table[:, 2], "cutout": table[:, 7] * 5 + table[:, 8]}
    for name, kinds in (("flip", 2), ("shift", 25), ("cutout", 30)):
        counts = cells[name].bincount(minlength=kinds).double()
        chi = ((counts - n / kinds) ** 2 / (n / kinds)).sum().item()
        assert len(counts) == kinds
        assert chi < kinds + 4 * (2 * kinds) ** 0.5, name
    both = (table[:, 0] * 5 + table[:, 1]).bincount()
    assert (both - n / 10).abs().max() < 4 * (n / 10) ** 0.5


def test_alternating_shows_each_image_as_it_is_and_mirrored_by_turns() -> None:
    how = Augmentation(flip="alternating")
    flips = [draw_augmentations(1000, 3, epoch, how, (8, 8))[:, 0] for epoch in range(1, 6)]
    assert all(torch.equal(a, 1 - b) for a, b in pairwise(flips))
    assert 430 < flips[0].sum() < 570
    other_seed = draw_augmentations(1000, 4, 1, how, (8, 8))[:, 0]
    assert 400 < (other_seed == flips[0]).sum() < 600
    by_chance = [draw_augmentations(1000, 3, epoch, Augmentation(flip="random"), (8, 8))[:, 0] for epoch in (1, 2)]
    assert 400 < (by_chance[0] == by_chance[1]).sum() < 600


@pytest.mark.parametrize(("least", "size"), [(0.08, (28, 28)), (0.8, (28, 28)), (0.35, (20, 40))])
def test_boxes_are_distributed_as_torchvisions(least: float, size: tuple[int, int]) -> None:
    n, image = 1500, torch.zeros(1, *size)
    box = draw_augmentations(4 * n, 0, 1, Augmentation(crop=least), size)[:, 3:7].double()  # top, left, height, width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        get = transforms.RandomResizedCrop.get_params
        expected = torch.tensor([get(image, [least, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]).double()
    for part in (lambda b: b, lambda b: b**2, lambda b: b[:, 2:].prod(1, keepdim=True)):
        ours, theirs = part(box), part(expected)
        error = (ours.var(0) / len(ours) + theirs.var(0) / n).sqrt()
        assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    top, left, height, width = box.unbind(1)
    assert (top + height).max() == size[0] and (left + width).max() == size[1] and box.min() == 0


def test_a_box_that_cannot_fit_is_the_largest_of_such_proportions() -> None:
    wide, tall = (draw_augmentations(200, 0, 1, Augmentation(crop=0.9), size)[:, 3:7] for size in ((20, 40), (40, 20)))
    assert {tuple(box) for box in wide.tolist()} == {(0, left, 20, 27) for left in range(14)}
    assert {tuple(box) for box in tall.tolist()} == {(top, 0, 27, 20) for top in range(14)}


# --- Mixing and views -----------------------------------------------------------------------------------------------


def mixed_labels(y: Tensor, others: Tensor, share: float) -> Tensor:
    return share * one_hot(y, 10).float() + (1 - share) * one_hot(others, 10).float()


def test_mixup_is_torchvisions() -> None:
    x, y = noise(6).float() / 255, torch.arange(6)
    mixed, others, share = mix(x, y, 0.3, 0, 0, 1, 4)
    params = {"labels": y, "batch_size": 6, "lam": share}
    torch.testing.assert_close(mixed, v2.MixUp(num_classes=10).transform(x, params))
    torch.testing.assert_close(mixed_labels(y, others, share), v2.MixUp(num_classes=10).transform(y, params))
    assert torch.equal(x, noise(6).float() / 255)
    assert not torch.equal(mixed, x)


def test_cutmix_is_torchvisions() -> None:
    x, y = noise(6).float() / 255, torch.arange(6)
    for step in range(20):
        mixed, others, share = mix(x, y, 0, 1.0, 0, 1, step)
        changed = (mixed != x).any(0).any(0)
        rows, columns = changed.any(1).nonzero()[:, 0].tolist(), changed.any(0).nonzero()[:, 0].tolist()
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if rows else (0, 0, 0, 0)
        params = {"labels": y, "batch_size": 6, "box": box, "lam_adjusted": share}
        assert torch.equal(mixed, v2.CutMix(num_classes=10).transform(x, params))
        torch.testing.assert_close(mixed_labels(y, others, share), v2.CutMix(num_classes=10).transform(y, params))
        assert share == pytest.approx(1 - (box[2] - box[0]) * (box[3] - box[1]) / (12 * 17))
    assert torch.equal(x, noise(6).float() / 255)


def test_shares_are_distributed_as_torchvisions() -> None:
    n, x, y = 1500, torch.zeros(2, 1, 12, 17), torch.zeros(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = {
            "mixup": [v2.MixUp(alpha=0.4, num_classes=2).make_params([x])["lam"] for _ in range(n)],
            "cutmix": [v2.CutMix(alpha=0.7, num_classes=2).make_params([x])["lam_adjusted"] for _ in range(n)],
        }
    for name, alphas in (("mixup", (0.4, 0.0)), ("cutmix", (0.0, 0.7))):
        ours = torch.tensor([mix(x, y, *alphas, seed=0, epoch=1, step=s)[2] for s in range(n)])
        expected = torch.tensor(theirs[name])
        for a, b in ((ours, expected), (ours**2, expected**2)):
            assert (a.mean() - b.mean()).abs() < 4 * ((a.var() + b.var()) / n).sqrt()


def test_mixing_is_of_the_seed_the_epoch_and_the_step_alone() -> None:
    x, y = noise(4).float(), torch.arange(4)
    share = mix(x, y, 1.0, 0, 1, 12, 3)[2]
    assert share == mix(x[:2], y[:2], 1.0, 0, 1, 12, 3)[2]
    assert len({share, *(mix(x, y, 1.0, 0, *key)[2] for key in ((11, 2, 3), (1, 13, 3), (1, 12, 4), (3, 12, 1)))}) == 5


def test_with_both_a_coin_decides_and_with_neither_nothing_is_done() -> None:
    x, y = noise(2).float() / 255, torch.arange(2)
    # Of two images that swap a box, each pixel's sum stays and so does its product; in adding, only the sum does.
    swapped = [
        torch.equal(mixed.prod(0), x.prod(0)) for mixed in (mix(x, y, 1.0, 1.0, 0, 1, step)[0] for step in range(200))
    ]
    assert 70 < sum(swapped) < 130
    same, labels, share = mix(x, y, 0, 0, 0, 1, 1)
    assert same is x and labels is y and share == 1


def test_views_are_those_of_airbench() -> None:
    x = noise(3).float()
    padded = TF.pad(x, [1], padding_mode="reflect")
    expected = [(x, 0.25), *((TF.crop(padded, i, i, 12, 17), 0.125) for i in (0, 2))]
    expected += [(TF.hflip(view), weight) for view, weight in expected]
    result = tta_views(x, "flip-shift")
    assert sum(view.weight for view in result) == 1
    assert len(result) == len(expected) == 6
    for view, weight in expected:
        assert sum(torch.equal(view, v.pixels) and weight == v.weight for v in result) == 1
    assert [view.weight for view in tta_views(x, "flip")] == [0.5, 0.5]
    assert torch.equal(tta_views(x, "flip")[1].pixels, TF.hflip(x))
    [only] = tta_views(x, "none")
    assert only.pixels is x and only.weight == 1


def test_maps_of_views_are_put_back_in_their_place() -> None:
    x = noise(3).float()
    for view in tta_views(x, "flip-shift"):
        assert torch.equal(view.restore(view.pixels)[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])
        assert view.restore(x[:, :, 0, 0]) is not None and torch.equal(view.restore(x[:, :, 0, 0]), x[:, :, 0, 0])
