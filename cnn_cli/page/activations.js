// Elementwise activations: f(x, settings), its slope (x, y, settings), and its formula with numbers. Where a large
// network spends its time, `all` fills y with f of every value of x, and `back` fills `out` with grad times the slopes:
// many times faster than a call for each.

"use strict";

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
  ReLU: {
    f: (x) => (x > 0 ? x : 0),
    slope: (x) => (x > 0 ? 1 : 0),
    text: (x) => `max(0, ${x})`,
    all: (x, y) => {
      for (let i = 0; i < x.length; i++) y[i] = x[i] > 0 ? x[i] : 0;
    },
    back: (x, y, grad, out) => {
      for (let i = 0; i < x.length; i++) out[i] = x[i] > 0 ? grad[i] : 0;
    },
  },
  ReLU6: {
    f: (x) => Math.min(6, Math.max(0, x)),
    slope: (x) => (x > 0 && x < 6 ? 1 : 0),
    text: (x) => `min(6, max(0, ${x}))`,
    all: (x, y) => {
      for (let i = 0; i < x.length; i++) y[i] = Math.min(6, Math.max(0, x[i]));
    },
    back: (x, y, grad, out) => {
      for (let i = 0; i < x.length; i++) out[i] = x[i] > 0 && x[i] < 6 ? grad[i] : 0;
    },
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
    all: (x, y) => {
      for (let i = 0; i < x.length; i++) y[i] = x[i] / (1 + Math.exp(-x[i]));
    },
    back: (x, y, grad, out) => {
      for (let i = 0; i < x.length; i++) {
        const s = 1 / (1 + Math.exp(-x[i]));
        out[i] = grad[i] * s * (1 + x[i] * (1 - s));
      }
    },
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
    all: (x, y) => {
      for (let i = 0; i < x.length; i++) y[i] = x[i] * Math.min(1, Math.max(0, x[i] / 6 + 0.5));
    },
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
  const { f, slope, all, back } = ACTIVATIONS[type],
    data = new Float32Array(x.data.length);
  if (all) all(x.data, data);
  else for (let i = 0; i < data.length; i++) data[i] = f(x.data[i], settings);
  return made(x.shape, data, [x], (grad) => {
    const out = new Float32Array(grad.length);
    if (back) back(x.data, data, grad, out);
    else for (let i = 0; i < out.length; i++) out[i] = grad[i] * slope(x.data[i], data[i], settings);
    return [out];
  });
};
