// Pooling and interpolation: the input positions of each output position, along rows and columns.

"use strict";

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

/** The highest value of each window: rows[y] and columns[x] are lists of positions; of equal ones the first. */
function highest(x, rows, columns) {
  const [batch, channels, height, width] = x.shape,
    oh = rows.length,
    ow = columns.length;
  const index = new Int32Array(batch * channels * oh * ow),
    values = x.data;
  let to = 0;
  for (let m = 0; m < batch * channels; m++) {
    for (let y = 0; y < oh; y++) {
      for (let z = 0; z < ow; z++) {
        const ys = rows[y],
          xs = columns[z];
        let place = (m * height + ys[0]) * width + xs[0],
          best = values[place];
        for (let a = 0; a < ys.length; a++) {
          const line = (m * height + ys[a]) * width;
          for (let b = 0; b < xs.length; b++) {
            const value = values[line + xs[b]];
            if (value > best || Number.isNaN(value)) {
              best = value;
              place = line + xs[b];
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

/** (Σ xᵖ)^(1/p) over windows, in the order of PyTorch's computation. */
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
  // PyTorch averages over the values inside the border, and multiplies by the size of the whole window.
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
