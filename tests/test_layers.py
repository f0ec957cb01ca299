"""The layer table against PyTorch: every layer, over a grid of settings and shapes, accepted and refused alike.

The oracle is the real class on the real kernels (batch of 2, training and evaluation mode); the meta device is laxer.
Compared are acceptance, output shape, state_dict() keys and shapes, values, and MACs against FlopCounterMode.
"""

import inspect
import itertools
import os
import random
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnn_cli.errors import SpecError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document
from cnn_cli.layers import LAYERS, REQUIRED, LayerType, parameters
from cnn_cli.network import modules
from cnn_cli.network.builder import build_plan
from cnn_cli.values import Choice, Flag, Integer, Number

RANDOM_SETTINGS = int(os.environ.get("CNN_EXAMPLES", 8))  # for each setting of a layer, beside every single value

SEED = torch.default_generator.manual_seed  # torch.manual_seed asks every accelerator first, which takes a while

# What enters the network, and the layer that makes of it the shape that the layer under test is to meet.
IMAGES = [(4, 8, 8), (6, 5, 7), (4, 2, 3), (8, 1, 1), (1, 9, 9)]
BEFORE: dict[int, list[Any]] = {3: [], 2: [{"Flatten": 2}], 1: ["Flatten"]}

# Values of each setting: those that fit some input, and those on the border or behind it.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "kernel_size": ([3, 1, 2, [1, 3], [3]], [[2, 2, 2], 9, 0, -1]),
    "stride": ([1, 2, 3, [1, 2], [2]], [0, -1, [1, 1, 1]]),
    "padding": ([0, 1, 2, [0, 1], [1]], [4, -1]),
    "dilation": ([1, 2, [2, 1], [3]], [0, -1]),
    "output_padding": ([0, 1, [0, 1], [1]], [2, -1]),
    "groups": ([1, 2, 4], [3, 0, -1]),
    "out_channels": ([4, 6, 1, 8], [0, -1]),
    "out_features": ([4, 1], [0, -1]),
    "padding_mode": (["zeros", "reflect", "replicate", "circular"], ["mirror"]),
    "output_size": ([3, 1, [2, 3], [None, 2], [4]], [None, 0, -1, [1, 1, 1]]),
    "output_ratio": ([None, 0.5, [0.5, 0.9]], [0.1, 0, 1, 1.5]),
    "norm_type": ([2, 1, 1.5], [0, -1]),
    "divisor_override": ([None, 1, 3], [0, -1]),
    "num_groups": ([1, 2, 4, 8], [3, 0, -1]),
    "normalized_shape": ([8, [8, 8], [4, 8, 8], [5, 7], [6, 5, 7], [1], 1, [3]], [[], 0, [7, 5], 12]),
    "eps": ([1e-5, 0, 1e-3, 1], [-1e-5]),
    "momentum": ([0.1, None, 0, 1, 0.5], [1.5, -0.1]),
    "size": ([3, 1, 5, [4, 2], None], [0, -1, [3]]),
    "scale_factor": ([2, 1, 0.5, 1.7, [2, 0.7], 0.3, 3.3, None], [0, -1]),
    "mode": (["nearest", "bilinear", "bicubic", "nearest-exact"], ["linear", "trilinear", "cubic"]),
    "align_corners": ([None, True, False], []),
    "recompute_scale_factor": ([None, True, False], []),
    "p": ([0.5, 0, 1, 0.1], [1.5, -0.1]),
    "dim": ([1, -1, 2, 3, -2, -3], [0, 4, -4, -5, 7]),
    "start_dim": ([1, 2, 3, -1, -2], [0, 5]),
    "end_dim": ([-1, 1, 2, 3, -2], [0, 5]),
    "dims": ([[0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 1], [0, 1]], [[1, 0, 2, 3], [0, 1, 1, 2], [0, 2, 3, 4]]),
    "unflattened_size": ([[2, 2], [2, -1], [-1, 2], [4], [1, 4, 1], [2, 1]], [[3, 2], [-1, -1], [0, -1], [-2, -2]]),
    "upscale_factor": ([2, 1], [3, 0, -1]),
    "downscale_factor": ([2, 1], [3, 0, -1]),
    "num_parameters": ([1, 4, 6], [3, 0, -1]),
    "init": ([0.25, 0, 1.5, -1], []),
    "negative_slope": ([0.01, 0, -1], []),
    "alpha": ([1.0, 0.5], [0, -1]),
    "beta": ([1.0, 0.75, 2], [0, -1]),
    "k": ([1.0, 2], [0, -1]),
    "approximate": (["none", "tanh"], ["sigmoid"]),
    "lambd": ([0.5, 0, 1], [-1]),
    "threshold": ([0.5, 20, 0], [-1]),
    "value": ([0, 1.5, -1], []),
    "min_val": ([-1.0, 0], [0.5, 2]),
    "max_val": ([1.0, 0.5], [0, -2]),
    "lower": ([0.125, 0, 0.3], [1, -1]),
    "upper": ([0.3333, 1], [0.125, 0, -1]),
    "block_size": ([3, 1, 5, 9], [2, 8, 0, -1]),
    "squeeze_channels": ([2, 1, 4], [0, -1]),
    "activation": (["ReLU", "SiLU", "Hardswish"], ["Conv2d"]),
    "scale_activation": (["Sigmoid", "Hardsigmoid"], ["Wrong"]),
    "in_channels": ([4], [3, 0]),
    "in_features": ([8], [7, 0]),
    "input_channels": ([4], [3, 0]),
    "num_features": ([4], [3, 0]),
    "num_channels": ([4], [3, 0]),
}
FOR_LAYER: dict[tuple[str, str], tuple[list[Any], list[Any]]] = {
    ("Conv1", "padding"): ([0, 1, 2, [1], "same", "valid"], [4, -1, [0, 1], "full"]),
    ("Conv2", "padding"): ([0, 1, 2, [0, 1], "same", "valid"], [4, -1, [1], "full"]),
    ("Pad1d", "padding"): ([1, 0, [1, 2], [0, 3], -1, [-2, 3]], [8, 9, [7], [1, 2, 1, 2], -2, [-3, 0]]),
    ("Pad2d", "padding"): (
        [1, 0, [1, 2, 0, 1], [0, 0, 3, 2], -1, [0, -1, 2, -2]],
        [4, 7, 8, 9, [1, 2], -3, [-8, 0, 0, 0], [0, 0, 0, 0, 2, 3], [0, 0, 1, 0, -1, 0], [0, 0, 0, 0, -9, 0]],
    ),
    ("CenterCrop", "size"): ([1, 2, [3, 2], [2, 5]], [0, -1, [3], 9]),
    ("Slice", "dim"): ([1, 2, -1], [0, 4, -4]),
    ("Slice", "start"): ([0, 1, -1, -2], [9, -9]),
    ("Slice", "end"): ([None, 1, 2, -1], [0, 9, -9]),
    ("Slice", "step"): ([1, 2, 3], [0, -1]),
    ("LocalResponseNorm", "size"): ([5, 1, 2, 9], [0, -1]),
    ("StochasticDepth", "mode"): (["batch", "row"], ["column"]),
    ("Fold", "output_size"): ([[2, 2], 3, 4, [3, 4], [8, 8]], [0]),
    ("Fold", "kernel_size"): ([1, 2, [2, 1], [1, 2]], [3, 0]),
}


@dataclass(frozen=True)
class Stricter:
    """Where we refuse what PyTorch accepts, on purpose."""

    layers: str  # a part of the name; "" is every layer
    words: str  # a part of our message
    why: str


STRICTER = [
    Stricter("", "a list of", "a list has one value for each axis; PyTorch takes others for some layers"),
    Stricter("", "takes channels x", "PyTorch reads such a batch as one image without a batch, or warns"),
    Stricter("", "(0 is the batch)", "no layer may mix the images of a batch"),
    Stricter("Permute", "dims must be 0 (the batch)", "the batch stays where it is"),
    Stricter("", "of at least 1", "sizes of 0 make empty tensors, and negative ones are slips"),
    Stricter("ConvTranspose", "removes everything", "sizes of 0 make empty tensors"),
    Stricter("Pad", "removes everything", "sizes of 0 make empty tensors"),
    Stricter("CircularPad", "to copy from", "with a negative padding, PyTorch leaves values uninitialized"),
    Stricter("Slice", "a size of at least", "Python takes positions beyond the end, which are mostly slips"),
    Stricter("Slice", "needs positions between start and end", "sizes of 0 make empty tensors"),
    Stricter("CenterCrop", "a crop of", "torchvision pads what is smaller"),
    Stricter("Norm", "eps must be", "a negative eps gives NaN"),
    Stricter("DropBlock2d", "must be odd", "PyTorch looks only where p > 0"),
    Stricter("DropBlock2d", "eps must be", "a negative eps gives NaN"),
    Stricter("Norm", "momentum must be", "running statistics leave the data behind"),
    Stricter("Norm", "; remove num_", "a size that contradicts the input is refused even where PyTorch warns"),
    Stricter("CELU", "above 0", "it is no activation there"),
    Stricter("Softplus", "above 0", "it is infinite there"),
    Stricter("LPPool", "above 0", "there is no such norm"),
]


def values(layer: str, setting: str) -> tuple[list[Any], list[Any]]:
    """What the grid tries for a setting of a layer: what may fit, and what lies behind the border."""
    special = [v for (part, name), v in FOR_LAYER.items() if name == setting and part in layer]
    if special:
        return special[0]
    if type(LAYERS[layer].settings[setting].default) is bool:
        return [True, False], []
    return VALUES[setting]


def grid(layer: LayerType) -> list[tuple[dict[str, Any], tuple[int, ...], int]]:
    """(settings, image, rank): every value of every setting alone, pairs that may fit, and random combinations.

    All images and all pairs with CNN_SLOW_TESTS=1, else half of them.
    """
    known = {n: values(layer.name, n) for n in layer.settings}
    required = {n: fits[0] for n, (fits, _) in known.items() if LAYERS[layer.name].settings[n].default is REQUIRED}
    required = {n: v for n, v in required.items() if not layer.settings[n].inferred}
    alone = [required | {n: v} for n, (fits, behind) in known.items() for v in fits + behind]
    ranks = next((ranks for end, ranks in (("1d", [2]), ("2d", [3])) if layer.name.endswith(end)), [3, 2, 1])
    cases = [(s, image, rank) for s in ({}, required) for image in IMAGES for rank in BEFORE]
    cases += [(s, IMAGES[0], rank) for s in alone for rank in ranks]
    more = [(s, image, rank) for s in alone for image in IMAGES[1:] for rank in ranks]
    for one, two in itertools.combinations(known, 2):
        pairs = itertools.product(known[one][0], known[two][0])
        more += [(required | {one: v, two: w}, IMAGES[0], ranks[0]) for v, w in pairs]
    draw = random.Random(layer.name)
    cases += more if os.environ.get("CNN_SLOW_TESTS") else draw.sample(more, len(more) // 2)
    for _ in range(RANDOM_SETTINGS * min(len(known), 5)):
        chosen = {n: draw.choice(fits) for n, (fits, _) in known.items() if n in required or draw.random() < 0.4}
        cases.append((chosen, draw.choice(IMAGES), draw.choice(ranks)))
    return cases


def ours(layer: str, settings: dict[str, Any], image: tuple[int, ...], rank: int) -> Plan | str:
    """Our rule's answer: the plan of a network of that one layer, or the message that refuses it."""
    layers = [*BEFORE[rank], {layer: settings} if settings else layer]
    try:
        return plan_document({"n": {"input": list(image), "layers": layers}}, "test")
    except SpecError as error:
        return str(error)


def layer_norm_2d(num_channels: int, eps: float = 1e-6) -> nn.Module:
    """torchvision keeps its own, with nn.LayerNorm's arguments, in the file of ConvNeXt."""
    return torchvision.models.convnext.LayerNorm2d(num_channels, eps=eps)


class SliceOf(nn.Module):
    """The same written as Python does."""

    def __init__(self, dim: int = 1, start: int = 0, end: int | None = None, step: int = 1) -> None:
        super().__init__()
        self.range = (dim, start, end, step)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dim, *rest = self.range
        return x.movedim(dim, 0)[slice(*rest)].movedim(0, dim)


def real_class(layer: LayerType) -> Any:
    own = {"Slice": SliceOf, "CenterCrop": torchvision.transforms.CenterCrop, "LayerNorm2d": layer_norm_2d}
    if layer.name in own:
        return own[layer.name]
    return getattr({"torch.nn": nn, "torchvision.ops": torchvision.ops}[layer.module], layer.name)


def oracle(layer: LayerType, settings: dict[str, Any], shape: tuple[int, ...]) -> tuple[nn.Module, Any, Any] | str:
    """PyTorch's answer: the module and its outputs in evaluation and in training mode, or why it refuses."""
    inferred = {n: shape[-1] if n == "in_features" else shape[0] for n, s in layer.settings.items() if s.inferred}
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()}
    if layer.name == "SqueezeExcitation":
        given = {n: getattr(nn, v, v) if n.endswith("activation") else v for n, v in given.items()}
    if layer.name.endswith("max") or layer.name == "Softmin":
        given = {"dim": 1} | given  # PyTorch's default is deprecated
    try:
        SEED(0)
        named = inferred | given
        module = real_class(layer)(**named)
        x = torch.randn(2, *shape)
        module.eval()(x[:1])  # a single image
        return module, module(x), train(module, x)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def train(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    SEED(1)
    return module.train()(x)


def macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """For one image, as FlopCounterMode counts."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.randn(1, *shape))
    return counter.get_total_flops() // 2


def compare(layer: LayerType, settings: dict[str, Any], image: tuple[int, ...], rank: int) -> str:
    """Empty where our rule and PyTorch agree, else how they differ."""
    shape = {3: image, 2: (image[0], image[1] * image[2]), 1: (image[0] * image[1] * image[2],)}[rank]
    mine, real = ours(layer.name, settings, image, rank), oracle(layer, settings, shape)
    if isinstance(real, str):
        return "" if isinstance(mine, str) else f"we accept, PyTorch refuses: {real}"
    if isinstance(mine, str):
        known = any(d.layers in layer.name and d.words in mine for d in STRICTER)
        return "" if known else f"PyTorch accepts, we refuse: {mine}"
    module, in_evaluation, in_training = real
    row = mine.layers[-1]
    if row.output_shape != tuple(in_evaluation.shape[1:]):
        return f"shape {row.output_shape}, PyTorch {tuple(in_evaluation.shape[1:])}"
    if [(t.name, t.shape) for t in row.tensors] != [(k, tuple(v.shape)) for k, v in module.state_dict().items()]:
        return f"tensors {row.tensors}, PyTorch {[(k, tuple(v.shape)) for k, v in module.state_dict().items()]}"
    if parameters(row.tensors) != sum(p.numel() for p in module.parameters()):
        return f"{parameters(row.tensors)} parameters, PyTorch {sum(p.numel() for p in module.parameters())}"
    if (layer.macs is not LayerType.macs or row.tensors) and row.macs != macs(module, shape):
        return f"{row.macs} MACs, FlopCounterMode {macs(module, shape)}"
    return same_values(mine, layer, module, shape, in_evaluation, in_training)


def same_values(
    plan: Plan, layer: LayerType, module: nn.Module, shape: tuple[int, ...], evaluation: Any, training: Any
) -> str:
    """The module that we build gets the settings that were written: its outputs are bit-equal."""
    SEED(0)
    built = build_plan(plan)[-1]
    x = torch.randn(2, *shape)
    for wanted, got in ((evaluation, built.eval()(x)), (training, train(built, x))):
        if not torch.equal(wanted.nan_to_num(), got.nan_to_num()):
            return "the built module gives other values"
    return ""


@pytest.mark.parametrize("name", LAYERS)
def test_agrees_with_pytorch(name: str) -> None:
    layer = LAYERS[name]
    assert layer.module in ("torch.nn", "torchvision.ops") or hasattr(modules, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of some odd settings before it takes or refuses them
        found = {f"{case}: {text}" for case in grid(layer) if (text := compare(layer, *case))}
    assert not found, "\n".join(sorted(found)[:40])


# Keyword arguments of PyTorch's classes that the table leaves out, and why.
LEFT_OUT = {
    "inplace": "every output can be looked at",
    "device": "chosen by the command",
    "dtype": "float32",
    "return_indices": "one output a layer",
    "min_value": "an old name",
    "max_value": "an old name",
    "norm_layer": "its own arguments are the layer's",
}


def arguments(cls: type) -> dict[str, Any]:
    """The keyword arguments of a class with their defaults."""
    found = inspect.signature(cls.__init__).parameters
    named = {n: p.default for n, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    return {n: default for n, default in named.items() if n != "self" and n[0] != "_" and n not in LEFT_OUT}


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "LayerNorm2d"])
def test_settings_are_the_arguments_of_the_class(name: str) -> None:
    """All of them, in PyTorch's order, with PyTorch's defaults."""
    settings, wanted = LAYERS[name].settings, arguments(real_class(LAYERS[name]))
    assert list(settings) == list(wanted)
    for key, default in wanted.items():
        ours_, plain = settings[key].default, default
        if default is inspect.Parameter.empty:
            assert settings[key].inferred or ours_ is REQUIRED or key == "dim", key
        elif isinstance(ours_, tuple):
            assert set(ours_) == {plain}, key
        elif isinstance(plain, type) or callable(plain):
            assert ours_ == plain.__name__, key
        else:
            assert ours_ == plain or name in ("Softmax", "Softmin", "LogSoftmax"), key


WRONG: list[tuple[Any, Any]] = [
    (Integer, [True, "3", 1.5, None, [], {}, 10**30]),
    (Number, [True, "0.5", None, [], {}]),
    (Flag, [0, 1, "yes", None, []]),
    (Choice, [True, 0, None, [], "nonsense"]),
]


@pytest.mark.parametrize("name", LAYERS)
def test_values_of_the_wrong_kind_are_refused(name: str) -> None:
    """PyTorch takes many of them (`True` for 1, `"3"` until the forward pass); in a spec they are slips."""
    for key, setting in LAYERS[name].settings.items():
        wrong = next((v for kind, v in WRONG if isinstance(setting.kind, kind)), ["text", {}, [[1]], [True, True]])
        for value in wrong:
            assert f"{key} must be " in str(ours(name, {key: value}, (4, 8, 8), 3)), (key, value)


def test_layers_of_pytorch_that_we_lack() -> None:
    """Each class of torch.nn is in the table, or in this list with its reason."""
    known = {n for group in ABSENT.values() for n in group.split()}
    classes = {n for n, c in vars(nn).items() if isinstance(c, type) and issubclass(c, nn.Module)}
    assert classes - set(LAYERS) - known == set()
    assert known & set(LAYERS) == set()


ABSENT = {
    "containers: there are lists and mappings": "Module Container Sequential ModuleList ModuleDict ParameterList "
    "ParameterDict DataParallel",
    "losses: chosen by `train`": "L1Loss NLLLoss PoissonNLLLoss GaussianNLLLoss KLDivLoss MSELoss BCELoss "
    "BCEWithLogitsLoss HingeEmbeddingLoss MultiLabelMarginLoss SmoothL1Loss HuberLoss SoftMarginLoss CrossEntropyLoss "
    "MultiLabelSoftMarginLoss CosineEmbeddingLoss MarginRankingLoss MultiMarginLoss TripletMarginLoss "
    "TripletMarginWithDistanceLoss CTCLoss NLLLoss2d AdaptiveLogSoftmaxWithLoss LinearCrossEntropyLoss",
    "sequences of words": "Embedding EmbeddingBag RNNBase RNN LSTM GRU RNNCellBase RNNCell LSTMCell GRUCell",
    "attention: transformers are not convnets": "MultiheadAttention Transformer TransformerEncoder TransformerDecoder "
    "TransformerEncoderLayer TransformerDecoderLayer",
    "several inputs or outputs": "Bilinear CosineSimilarity PairwiseDistance MaxUnpool1d MaxUnpool2d MaxUnpool3d",
    "volumes: images have two axes": "Conv3d ConvTranspose3d MaxPool3d AvgPool3d LPPool3d FractionalMaxPool3d "
    "AdaptiveAvgPool3d AdaptiveMaxPool3d BatchNorm3d InstanceNorm3d ZeroPad3d ConstantPad3d ReflectionPad3d "
    "ReplicationPad3d CircularPad3d Dropout3d",
    "lazy: sizes are always inferred": "LazyLinear LazyConv1d LazyConv2d LazyConv3d LazyConvTranspose1d "
    "LazyConvTranspose2d LazyConvTranspose3d LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d LazyInstanceNorm1d "
    "LazyInstanceNorm2d LazyInstanceNorm3d",
    "draws at random in evaluation too": "FractionalMaxPool2d",
    "needs a process group": "SyncBatchNorm",
    "old or special": "CrossMapLRN2d LPPool1d",
}
