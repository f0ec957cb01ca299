"""What fast training on CIFAR-10 needs, initialization above all, held against short code of its own."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import small_runs as small
import torch
from torch import nn

from cnn_cli.checkpoints import checkpoint
from cnn_cli.errors import UsageError
from cnn_cli.training.ema import look_ahead
from cnn_cli.training.initialization import initialize
from cnn_cli.training.muon import muon_step
from cnn_cli.training.optimizer import learning_rate

pytestmark = pytest.mark.usefixtures("quick")


def images(n: int = 40) -> torch.Tensor:
    """Neighboring pixels are alike, as in photographs."""
    noise = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool2d(noise, 3, 1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 24, 2), nn.GELU(), nn.Conv2d(24, 30, 3, padding=1))


def initialized(init: dict[str, str], *, net: nn.Module | None = None) -> Any:
    net = net or network()
    initialize(net, init, lambda: images().split(15))
    return net


def test_whitened_patches_are_uncorrelated_with_equal_variance() -> None:
    layer = initialized({"0": "whitening"})[0].double()
    out = layer(images().double()).transpose(0, 1).flatten(1)
    moments = out[:12] @ out[:12].T / out.shape[1]
    variances = moments.detach().diagonal()
    assert (moments - variances.diag()).abs().max() < 1e-3
    assert variances[0] == pytest.approx(1, abs=1e-2) and torch.equal(variances, variances.sort(descending=True).values)
    assert torch.equal(layer.weight[12:], -layer.weight[:12]) and not layer.bias.any()


def test_whitening_is_that_of_airbench() -> None:
    x = images().double()
    patches = x.unfold(2, 2, 1).unfold(3, 2, 1).transpose(1, 3).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    expected = (vectors / torch.sqrt(values + 5e-4)).T.flip(0).reshape(12, 3, 2, 2)
    found = initialized({"0": "whitening"})[0].weight[:12].double()
    signs = (found * expected).flatten(1).sum(1).sign().view(-1, 1, 1, 1)  # those of eigenvectors are arbitrary
    assert torch.allclose(found, signs * expected, rtol=1e-4, atol=1e-4)


def test_a_deeper_layer_is_whitened_by_what_arrives_there() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 2, stride=2, padding=1, bias=False))
    initialized({"2": "whitening"}, net=net)
    out = nn.functional.conv2d(net.eval()[:2](images()), net[2].weight, stride=2).transpose(0, 1).flatten(1)
    moments = out[:2] @ out[:2].T / out.shape[1]
    assert torch.allclose(moments, torch.eye(2), atol=5e-2)


def test_dirac_passes_the_inputs_on() -> None:
    net, plain = initialized({"2": "dirac"}), network()
    x = torch.randn(2, 24, 8, 8)
    assert torch.allclose(net[2](x)[:, :24], x, atol=1e-6)
    assert torch.equal(net[2].weight[24:], plain[2].weight[24:]) and not net[2].bias.any()
    assert torch.equal(net[0].weight, plain[0].weight) and torch.equal(net[0].bias, plain[0].bias)


@pytest.mark.parametrize(
    ("layers", "init", "error"),
    [
        ([nn.Conv2d(3, 4, 1)], {"1": "dirac"}, "init: '1' matches none of the remaining convolutions \\(0\\)"),
        ([nn.Linear(3, 4)], {"0": "dirac"}, "init: '0' matches none of the remaining convolutions \\(none\\)"),
        (
            [nn.Conv2d(3, 4, 1)],
            {"*": "dirac", "0": "whitening"},
            "init: '0' matches none of the remaining convolutions",
        ),
        ([nn.Conv2d(3, 6, 1, groups=3)], {"0": "dirac"}, "dirac needs a convolution without groups, but layer 0 has 3"),
        ([nn.Conv2d(3, 6, 1, groups=3)], {"0": "whitening"}, "whitening needs a Conv2d without groups, but layer 0 is"),
        ([nn.Conv1d(3, 6, 1)], {"0": "whitening"}, "whitening needs a Conv2d without groups, but layer 0 is not one"),
        ([nn.Conv2d(3, 8, 1)], {"0": "whitening"}, "an even number of at most 6 out_channels"),
        ([nn.Conv2d(3, 5, 2)], {"0": "whitening"}, "but layer 0 has 5"),
    ],
)
def test_what_cannot_be_initialized_is_named(layers: list[nn.Module], init: dict[str, str], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        initialized(init, net=nn.Sequential(*layers))


def test_slow_weights_replace_the_weights_every_five_steps() -> None:
    net = network()
    slow, expected = copy.deepcopy(net), [p.clone() for p in net.parameters()]
    for step in range(1, 21):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1)
        before = [p.clone() for p in net.parameters()]
        look_ahead(slow, net, 0.95, step, 20)
        if step % 5 == 0:
            decay = 0.95**5 * (step / 20) ** 3
            expected = [decay * e + (1 - decay) * b for e, b in zip(expected, before, strict=True)]
            assert small.same(list(net.parameters()), list(slow.parameters()))
        else:
            assert small.same(list(net.parameters()), before)
        assert all(torch.allclose(p, e, atol=1e-6) for p, e in zip(slow.parameters(), expected, strict=True))


def test_muon_with_its_rate_in_a_tensor_is_the_same() -> None:
    """As a CUDA graph takes it."""
    draw = torch.Generator().manual_seed(0)
    kernel, gradient = (torch.randn(8, 4, 3, 3, generator=draw) for _ in range(2))
    numbers, tensors = (kernel.clone(), torch.zeros_like(kernel)), (kernel.clone(), torch.zeros_like(kernel))
    for _ in range(3):
        muon_step(numbers[0], gradient, numbers[1], 0.1, 0.9, True, 0.01)
        muon_step(tensors[0], gradient, tensors[1], torch.tensor(0.1), 0.9, True, 0.01)
    assert torch.allclose(numbers[0], tensors[0], rtol=1e-6, atol=1e-7)


def test_a_group_is_frozen_after_its_epochs(tmp_path: Path) -> None:
    """The constant rate makes the first epochs of a longer run those of a shorter one."""
    groups = [{"parameters": "0.bias", "epochs": 1}, {"parameters": "6.bias", "epochs": 2}]
    runs = [checkpoint.load(small.begin(tmp_path, f"{n}", epochs=n, groups=groups)).state_dict() for n in (1, 2, 3)]
    moved = [[k for k in a if not torch.equal(a[k], b[k])] for a, b in pairwise(runs)]
    assert "0.bias" not in moved[0] + moved[1] and "6.bias" in moved[0] and "6.bias" not in moved[1]
    assert "0.weight" in moved[0] and "0.weight" in moved[1]


def test_the_triangular_schedule_is_that_of_airbench() -> None:
    total = 476
    up = int(total * 0.23)
    ratio = [0.2 + 0.8 * s / up if s < up else 1 - 0.93 * (s - up) / (total - up) for s in range(total)]
    settings = {"schedule": "triangular", "warmup": 0}
    assert [learning_rate(s, total, 48, settings, 3.0) for s in range(total)] == pytest.approx([3 * r for r in ratio])
    assert learning_rate(0, 1, 1, settings, 3.0) == 3.0


AIRBENCH = {
    "optimizer": "sgd", "lr": 0.05, "momentum": 0.85, "nesterov": True, "epochs": 3, "batch_size": 256,
    "schedule": "triangular", "lookahead": 0.9, "flip": "alternating", "shift": 1, "padding_mode": "reflect",
    "init": {"0": "whitening"}, "freeze": ["0.weight"], "precision": "bf16", "tta": "flip-shift",
    "groups": [{"parameters": "0.bias", "epochs": 1}, {"parameters": "1.bias", "lr": 1.0, "epochs": 2}],
}  # fmt: skip


def test_a_run_of_this_kind_resumes_as_if_never_stopped(tmp_path: Path) -> None:
    whole = small.begin(tmp_path, "whole", **AIRBENCH)
    expected = small.without_times(small.last(whole))
    assert expected["average"] and expected["step"] == 18
    for step in (5, 6, 7, 12, 13, 18):
        name = f"stopped{step}"
        with small.at_step(step, small.interrupt), pytest.raises(Exception, match="stopped"):
            small.begin(tmp_path, name, **AIRBENCH)
        torch.manual_seed(99)
        assert small.same(small.without_times(small.last(small.resume(tmp_path, name))), expected)


def test_the_weights_that_a_run_begins_with_are_in_its_first_file(tmp_path: Path) -> None:
    """Whitened, and what is frozen of them is still there at the end."""
    with small.at_step(1, small.interrupt), pytest.raises(Exception, match="stopped"):
        small.begin(tmp_path, "stopped", **AIRBENCH)
    first = small.last(tmp_path / "stopped")["network"]["0.weight"]
    assert torch.equal(first[3:], -first[:3]) and first.abs().max() > 0
    last = small.last(small.resume(tmp_path, "stopped"))["network"]["0.weight"]
    assert torch.equal(first, last)
