// The operations that layers are composed of. Each returns its result with its backward pass.

"use strict";

/** out[i] = x[index[i]], or `fill` where the index is −1: padding, cropping, shuffling and every other rearrangement. */
function gather(x, shape, index, fill = 0) {
  const data = new Float32Array(index.length);
  for (let i = 0; i < index.length; i++) data[i] = index[i] < 0 ? fill : x.data[index[i]];
  const out = made(shape, data, [x], (grad) => {
    const back = new Float32Array(x.data.length);
    for (let i = 0; i < index.length; i++) if (index[i] >= 0) back[index[i]] += grad[i];
    return [back];
  });
  out.origin = index;
  return out;
}

/** The index for gather(): `source(position)` gives, for a position of the output without the batch, that of the input or null. */
function indexed(x, inner, source) {
  const [batch, ...from] = x.shape;
  const size = count(inner),
    whole = count(from),
    index = new Int32Array(batch * size);
  const position = inner.map(() => 0);
  for (let i = 0; i < size; i++) {
    const at = source(position);
    let place = 0;
    if (at === null) place = -1;
    else for (let d = 0; d < from.length; d++) place = place * from[d] + at[d];
    for (let n = 0; n < batch; n++) index[n * size + i] = place < 0 ? -1 : n * whole + place;
    for (let d = inner.length - 1; d >= 0; d--) {
      if (++position[d] < inner[d]) break;
      position[d] = 0;
    }
  }
  return index;
}

/** f(value) one by one; `slope(value, result)` is its derivative. */
function each(x, f, slope) {
  const data = new Float32Array(x.data.length);
  for (let i = 0; i < data.length; i++) data[i] = f(x.data[i]);
  return made(x.shape, data, [x], (grad) => {
    const back = new Float32Array(grad.length);
    for (let i = 0; i < back.length; i++) back[i] = grad[i] * slope(x.data[i], data[i]);
    return [back];
  });
}

/** Strides of `shape` when it is broadcast to `to`: 0 along sizes of 1. */
function broadcastStrides(shape, to) {
  const strides = to.map(() => 0);
  let step = 1;
  for (let d = 1; d <= shape.length; d++) {
    const side = shape[shape.length - d];
    strides[to.length - d] = side === 1 ? 0 : step;
    step *= side;
  }
  return strides;
}

/** For each value of `to`, the place of the one that `shape` has for it. */
function broadcastIndex(shape, to) {
  const strides = broadcastStrides(shape, to),
    index = new Int32Array(count(to)),
    position = to.map(() => 0);
  let place = 0;
  for (let i = 0; i < index.length; i++) {
    index[i] = place;
    for (let d = to.length - 1; d >= 0; d--) {
      place += strides[d];
      if (++position[d] < to[d]) break;
      place -= strides[d] * to[d];
      position[d] = 0;
    }
  }
  return index;
}

function broadcastShape(a, b) {
  const rank = Math.max(a.length, b.length),
    shape = [];
  for (let d = 0; d < rank; d++) {
    const left = a[d - rank + a.length] ?? 1,
      right = b[d - rank + b.length] ?? 1;
    shape.push(left === 1 ? right : left);
  }
  return shape;
}

function paired(a, b, shape, f, slopes) {
  const data = new Float32Array(a.data.length);
  for (let i = 0; i < data.length; i++) data[i] = f(a.data[i], b.data[i]);
  return made(shape, data, [a, b], (grad) => {
    const ga = new Float32Array(grad.length),
      gb = new Float32Array(grad.length);
    for (let i = 0; i < grad.length; i++) {
      const [sa, sb] = slopes(a.data[i], b.data[i]);
      ga[i] = grad[i] * sa;
      gb[i] = grad[i] * sb;
    }
    return [ga, gb];
  });
}

/** f(a, b) value by value, sizes of 1 broadcast; slopes(a, b) → [∂f/∂a, ∂f/∂b]. */
function pairwise(a, b, f, slopes) {
  const shape = broadcastShape(a.shape, b.shape);
  if (a.data.length === count(shape) && b.data.length === a.data.length) return paired(a, b, shape, f, slopes);
  const ia = broadcastIndex(a.shape, shape),
    ib = broadcastIndex(b.shape, shape);
  const data = new Float32Array(ia.length);
  for (let i = 0; i < data.length; i++) data[i] = f(a.data[ia[i]], b.data[ib[i]]);
  return made(shape, data, [a, b], (grad) => {
    const ga = new Float32Array(a.data.length),
      gb = new Float32Array(b.data.length);
    for (let i = 0; i < grad.length; i++) {
      const [sa, sb] = slopes(a.data[ia[i]], b.data[ib[i]]);
      ga[ia[i]] += grad[i] * sa;
      gb[ib[i]] += grad[i] * sb;
    }
    return [ga, gb];
  });
}

const add = (a, b) =>
  pairwise(
    a,
    b,
    (x, y) => x + y,
    () => [1, 1],
  );
const subtract = (a, b) =>
  pairwise(
    a,
    b,
    (x, y) => x - y,
    () => [1, -1],
  );
const multiply = (a, b) =>
  pairwise(
    a,
    b,
    (x, y) => x * y,
    (x, y) => [y, x],
  );
const divide = (a, b) =>
  pairwise(
    a,
    b,
    (x, y) => x / y,
    (x, y) => [1 / y, -x / (y * y)],
  );
// Where both are equal, PyTorch gives each half of the gradient.
const maximum = (a, b) => pairwise(a, b, Math.max, (x, y) => (x > y ? [1, 0] : x < y ? [0, 1] : [0.5, 0.5]));
const minimum = (a, b) => pairwise(a, b, Math.min, (x, y) => (x < y ? [1, 0] : x > y ? [0, 1] : [0.5, 0.5]));

/** Along the channels. */
function concat(parts) {
  const [batch, , ...rest] = parts[0].shape;
  const sizes = parts.map((part) => count(part.shape) / batch),
    whole = sizes.reduce((a, b) => a + b, 0);
  const data = new Float32Array(batch * whole);
  let start = 0;
  parts.forEach((part, i) => {
    for (let n = 0; n < batch; n++) {
      data.set(part.data.subarray(n * sizes[i], (n + 1) * sizes[i]), n * whole + start);
    }
    start += sizes[i];
  });
  const channels = parts.reduce((sum, part) => sum + part.shape[1], 0);
  return made([batch, channels, ...rest], data, parts, (grad) => {
    let from = 0;
    return parts.map((part, i) => {
      const back = new Float32Array(part.data.length);
      for (let n = 0; n < batch; n++) {
        back.set(grad.subarray(n * whole + from, n * whole + from + sizes[i]), n * sizes[i]);
      }
      from += sizes[i];
      return back;
    });
  });
}

/** x (…, k) · weight (n × k)ᵀ + bias. */
function linear(x, weight, bias) {
  const [n, k] = weight.shape,
    m = x.data.length / k,
    data = new Float32Array(m * n);
  if (bias) for (let i = 0; i < m; i++) data.set(bias.data, i * n);
  matmul(m, n, k, x.data, 0, transposed(n, k, weight.data), 0, data, 0);
  return made([...x.shape.slice(0, -1), n], data, bias ? [x, weight, bias] : [x, weight], (grad) => {
    const gx = new Float32Array(x.data.length),
      gw = new Float32Array(weight.data.length);
    matmul(m, k, n, grad, 0, weight.data, 0, gx, 0);
    matmul(n, k, m, transposed(m, n, grad), 0, x.data, 0, gw, 0);
    return bias ? [gx, gw, columnSums(grad, m, n)] : [gx, gw];
  });
}

function columnSums(x, rows, columns) {
  const sums = new Float32Array(columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) sums[j] += x[i * columns + j];
  return sums;
}

/**
 * The windows of a convolution: how a patch of `channels` maps of height × width becomes a column.
 * g: {channels, height, width, kernel, stride, padding, dilation: [rows, columns], out: [rows, columns]}.
 */
function eachPatch(g, visit) {
  const [kh, kw] = g.kernel,
    [sh, sw] = g.stride,
    [ph, pw] = g.padding,
    [dh, dw] = g.dilation,
    [oh, ow] = g.out;
  let row = 0;
  for (let c = 0; c < g.channels; c++) {
    for (let i = 0; i < kh; i++) {
      for (let j = 0; j < kw; j++, row++) {
        for (let y = 0; y < oh; y++) {
          const from = y * sh - ph + i * dh;
          if (from < 0 || from >= g.height) continue;
          const place = (c * g.height + from) * g.width,
            to = (row * oh + y) * ow;
          // The columns whose pixel lies inside: 0 ≤ x·sw − pw + j·dw < width.
          const shift = j * dw - pw;
          const first = Math.max(0, Math.ceil(-shift / sw)),
            end = Math.min(ow, Math.ceil((g.width - shift) / sw));
          visit(to + first, place + first * sw + shift, end - first, sw, row);
        }
      }
    }
  }
}

function patches(x, offset, g, columns) {
  columns.fill(0);
  eachPatch(g, (to, from, length, step) => {
    for (let i = 0; i < length; i++) columns[to + i] = x[offset + from + i * step];
  });
}

function addPatches(columns, g, out, offset) {
  eachPatch(g, (to, from, length, step) => {
    for (let i = 0; i < length; i++) out[offset + from + i * step] += columns[to + i];
  });
}

/** A convolution of each channel with a kernel of its own: weight (C, 1, kh, kw). */
function convolveEach(x, weight, bias, { stride, padding, dilation, out }) {
  const [batch, channels, height, width] = x.shape,
    [, , kh, kw] = weight.shape,
    taps = kh * kw;
  const g = { channels: 1, height, width, kernel: [kh, kw], stride, padding, dilation, out };
  const image = height * width,
    area = out[0] * out[1],
    data = new Float32Array(batch * channels * area);
  for (let m = 0; m < batch * channels; m++) {
    const c = m % channels,
      map = x.data.subarray(m * image, (m + 1) * image),
      end = (m + 1) * area;
    const result = data.subarray(m * area, end);
    if (bias) result.fill(bias.data[c]);
    eachPatch(g, (to, from, length, step, tap) => {
      const w = weight.data[c * taps + tap],
        start = to - tap * area;
      for (let i = 0; i < length; i++) result[start + i] += w * map[from + i * step];
    });
  }
  return made([batch, channels, ...out], data, bias ? [x, weight, bias] : [x, weight], (grad) => {
    const gx = new Float32Array(x.data.length),
      gw = new Float32Array(weight.data.length);
    for (let m = 0; m < batch * channels; m++) {
      const c = m % channels;
      eachPatch(g, (to, from, length, step, tap) => {
        const w = weight.data[c * taps + tap],
          start = m * area + to - tap * area,
          place = m * image + from;
        let sum = 0;
        for (let i = 0; i < length; i++) {
          gx[place + i * step] += w * grad[start + i];
          sum += x.data[place + i * step] * grad[start + i];
        }
        gw[c * taps + tap] += sum;
      });
    }
    return bias ? [gx, gw, channelSums(grad, batch, channels, area)] : [gx, gw];
  });
}

/** x (N, C, H, W), weight (O, C / groups, kh, kw) → (N, O, out). */
function convolve(x, weight, bias, windows) {
  const { stride, padding, dilation, groups, out } = windows;
  const [batch, channels, height, width] = x.shape,
    [outputs, per, kh, kw] = weight.shape;
  if (groups === channels && outputs === channels && per === 1) return convolveEach(x, weight, bias, windows);
  const g = { channels: per, height, width, kernel: [kh, kw], stride, padding, dilation, out };
  const k = per * kh * kw,
    area = out[0] * out[1],
    each = outputs / groups,
    image = height * width;
  const plain = kh * kw === 1 && stride[0] * stride[1] === 1 && padding[0] + padding[1] === 0;
  const columns = plain ? null : new Float32Array(k * area);
  const data = new Float32Array(batch * outputs * area);
  if (bias) {
    for (let n = 0; n < batch; n++) {
      for (let o = 0; o < outputs; o++) data.fill(bias.data[o], (n * outputs + o) * area, (n * outputs + o + 1) * area);
    }
  }
  for (let n = 0; n < batch; n++) {
    for (let group = 0; group < groups; group++) {
      const from = (n * channels + group * per) * image;
      if (!plain) patches(x.data, from, g, columns);
      const to = (n * outputs + group * each) * area;
      matmul(each, area, k, weight.data, group * each * k, plain ? x.data : columns, plain ? from : 0, data, to);
    }
  }
  const parents = bias ? [x, weight, bias] : [x, weight];
  return made([batch, outputs, ...out], data, parents, (grad) => {
    const gx = x.constant ? null : new Float32Array(x.data.length),
      gw = new Float32Array(weight.data.length);
    const read = new Float32Array(k * area),
      turnedSums = new Float32Array(k * each);
    for (let group = 0; group < groups; group++) {
      const turned = transposed(each, k, weight.data, group * each * k);
      turnedSums.fill(0);
      for (let n = 0; n < batch; n++) {
        const from = (n * channels + group * per) * image,
          to = (n * outputs + group * each) * area;
        patches(x.data, from, g, read);
        // The gradient of the weights, or its transpose: whichever turns the smaller matrix.
        if (each < k) matmul(k, each, area, read, 0, transposed(each, area, grad, to), 0, turnedSums, 0);
        else matmul(each, k, area, grad, to, transposed(k, area, read), 0, gw, group * each * k);
        if (!gx) continue;
        read.fill(0);
        matmul(k, area, each, turned, 0, grad, to, read, 0);
        addPatches(read, g, gx, from);
      }
      if (each < k) gw.set(transposed(k, each, turnedSums), group * each * k);
    }
    return bias ? [gx, gw, channelSums(grad, batch, outputs, area)] : [gx, gw];
  });
}

/** x (N, C, H, W), weight (C, O / groups, kh, kw) → (N, O, out): the convolution's way back. */
function convolveTransposed(x, weight, bias, { stride, padding, dilation, groups, out }) {
  const [batch, channels, height, width] = x.shape,
    [, each, kh, kw] = weight.shape;
  const outputs = each * groups,
    per = channels / groups,
    k = each * kh * kw,
    area = height * width;
  const g = { channels: each, height: out[0], width: out[1], kernel: [kh, kw], stride, padding, dilation };
  g.out = [height, width];
  const whole = out[0] * out[1],
    data = new Float32Array(batch * outputs * whole),
    columns = new Float32Array(k * area);
  for (let group = 0; group < groups; group++) {
    const turned = transposed(per, k, weight.data, group * per * k);
    for (let n = 0; n < batch; n++) {
      columns.fill(0);
      matmul(k, area, per, turned, 0, x.data, (n * channels + group * per) * area, columns, 0);
      addPatches(columns, g, data, (n * outputs + group * each) * whole);
    }
  }
  if (bias) for (let i = 0; i < data.length; i++) data[i] += bias.data[Math.floor(i / whole) % outputs];
  const parents = bias ? [x, weight, bias] : [x, weight];
  return made([batch, outputs, ...out], data, parents, (grad) => {
    const gx = new Float32Array(x.data.length),
      gw = new Float32Array(weight.data.length);
    for (let group = 0; group < groups; group++) {
      for (let n = 0; n < batch; n++) {
        const from = (n * channels + group * per) * area;
        patches(grad, (n * outputs + group * each) * whole, g, columns);
        matmul(per, area, k, weight.data, group * per * k, columns, 0, gx, from);
        matmul(per, k, area, x.data, from, transposed(k, area, columns), 0, gw, group * per * k);
      }
    }
    return bias ? [gx, gw, channelSums(grad, batch, outputs, whole)] : [gx, gw];
  });
}

function channelSums(grad, batch, channels, area) {
  const sums = new Float32Array(channels);
  for (let n = 0; n < batch; n++) {
    for (let c = 0; c < channels; c++) {
      const start = (n * channels + c) * area;
      let sum = 0;
      for (let i = 0; i < area; i++) sum += grad[start + i];
      sums[c] += sum;
    }
  }
  return sums;
}

/**
 * Weighted sums along rows, then along columns, of (N, C, H, W): rows[y] and columns[x] are lists of [position, weight].
 * Average pooling and interpolation are of this kind.
 */
function separable(x, rows, columns, factor = 1) {
  const [batch, channels, height, width] = x.shape,
    maps = batch * channels,
    oh = rows.length,
    ow = columns.length;
  const half = new Float32Array(maps * oh * width),
    data = new Float32Array(maps * oh * ow);
  for (let m = 0; m < maps; m++) {
    for (let y = 0; y < oh; y++) {
      const to = (m * oh + y) * width;
      for (const [i, w] of rows[y]) {
        const from = (m * height + i) * width;
        for (let j = 0; j < width; j++) half[to + j] += w * x.data[from + j];
      }
      for (let j = 0; j < ow; j++) {
        let sum = 0;
        for (const [i, w] of columns[j]) sum += w * half[to + i];
        data[(m * oh + y) * ow + j] = sum * factor;
      }
    }
  }
  const out = made([batch, channels, oh, ow], data, [x], (grad) => {
    const back = new Float32Array(x.data.length),
      line = new Float32Array(width);
    for (let m = 0; m < maps; m++) {
      for (let y = 0; y < oh; y++) {
        line.fill(0);
        for (let j = 0; j < ow; j++) {
          const g = grad[(m * oh + y) * ow + j] * factor;
          for (const [i, w] of columns[j]) line[i] += w * g;
        }
        for (const [i, w] of rows[y]) {
          const to = (m * height + i) * width;
          for (let j = 0; j < width; j++) back[to + j] += w * line[j];
        }
      }
    }
    return [back];
  });
  out.weights = { rows, columns, factor };
  return out;
}

/** The highest value of each window: rows[y] and columns[x] are lists of positions; the first highest one counts. */
function highest(x, rows, columns) {
  const [batch, channels, height, width] = x.shape,
    oh = rows.length,
    ow = columns.length;
  const index = new Int32Array(batch * channels * oh * ow);
  let to = 0;
  for (let m = 0; m < batch * channels; m++) {
    for (const ys of rows) {
      for (const xs of columns) {
        let best = -Infinity,
          place = (m * height + ys[0]) * width + xs[0];
        for (let a = 0; a < ys.length; a++) {
          for (let b = 0; b < xs.length; b++) {
            const at = (m * height + ys[a]) * width + xs[b];
            if (x.data[at] > best || Number.isNaN(x.data[at])) {
              best = x.data[at];
              place = at;
            }
          }
        }
        index[to++] = place;
      }
    }
  }
  const out = gather(x, [batch, channels, oh, ow], index);
  out.windows = { rows, columns };
  return out;
}

/** Softmax along an axis (the batch is 0), or its logarithm. */
function softmax(x, dim, logarithm = false) {
  const inner = count(x.shape.slice(dim + 1)),
    size = x.shape[dim],
    outer = count(x.shape.slice(0, dim));
  const data = new Float32Array(x.data.length);
  const lines = (visit) => {
    for (let o = 0; o < outer; o++) for (let i = 0; i < inner; i++) visit(o * size * inner + i);
  };
  lines((start) => {
    let top = -Infinity,
      sum = 0;
    for (let k = 0; k < size; k++) top = Math.max(top, x.data[start + k * inner]);
    for (let k = 0; k < size; k++) sum += Math.exp(x.data[start + k * inner] - top);
    for (let k = 0; k < size; k++) {
      const shifted = x.data[start + k * inner] - top;
      data[start + k * inner] = logarithm ? shifted - Math.log(sum) : Math.exp(shifted) / sum;
    }
  });
  return made(x.shape, data, [x], (grad) => {
    const back = new Float32Array(grad.length);
    lines((start) => {
      let sum = 0;
      for (let k = 0; k < size; k++) {
        const at = start + k * inner;
        sum += logarithm ? grad[at] : grad[at] * data[at];
      }
      for (let k = 0; k < size; k++) {
        const at = start + k * inner;
        back[at] = logarithm ? grad[at] - Math.exp(data[at]) * sum : data[at] * (grad[at] - sum);
      }
    });
    return [back];
  });
}

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
