// The layer table in JavaScript: what each layer type computes. tests/test_page_layers.py holds it against PyTorch.
//
// A row is a layer of the network: {name, type, settings, takes, shape}, shape without the batch. A layer's function gets
// the tensors that arrive, the row, its parameters by name and the mode: {training, random}. It gives a tensor or, for
// layers with several outputs, a list of tensors.

"use strict";

// Activations, value by value: f(x, settings), its derivative (x, y, settings), and how it reads with numbers.
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const softplus = (x) => (x > 20 ? x : Math.log1p(Math.exp(x)));
const normalDensity = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const hard = (x) => Math.min(1, Math.max(0, x / 6 + 0.5));
const SELU_ALPHA = 1.6732632423543772,
  SELU_SCALE = 1.0507009873554805;

// Rational approximations of the error function (Cody 1969), good to double precision.
const ERF_LOW = [
  [3.1611237438705656, 113.86415415105016, 377.485237685302, 3209.3775891384695, 0.18577770618460315],
  [23.601290952344122, 244.02463793444417, 1282.6165260773723, 2844.2368334391706],
];
const ERF_HIGH = [
  [
    0.5641884969886701, 8.883149794388376, 66.11919063714163, 298.6351381974001, 881.952221241769, 1712.0476126340707,
    2051.0783778260716, 1230.3393547979972, 2.1531153547440383e-8,
  ],
  [
    15.744926110709835, 117.6939508913125, 537.1811018620099, 1621.3895745666903, 3290.7992357334597, 4362.619090143247,
    3439.3676741437216, 1230.3393548037495,
  ],
];

function erf(x) {
  const z = Math.abs(x),
    [above, below] = z < 0.46875 ? ERF_LOW : ERF_HIGH,
    y = z < 0.46875 ? z * z : z;
  if (z > 6) return Math.sign(x);
  let top = above[above.length - 1] * y,
    bottom = y;
  for (let i = 0; i < below.length - 1; i++) {
    top = (top + above[i]) * y;
    bottom = (bottom + below[i]) * y;
  }
  const ratio = (top + above[below.length - 1]) / (bottom + below[below.length - 1]);
  return z < 0.46875 ? x * ratio : Math.sign(x) * (1 - Math.exp(-z * z) * ratio);
}

const gelu = {
  f: (x, s) =>
    s.approximate === "tanh"
      ? 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
      : (x / 2) * (1 + erf(x / Math.SQRT2)),
  slope: (x, y, s) => {
    if (s.approximate !== "tanh") return (1 + erf(x / Math.SQRT2)) / 2 + x * normalDensity(x);
    const c = Math.sqrt(2 / Math.PI),
      t = Math.tanh(c * (x + 0.044715 * x ** 3));
    return (1 + t) / 2 + (x / 2) * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
  },
  text: (x, s) => (s.approximate === "tanh" ? `GELU(${x}), tanh approximation` : `${x} · Φ(${x})`),
};

const exponential = (alpha) => ({
  f: (x, s) => (x > 0 ? x : alpha(s) * Math.expm1(x)),
  slope: (x, y, s) => (x > 0 ? 1 : y + alpha(s)),
  text: (x, s) => `${x} if positive, else ${alpha(s)} · (exp(${x}) − 1)`,
});

const ACTIVATIONS = {
  ReLU: { f: (x) => (x > 0 ? x : 0), slope: (x) => (x > 0 ? 1 : 0), text: (x) => `max(0, ${x})` },
  ReLU6: {
    f: (x) => Math.min(6, Math.max(0, x)),
    slope: (x) => (x > 0 && x < 6 ? 1 : 0),
    text: (x) => `min(6, max(0, ${x}))`,
  },
  LeakyReLU: {
    f: (x, s) => (x > 0 ? x : s.negative_slope * x),
    slope: (x, y, s) => (x > 0 ? 1 : s.negative_slope),
    text: (x, s) => `${x} if positive, else ${s.negative_slope} · ${x}`,
  },
  ELU: exponential((s) => s.alpha),
  CELU: {
    f: (x, s) => (x > 0 ? x : s.alpha * Math.expm1(x / s.alpha)),
    slope: (x, y, s) => (x > 0 ? 1 : Math.exp(x / s.alpha)),
    text: (x, s) => `${x} if positive, else ${s.alpha} · (exp(${x} / ${s.alpha}) − 1)`,
  },
  SELU: {
    f: (x) => SELU_SCALE * (x > 0 ? x : SELU_ALPHA * Math.expm1(x)),
    slope: (x, y) => (x > 0 ? SELU_SCALE : y + SELU_SCALE * SELU_ALPHA),
    text: (x) => `1.0507 · (${x} if positive, else 1.6733 · (exp(${x}) − 1))`,
  },
  GELU: gelu,
  SiLU: {
    f: (x) => x * sigmoid(x),
    slope: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    text: (x) => `${x} · sigmoid(${x})`,
  },
  Mish: {
    f: (x) => x * Math.tanh(softplus(x)),
    slope: (x) => {
      const t = Math.tanh(softplus(x));
      return t + x * (1 - t * t) * sigmoid(x);
    },
    text: (x) => `${x} · tanh(softplus(${x}))`,
  },
  Hardswish: {
    f: (x) => x * hard(x),
    slope: (x) => (x < -3 ? 0 : x <= 3 ? x / 3 + 0.5 : 1),
    text: (x) => `${x} · min(1, max(0, ${x} / 6 + 0.5))`,
  },
  Hardsigmoid: {
    f: hard,
    slope: (x) => (x > -3 && x < 3 ? 1 / 6 : 0),
    text: (x) => `min(1, max(0, ${x} / 6 + 0.5))`,
  },
  Hardshrink: {
    f: (x, s) => (Math.abs(x) > s.lambd ? x : 0),
    slope: (x, y, s) => (Math.abs(x) > s.lambd ? 1 : 0),
    text: (x, s) => `0 between −${s.lambd} and ${s.lambd}, else ${x}`,
  },
  Softshrink: {
    f: (x, s) => (x > s.lambd ? x - s.lambd : x < -s.lambd ? x + s.lambd : 0),
    slope: (x, y, s) => (Math.abs(x) > s.lambd ? 1 : 0),
    text: (x, s) => `${x} shrunk towards 0 by ${s.lambd}`,
  },
  Softplus: {
    f: (x, s) => (x * s.beta > s.threshold ? x : Math.log1p(Math.exp(s.beta * x)) / s.beta),
    slope: (x, y, s) => (x * s.beta > s.threshold ? 1 : sigmoid(s.beta * x)),
    text: (x, s) => `ln(1 + exp(${s.beta} · ${x})) / ${s.beta}`,
  },
  Softsign: {
    f: (x) => x / (1 + Math.abs(x)),
    slope: (x) => 1 / (1 + Math.abs(x)) ** 2,
    text: (x) => `${x} / (1 + |${x}|)`,
  },
  Sigmoid: { f: sigmoid, slope: (x, y) => y * (1 - y), text: (x) => `1 / (1 + exp(−(${x})))` },
  LogSigmoid: {
    f: (x) => Math.min(0, x) - Math.log1p(Math.exp(-Math.abs(x))),
    slope: (x) => sigmoid(-x),
    text: (x) => `ln(sigmoid(${x}))`,
  },
  Tanh: { f: Math.tanh, slope: (x, y) => 1 - y * y, text: (x) => `tanh(${x})` },
  Tanhshrink: {
    f: (x) => x - Math.tanh(x),
    slope: (x) => Math.tanh(x) ** 2,
    text: (x) => `${x} − tanh(${x})`,
  },
  Threshold: {
    f: (x, s) => (x > s.threshold ? x : s.value),
    slope: (x, y, s) => (x > s.threshold ? 1 : 0),
    text: (x, s) => `${x} if above ${s.threshold}, else ${s.value}`,
  },
  Hardtanh: {
    f: (x, s) => Math.min(s.max_val, Math.max(s.min_val, x)),
    slope: (x, y, s) => (x > s.min_val && x < s.max_val ? 1 : 0),
    text: (x, s) => `min(${s.max_val}, max(${s.min_val}, ${x}))`,
  },
  RReLU: {
    // in evaluation: the mean of the slopes that training draws
    f: (x, s) => (x >= 0 ? x : (x * (s.lower + s.upper)) / 2),
    slope: (x, y, s) => (x >= 0 ? 1 : (s.lower + s.upper) / 2),
    text: (x, s) => `${x} if positive, else ${((s.lower + s.upper) / 2).toPrecision(4)} · ${x}`,
  },
};

const activated = (x, type, settings = {}) => {
  const { f, slope } = ACTIVATIONS[type];
  return each(
    x,
    (value) => f(value, settings),
    (value, result) => slope(value, result, settings),
  );
};

// PyTorch's `dim`, negative ones from the end.
const axisOf = (dim, x) => (dim < 0 ? x.shape.length + dim : dim);
const range = (n) => Array.from({ length: n }, (_, i) => i);
const square = (value) => (Array.isArray(value) ? value : [value, value]);

// Layers …1d work on maps of one row.
const tall = (x) => reshape(x, [x.shape[0], x.shape[1], 1, x.shape[2]]);
const flat = (x) => Object.assign(reshape(x, [x.shape[0], x.shape[1], x.shape[3]]), { whole: x });
const wide = (value, one) => [one, Array.isArray(value) ? value[0] : value];

function rearranged(x, row, source) {
  return gather(x, [x.shape[0], ...row.shape], indexed(x, row.shape, source));
}

// Where a position beyond the border is read instead: null stands for the constant.
const BORDERS = {
  constant: (i, n) => (i < 0 || i >= n ? null : i),
  zeros: (i, n) => (i < 0 || i >= n ? null : i),
  reflect: (i, n) => (i < 0 ? -i : i >= n ? 2 * (n - 1) - i : i),
  replicate: (i, n) => Math.min(n - 1, Math.max(0, i)),
  circular: (i, n) => ((i % n) + n) % n,
};

/** padding: [left, right, top, bottom], negative ones crop. */
function padded(x, padding, border, fill = 0) {
  const [batch, channels, height, width] = x.shape,
    [left, right, top, bottom] = padding;
  const shape = [channels, height + top + bottom, width + left + right],
    at = BORDERS[border];
  const index = indexed(x, shape, ([c, y, z]) => {
    const i = at(y - top, height),
      j = at(z - left, width);
    return i === null || j === null ? null : [c, i, j];
  });
  return gather(x, [batch, ...shape], index, fill);
}

/** Padding of a convolution: `same` puts the odd pixel at the end, as PyTorch does. */
function convolution(x, row, p, mode) {
  const s = row.settings,
    kernel = s.kernel_size,
    border = s.padding_mode || "zeros";
  let padding = s.padding;
  if (padding === "valid") padding = [0, 0];
  if (padding === "same" || border !== "zeros") {
    const sides = kernel.map((k, i) => {
      if (padding !== "same") return [padding[i], padding[i]];
      const whole = s.dilation[i] * (k - 1);
      return [Math.floor(whole / 2), whole - Math.floor(whole / 2)];
    });
    x = padded(x, [...sides[1], ...sides[0]], border);
    padding = [0, 0];
  }
  const out = row.shape.slice(1);
  return convolve(x, p.weight, p.bias, { stride: s.stride, padding, dilation: s.dilation, groups: s.groups, out });
}

const transposedConvolution = (x, row, p) => {
  const s = row.settings,
    out = row.shape.slice(1);
  return convolveTransposed(x, p.weight, p.bias, {
    stride: s.stride,
    padding: s.padding,
    dilation: s.dilation,
    groups: s.groups,
    out,
  });
};

/** A row of a layer …1d as one of a layer …2d. */
function widened(row) {
  const one = { kernel_size: 1, stride: 1, padding: 0, dilation: 1, output_padding: 0, output_size: 1 };
  const settings = { ...row.settings };
  for (const [name, fill] of Object.entries(one)) {
    if (name in settings && settings[name] !== null && typeof settings[name] !== "string") {
      settings[name] = wide(settings[name], fill);
    }
  }
  return { ...row, settings, shape: [row.shape[0], 1, row.shape[1]] };
}

const kernels = (p) =>
  p.weight ? { ...p, weight: reshape(p.weight, [p.weight.shape[0], p.weight.shape[1], 1, p.weight.shape[2]]) } : p;
const along = (layer) => (x, row, p, mode) => flat(layer(tall(x), widened(row), kernels(p), mode));

/** The positions that each window of a pooling reads along one axis. */
function windows(n, out, kernel, stride, padding, dilation = 1) {
  return range(out).map((y) => {
    const all = range(kernel).map((i) => y * stride - padding + i * dilation);
    return all.filter((i) => i >= 0 && i < n);
  });
}

const adaptive = (n, out) =>
  range(out).map((y) => {
    const start = Math.floor((y * n) / out),
      end = Math.ceil(((y + 1) * n) / out);
    return range(end - start).map((i) => start + i);
  });

const equally = (lists) => lists.map((list) => list.map((i) => [i, 1 / list.length]));

function maxPool(x, row) {
  const s = row.settings,
    stride = s.stride === null ? s.kernel_size : s.stride;
  const [rows, columns] = [0, 1].map((a) =>
    windows(x.shape[2 + a], row.shape[1 + a], s.kernel_size[a], stride[a], s.padding[a], s.dilation[a]),
  );
  return highest(x, rows, columns);
}

function averagePool(x, row) {
  const s = row.settings,
    stride = s.stride === null ? s.kernel_size : s.stride;
  const [rows, columns] = [0, 1].map((a) => {
    const n = x.shape[2 + a];
    return windows(n, row.shape[1 + a], s.kernel_size[a], stride[a], s.padding[a]).map((list, y) => {
      const start = y * stride[a] - s.padding[a],
        end = Math.min(start + s.kernel_size[a], n + s.padding[a]);
      const divisor = s.divisor_override ? 1 : s.count_include_pad ? end - start : list.length;
      return list.map((i) => [i, 1 / divisor]);
    });
  });
  return separable(x, rows, columns, s.divisor_override ? 1 / s.divisor_override : 1);
}

/** (Σ xᵖ)^(1/p) over windows, by PyTorch's own steps. */
function powerPool(x, row) {
  const s = row.settings,
    stride = s.stride === null ? s.kernel_size : s.stride,
    power = s.norm_type;
  const raised = each(
    x,
    (v) => v ** power,
    (v) => power * v ** (power - 1),
  );
  const lists = [0, 1].map((a) => windows(x.shape[2 + a], row.shape[1 + a], s.kernel_size[a], stride[a], 0));
  const number = s.kernel_size[0] * s.kernel_size[1];
  // PyTorch averages over what a window at the border has, and multiplies by the whole window.
  const mean = separable(raised, equally(lists[0]), equally(lists[1]), number);
  const root = (v) => (v > 0 ? v ** (1 / power) : 0);
  return each(mean, root, (v, y) => (v > 0 ? y / v / power : 0));
}

/** [position, weight] of each output position along one axis of an interpolation. */
function interpolation(n, out, mode, corners, factor) {
  const scale = corners ? (out > 1 ? (n - 1) / (out - 1) : 0) : factor ? 1 / factor : n / out;
  const inside = (i) => Math.min(n - 1, Math.max(0, i));
  return range(out).map((y) => {
    if (mode === "nearest") return [[inside(Math.floor(Math.fround(y * Math.fround(scale)))), 1]];
    if (mode === "nearest-exact") return [[inside(Math.floor(Math.fround((y + 0.5) * Math.fround(scale)))), 1]];
    const place = corners ? y * scale : (y + 0.5) * scale - 0.5;
    if (mode === "bicubic") {
      const start = Math.floor(place),
        t = place - start,
        a = -0.75;
      const near = (d) => ((a + 2) * d - (a + 3)) * d * d + 1,
        far = (d) => ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
      return [far(t + 1), near(t), near(1 - t), far(2 - t)].map((w, i) => [inside(start - 1 + i), w]);
    }
    const at = Math.max(0, place),
      start = Math.min(n - 1, Math.floor(at)),
      t = at - start;
    return [
      [start, 1 - t],
      [inside(start + 1), t],
    ];
  });
}

function upsampled(x, row, p, mode) {
  const s = row.settings;
  const factors =
    s.scale_factor === null || s.scale_factor === undefined || s.recompute_scale_factor
      ? [null, null]
      : square(s.scale_factor);
  const kind = row.type === "UpsamplingBilinear2d" ? "bilinear" : s.mode || "nearest";
  const corners = row.type === "UpsamplingBilinear2d" || Boolean(s.align_corners);
  const lines = [0, 1].map((a) => interpolation(x.shape[2 + a], row.shape[1 + a], kind, corners, factors[a]));
  return separable(x, lines[0], lines[1]);
}

/** x · weight + bias with a weight for each channel, or for each place of what layer norm normalizes. */
function affine(x, p, index) {
  if (!p.weight && !p.bias) return x;
  const weight = p.weight && p.weight.data,
    bias = p.bias && p.bias.data,
    data = new Float32Array(x.data.length);
  for (let i = 0; i < data.length; i++) {
    data[i] = (weight ? x.data[i] * weight[index[i]] : x.data[i]) + (bias ? bias[index[i]] : 0);
  }
  const parents = [x, ...(weight ? [p.weight] : []), ...(bias ? [p.bias] : [])];
  return made(x.shape, data, parents, (grad) => {
    const back = new Float32Array(grad.length),
      gw = new Float32Array(weight ? weight.length : 0);
    const gb = new Float32Array(bias ? bias.length : 0);
    for (let i = 0; i < grad.length; i++) {
      const at = index[i];
      back[i] = weight ? grad[i] * weight[at] : grad[i];
      if (weight) gw[at] += grad[i] * x.data[i];
      if (bias) gb[at] += grad[i];
    }
    return [back, ...(weight ? [gw] : []), ...(bias ? [gb] : [])];
  });
}

const channelOf = (x) => {
  const area = count(x.shape.slice(2)),
    channels = x.shape[1];
  return (i) => Math.floor(i / area) % channels;
};

/** Numbers for all values of x, by a function of their place. */
function numbered(x, of) {
  const index = new Int32Array(x.data.length);
  for (let i = 0; i < index.length; i++) index[i] = of(i);
  return index;
}

/** What batch, instance, group and layer norm share: `sets` are normalized by themselves; `of` says which weight is whose. */
function grouped(x, p, sets, number, eps, of, center = true) {
  const found = {},
    scaled = normalized(x, numbered(x, sets), number, eps, center, found);
  return Object.assign(affine(scaled, p, numbered(x, of)), { statistics: { ...found, sets, of, eps, center } });
}

/** With statistics that are known: batch norm in evaluation. */
function withStatistics(x, p, mean, variance, eps) {
  const area = count(x.shape.slice(2)),
    channels = x.shape[1],
    scale = Float64Array.from(variance, (v) => 1 / Math.sqrt(v + eps));
  const data = new Float32Array(x.data.length),
    weight = p.weight && p.weight.data,
    bias = p.bias && p.bias.data;
  const byChannel = (visit) => {
    for (let m = 0; m < x.shape[0] * channels; m++) visit(m % channels, m * area, (m + 1) * area);
  };
  byChannel((c, start, end) => {
    const factor = scale[c] * (weight ? weight[c] : 1),
      moved = (bias ? bias[c] : 0) - mean[c] * factor;
    for (let i = start; i < end; i++) data[i] = x.data[i] * factor + moved;
  });
  const parents = [x, ...(weight ? [p.weight] : []), ...(bias ? [p.bias] : [])];
  const out = made(x.shape, data, parents, (grad) => {
    const back = new Float32Array(grad.length),
      gw = new Float32Array(channels),
      gb = new Float32Array(channels);
    byChannel((c, start, end) => {
      const factor = scale[c] * (weight ? weight[c] : 1);
      let sum = 0,
        product = 0;
      for (let i = start; i < end; i++) {
        back[i] = grad[i] * factor;
        sum += grad[i];
        product += grad[i] * (x.data[i] - mean[c]);
      }
      gb[c] += sum;
      gw[c] += product * scale[c];
    });
    return [back, ...(weight ? [gw] : []), ...(bias ? [gb] : [])];
  });
  const of = channelOf(x);
  return Object.assign(out, {
    statistics: { means: mean, variances: variance, sets: of, of, eps, center: true, kept: true },
  });
}

function batchNorm(x, row, p, mode) {
  const s = row.settings,
    channels = x.shape[1],
    of = channelOf(x);
  if (!mode.training && p.running_mean) return withStatistics(x, p, p.running_mean.data, p.running_var.data, s.eps);
  const out = grouped(x, p, of, channels, s.eps, of);
  if (mode.training && p.running_mean) {
    const { means, variances, sizes } = out.statistics,
      momentum = s.momentum;
    for (let c = 0; c < channels; c++) {
      const unbiased = (variances[c] * sizes[c]) / (sizes[c] - 1);
      p.running_mean.data[c] += momentum * (means[c] - p.running_mean.data[c]);
      p.running_var.data[c] += momentum * (unbiased - p.running_var.data[c]);
    }
  }
  return out;
}

function instanceNorm(x, row, p, mode) {
  if (!mode.training && p.running_mean) {
    return withStatistics(x, p, p.running_mean.data, p.running_var.data, row.settings.eps);
  }
  const area = count(x.shape.slice(2));
  return grouped(x, p, (i) => Math.floor(i / area), x.shape[0] * x.shape[1], row.settings.eps, channelOf(x));
}

function groupNorm(x, row, p) {
  const groups = row.settings.num_groups,
    size = count(x.shape.slice(1)) / groups;
  return grouped(x, p, (i) => Math.floor(i / size), x.shape[0] * groups, row.settings.eps, channelOf(x));
}

function layerNorm(x, row, p) {
  const s = row.settings,
    size = count(square(s.normalized_shape).length ? [].concat(s.normalized_shape) : []);
  const root = row.type === "RMSNorm",
    eps = s.eps === null ? 1.1920928955078125e-7 : s.eps;
  return grouped(
    x,
    p,
    (i) => Math.floor(i / size),
    x.data.length / size,
    eps,
    (i) => i % size,
    !root,
  );
}

function channelNorm(x, row, p) {
  const area = count(x.shape.slice(2)),
    whole = area * x.shape[1];
  const sets = (i) => Math.floor(i / whole) * area + (i % area);
  return grouped(x, p, sets, x.shape[0] * area, row.settings.eps, channelOf(x));
}

/** x / (k + alpha · mean of x² over neighboring channels)^beta; channels beyond the first and last count as zeros. */
function responseNorm(x, row) {
  const s = row.settings,
    channels = x.shape[1],
    area = count(x.shape.slice(2)),
    before = Math.floor(s.size / 2);
  const squares = each(
    x,
    (v) => v * v,
    (v) => 2 * v,
  );
  const lines = range(channels).map((c) =>
    range(s.size)
      .map((i) => c - before + i)
      .filter((i) => i >= 0 && i < channels)
      .map((i) => [i, 1 / s.size]),
  );
  const maps = reshape(squares, [x.shape[0], 1, channels, area]);
  const mean = reshape(
    separable(
      maps,
      lines,
      range(area).map((i) => [[i, 1]]),
    ),
    x.shape,
  );
  const divisor = each(
    mean,
    (v) => (s.k + s.alpha * v) ** s.beta,
    (v, y) => (s.beta * s.alpha * y) / (s.k + s.alpha * v),
  );
  return divide(x, divisor);
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

// What torch.nn's activations take when they are made without arguments.
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

/** Dropout and its kin: kept values are enlarged, so that the mean stays. `size` values in a row share one draw. */
function dropped(x, p, size, mode) {
  if (!mode.training || p === 0)
    return each(
      x,
      (v) => v,
      () => 1,
    );
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

const identity = (x) =>
  each(
    x,
    (v) => v,
    () => 1,
  );

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

/** ReLU is in almost every network, and by far the fastest without a function for each value. */
LAYERS.ReLU = (x) => {
  const data = new Float32Array(x.data.length);
  for (let i = 0; i < data.length; i++) data[i] = x.data[i] > 0 ? x.data[i] : 0;
  return made(x.shape, data, [x], (grad) => {
    const back = new Float32Array(grad.length);
    for (let i = 0; i < back.length; i++) back[i] = x.data[i] > 0 ? grad[i] : 0;
    return [back];
  });
};

// Layers that take several tensors, give several, or are a tensor themselves.
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

// Random in training in a way that this page does not draw.
const NOT_TRAINED_HERE = ["AlphaDropout", "FeatureAlphaDropout", "DropBlock2d", "RReLU"];

function roundHalfEven(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** What a layer gives for the tensors that arrive. */
function computed(row, arriving, parameters, mode) {
  const rule = JOINS[row.type];
  if (rule) return rule(arriving, row, parameters, mode);
  return LAYERS[row.type](arriving[0], row, parameters, mode);
}
