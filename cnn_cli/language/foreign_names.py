"""What to write for names of Keras, and of torch.nn classes that networks here cannot have."""

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
_TORCH = """
    AdaptiveAvgPool3d AdaptiveMaxPool3d AvgPool3d BatchNorm3d Bilinear CircularPad3d ConstantPad3d Conv3d
    ConvTranspose3d CosineSimilarity CrossMapLRN2d DeformConv2d Dropout3d Embedding EmbeddingBag FractionalMaxPool2d
    FractionalMaxPool3d GRU GRUCell InstanceNorm3d LPPool1d LPPool3d LSTM LSTMCell MaxPool3d MaxUnpool1d MaxUnpool2d
    MaxUnpool3d MultiheadAttention PairwiseDistance RNN RNNCell ReflectionPad3d ReplicationPad3d SyncBatchNorm
    Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer ZeroPad3d
"""
LAYERS_ELSEWHERE = dict(pair.split() for pair in _LAYERS.split(","))
SETTINGS_ELSEWHERE = dict(pair.split() for pair in _SETTINGS.split(","))
ONLY_IN_TORCH = frozenset(_TORCH.split())


def unsupported(name: str) -> str:
    """Why a class that torch.nn or torchvision.ops has is not a layer here; empty for other names."""
    if name in ONLY_IN_TORCH:
        module = "torchvision.ops" if name == "DeformConv2d" else "torch.nn"
        return f"{name} is a class of {module} that networks here do not support; `cnn schema` lists all layers"
    if name.startswith("Lazy"):
        return f"{name} is not needed: sizes that follow from the input are inferred; write {name[4:]}"
    if name.endswith("Loss"):
        return f"{name} is a loss, not a layer; remove it: `cnn train` chooses the loss"
    if name in ("Sequential", "ModuleList", "ModuleDict"):
        return f"{name} is written as a plain list or mapping of layers; write `- ` before each layer"
    return ""
