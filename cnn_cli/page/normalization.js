// Normalization layers.

"use strict";

/**
 * (x − mean) / √(variance + eps) within sets of values: sets[i] is the set of value i, of `number` sets. Without `center`
 * the mean is taken to be 0, as RMSNorm does. `found` receives the means and variances.
 */
function normalized(x, sets, number, eps, center = true, found = {}) {
  const sizes = new Float64Array(number),
    means = new Float64Array(number),
    variances = new Float64Array(number);
  for (let i = 0; i < sets.length; i++) {
    sizes[sets[i]]++;
    if (center) means[sets[i]] += x.data[i];
  }
  for (let s = 0; s < number; s++) means[s] /= sizes[s];
  for (let i = 0; i < sets.length; i++) variances[sets[i]] += (x.data[i] - means[sets[i]]) ** 2;
  for (let s = 0; s < number; s++) variances[s] /= sizes[s];
  const scales = variances.map((v) => 1 / Math.sqrt(v + eps));
  const data = new Float32Array(sets.length);
  for (let i = 0; i < sets.length; i++) data[i] = (x.data[i] - means[sets[i]]) * scales[sets[i]];
  Object.assign(found, { means, variances, sizes });
  return made(x.shape, data, [x], (grad) => {
    const sums = new Float64Array(number),
      products = new Float64Array(number);
    for (let i = 0; i < sets.length; i++) {
      if (center) sums[sets[i]] += grad[i];
      products[sets[i]] += grad[i] * data[i];
    }
    const back = new Float32Array(sets.length);
    for (let i = 0; i < sets.length; i++) {
      const s = sets[i];
      back[i] = scales[s] * (grad[i] - sums[s] / sizes[s] - (data[i] * products[s]) / sizes[s]);
    }
    return [back];
  });
}

/** x · weight + bias with a weight per channel, or per element of layer norm's normalized shape. */
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

/** What batch, instance, group and layer norm share: each of `sets` is normalized separately; `of` maps values to weights. */
function grouped(x, p, sets, number, eps, of, center = true) {
  const found = {},
    scaled = normalized(x, numbered(x, sets), number, eps, center, found);
  return Object.assign(affine(scaled, p, numbered(x, of)), { statistics: { ...found, sets, of, eps, center } });
}

/** With running statistics: batch norm in evaluation. */
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

/** x / (k + alpha · mean of x² over neighboring channels)^beta; channels beyond the first and last are zeros. */
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
