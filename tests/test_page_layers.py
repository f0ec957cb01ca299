"""Every layer type of the language in the page's JavaScript, held against PyTorch: values, gradients, explanations."""

import pytest
import torch
from page_engine import Engine, engine, fresh, relative

from cnn_cli.language.registry import find
from cnn_cli.layers import JOINS, LAYERS

# YAML of the layers, for an input of 4x9x8.
CASES = [
    *(f"- {name}" for name in LAYERS if "activation" in LAYERS[name].traits and name not in ("Threshold", "GLU")),
    "- GELU: tanh",
    "- Threshold: {threshold: 0.2, value: -1.5}",
    "- GLU: {dim: 1}",
    "- GLU",
    "- PReLU: 4",
    "- Softmax: {dim: -1}",
    "- Softplus: {beta: 2, threshold: 1}",
    *(f"- {name}" for name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout", "Dropout2d")),
    "- StochasticDepth: {p: 0.3, mode: row}",
    "- DropBlock2d: {p: 0.3, block_size: 3}",
    "- Conv2d: {out_channels: 6, kernel_size: 3}",
    "- Conv2d: {out_channels: 6, kernel_size: [3, 2], stride: [2, 1], padding: [1, 2], groups: 2, bias: false}",
    "- Conv2d: {out_channels: 2, kernel_size: 3, dilation: [1, 2]}",
    "- Conv2d: {out_channels: 4, kernel_size: 3, groups: 4, padding: same, padding_mode: reflect}",
    "- Conv2d: {out_channels: 8, kernel_size: 4, padding: same, padding_mode: circular}",
    "- Conv2d: {out_channels: 5, kernel_size: 3, padding: 2, padding_mode: replicate}",
    "- Conv2d: {out_channels: 7, kernel_size: 1, padding: valid}",
    "- ConvTranspose2d: {out_channels: 6, kernel_size: 3, stride: 2, padding: 1, output_padding: 1, groups: 2}",
    "- ConvTranspose2d: {out_channels: 3, kernel_size: [2, 3], dilation: 2, bias: false}",
    "- Linear: 5",
    "- SqueezeExcitation: 2",
    "- SqueezeExcitation: {squeeze_channels: 3, activation: SiLU, scale_activation: Hardsigmoid}",
    "- BatchNorm2d",
    "- BatchNorm2d: {affine: false, eps: 0.01}",
    "- BatchNorm2d: {track_running_stats: false}",
    "- InstanceNorm2d: {affine: true}",
    "- InstanceNorm2d: {track_running_stats: true}",
    "- FrozenBatchNorm2d",
    "- GroupNorm: 2",
    "- LayerNorm: 8",
    "- LayerNorm: {normalized_shape: [9, 8], bias: false}",
    "- RMSNorm: 8",
    "- LayerNorm2d",
    "- LocalResponseNorm: {size: 3, alpha: 0.5, k: 2}",
    "- ZeroPad2d: [1, 2, 0, -1]",
    "- ConstantPad2d: {padding: 1, value: 0.5}",
    "- ReflectionPad2d: [1, 2, 3, 0]",
    "- ReplicationPad2d: 2",
    "- CircularPad2d: [2, 1, 1, 2]",
    "- Slice: {dim: 2, start: 1, end: 8, step: 3}",
    "- Slice: {dim: 1, start: -3}",
    "- CenterCrop: [4, 5]",
    "- MaxPool2d: 2",
    "- MaxPool2d: {kernel_size: 3, stride: 2, padding: 1, dilation: 2, ceil_mode: true}",
    "- AvgPool2d: {kernel_size: 3, stride: 2, padding: 1, ceil_mode: true}",
    "- AvgPool2d: {kernel_size: [2, 3], padding: [1, 0], count_include_pad: false}",
    "- AvgPool2d: {kernel_size: 2, divisor_override: 3}",
    "- AdaptiveAvgPool2d: [4, 3]",
    "- AdaptiveMaxPool2d: [2, 5]",
    "- LPPool2d: {norm_type: 2, kernel_size: 2}",
    "- LPPool2d: {norm_type: 2, kernel_size: 3, stride: 2, ceil_mode: true}",
    "- Flatten",
    "- Unflatten: {dim: 1, unflattened_size: [2, 2]}",
    "- Permute: [0, 3, 1, 2]",
    "- PixelShuffle: 2",
    "- {Slice: {dim: 2, end: 8}}\n- PixelUnshuffle: 2",
    "- ChannelShuffle: 2",
    "- Upsample: {scale_factor: 2}",
    "- Upsample: {size: [12, 5], mode: nearest-exact}",
    "- Upsample: {scale_factor: 1.7, mode: bilinear}",
    "- Upsample: {size: [13, 17], mode: bicubic, align_corners: true}",
    "- Upsample: {size: [5, 11], mode: bicubic}",
    "- UpsamplingNearest2d: {scale_factor: 3}",
    "- UpsamplingBilinear2d: {size: [4, 20]}",
    "- Unfold: {kernel_size: [2, 3], stride: 2, padding: 1}",
    "- Unfold: 3\n- Fold: {output_size: [9, 8], kernel_size: 3}",
    # What takes channels and a length: 4x72.
    "- Flatten: 2\n- Conv1d: {out_channels: 6, kernel_size: 3, stride: 2, padding: 1, groups: 2}",
    "- Flatten: 2\n- Conv1d: {out_channels: 4, kernel_size: 3, padding: same, padding_mode: circular}",
    "- Flatten: 2\n- ConvTranspose1d: {out_channels: 6, kernel_size: 3, stride: 2}",
    "- Flatten: 2\n- BatchNorm1d",
    "- Flatten: 2\n- InstanceNorm1d: {affine: true}",
    "- Flatten: 2\n- Dropout1d",
    "- Flatten: 2\n- ZeroPad1d: [3, 1]",
    "- Flatten: 2\n- ConstantPad1d: {padding: 2, value: -1.0}",
    "- Flatten: 2\n- ReflectionPad1d: 3",
    "- Flatten: 2\n- ReplicationPad1d: [0, 2]",
    "- Flatten: 2\n- CircularPad1d: 4",
    "- Flatten: 2\n- MaxPool1d: {kernel_size: 3, stride: 2}",
    "- Flatten: 2\n- AvgPool1d: {kernel_size: 5, padding: 1}",
    "- Flatten: 2\n- AdaptiveAvgPool1d: 7",
    "- Flatten: 2\n- AdaptiveMaxPool1d: 10",
    "- Flatten\n- BatchNorm1d",
    # Joins.
    *(
        f"a: {{Conv2d: {{out_channels: 4, kernel_size: 1}}}}\nb: {{from: input, PReLU: 4}}\nj: {{{join}: [a, b]}}"
        for join in ("Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Mean", "Concat")
    ),
    "a: {Conv2d: {out_channels: 4, kernel_size: 1}}\nb: {AdaptiveAvgPool2d: 1}\nj: {Multiply: [a, b, 0.17]}",
    "a: Sigmoid\nj: {Subtract: [1, a]}",
    "a: {Parameter: {shape: [4, 1, 1], init: normal}}\nj: {Multiply: [input, a]}",
    "a: {Chunk: 2}\nj: {Multiply: [a.0, a.1]}",
    "a: {Split: [1, 3]}\nj: {Concat: [a.1, a.0]}",
    "a: {Conv2d: {out_channels: 4, kernel_size: 3, padding: 1}}\nb: {Again: a}\nj: {Add: [a, b]}",
]


@pytest.fixture(scope="module")
def v8() -> Engine:
    return engine()


def test_the_cases_cover_every_layer_type() -> None:
    missing = {name for name in [*LAYERS, *JOINS] if not any(name in case for case in CASES)}
    assert not missing


@pytest.mark.parametrize("layers", CASES, ids=lambda text: text.replace("\n", " ")[:60])
def test_a_layer_computes_what_pytorch_computes(layers: str, v8: Engine, tmp_path) -> None:
    body = "\n".join(f"    {line}" for line in layers.splitlines())
    (tmp_path / "net.yaml").write_text(f"net:\n  input: [4, 9, 8]\n  layers:\n{body}\n")
    plan = find(str(tmp_path / "net.yaml"))
    module = fresh(plan)
    pixels = torch.randn(2, 4, 9, 8, requires_grad=True)
    output = module(pixels)
    upstream = torch.randn(output.shape)
    output.backward(upstream)

    v8.open(plan, module)
    v8.set("x", pixels)
    v8.set("upstream", upstream)
    v8.context.eval("var ran = run(net, x); var found = gradients(ran.output, upstream.data); 0")
    assert relative(v8.get("ran.output.data"), output) < 1e-4
    assert relative(v8.get("found.get(x)"), pixels.grad) < 1e-4
    for name, parameter in module.named_parameters():
        assert relative(v8.get(f'found.get(net.weights.get("{name}"))'), parameter.grad) < 1e-4, name
    assert v8.value(WRONG_EXPLANATIONS) == []


# For each row and some of its values: an explanation whose own arithmetic gives something else.
WRONG_EXPLANATIONS = """(() => {
  const one = run(net, tensor([1, ...net.input], x.data.subarray(0, count(net.input)))), wrong = [];
  net.rows.forEach((row, i) => {
    if (Array.isArray(one.values[i]) || row.type === "Parameter") return;
    const out = one.values[i], arriving = arrivingAt(net, one, i);
    for (let k = 0; k < out.data.length; k += 1 + Math.floor(out.data.length / 40)) {
      const at = positionOf(k, out.shape.slice(1)), found = explanation(row, arriving, out, row.parameters, at);
      if (!(Math.abs(found.result - out.data[k]) <= 1e-5 * Math.max(1, Math.abs(out.data[k])))) {
        wrong.push([row.name, at, found.result, out.data[k]]);
      }
    }
  });
  return wrong;
})()"""
