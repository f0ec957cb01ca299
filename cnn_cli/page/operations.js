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

/** f(value) elementwise; `slope(value, result)` is its derivative. */
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

/** For each value of `to`, the index of the value in `shape` that is broadcast to it. */
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

/** f(a, b) elementwise, with broadcasting; slopes(a, b) → [∂f/∂a, ∂f/∂b]. */
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

/** The sum of two tensors; equal shapes need no function call per value. */
function add(a, b) {
  if (a.data.length !== b.data.length || a.shape.length !== b.shape.length || a.shape.some((n, d) => n !== b.shape[d])) {
    return pairwise(
      a,
      b,
      (x, y) => x + y,
      () => [1, 1],
    );
  }
  const data = new Float32Array(a.data.length);
  for (let i = 0; i < data.length; i++) data[i] = a.data[i] + b.data[i];
  return made(a.shape, data, [a, b], (grad) => [grad, grad]);
}
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
// If both are equal, each gets half of the gradient, as in PyTorch.
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
