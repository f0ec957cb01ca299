"""What to write for names of Keras, and of torch.nn classes that networks here cannot have."""

import re

_LAYERS = """
    activation ReLU, add Add, averagepooling1d AvgPool1d, averagepooling2d AvgPool2d, batchnorm BatchNorm2d,
    batchnormalization BatchNorm2d, concatenate Concat, conv Conv2d, conv2dtranspose ConvTranspose2d, dense Linear,
    depthwiseconv2d Conv2d, fc Linear, fullyconnected Linear, gaussiannoise Dropout,
    globalaveragepooling1d AdaptiveAvgPool1d, globalaveragepooling2d AdaptiveAvgPool2d,
    globalmaxpooling1d AdaptiveMaxPool1d, globalmaxpooling2d AdaptiveMaxPool2d, layernormalization LayerNorm2d,
    maxpool MaxPool2d, maxpooling1d MaxPool1d, maxpooling2d MaxPool2d, separableconv2d Conv2d,
    spatialdropout2d Dropout2d, swish SiLU, upsampling2d Upsample, zeropadding2d ZeroPad2d
"""
_SETTINGS = """
    alpha negative_slope, channels out_channels, classes out_features, dilation_rate dilation, epsilon eps,
    features out_features, filters out_channels, kernel kernel_size, ksize kernel_size, pool_size kernel_size, rate p,
    size scale_factor, strides stride, units out_features, use_bias bias
"""
_VOLUMES = "works on volumes, and networks here take images or sequences"
_TORCH = {  # classes of torch.nn: why they are not layers here, and what to write
    """AdaptiveAvgPool3d AdaptiveMaxPool3d AvgPool3d BatchNorm3d CircularPad3d ConstantPad3d Conv3d ConvTranspose3d
    InstanceNorm3d LPPool3d MaxPool3d ReflectionPad3d ReplicationPad3d ZeroPad3d""": f"{_VOLUMES}; write {{2d}}",
    "Dropout3d": f"{_VOLUMES}; write Dropout2d",
    "FractionalMaxPool2d": "draws its windows at random in evaluation too; write AdaptiveMaxPool2d",
    "FractionalMaxPool3d": f"{_VOLUMES}; write AdaptiveMaxPool2d",
    "MaxUnpool1d MaxUnpool2d MaxUnpool3d": "takes the indices of a max pooling; write Upsample or ConvTranspose2d",
    """MultiheadAttention Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder
    TransformerEncoderLayer""": "computes attention over positions; for attention over channels write "
    "SqueezeExcitation",
    "GRU GRUCell LSTM LSTMCell RNN RNNBase RNNCell RNNCellBase": "is recurrent; write Conv1d for sequences",
    "Embedding EmbeddingBag": "takes indices, and networks here take images or signals; remove it",
    "Bilinear CosineSimilarity PairwiseDistance": "takes two inputs; write Multiply or Subtract of named siblings",
    "CrossMapLRN2d": "is an old form of local response normalization; write LocalResponseNorm",
    "LPPool1d": "takes the p-norm of windows of a sequence; write AvgPool1d or MaxPool1d",
    "SyncBatchNorm": "needs a GPU per process; write BatchNorm2d, or GroupNorm for small batches",
    "DataParallel": "copies a network to several GPUs; remove it: `torchrun` starts a process per GPU",
    "Container Module": "is a base class; write layers as a list or a mapping",
    "ParameterDict ParameterList": "holds tensors by name; write {{Parameter: {{shape: …}}}} for each",
    "Sequential ModuleDict ModuleList": "is written as a plain list or mapping of layers; write `- ` before each layer",
}
_VISION = {  # the same for torchvision.ops
    "Conv2dNormActivation": "is three layers; write Conv2d, BatchNorm2d and ReLU",
    "Conv3dNormActivation": f"{_VOLUMES}; write Conv2d, BatchNorm2d and ReLU",
    "DeformConv2d": "takes offsets from another layer; write Conv2d",
    "DropBlock3d": f"{_VOLUMES}; write DropBlock2d",
    "FeaturePyramidNetwork": "is several layers with several outputs; write Conv2d, Upsample and Add, and "
    "a list `outputs:`",
    "MLP": "is several layers; write Linear, ReLU and Dropout",
    "MultiScaleRoIAlign PSRoIAlign PSRoIPool RoIAlign RoIPool": "takes regions of an image; write `detects:` for a "
    "detector without regions",
}
_STANDARDIZED = re.compile(
    r"(scaled_?)?(std|ws|weightstandardized)_?conv2d\w*|conv2d_?ws|weight_?standardi[sz]ation", re.I
)


def _by_name(module: str, reasons: dict[str, str]) -> dict[str, str]:
    """class → the message."""
    pairs = [(name, text) for names, text in reasons.items() for name in names.split()]
    forms = {name: text.replace("{2d}", f"{name[:-2]}2d").replace("{{", "{").replace("}}", "}") for name, text in pairs}
    return {name: f"{name} of {module} is not supported: it {text}" for name, text in forms.items()}


LAYERS_ELSEWHERE = dict(pair.split() for pair in _LAYERS.split(","))
SETTINGS_ELSEWHERE = dict(pair.split() for pair in _SETTINGS.split(","))
UNSUPPORTED = _by_name("torch.nn", _TORCH) | _by_name("torchvision.ops", _VISION)


def unsupported(name: str) -> str:
    """Why a class that torch.nn or torchvision.ops has is not a layer here; empty for other names."""
    if name in UNSUPPORTED:
        return UNSUPPORTED[name]
    lazy = name.removeprefix("Lazy")
    if lazy != name:
        text = f"{name} is not needed: sizes that follow from the input are inferred; write {lazy}"
        return UNSUPPORTED.get(lazy, text)
    if name.endswith(("Loss", "Loss2d")):
        return f"{name} is a loss, not a layer; remove it: `cnn train` chooses the loss"
    if _STANDARDIZED.fullmatch(name):
        return f"weight standardization ({name}) is not supported; write Conv2d, followed by BatchNorm2d or GroupNorm"
    return ""
