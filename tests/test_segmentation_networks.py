"""torchvision's segmentation networks against torchvision: keys, outputs at an odd size, and a training step.

Of a head on several backbones the smallest is compared, all of them where CNN_SLOW_TESTS is set.
"""

import os

import pytest
import torch
from test_torchvision_networks import fill, still, unfilled  # noqa: F401
from torch import nn
from torchvision import models
from torchvision.models import segmentation

from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan

NAMES = models.list_models(module=segmentation)
COMPARED = NAMES if os.environ.get("CNN_SLOW_TESTS") else ["deeplabv3_mobilenet_v3_large", "fcn_resnet50", NAMES[-1]]


def original(name: str) -> nn.Module:
    auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
    return models.get_model(name, weights=None, weights_backbone=None, **auxiliary)


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_follow_from_the_text(name: str) -> None:
    weights = models.get_model_weights(name).DEFAULT
    plan = find(name, input=(3, 520, 520))
    assert plan.params == weights.meta["num_params"]
    assert round(plan.macs / 1e9, 3) == weights.meta["_ops"]
    assert plan.output == (21, 520, 520)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.usefixtures("unfilled")
def test_network_is_torchvisions(name: str) -> None:
    theirs = original(name)
    fill(theirs)
    with torch.device("meta"):
        ours = build_plan(find(name, input=(3, 225, 193)))
    state = {k: v if v.requires_grad else v.clone() for k, v in theirs.state_dict(keep_vars=True).items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state, assign=True)  # the weights are shared, the statistics are not
    images = torch.randn(1, 3, 225, 193, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), theirs.eval()(images)["out"])

    still(ours), still(theirs)
    images = torch.randn(2, 3, 49, 33, generator=torch.Generator().manual_seed(2))
    results, gradients = [], []
    for network in (ours.train(), theirs.train()):
        network.zero_grad()
        result = network(images)
        outputs = list(result.values()) if isinstance(result, dict) else [result]
        weights = torch.linspace(-1, 1, outputs[0].numel()).view_as(outputs[0])
        sum(((o * weights).sum() * w for o, w in zip(outputs, (1.0, 0.5), strict=False)), torch.zeros(())).backward()
        results.append([o.detach() for o in outputs])
        gradients.append({k: p.grad.clone() for k, p in network.named_parameters() if p.grad is not None})
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert set(gradients[0]) == set(gradients[1])
    assert [k for k, g in gradients[0].items() if not torch.equal(g, gradients[1][k])] == []
    for (key, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.equal(a, b), key


def test_auxiliary_heads_weigh_half_as_in_torchvisions_training() -> None:
    weights = {name: find(name).spec.outputs for name in NAMES}
    assert weights.pop("lraspp_mobilenet_v3_large") == {}
    assert all(outputs == {"out": 1.0, "aux": 0.5} for outputs in weights.values())
