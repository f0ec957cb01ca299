"""Segmentation networks of segmentation-models-pytorch and torchvision, by the names of segmentation.yaml."""

from collections.abc import Callable

import segmentation_models_pytorch as smp
from torch import nn


def pspnet() -> nn.Module:
    """Without the two stages of its encoder that it holds, but never runs."""
    network = smp.PSPNet("resnet18", encoder_weights=None)
    network.encoder.layer3 = network.encoder.layer4 = nn.Identity()
    return network


SEGMENTATION: dict[str, Callable[[], nn.Module]] = {
    "smp-unet": lambda: smp.Unet("resnet18", encoder_weights=None),
    "smp-unetplusplus": lambda: smp.UnetPlusPlus("resnet18", encoder_weights=None),
    "smp-fpn": lambda: smp.FPN("resnet18", encoder_weights=None),
    "smp-pspnet": pspnet,
    "smp-linknet": lambda: smp.Linknet("resnet18", encoder_weights=None),
    "smp-deeplabv3plus": lambda: smp.DeepLabV3Plus("resnet18", encoder_weights=None),
}
