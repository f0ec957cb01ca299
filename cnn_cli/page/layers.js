// The layer table in JavaScript: what each layer type computes. tests/test_page_layers.py compares it to PyTorch.
//
// A row is a layer of the network: {name, type, settings, takes, shape}, shape without the batch. A layer's function gets
// the input tensors, the row, its parameters by name and the mode: {training, random}. It returns a tensor or, for
// layers with several outputs, a list of tensors.

"use strict";

function rearranged(x, row, source) {
  return gather(x, [x.shape[0], ...row.shape], indexed(x, row.shape, source));
}

function squeezeExcitation(x, row, p) {
  const s = row.settings,
    all = (n) => [range(n).map((i) => [i, 1 / n])];
  const one = { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1, out: [1, 1] };
  const mean = separable(x, all(x.shape[2]), all(x.shape[3]));
  const named = (type) => {
    const rule = LAYERS[type];
    return (y) => rule(y, { type, settings: DEFAULTS[type] || {}, shape: y.shape.slice(1) }, {}, { training: false });
  };
  const squeezed = named(s.activation)(convolve(mean, p["fc1.weight"], p["fc1.bias"], one));
  return multiply(x, named(s.scale_activation)(convolve(squeezed, p["fc2.weight"], p["fc2.bias"], one)));
}

// The default arguments of torch.nn's activations.
const DEFAULTS = {
  LeakyReLU: { negative_slope: 0.01 },
  ELU: { alpha: 1 },
  CELU: { alpha: 1 },
  GELU: { approximate: "none" },
  Hardshrink: { lambd: 0.5 },
  Softshrink: { lambd: 0.5 },
  Softplus: { beta: 1, threshold: 20 },
  Hardtanh: { min_val: -1, max_val: 1 },
  RReLU: { lower: 1 / 8, upper: 1 / 3 },
};

/** Dropout and its variants: kept values are scaled up, so that the mean stays the same. `size` values in a row share one draw. */
function dropped(x, p, size, mode) {
  if (!mode.training || p === 0) return identity(x);
  const factors = new Float32Array(x.data.length);
  for (let start = 0; start < factors.length; start += size) {
    factors.fill(mode.random() < p ? 0 : 1 / (1 - p), start, start + size);
  }
  return made(
    x.shape,
    x.data.map((v, i) => v * factors[i]),
    [x],
    (grad) => [grad.map((g, i) => g * factors[i])],
  );
}

const identity = (x) => reshape(x, x.shape);

function joined(xs, row, f) {
  const numbers = row.settings.numbers && row.settings.numbers.length ? row.settings.numbers : xs.map(() => null);
  const waiting = xs.slice();
  const operands = numbers.map((n) => (n === null ? waiting.shift() : tensor([1], new Float32Array([n]))));
  return operands.reduce(f);
}

function cut(x, sizes) {
  let start = 0;
  const area = x.shape.slice(2);
  return sizes.map((size) => {
    const from = start;
    start += size;
    return gather(
      x,
      [x.shape[0], size, ...area],
      indexed(x, [size, ...area], ([c, ...rest]) => [c + from, ...rest]),
    );
  });
}

const pad2 = (border) => (x, row) => padded(x, [].concat(row.settings.padding), border, row.settings.value || 0);
const pad1 = (border) => (x, row) =>
  flat(padded(tall(x), [...[].concat(row.settings.padding), 0, 0], border, row.settings.value || 0));

const LAYERS = {
  Identity: identity,
  PReLU: (x, row, p) => {
    const many = p.weight.data.length > 1,
      of = channelOf(x);
    const slope = (i) => p.weight.data[many ? of(i) : 0];
    return made(
      x.shape,
      x.data.map((v, i) => (v > 0 ? v : v * slope(i))),
      [x, p.weight],
      (grad) => {
        const gw = new Float32Array(p.weight.data.length);
        x.data.forEach((v, i) => {
          if (v <= 0) gw[many ? of(i) : 0] += grad[i] * v;
        });
        return [grad.map((g, i) => (x.data[i] > 0 ? g : g * slope(i))), gw];
      },
    );
  },
  Softmax: (x, row) => softmax(x, axisOf(row.settings.dim, x)),
  Softmin: (x, row) =>
    softmax(
      each(
        x,
        (v) => -v,
        () => -1,
      ),
      axisOf(row.settings.dim, x),
    ),
  LogSoftmax: (x, row) => softmax(x, axisOf(row.settings.dim, x), true),
  Softmax2d: (x) => softmax(x, 1),
  GLU: (x, row) => {
    const dim = axisOf(row.settings.dim, x) - 1,
      half = row.shape[dim];
    const moved = (by) => rearranged(x, row, (at) => at.map((i, d) => (d === dim ? i + by : i)));
    return multiply(moved(0), activated(moved(half), "Sigmoid"));
  },

  Dropout: (x, row, p, mode) => dropped(x, row.settings.p, 1, mode),
  Dropout1d: (x, row, p, mode) => dropped(x, row.settings.p, count(x.shape.slice(2)), mode),
  Dropout2d: (x, row, p, mode) => dropped(x, row.settings.p, count(x.shape.slice(2)), mode),
  StochasticDepth: (x, row, p, mode) =>
    dropped(x, row.settings.p, count(x.shape.slice(row.settings.mode === "batch" ? 0 : 1)), mode),
  AlphaDropout: identity,
  FeatureAlphaDropout: identity,
  DropBlock2d: identity,

  Conv2d: convolution,
  Conv1d: along(convolution),
  ConvTranspose2d: transposedConvolution,
  ConvTranspose1d: along(transposedConvolution),
  Linear: (x, row, p) => linear(x, p.weight, p.bias),
  SqueezeExcitation: squeezeExcitation,

  BatchNorm1d: batchNorm,
  BatchNorm2d: batchNorm,
  FrozenBatchNorm2d: (x, row, p) => withStatistics(x, p, p.running_mean.data, p.running_var.data, row.settings.eps),
  InstanceNorm1d: instanceNorm,
  InstanceNorm2d: instanceNorm,
  GroupNorm: groupNorm,
  LayerNorm: layerNorm,
  RMSNorm: layerNorm,
  LayerNorm2d: channelNorm,
  LocalResponseNorm: responseNorm,

  ZeroPad2d: pad2("zeros"),
  ConstantPad2d: pad2("constant"),
  ReflectionPad2d: pad2("reflect"),
  ReplicationPad2d: pad2("replicate"),
  CircularPad2d: pad2("circular"),
  ZeroPad1d: pad1("zeros"),
  ConstantPad1d: pad1("constant"),
  ReflectionPad1d: pad1("reflect"),
  ReplicationPad1d: pad1("replicate"),
  CircularPad1d: pad1("circular"),
  Slice: (x, row) => {
    const s = row.settings,
      dim = axisOf(s.dim, x) - 1,
      n = x.shape[dim + 1];
    const start = Math.max(0, s.start < 0 ? n + s.start : s.start);
    return rearranged(x, row, (at) => at.map((i, d) => (d === dim ? start + i * s.step : i)));
  },
  CenterCrop: (x, row) => {
    const [top, left] = [0, 1].map((a) => roundHalfEven((x.shape[2 + a] - row.shape[1 + a]) / 2));
    return rearranged(x, row, ([c, i, j]) => [c, i + top, j + left]);
  },

  MaxPool2d: maxPool,
  AvgPool2d: averagePool,
  LPPool2d: powerPool,
  AdaptiveAvgPool2d: (x, row) =>
    separable(x, equally(adaptive(x.shape[2], row.shape[1])), equally(adaptive(x.shape[3], row.shape[2]))),
  AdaptiveMaxPool2d: (x, row) => highest(x, adaptive(x.shape[2], row.shape[1]), adaptive(x.shape[3], row.shape[2])),
  MaxPool1d: along(maxPool),
  AvgPool1d: along(averagePool),
  AdaptiveAvgPool1d: (x, row) => flat(LAYERS.AdaptiveAvgPool2d(tall(x), widened(row))),
  AdaptiveMaxPool1d: (x, row) => flat(LAYERS.AdaptiveMaxPool2d(tall(x), widened(row))),

  Flatten: (x, row) => reshape(x, [x.shape[0], ...row.shape]),
  Unflatten: (x, row) => reshape(x, [x.shape[0], ...row.shape]),
  Permute: (x, row) => {
    const dims = row.settings.dims.slice(1).map((d) => axisOf(d, x) - 1);
    return rearranged(x, row, (at) => {
      const from = [];
      dims.forEach((d, i) => {
        from[d] = at[i];
      });
      return from;
    });
  },
  PixelShuffle: (x, row) => {
    const r = row.settings.upscale_factor;
    return rearranged(x, row, ([c, y, z]) => [c * r * r + (y % r) * r + (z % r), Math.floor(y / r), Math.floor(z / r)]);
  },
  PixelUnshuffle: (x, row) => {
    const r = row.settings.downscale_factor;
    return rearranged(x, row, ([c, y, z]) => [
      Math.floor(c / (r * r)),
      y * r + Math.floor((c % (r * r)) / r),
      z * r + (c % r),
    ]);
  },
  ChannelShuffle: (x, row) => {
    const groups = row.settings.groups,
      per = x.shape[1] / groups;
    return rearranged(x, row, ([c, ...rest]) => [(c % groups) * per + Math.floor(c / groups), ...rest]);
  },
  Upsample: upsampled,
  UpsamplingNearest2d: upsampled,
  UpsamplingBilinear2d: upsampled,
  Unfold: (x, row) => {
    const s = row.settings,
      [kernel, stride, padding, dilation] = [s.kernel_size, s.stride, s.padding, s.dilation].map(square);
    const wide = Math.floor((x.shape[3] + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) / stride[1]) + 1;
    return rearranged(x, row, ([k, at]) => {
      const j = k % kernel[1],
        i = Math.floor(k / kernel[1]) % kernel[0],
        c = Math.floor(k / (kernel[0] * kernel[1]));
      const y = Math.floor(at / wide) * stride[0] - padding[0] + i * dilation[0];
      const z = (at % wide) * stride[1] - padding[1] + j * dilation[1];
      return y < 0 || z < 0 || y >= x.shape[2] || z >= x.shape[3] ? null : [c, y, z];
    });
  },
  Fold: (x, row) => {
    const s = row.settings,
      [kernel, stride, padding, dilation] = [s.kernel_size, s.stride, s.padding, s.dilation].map(square);
    const [channels, ...out] = row.shape,
      [batch, k, area] = x.shape;
    const along = (a) => Math.floor((out[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a]) + 1;
    const g = { channels, height: out[0], width: out[1], kernel, stride, padding, dilation, out: [along(0), along(1)] };
    const whole = count(row.shape),
      data = new Float32Array(batch * whole);
    for (let n = 0; n < batch; n++) addPatches(x.data.subarray(n * k * area, (n + 1) * k * area), g, data, n * whole);
    return made([batch, ...row.shape], data, [x], (grad) => {
      const back = new Float32Array(x.data.length);
      for (let n = 0; n < batch; n++) {
        patches(grad, n * whole, g, back.subarray(n * k * area, (n + 1) * k * area));
      }
      return [back];
    });
  },
};

for (const type of Object.keys(ACTIVATIONS)) LAYERS[type] = (x, row) => activated(x, type, row.settings);

// Layers with several inputs or outputs, and bare parameters.
const JOINS = {
  Add: (xs, row) => joined(xs, row, add),
  Subtract: (xs, row) => joined(xs, row, subtract),
  Multiply: (xs, row) => joined(xs, row, multiply),
  Divide: (xs, row) => joined(xs, row, divide),
  Maximum: (xs, row) => joined(xs, row, maximum),
  Minimum: (xs, row) => joined(xs, row, minimum),
  Mean: (xs) => {
    const sum = xs.reduce(add);
    return each(
      sum,
      (v) => v / xs.length,
      () => 1 / xs.length,
    );
  },
  Concat: (xs) => concat(xs),
  Chunk: (xs, row) =>
    cut(
      xs[0],
      row.pieces.map((shape) => shape[0]),
    ),
  Split: (xs, row) =>
    cut(
      xs[0],
      row.pieces.map((shape) => shape[0]),
    ),
  Parameter: (xs, row, p) => p[""],
};

function roundHalfEven(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The output of a layer for its input tensors. */
function computed(row, arriving, parameters, mode) {
  const rule = JOINS[row.type];
  if (rule) return rule(arriving, row, parameters, mode);
  return LAYERS[row.type](arriving[0], row, parameters, mode);
}
