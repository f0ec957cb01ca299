// Explanations: the values that a value was computed from, and the computation written out with numbers.
//
// An explanation is {operation, terms, bias, result, text}. operation: "sum" (Σ value · weight + bias), "maximum",
// "copy", "formula" (text has all of it). terms: {input, position, value, weight}: which of the layer's inputs, where in
// it (without the batch; null beyond the border), its value and the weight by which it is multiplied. result is computed
// from the terms or by the formula, so that it can be compared to the value in the map.

"use strict";

function positionOf(index, shape) {
  const position = [];
  for (let d = shape.length - 1; d >= 0; d--) {
    position.unshift(index % shape[d]);
    index = Math.floor(index / shape[d]);
  }
  return position;
}

function placeOf(position, shape) {
  return position.reduce((place, i, d) => place * shape[d] + i, 0);
}

const shown = (value) => {
  const text = Number(value.toPrecision(4)).toString();
  return text.replace("-", "−");
};
const bracketed = (value) => (value < 0 ? `(${shown(value)})` : shown(value));

function term(input, x, position, weight = 1, fill = 0) {
  const value = position === null ? fill : x.data[placeOf(position, x.shape.slice(1))];
  return { input, position, value, weight };
}

function summed(terms, bias = 0, text = "") {
  const result = terms.reduce((sum, t) => sum + t.value * t.weight, bias);
  return { operation: "sum", terms, bias, result, text };
}

const formula = (terms, result, text) => ({ operation: "formula", terms, result, text });

/** The kernel's window on the input of a convolution, for the value at [channel, row, column]. */
function explainConvolution(x, row, p, at) {
  const s = row.settings,
    [height, width] = x.shape.slice(2),
    [o, y, z] = at;
  const [per, kh, kw] = p.weight.shape.slice(1),
    group = Math.floor(o / (p.weight.shape[0] / s.groups));
  const border = BORDERS[s.padding_mode || "zeros"];
  const before = (a) =>
    s.padding === "valid"
      ? 0
      : s.padding === "same"
        ? Math.floor((s.dilation[a] * (s.kernel_size[a] - 1)) / 2)
        : s.padding[a];
  const terms = [];
  for (let c = 0; c < per; c++) {
    for (let i = 0; i < kh; i++) {
      for (let j = 0; j < kw; j++) {
        const from = border(y * s.stride[0] - before(0) + i * s.dilation[0], height);
        const across = border(z * s.stride[1] - before(1) + j * s.dilation[1], width);
        const inside = from !== null && across !== null;
        const position = inside ? [group * per + c, from, across] : null;
        terms.push(term(0, x, position, p.weight.data[((o * per + c) * kh + i) * kw + j]));
      }
    }
  }
  return { ...summed(terms, p.bias ? p.bias.data[o] : 0), kernel: [per, kh, kw] };
}

function explainTransposed(x, row, p, at) {
  const s = row.settings,
    [channels, height, width] = x.shape.slice(1),
    [o, y, z] = at;
  const [each, kh, kw] = p.weight.shape.slice(1),
    per = channels / s.groups,
    group = Math.floor(o / each);
  const source = (place, i, a, n) => {
    const moved = place + s.padding[a] - i * s.dilation[a];
    return moved % s.stride[a] === 0 && moved >= 0 && moved / s.stride[a] < n ? moved / s.stride[a] : null;
  };
  const terms = [];
  for (let c = 0; c < per; c++) {
    for (let i = 0; i < kh; i++) {
      for (let j = 0; j < kw; j++) {
        const from = source(y, i, 0, height),
          across = source(z, j, 1, width);
        if (from === null || across === null) continue;
        const channel = group * per + c;
        terms.push(
          term(0, x, [channel, from, across], p.weight.data[((channel * each + (o % each)) * kh + i) * kw + j]),
        );
      }
    }
  }
  return summed(terms, p.bias ? p.bias.data[o] : 0);
}

function explainLinear(x, row, p, at) {
  const size = p.weight.shape[1],
    o = at[at.length - 1],
    before = at.slice(0, -1);
  const terms = range(size).map((k) => term(0, x, [...before, k], p.weight.data[o * size + k]));
  return summed(terms, p.bias ? p.bias.data[o] : 0);
}

/** Rows and columns of weights: average pooling and interpolation. */
function explainWeights(x, basis, at) {
  const { rows, columns, factor } = basis.weights,
    [c, y, z] = at,
    one = x.shape.length === 3;
  const terms = [];
  for (const [i, wi] of rows[y]) {
    for (const [j, wj] of columns[z]) terms.push(term(0, x, one ? [c, j] : [c, i, j], wi * wj * factor));
  }
  return summed(terms);
}

function explainHighest(x, basis, at) {
  const { rows, columns } = basis.windows,
    [c, y, z] = at,
    one = x.shape.length === 3;
  const terms = rows[y].flatMap((i) => columns[z].map((j) => term(0, x, one ? [c, j] : [c, i, j])));
  return { operation: "maximum", terms, result: Math.max(...terms.map((t) => t.value)), text: "" };
}

function explainCopy(x, out, basis, row, at) {
  const from = basis.origin[placeOf(at, out.shape.slice(1))];
  const fill = row.settings.value || 0;
  const copied = term(0, x, from < 0 ? null : positionOf(from, x.shape.slice(1)), 1, fill);
  return { operation: "copy", terms: [copied], result: copied.value, text: "" };
}

function explainNormalization(x, out, p, at) {
  const { means, variances, sets, of, eps, center } = out.statistics,
    place = placeOf(at, x.shape.slice(1));
  const value = x.data[place],
    set = sets(place),
    mean = center ? means[set] : 0,
    variance = variances[set];
  const weight = p.weight ? p.weight.data[of(place)] : 1,
    bias = p.bias ? p.bias.data[of(place)] : 0;
  const result = ((value - mean) / Math.sqrt(variance + eps)) * weight + bias;
  const above = center ? `(${shown(value)} − ${bracketed(mean)})` : shown(value);
  const scaled = p.weight ? ` · ${bracketed(weight)}` : "",
    moved = p.bias ? ` + ${bracketed(bias)}` : "";
  const text = `${above} / √(${shown(variance)} + ${eps.toString()})${scaled}${moved}`;
  const word = center ? "mean and variance" : "mean of squares";
  const source = out.statistics.kept
    ? `${word}: running statistics from training`
    : `${word}: of ${out.statistics.sizes[set]} value${out.statistics.sizes[set] === 1 ? "" : "s"} of this image`;
  return { ...formula([term(0, x, at)], result, text), note: source };
}

function explainSoftmax(x, row, at) {
  const dim = (row.type === "Softmax2d" ? 1 : axisOf(row.settings.dim, x)) - 1,
    sign = row.type === "Softmin" ? -1 : 1;
  const terms = range(x.shape[dim + 1]).map((k) =>
    term(
      0,
      x,
      at.map((i, d) => (d === dim ? k : i)),
    ),
  );
  const own = sign * terms[at[dim]].value,
    top = Math.max(...terms.map((t) => sign * t.value));
  const sum = terms.reduce((total, t) => total + Math.exp(sign * t.value - top), 0),
    share = Math.exp(own - top) / sum;
  const all = Math.exp(top) * sum;
  const text =
    row.type === "LogSoftmax"
      ? `${shown(own)} − ln(Σ exp) = ${shown(own)} − ${bracketed(top + Math.log(sum))}`
      : `exp(${shown(own)}) / Σ exp = ${shown(Math.exp(own))} / ${shown(all)}`;
  return formula(terms, row.type === "LogSoftmax" ? own - top - Math.log(sum) : share, text);
}

const SIGNS = { Add: " + ", Subtract: " − ", Multiply: " · ", Divide: " / " };

function explainJoin(xs, row, at, shape) {
  if (row.type === "Concat") {
    let channel = at[0];
    const input = xs.findIndex((x) => {
      if (channel < x.shape[1]) return true;
      channel -= x.shape[1];
      return false;
    });
    const copied = term(input, xs[input], [channel, ...at.slice(1)]);
    return { operation: "copy", terms: [copied], result: copied.value, text: "" };
  }
  const whole = [1, ...shape];
  const terms = xs.map((x, input) => {
    const place = broadcastIndex(x.shape, whole)[placeOf(at, shape)],
      inner = x.shape.slice(1);
    return { input, position: positionOf(place, inner), value: x.data[place], weight: 1 };
  });
  const waiting = terms.map((t) => t.value);
  const numbers = row.settings.numbers && row.settings.numbers.length ? row.settings.numbers : waiting.map(() => null);
  const operands = numbers.map((n) => (n === null ? waiting.shift() : n));
  const apply = {
    Add: (a, b) => a + b,
    Subtract: (a, b) => a - b,
    Multiply: (a, b) => a * b,
    Divide: (a, b) => a / b,
    Maximum: (a, b) => Math.max(a, b),
    Minimum: (a, b) => Math.min(a, b),
    Mean: (a, b) => a + b,
  }[row.type];
  const result = operands.reduce(apply) / (row.type === "Mean" ? operands.length : 1);
  const words = operands.map(bracketed);
  const text =
    row.type === "Mean"
      ? `(${words.join(" + ")}) / ${words.length}`
      : SIGNS[row.type]
        ? words.join(SIGNS[row.type])
        : `${row.type.toLowerCase()} of ${words.join(", ")}`;
  return formula(terms, result, text);
}

// Layer types with an explanation of their own.
const EXPLANATIONS = {
  Linear: explainLinear,
  PReLU: (x, row, p, at, out) => {
    const own = term(0, x, at),
      slope = p.weight.data[p.weight.data.length > 1 ? at[0] : 0];
    return formula(
      [own],
      own.value > 0 ? own.value : slope * own.value,
      `${shown(own.value)} if positive, else ${bracketed(slope)} · ${bracketed(own.value)}`,
    );
  },
  GLU: (x, row, p, at, out) => {
    const dim = axisOf(row.settings.dim, x) - 1,
      half = out.shape[dim + 1];
    const [a, b] = [0, half].map((by) =>
      term(
        0,
        x,
        at.map((i, d) => (d === dim ? i + by : i)),
      ),
    );
    return formula([a, b], a.value * sigmoid(b.value), `${shown(a.value)} · sigmoid(${shown(b.value)})`);
  },
  LPPool2d: (x, row, p, at, out) => {
    const s = row.settings,
      stride = s.stride === null ? s.kernel_size : s.stride,
      power = s.norm_type;
    const [ys, xs] = [0, 1].map(
      (a) => windows(x.shape[2 + a], out.shape[2 + a], s.kernel_size[a], stride[a], 0)[at[1 + a]],
    );
    const terms = ys.flatMap((i) => xs.map((j) => term(0, x, [at[0], i, j])));
    const whole = (s.kernel_size[0] * s.kernel_size[1]) / terms.length;
    const sum = whole * terms.reduce((total, t) => total + t.value ** power, 0);
    return formula(
      terms,
      sum > 0 ? sum ** (1 / power) : 0,
      `(Σ x^${power})^(1/${power}) = ${bracketed(sum)}^(1/${power})`,
    );
  },
  LocalResponseNorm: (x, row, p, at) => {
    const s = row.settings,
      before = Math.floor(s.size / 2);
    const terms = range(s.size)
      .map((i) => at[0] - before + i)
      .filter((c) => c >= 0 && c < x.shape[1])
      .map((c) => term(0, x, [c, ...at.slice(1)]));
    const mean = terms.reduce((sum, t) => sum + t.value ** 2, 0) / s.size,
      own = term(0, x, at).value;
    const text = `${shown(own)} / (${s.k} + ${s.alpha} · ${shown(mean)})^${s.beta}, with the mean of x² over ${s.size} channel${s.size === 1 ? "" : "s"}`;
    return formula(terms, own / (s.k + s.alpha * mean) ** s.beta, text);
  },
  SqueezeExcitation: (x, row, p, at, out) => {
    const own = term(0, x, at),
      [, weights] = out.parents,
      factor = weights.data[at[0]];
    return formula([own], own.value * factor, `${shown(own.value)} · ${shown(factor)}, the weight of channel ${at[0]}`);
  },
  Fold: (x, row, p, at) => {
    const s = row.settings,
      [kernel, stride, padding, dilation] = [s.kernel_size, s.stride, s.padding, s.dilation].map(square);
    const along = (a) =>
      Math.floor((row.shape[1 + a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a]) + 1;
    const [c, y, z] = at,
      terms = [];
    for (let i = 0; i < kernel[0]; i++) {
      for (let j = 0; j < kernel[1]; j++) {
        const [oy, oz] = [
          (y + padding[0] - i * dilation[0]) / stride[0],
          (z + padding[1] - j * dilation[1]) / stride[1],
        ];
        const fits = (n, a) => Number.isInteger(n) && n >= 0 && n < along(a);
        if (fits(oy, 0) && fits(oz, 1))
          terms.push(term(0, x, [(c * kernel[0] + i) * kernel[1] + j, oy * along(1) + oz]));
      }
    }
    return summed(terms);
  },
};

/** The value at `at` (without the batch) of what a layer made of `arriving`; each for a single image. */
function explanation(row, arriving, out, p, at) {
  const x = arriving[0],
    basis = out.whole || out,
    shape = out.shape.slice(1);
  if (JOINS[row.type] && !["Chunk", "Split", "Parameter"].includes(row.type))
    return explainJoin(arriving, row, at, shape);
  if (row.type === "Parameter") return formula([], p[""].data[placeOf(at, shape)], "a parameter of the network");
  const raised = x.shape.length === 3 ? [at[0], 0, at[1]] : at;
  if (row.traits.includes("convolution")) {
    const wide = x.shape.length === 3;
    const [maps, layer, weights] = wide ? [tall(x), widened(row), kernels(p)] : [x, row, p];
    const explain = row.type.startsWith("ConvTranspose") ? explainTransposed : explainConvolution;
    const found = explain(maps, layer, weights, raised);
    if (wide) for (const t of found.terms) if (t.position) t.position.splice(1, 1);
    return found;
  }
  if (EXPLANATIONS[row.type]) return EXPLANATIONS[row.type](x, row, p, at, out);
  if (ACTIVATIONS[row.type]) {
    const own = term(0, x, at),
      { f, text } = ACTIVATIONS[row.type];
    return formula([own], f(own.value, row.settings), text(shown(own.value), row.settings));
  }
  if (["Softmax", "Softmin", "LogSoftmax", "Softmax2d"].includes(row.type)) return explainSoftmax(x, row, at);
  if (out.statistics) return explainNormalization(x, out, p, at);
  if (basis.weights) return explainWeights(x, basis, raised);
  if (basis.windows) return explainHighest(x, basis, raised);
  if (basis.origin) return explainCopy(x, out, basis, row, at);
  // Reshaped or unchanged: the value at the same place in memory.
  const copied = term(0, x, positionOf(placeOf(at, shape), x.shape.slice(1)));
  return { operation: "copy", terms: [copied], result: copied.value, text: "" };
}
