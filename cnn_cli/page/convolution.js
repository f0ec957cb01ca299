// Sums of products: convolutions, transposed convolutions, Linear, and padding.

"use strict";

/** x (…, k) · weight (n × k)ᵀ + bias. */
function linear(x, weight, bias) {
  const [n, k] = weight.shape,
    m = x.data.length / k,
    data = new Float32Array(m * n);
  if (bias) for (let i = 0; i < m; i++) data.set(bias.data, i * n);
  if (m < 4) multiplyRows(m, n, k, x.data, weight.data, data);
  else matmul(m, n, k, x.data, 0, transposed(n, k, weight.data), 0, data, 0);
  return made([...x.shape.slice(0, -1), n], data, bias ? [x, weight, bias] : [x, weight], (grad, needed) => {
    const gx = new Float32Array(x.data.length),
      gw = needed(weight) ? new Float32Array(weight.data.length) : null;
    matmul(m, k, n, grad, 0, weight.data, 0, gx, 0);
    if (gw) matmul(n, k, m, transposed(m, n, grad), 0, x.data, 0, gw, 0);
    return bias ? [gx, gw, columnSums(grad, m, n)] : [gx, gw];
  });
}

/** c (m × n) += a (m × k) · bᵀ, b (n × k): for few rows, which are not worth transposing b. */
function multiplyRows(m, n, k, a, b, c) {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let p = 0; p < k; p++) sum += a[i * k + p] * b[j * k + p];
      c[i * n + j] += sum;
    }
  }
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
          // The columns whose pixel is inside the image: 0 ≤ x·sw − pw + j·dw < width.
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

/** A depthwise convolution: weight (C, 1, kh, kw). */
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
  return made([batch, channels, ...out], data, bias ? [x, weight, bias] : [x, weight], (grad, needed) => {
    const gx = new Float32Array(x.data.length),
      gw = new Float32Array(weight.data.length),
      learned = needed(weight);
    for (let m = 0; m < batch * channels; m++) {
      const c = m % channels;
      eachPatch(g, (to, from, length, step, tap) => {
        const w = weight.data[c * taps + tap],
          start = m * area + to - tap * area,
          place = m * image + from;
        if (!learned) {
          for (let i = 0; i < length; i++) gx[place + i * step] += w * grad[start + i];
          return;
        }
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
  return made([batch, outputs, ...out], data, parents, (grad, needed) => {
    const gx = needed(x) ? new Float32Array(x.data.length) : null,
      gw = needed(weight) ? new Float32Array(weight.data.length) : null;
    const read = new Float32Array(k * area),
      turnedSums = new Float32Array(k * each);
    for (let group = 0; group < groups; group++) {
      const turned = transposed(each, k, weight.data, group * each * k);
      turnedSums.fill(0);
      for (let n = 0; n < batch; n++) {
        const from = (n * channels + group * per) * image,
          to = (n * outputs + group * each) * area;
        if (gw) {
          patches(x.data, from, g, read);
          // The gradient of the weights, or its transpose: whichever turns the smaller matrix.
          if (each < k) matmul(k, each, area, read, 0, transposed(each, area, grad, to), 0, turnedSums, 0);
          else matmul(each, k, area, grad, to, transposed(k, area, read), 0, gw, group * each * k);
        }
        if (!gx) continue;
        read.fill(0);
        matmul(k, area, each, turned, 0, grad, to, read, 0);
        addPatches(read, g, gx, from);
      }
      if (gw && each < k) gw.set(transposed(k, each, turnedSums), group * each * k);
    }
    return bias ? [gx, gw, channelSums(grad, batch, outputs, area)] : [gx, gw];
  });
}

/** x (N, C, H, W), weight (C, O / groups, kh, kw) → (N, O, out): the gradient of a convolution. */
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
  return made([batch, outputs, ...out], data, parents, (grad, needed) => {
    const gx = new Float32Array(x.data.length),
      gw = needed(weight) ? new Float32Array(weight.data.length) : null;
    for (let group = 0; group < groups; group++) {
      for (let n = 0; n < batch; n++) {
        const from = (n * channels + group * per) * area;
        patches(grad, (n * outputs + group * each) * whole, g, columns);
        matmul(per, area, k, weight.data, group * per * k, columns, 0, gx, from);
        if (gw) matmul(per, k, area, x.data, from, transposed(k, area, columns), 0, gw, group * per * k);
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

// Layers …1d work on maps of one row.
const tall = (x) => reshape(x, [x.shape[0], x.shape[1], 1, x.shape[2]]);
const flat = (x) => Object.assign(reshape(x, [x.shape[0], x.shape[1], x.shape[3]]), { whole: x });
const wide = (value, one) => [one, Array.isArray(value) ? value[0] : value];

// The position that is read for one beyond the border; null: the constant.
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

/** The row of a …1d layer as that of a …2d layer. */
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
