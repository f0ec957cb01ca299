"""The networks of models.yaml, held against torchvision's own by name: one that torchvision has and we lack is a fault.

Each is built twice, by torchvision and from the text, with the same weights. Then keys, shapes, settings, outputs and
gradients of a training step must be equal, bit for bit. The figures that torchvision publishes follow from the text.
Outputs and gradients are compared of the smallest network of each architecture; of the others, which repeat its blocks,
only where CNN_SLOW_TESTS is set.
"""

import os
from collections.abc import Iterator
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models, ops

from cnn_cli.language.plan import Layer, Plan
from cnn_cli.language.registry import draft, find, load_registry
from cnn_cli.network.builder import build_plan

TRANSFORMERS = ("vit_", "swin", "maxvit")
NAMES = [n for n in models.list_models(module=models) if not n.startswith(TRANSFORMERS)]
AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# Inputs just large enough to leave something to see for the last stage. Inception's second head needs its own size.
SIDES = {"inception_v3": 299}
SMALLEST = {
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "squeezenet1_1",
}
COMPARED = NAMES if os.environ.get("CNN_SLOW_TESTS") else sorted(SMALLEST)
# 645 million parameters, more than 5 GB with gradients: compared in evaluation only. All regnet_y have its blocks.
TOO_LARGE_TO_TRAIN = {"regnet_y_128gf"}
RANDOM = (nn.Dropout, ops.StochasticDepth)


def theirs(name: str) -> nn.Module:
    more = {"init_weights": False, "aux_logits": True} if name in AUXILIARY else {}
    return models.get_model(name, weights=None, **more)


def side(name: str) -> int:
    return SIDES.get(name, 64)


def without_heads(plan: Plan) -> list[Layer]:
    """The layers of evaluation: torchvision counts operations, and GoogLeNet's parameters, without auxiliary heads."""
    return [layer for layer in plan.layers if layer.name.split(".")[0] not in AUXILIARY.get(plan.network, ())]


@pytest.fixture
def unfilled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks whose weights are not drawn: they get others at once, and drawing four thousand million takes long."""
    for name in dir(nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    yield


def fill(module: nn.Module) -> None:
    """Seeded weights of the usual size: pieces of one draw, because copying is ten times faster than drawing."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(1_000_003, generator=generator)
    for number, (name, tensor) in enumerate(module.state_dict().items()):
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        start, n = number * 1009 % 1000, tensor.numel()
        flat = draw[start:].repeat(-(-n // (len(draw) - start)))[:n].view(tensor.shape)
        if tensor.dim() > 1:
            torch.mul(flat, 1.0 if name.endswith("layer_scale") else (2 / prod(tensor.shape[1:])) ** 0.5, out=tensor)
        elif name.endswith("running_var"):
            torch.add(flat.abs(), 0.5, out=tensor)
        else:
            torch.add(flat * 0.1, float(name.endswith("weight")), out=tensor)


def outputs_of(result: Any, name: str) -> list[Tensor]:
    """The main output and those of the heads, in one order for both."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [result[key] for key in ("fc", *AUXILIARY[name])]
    heads = {"aux1": "aux_logits1", "aux2": "aux_logits2", "AuxLogits": "aux_logits"}
    return [result.logits, *(getattr(result, heads[key]) for key in AUXILIARY[name])]


def step(module: nn.Module, name: str, images: Tensor) -> list[Tensor]:
    """A training step of a loss in which every output has its part."""
    module.train()
    outputs = outputs_of(module(images), name)
    weights = torch.linspace(-1, 1, outputs[0].numel()).view_as(outputs[0])
    torch.stack([(o * weights).sum() for o in outputs]).sum().backward()
    return [o.detach() for o in outputs]


def settings(module: nn.Module) -> dict[str, float]:
    """What no weight shows: the numbers of the normalizations, and how often the random layers that are in use drop."""
    found: dict[str, float] = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            found[f"{name}.eps"] = part.eps
        if isinstance(part, nn.BatchNorm2d) and part.momentum is not None:
            found[f"{name}.momentum"] = part.momentum
        if isinstance(part, RANDOM):
            parent = module.get_submodule(name.rpartition(".")[0])
            # EfficientNet holds one where there is no shortcut, too, and never calls it.
            if getattr(parent, "use_res_connect", True):
                found[f"{name}.p"] = part.p
    return found


def still(module: nn.Module) -> None:
    """Switch what is random off, so that training steps can be compared."""
    for part in module.modules():
        if isinstance(part, RANDOM):
            part.p = 0.0


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_follow_from_the_text(name: str) -> None:
    weights = models.get_model_weights(name).DEFAULT
    crop = weights.transforms().crop_size[0]
    plan = find(name, input=(3, crop, crop))
    counted = plan.layers if name != "googlenet" else without_heads(plan)
    assert sum(layer.params for layer in counted) == weights.meta["num_params"]
    assert round(sum(layer.macs for layer in without_heads(plan)) / 1e9, 3) == weights.meta["_ops"]
    assert find(name).input == (3, crop, crop)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("unfilled")
def test_keys_shapes_and_settings_are_torchvisions(name: str) -> None:
    original = theirs(name)
    with torch.device("meta"):
        module = build_plan(find(name))
    shapes = [[(k, v.shape) for k, v in network.state_dict().items()] for network in (module, original)]
    assert shapes[0] == shapes[1]
    assert settings(module) == pytest.approx(settings(original), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.usefixtures("unfilled")
def test_outputs_and_gradients_are_torchvisions(name: str) -> None:
    plan = find(name, input=(3, side(name), side(name)))
    original = theirs(name)
    fill(original)
    state = {k: v if v.requires_grad else v.clone() for k, v in original.state_dict(keep_vars=True).items()}
    with torch.device("meta"):
        module = build_plan(plan)
    module.load_state_dict(state, strict=True, assign=True)  # the weights are shared, the statistics are not

    images = torch.randn(2, 3, side(name), side(name), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, result = original.eval()(images), module.eval()(images)
    assert torch.equal(result, expected)
    assert expected.isfinite().all() and not torch.equal(expected[0], expected[1])
    if name not in TOO_LARGE_TO_TRAIN:
        compare_steps(module, original, name, images)


def compare_steps(module: nn.Module, original: nn.Module, name: str, images: Tensor) -> None:
    """Outputs, gradients and statistics of a training step. Our gradients are let go as soon as they are compared."""
    still(original)
    still(module)
    expected = step(original, name, images)
    gradients = {k: p.grad for k, p in original.named_parameters()}
    different, seen = [], set()

    def check(key: str, parameter: nn.Parameter) -> None:
        seen.add(key)
        if not torch.equal(parameter.grad, gradients[key]):  # type: ignore[arg-type]
            different.append(key)
        parameter.grad = None

    for key, parameter in module.named_parameters():
        parameter.grad = None
        parameter.register_post_accumulate_grad_hook(lambda p, key=key: check(key, p))
    results = step(module, name, images)
    assert [torch.equal(a, b) for a, b in zip(results, expected, strict=True)] == [True] * len(expected)
    assert different == []
    assert seen == set(gradients)
    assert any(g.abs().sum() > 0 for g in gradients.values() if g is not None)
    for (key, a), (_, b) in zip(module.named_buffers(), original.named_buffers(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", load_registry())
def test_text_has_nothing_to_correct(name: str) -> None:
    plan = draft(name)
    assert [str(p) for p in plan.problems] == []
    assert plan.description
    if "classes" in plan.args:
        anchors = {"retinanet_resnet50_fpn": 9}.get(name, 1)  # scores of a cell, one for each class and anchor
        assert find(name, args={"classes": 7}).output[0] == 7 * anchors
