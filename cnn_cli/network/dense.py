"""Convolutions as the matrices that they are: a fully connected network that computes the same."""

from copy import deepcopy

import torch
from torch import nn

from cnn_cli.language.plan import Plan
from cnn_cli.layers import Shape
from cnn_cli.values import product


@torch.no_grad()
def dense_layer(convolution: nn.Module, shape: Shape) -> nn.Linear:
    """The fully connected layer that does to flattened inputs of this shape (C, H, W) what the convolution does.

    Its weight is (values out, values in), most of them zeros: row by row the kernel, moved on; each output has a bias.
    """
    kernel = deepcopy(convolution)
    kernel.register_parameter("bias", None)
    count = product(shape)
    columns = kernel(torch.eye(count).view(count, *shape))  # what each input value alone adds to the outputs
    layer = nn.Linear(count, columns[0].numel(), bias=convolution.bias is not None)
    layer.weight.copy_(columns.flatten(1).T)
    if isinstance(bias := convolution.bias, torch.Tensor):
        layer.bias.copy_(bias.repeat_interleave(columns[0, 0].numel()))
    return layer


def dense_network(network: nn.Module, plan: Plan) -> nn.Module:
    """A copy of the network of `plan` in which every convolution is a fully connected layer."""
    dense = deepcopy(network)
    for layer in plan.layers:
        if "convolution" not in layer.rule.traits:
            continue
        matrix = dense_layer(network.get_submodule(layer.name), layer.input_shape)
        module = nn.Sequential(nn.Flatten(), matrix, nn.Unflatten(1, layer.output_shape))
        if not layer.name:  # the only layer
            return module
        dense.set_submodule(layer.name, module)
    return dense
