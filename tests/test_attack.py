"""Attacks: in the ball and [0, 1], in pixel units, equal to captum's and torchattacks', honest about gradients."""

import csv
import io
import json
from pathlib import Path

import pytest
import small_runs
import torch
from pictures import cnn
from PIL import Image
from small_networks import images, living, loaded, photograph, scored
from torch import Tensor, nn

from cnn_cli.errors import UsageError
from cnn_cli.interpret.adversarial import (
    AdversarialExamples,
    AttackRequest,
    difference,
    magnification,
    magnitude,
    parse_epsilons,
)
from cnn_cli.interpret.attacks import Attack, Attacked, attack_images, gradient, measure_robustness, perturb
from cnn_cli.interpret.inputs import Inputs
from cnn_cli.interpret.scores import Scores, class_index, scores_of
from cnn_cli.pictures.image import signed

ATTACKS = [Attack("fgsm"), Attack("fgsm", "l2"), Attack("pgd"), Attack("pgd", "l2"), Attack("pgd", random_start=False)]
ATTACKS += [Attack("pgd", "l2", target=3), Attack("fgsm", target=3), Attack("pgd", step_size=0.5)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits."""
    return small_runs.begin(tmp_path_factory.mktemp("trained"), epochs=4)


@pytest.fixture(scope="module")
def digits(trained: Path) -> tuple[Scores, Tensor, Tensor]:
    """Its scores with 200 of its test images and their labels."""
    from sklearn.datasets import load_digits

    from cnn_cli.checkpoints.checkpoint import load_network

    data = load_digits()
    pixels = torch.from_numpy(data.images[-200:]).unsqueeze(1).mul(255 / 16).round().div(255).float()
    return scores_of(load_network(str(trained))), pixels, torch.from_numpy(data.target[-200:]).long()


def run(scores: nn.Module, pixels: Tensor, labels: Tensor, epsilon: float, how: Attack, seed: int = 0) -> Tensor:
    return perturb(scores, pixels, labels, epsilon, how, torch.Generator().manual_seed(seed))


def accuracy(scores: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((scores(pixels).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("how", ATTACKS, ids=str)
def test_epsilon_0_changes_nothing_bit_for_bit(how: Attack, tmp_path: Path) -> None:
    pixels = images(4)
    pixels[0, 0, 0] = torch.tensor([0.0, -0.0, 1.0, 1 / 3, 1e-40, 0.1, 0.7, 0.2])
    changed = run(scored(tmp_path, "gray"), pixels, torch.tensor([1, 2, 3, 4]), 0, how)
    assert changed.view(torch.int32).equal(pixels.view(torch.int32))


@pytest.mark.parametrize("how", ATTACKS, ids=str)
@pytest.mark.parametrize("epsilon", [1e-6, 0.03, 0.4, 3.0])
def test_the_result_is_in_the_ball_and_between_0_and_1(how: Attack, epsilon: float, tmp_path: Path) -> None:
    pixels = images(5).mul(1.4).clamp(0, 1)  # with many values at the bounds
    changed = run(scored(tmp_path, "gray"), pixels, torch.arange(5), epsilon, how)
    change = (changed - pixels).double().flatten(1)
    lengths = change.abs().amax(1) if how.norm == "linf" else change.norm(dim=1)
    assert changed.min() >= 0 and changed.max() <= 1
    assert (lengths <= epsilon + 1e-6).all() and (lengths > 0).all()


def test_fgsm_is_the_sign_of_the_gradient(tmp_path: Path) -> None:
    scores, pixels, labels = scored(tmp_path, "gray"), images(6), torch.arange(6)
    x = pixels.clone().requires_grad_()
    nn.CrossEntropyLoss(reduction="sum")(scores.network(x), labels).backward()
    assert x.grad is not None
    expected = (pixels + 0.1 * x.grad.sign()).clamp(0, 1)
    assert run(scores, pixels, labels, 0.1, Attack("fgsm")).equal(expected)
    lengths = x.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = (pixels + 0.5 * x.grad / lengths).clamp(0, 1)
    torch.testing.assert_close(run(scores, pixels, labels, 0.5, Attack("fgsm", "l2")), expected)


def test_epsilon_is_in_pixels_whatever_the_normalization(tmp_path: Path) -> None:
    """A network that normalizes, and the same network with the normalization folded into its first layer."""
    scores = scored(tmp_path, "linear", mean=(0.3,), std=(0.05,))
    folded = scored(tmp_path / "plain", "linear").network
    linear = folded[1] if isinstance(folded, nn.Sequential) else None
    assert isinstance(linear, nn.Linear)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    plain = Scores(layers, scores.plan)
    with torch.no_grad():
        layers[1].weight.copy_(linear.weight / 0.05)
        layers[1].bias.copy_(linear.bias - linear.weight.sum(1) * 0.3 / 0.05)
    pixels, labels = images(5), torch.arange(5)
    for how in ATTACKS[:4]:
        torch.testing.assert_close(
            run(scores, pixels, labels, 0.05, how), run(plain, pixels, labels, 0.05, how), atol=1e-4, rtol=0
        )


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("target", [None, 3])
def test_fgsm_and_pgd_equal_captum(digits: tuple[Scores, Tensor, Tensor], epsilon: float, target: int | None) -> None:
    """With an explicit cross-entropy, as captum's default is for probabilities, and with its small gradients too."""
    robust = pytest.importorskip("captum.robust")
    scores, pixels, labels = digits
    goal, aimed = (labels, False) if target is None else (torch.full_like(labels, target), True)
    loss = nn.CrossEntropyLoss(reduction="none")
    fast, slow = (kind(scores, loss, lower_bound=0, upper_bound=1) for kind in (robust.FGSM, robust.PGD))
    fast.zero_thresh = slow.fgsm.zero_thresh = 0.0
    fgsm = fast.perturb(pixels, epsilon, goal, targeted=aimed)
    own = run(scores, pixels, labels, epsilon, Attack("fgsm", target=target))
    torch.testing.assert_close(own, fgsm.detach())
    pgd = slow.perturb(pixels, epsilon, epsilon / 4, 10, goal, targeted=aimed)
    how = Attack("pgd", steps=10, step_size=epsilon / 4, random_start=False, target=target)
    own = run(scores, pixels, labels, epsilon, how)
    torch.testing.assert_close(own, pgd, atol=1e-6, rtol=0)
    assert accuracy(scores, own, labels) == accuracy(scores, pgd, labels)
    assert aimed or accuracy(scores, own, labels) <= accuracy(scores, pixels, labels)  # a target may be the truth


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_fgsm_and_pgd_equal_torchattacks(digits: tuple[Scores, Tensor, Tensor], epsilon: float) -> None:
    attacks = pytest.importorskip("torchattacks")
    scores, pixels, labels = digits
    pairs = [
        (attacks.FGSM(scores, eps=epsilon), Attack("fgsm"), epsilon),
        (
            attacks.PGD(scores, eps=epsilon, alpha=epsilon / 4, steps=10, random_start=False),
            Attack("pgd", steps=10, step_size=epsilon / 4, random_start=False),
            epsilon,
        ),
        (
            attacks.PGDL2(scores, eps=5 * epsilon, alpha=epsilon, steps=10, random_start=False),
            Attack("pgd", "l2", steps=10, step_size=epsilon, random_start=False),
            5 * epsilon,
        ),
    ]
    for theirs, how, radius in pairs:
        other, own = theirs(pixels, labels).detach(), run(scores, pixels, labels, radius, how)
        torch.testing.assert_close(own, other, atol=1e-4, rtol=0)
        assert accuracy(scores, own, labels) == accuracy(scores, other, labels)


def test_pgd_does_more_than_fgsm_and_fgsm_more_than_chance(digits: tuple[Scores, Tensor, Tensor]) -> None:
    scores, pixels, labels = digits
    noise = (pixels + 0.1 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)).sign()).clamp(0, 1)
    fgsm, pgd = (accuracy(scores, run(scores, pixels, labels, 0.1, Attack(m)), labels) for m in ("fgsm", "pgd"))
    assert pgd <= fgsm < accuracy(scores, noise, labels) - 0.1


def test_a_target_is_reached(digits: tuple[Scores, Tensor, Tensor]) -> None:
    scores, pixels, labels = digits
    (found,) = attack_images(scores, pixels, labels.tolist(), [0.4], Attack(target=3))
    assert sum(found.succeeded(3)) > 0.8 * len(pixels)
    assert sum((found.before.argmax(1) == 3).tolist()) < 0.2 * len(pixels)


def test_the_random_start_is_that_of_the_seed(tmp_path: Path) -> None:
    scores, pixels, labels = scored(tmp_path, "gray"), images(3), torch.arange(3)
    for norm in ("linf", "l2"):
        one, two, other = (run(scores, pixels, labels, 0.1, Attack("pgd", norm, 1), s) for s in (4, 4, 5))
        assert one.equal(two) and not one.equal(other)


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    scores, pixels = scored(tmp_path, "color"), images(3, 3)
    scores.network.train()
    for p in list(scores.network.parameters())[:2]:
        p.requires_grad_(False)
    before = photograph(scores)
    attack_images(scores, pixels, [None, 1, 2], [0.0, 0.1], Attack())
    measure_robustness(scores, [(pixels, torch.arange(3))], [0.1], Attack())
    assert photograph(scores) == before
    assert not pixels.requires_grad


def test_robustness_counts_over_batches(digits: tuple[Scores, Tensor, Tensor]) -> None:
    scores, pixels, labels = digits
    whole = measure_robustness(scores, [(pixels, labels)], [0.0, 0.1], Attack("fgsm"))
    parts = measure_robustness(scores, zip(pixels.split(64), labels.split(64), strict=True), [0.0, 0.1], Attack("fgsm"))
    assert whole == parts
    good = accuracy(scores, pixels, labels)
    assert whole.n == 200 and whole.rows[0] == {"epsilon": 0.0, "accuracy": pytest.approx(good), "taken": None}
    adversarial = run(scores, pixels, labels, 0.1, Attack("fgsm"))
    with torch.no_grad():
        both = (scores(pixels).argmax(1) == labels) & (scores(adversarial).argmax(1) == labels)
    assert whole.rows[1]["accuracy"] == pytest.approx(float(both.float().mean()))


def test_an_image_that_was_wrong_is_never_counted_as_right(digits: tuple[Scores, Tensor, Tensor]) -> None:
    """An attack towards class 3 makes others be taken for it, also those that are said to be of it."""
    scores, pixels, _ = digits
    threes = torch.full((len(pixels),), 3)
    found = measure_robustness(scores, [(pixels, threes)], [0.4], Attack(target=3))
    assert found.rows[0]["accuracy"] == pytest.approx(accuracy(scores, pixels, threes))
    assert found.rows[0]["taken"] is None  # no image of another class


def test_what_was_wrong_already_is_not_fooled(digits: tuple[Scores, Tensor, Tensor]) -> None:
    scores, pixels, _ = digits
    said = scores(pixels[:2]).argmax(1).tolist()
    results = attack_images(scores, pixels[:2], [(said[0] + 1) % 10, said[1]], (0.0, 0.5), Attack())
    assert [r.succeeded(None) for r in results] == [[False, False], [False, True]]


def test_memory_returns(tmp_path: Path) -> None:
    scores, pixels = scored(tmp_path, "gray"), images(3)
    attack_images(scores, pixels, [None] * 3, [0.1], Attack())
    before = living()
    attack_images(scores, pixels, [None] * 3, [0.1], Attack("pgd", "l2"))
    assert living() == before


def test_images_without_a_gradient_are_counted(tmp_path: Path) -> None:
    """A dead network cannot be attacked by gradients, which is no robustness."""
    scores = scored(tmp_path, "gray")
    with torch.no_grad():
        scores.network.get_parameter("0.bias").fill_(-1e3)
    pixels = images(3)
    assert not gradient(scores, pixels, torch.arange(3)).any()
    assert measure_robustness(scores, [(pixels, torch.arange(3))], [0.1], Attack()).zero_gradient == 3
    assert measure_robustness(scored(tmp_path, "tanh"), [(pixels, torch.arange(3))], [0.1], Attack()).zero_gradient == 0


@pytest.mark.parametrize("name", ["one", "sigmoid", "logs", "shares"])
def test_every_kind_of_output_can_be_attacked(name: str, tmp_path: Path) -> None:
    """Scores before a final softmax or sigmoid: also where it is saturated there is a gradient."""
    scores = scored(tmp_path, name)
    pixels = images(4, 3 if name in ("one", "sigmoid") else 1)
    last = [p for p in scores.network.parameters() if p.ndim == 2][-1]
    with torch.no_grad():
        last.mul_(1e4)
    (found,) = attack_images(scores, pixels, [None] * 4, [0.5], Attack())
    assert found.before.softmax(1).amax(1).min() == 1  # saturated
    assert gradient(scores, pixels, 1 - found.labels.clamp(0, 1)).flatten(1).any(1).all()


def test_one_output_becomes_two_scores(tmp_path: Path) -> None:
    one, sigmoid, pixels = scored(tmp_path, "one"), scored(tmp_path, "sigmoid"), images(4, 3)
    with torch.no_grad():
        shares = one(pixels).softmax(1)
        torch.testing.assert_close(shares[:, 1], one.network(pixels).sigmoid().squeeze(1))
        torch.testing.assert_close(sigmoid(pixels).softmax(1)[:, 1], sigmoid.network(pixels).squeeze(1))
    assert len(sigmoid.network.get_submodule("4")._forward_hooks) == 0


def test_a_difference_is_magnified_to_its_largest_value() -> None:
    change = torch.tensor([[[0.0, 0.01], [-0.02, 0.005]]])
    assert (difference(change) == signed(change[0].numpy(), 0.02)).all()
    assert magnification(change) == ("×50, ±0.02", "L2 norm 0.0229")
    assert magnification(change / 25)[0] == "×1,250, ±0.0008"
    assert magnification(0 * change) == ("no difference", "")
    assert magnitude(change)[..., 0].tolist() == [[0, 128], [255, 64]]
    colors = difference(change.expand(3, -1, -1))
    assert colors[1, 0].tolist() == [1, 1, 1] and colors[0, 0].tolist() == [128, 128, 128]


def test_class_names_come_before_numbers() -> None:
    assert class_index("1", ("3", "1", "2")) == 1
    assert class_index("0", ("3", "1", "2")) == 0
    with pytest.raises(UsageError) as error:
        class_index("Sneeker", ("Sandal", "Sneaker"))
    assert str(error.value) == "no class 'Sneeker'. Did you mean 'Sneaker'? Classes: Sandal, Sneaker; or 0 to 1"


def test_the_usual_radii() -> None:
    assert AttackRequest(epsilons=[0.2, 0.1, 0.2]).radii(1, curve=False) == [0.1, 0.2]
    assert AttackRequest().radii(3, curve=False) == [8 / 255]
    assert AttackRequest(norm="l2").radii(3, curve=True) == [0, 0.0625, 0.125, 0.25, 0.5, 1.0]
    assert AttackRequest(norm="l2", epsilons=[3]).radii(3, curve=False) == [3]  # a length, not a change of one pixel
    with pytest.raises(UsageError) as error:
        AttackRequest(epsilons=[3]).radii(1, curve=False)
    assert str(error.value) == "--epsilon 3: pixels are in [0, 1], so linf takes at most 1; 3/255 is 0.012"


def test_epsilons_are_numbers_fractions_and_lists() -> None:
    assert parse_epsilons(["0.05,0.1", "8/255"]) == [0.05, 0.1, 8 / 255]
    for text in ("x", "1/0", "1/2/3", "", "0.1;0.2"):
        with pytest.raises(UsageError) as error:
            parse_epsilons([text])
        assert str(error.value) == f"--epsilon takes numbers such as 0.03 or 8/255,16/255, not {text!r}"


def test_with_a_target_the_table_says_whether_it_is_reached() -> None:
    logits = torch.eye(3)
    inputs = Inputs(torch.zeros(3, 1, 2, 2), ("a", "b", "c"), (1, 1, 2))  # a is misclassified before
    attacked = Attacked(0.1, inputs.pixels, logits, logits.roll(-1, 1), torch.tensor([1, 1, 2]))
    classes = ("cat", "dog", "owl")
    for target, title, effects in (
        (None, "fooled", ["misclassified before", True, True]),
        (2, "target reached", [True, False, "predicted before"]),
    ):
        table = AdversarialExamples(inputs, classes, Attack(target=target), (attacked,)).table()
        assert [column.title for column in table.columns if column.key == "success"] == [title]
        assert [row["success"] for row in table.rows] == effects


def test_a_picture_and_a_document_of_images(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    assert (
        cnn("attack", str(trained), "--index", "0", "--index", "7", "--epsilon", "0.3", "--json", "-o", str(path)) == 0
    )
    out = json.loads(capsys.readouterr().out)
    with Image.open(path) as picture:
        assert out["picture"] == str(path) and max(picture.size) <= 4000
    assert out["attack"] == {
        "method": "pgd",
        "norm": "linf",
        "steps": 10,
        "step_size": None,
        "random_start": True,
        "target": None,
        "seed": 0,
    }
    assert [shot["image"] for shot in out["images"]] == ["digits test 0", "digits test 7"]
    for shot in out["images"]:
        assert shot["largest_change"] <= 0.3 + 1e-6
        assert shot["success"] == (shot["after"]["class"] != shot["true"])
    assert cnn("attack", str(trained), "--index", "0", "-o", str(path)) == 2
    assert capsys.readouterr().err == f"error: {path} exists already; --force overwrites it, -o writes elsewhere\n"


def test_a_split_gives_a_curve_and_a_table(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curve.svg"
    options = ["--split", "test", "--method", "fgsm", "--limit", "100", "--epsilon", "0.2"]
    assert cnn("attack", str(trained), *options, "--target", "3", "--csv", "-o", str(path)) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["epsilon"] for row in rows] == ["0.0", "0.2"]
    assert float(rows[0]["accuracy"]) > 0.6 and float(rows[0]["taken"]) < 0.2 < float(rows[1]["taken"])
    assert path.read_text().startswith("<?xml")
    assert cnn("attack", str(trained), *options, "--json", "--force", "-o", str(path)) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["n"], out["split"], out["zero_gradient"]) == (100, "test", 0)
    assert out["results"][0]["accuracy"] > out["results"][1]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name images, choose some of the data set with --index 0, or attack a whole split: --split test"),
        ("--index 0 --limit 5", "--limit is for a whole split; leave it out, or leave out the images"),
        ("--split test --limit 0", "--limit must be at least 1, not 0"),
        ("--index 0 --method cw", "--method must be pgd or fgsm, not 'cw'"),
        ("--index 0 --norm l1", "--norm must be linf or l2, not 'l1'"),
        ("--index 0 --steps 0", "--steps must be at least 1, not 0"),
        ("--index 0 --step-size -1", "--step-size must be above 0, not -1.0"),
        ("--index 0 --epsilon -0.1", "--epsilon -0.1: must be 0 or more, for pixels in [0, 1]; try 0.03"),
        ("--index 0 --epsilon nan", "--epsilon nan: must be 0 or more, for pixels in [0, 1]; try 0.03"),
        (
            "--index 0 --method fgsm --steps 3",
            "FGSM is a single step of length epsilon; --steps and --step-size are for --method pgd",
        ),
        (
            "--index 0 --target b1",
            "no class 'b1'. Classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; or 0 to 9",
        ),
        ("--index 9999", "--index 9999: the test split of digits has images 0 to 359"),
        ("--split test -o c.gif", "c.gif: the picture is written as .png or .svg or .pdf; choose such a name with -o"),
    ],
)
def test_errors_say_what_to_do(
    arguments: str,
    message: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cnn("attack", str(trained), *arguments.split()) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cnn_cli.checkpoints.checkpoint import restore, save_weights

    found = loaded(tmp_path, "gray")
    network = restore(found)
    with torch.no_grad():
        network.get_parameter("2.weight").fill_(float("nan"))
    assert found.metadata and found.weights
    save_weights(found.weights, network, found.metadata)
    assert cnn("attack", str(found.run), "--index", "0") == 1
    assert capsys.readouterr().err == (
        "error: 2.weight: 216 of 216 values are not finite numbers, so the outputs are meaningless; "
        "the training diverged: train again with a smaller --lr\n"
    )
