// Tensors with automatic differentiation (reverse mode).
//
// A tensor is {shape, data}: shape [N, …] with the batch first, data a Float32Array in PyTorch's (row-major) order. The
// result of an operation also has `parents` (its inputs) and `back(grad)`, which returns the gradient of each parent.

"use strict";

function count(shape) {
  let n = 1;
  for (const side of shape) n *= side;
  return n;
}

// PyTorch's `dim`, negative ones from the end.
const axisOf = (dim, x) => (dim < 0 ? x.shape.length + dim : dim);
const range = (n) => Array.from({ length: n }, (_, i) => i);
const square = (value) => (Array.isArray(value) ? value : [value, value]);

function tensor(shape, data) {
  return { shape, data: data || new Float32Array(count(shape)) };
}

/**
 * The result of an operation. back: (grad (Float32Array), needed) → gradients of the parents; null where needed(parent)
 * is false.
 */
function made(shape, data, parents, back) {
  return { shape, data, parents, back };
}

/** The same values in another shape. */
function reshape(x, shape) {
  return made(shape, x.data, [x], (grad) => [grad]);
}

/**
 * Gradients by tensor: of the sum of `grad` times the values of `output`, for all that it was computed of. `constants` are
 * left out, and what was computed of them alone.
 */
function gradients(output, grad, constants = new Set()) {
  const order = [];
  const seen = new Set();
  const stack = [[output, 0]];
  seen.add(output);
  while (stack.length) {
    const top = stack[stack.length - 1];
    const parents = top[0].parents || [];
    if (top[1] < parents.length) {
      const next = parents[top[1]++];
      if (!seen.has(next)) {
        seen.add(next);
        stack.push([next, 0]);
      }
    } else {
      order.push(stack.pop()[0]);
    }
  }
  const fixed = new Set(constants);
  for (const node of order) if (node.parents?.length && node.parents.every((parent) => fixed.has(parent))) fixed.add(node);
  const needed = (t) => !fixed.has(t);
  const found = new Map([[output, grad]]);
  for (const node of order.reverse()) {
    const arriving = found.get(node);
    if (!arriving || !node.back || !needed(node)) continue;
    node.back(arriving, needed).forEach((part, i) => {
      const parent = node.parents[i];
      if (!part || !needed(parent)) return;
      const sum = found.get(parent);
      if (!sum) {
        // A view returns its input array, which others may still read.
        found.set(parent, part === arriving ? part.slice() : part);
      } else {
        for (let j = 0; j < sum.length; j++) sum[j] += part[j];
      }
    });
  }
  return found;
}

/** c (m × n) += a (m × k) · b (k × n), each from an offset; four rows of c at a time share what is read of b. */
function multiplyPlain(m, n, k, a, ao, b, bo, c, co) {
  let i = 0;
  for (; i + 4 <= m; i += 4) {
    const c0 = co + i * n,
      c1 = c0 + n,
      c2 = c1 + n,
      c3 = c2 + n;
    for (let p = 0; p < k; p++) {
      const a0 = a[ao + i * k + p],
        a1 = a[ao + (i + 1) * k + p];
      const a2 = a[ao + (i + 2) * k + p],
        a3 = a[ao + (i + 3) * k + p];
      const row = bo + p * n;
      for (let j = 0; j < n; j++) {
        const value = b[row + j];
        c[c0 + j] += a0 * value;
        c[c1 + j] += a1 * value;
        c[c2 + j] += a2 * value;
        c[c3 + j] += a3 * value;
      }
    }
  }
  for (; i < m; i++) {
    for (let p = 0; p < k; p++) {
      const value = a[ao + i * k + p],
        row = bo + p * n,
        out = co + i * n;
      for (let j = 0; j < n; j++) c[out + j] += value * b[row + j];
    }
  }
}

/** (rows × columns) from an offset → its transpose. */
function transposed(rows, columns, x, offset = 0) {
  const out = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[j * rows + i] = x[offset + i * columns + j];
  }
  return out;
}
