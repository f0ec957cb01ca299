"""Convolutions as matrices: a fully connected network with the same outputs."""

from copy import deepcopy
from math import prod

import torch
from torch import nn

from cnn_cli.language.plan import Plan
from cnn_cli.layers import Shape


@torch.no_grad()
def dense_layer(convolution: nn.Module, shape: Shape) -> nn.Linear:
    """The fully connected layer that computes the same as a convolution, for flattened inputs of this shape (C, H, W).

    Its weight is (outputs, inputs), mostly zeros: each row has the kernel, shifted. Each output has a bias.
    """
    kernel = deepcopy(convolution)
    kernel.register_parameter("bias", None)
    count = prod(shape)
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
