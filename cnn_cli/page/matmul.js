// c (m × n) += a (m × k) · b (k × n): in WebAssembly with SIMD if available, else plain loops.
//
// The WebAssembly is written here instruction by instruction, so that no build step is needed. Its inner loop holds four
// rows and eight columns of c in registers: 8 vectors, which each step along k updates with 8 multiplications of 4 values.

"use strict";

/**
 * The bytes of a module with one function, multiply(a, lda, b, ldb, panel, c, ldc, rows, k), for eight columns of b and c
 * and 4 · rows rows of a and c; addresses and strides in bytes. It first copies the columns to `panel`, where their rows are
 * neighbors, so that they stay in the first cache.
 */
function matmulModule() {
  const I32 = 0x7f,
    V128 = 0x7b;
  const leb = (n) => {
    const bytes = [];
    do {
      const low = n & 127;
      n >>>= 7;
      bytes.push(n ? low | 128 : low);
    } while (n);
    return bytes;
  };
  const signed = (n) => {
    const bytes = [];
    for (;;) {
      const low = n & 127;
      n >>= 7;
      if ((n === 0 && !(low & 64)) || (n === -1 && low & 64)) return [...bytes, low];
      bytes.push(low | 128);
    }
  };
  const name = (text) => [...leb(text.length), ...Array.from(text, (c) => c.charCodeAt(0))];
  const section = (id, content) => [id, ...leb(content.length), ...content];
  const list = (items) => [...leb(items.length), ...items.flat()];

  const get = (v) => [0x20, ...leb(v)],
    set = (v) => [0x21, ...leb(v)],
    number = (n) => [0x41, ...signed(n)];
  const plus = [0x6a],
    simd = (op) => [0xfd, ...leb(op)];
  const load = (offset) => [...simd(0), 2, ...leb(offset)],
    store = (offset) => [...simd(11), 2, ...leb(offset)];
  const splat = (offset) => [...simd(9), 2, ...leb(offset)]; // v128.load32_splat
  const times = simd(0xe6),
    sum = simd(0xe4); // f32x4.mul, f32x4.add

  // Parameters, then what the loops count and hold.
  const [a, lda, b, ldb, panel, c, ldc, rows, k] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const [pa0, pa1, pa2, pa3, pb, step] = [9, 10, 11, 12, 13, 14];
  const acc = (row, half) => 15 + row * 2 + half,
    b0 = 23,
    b1 = 24,
    value = 25;
  const loop = (body) => [0x03, 0x40, ...body, 0x0b];
  const countDown = (v) => [...get(v), ...number(1), 0x6b, 0x22, ...leb(v), 0x0d, 0];
  const move = (v, by) => [...get(v), ...by, ...plus, ...set(v)];
  const copy = (to, from) => [...get(from), ...set(to)];
  const rowOf = (row) => {
    let address = get(c);
    for (let i = 0; i < row; i++) address = [...address, ...get(ldc), ...plus];
    return address;
  };
  const pack = [
    ...[0, 16].flatMap((half) => [...get(pb), ...get(b), ...load(half), ...store(half)]),
    ...move(b, get(ldb)),
    ...move(pb, number(32)),
    ...countDown(step),
  ];
  const inner = [
    ...get(pb),
    ...load(0),
    ...set(b0),
    ...get(pb),
    ...load(16),
    ...set(b1),
    ...[pa0, pa1, pa2, pa3].flatMap((p, row) => [
      ...get(p),
      ...splat(0),
      ...set(value),
      ...get(acc(row, 0)),
      ...get(value),
      ...get(b0),
      ...times,
      ...sum,
      ...set(acc(row, 0)),
      ...get(acc(row, 1)),
      ...get(value),
      ...get(b1),
      ...times,
      ...sum,
      ...set(acc(row, 1)),
      ...move(p, number(4)),
    ]),
    ...move(pb, number(32)),
    ...countDown(step),
  ];
  const tile = [
    ...copy(pa0, a),
    ...[pa1, pa2, pa3].flatMap((p, row) => [...get([pa0, pa1, pa2][row]), ...get(lda), ...plus, ...set(p)]),
    ...copy(pb, panel),
    ...copy(step, k),
    ...[0, 1, 2, 3].flatMap((row) =>
      [0, 1].flatMap((half) => [...rowOf(row), ...load(16 * half), ...set(acc(row, half))]),
    ),
    ...loop(inner),
    ...[0, 1, 2, 3].flatMap((row) =>
      [0, 1].flatMap((half) => [...rowOf(row), ...get(acc(row, half)), ...store(16 * half)]),
    ),
    ...move(a, [...get(lda), ...number(2), 0x74]),
    ...move(c, [...get(ldc), ...number(2), 0x74]),
    ...countDown(rows),
  ];
  const body = [...copy(pb, panel), ...copy(step, k), ...loop(pack), ...loop(tile)];
  const code = [
    ...list([
      [...leb(6), I32],
      [...leb(11), V128],
    ]),
    ...body,
    0x0b,
  ];
  return new Uint8Array([
    0,
    0x61,
    0x73,
    0x6d,
    1,
    0,
    0,
    0,
    ...section(1, list([[0x60, ...leb(9), ...Array(9).fill(I32), 0]])),
    ...section(2, list([[...name("page"), ...name("memory"), 2, 0, ...leb(1)]])),
    ...section(3, list([[0]])),
    ...section(7, list([[...name("multiply"), 0, 0]])),
    ...section(10, list([[...leb(code.length), ...code]])),
  ]);
}

/** The fast multiplication, or null without WebAssembly and SIMD. */
function fastMatmul() {
  if (typeof WebAssembly === "undefined" || !WebAssembly.validate(matmulModule())) return null;
  const memory = new WebAssembly.Memory({ initial: 64 });
  const { multiply } = new WebAssembly.Instance(new WebAssembly.Module(matmulModule()), { page: { memory } }).exports;
  let values = new Float32Array(memory.buffer);
  const DEPTH = 256; // rows of b at a time: a panel of 8 KiB

  return (m, n, k, a, ao, b, bo, c, co) => {
    if (m * n * k < 4096) {
      multiplyPlain(m, n, k, a, ao, b, bo, c, co);
      return;
    }
    const high = Math.ceil(m / 4) * 4,
      wide = Math.ceil(n / 8) * 8;
    const fromA = DEPTH * 8, // after the panel
      fromB = fromA + high * k,
      fromC = fromB + k * wide;
    const needed = (fromC + high * wide) * 4;
    if (needed > memory.buffer.byteLength) {
      memory.grow(Math.ceil((needed - memory.buffer.byteLength) / 65536));
      values = new Float32Array(memory.buffer);
    }
    values.set(a.subarray(ao, ao + m * k), fromA);
    values.fill(0, fromA + m * k, fromB);
    copyRows(b, bo, n, values, fromB, wide, k, n);
    copyRows(c, co, n, values, fromC, wide, m, n);
    for (let start = 0; start < k; start += DEPTH) {
      const depth = Math.min(DEPTH, k - start);
      for (let x = 0; x < wide; x += 8) {
        const [fa, fb, fc] = [fromA + start, fromB + start * wide + x, fromC + x];
        multiply(fa * 4, k * 4, fb * 4, wide * 4, 0, fc * 4, wide * 4, high / 4, depth);
      }
    }
    copyRows(values, fromC, wide, c, co, n, m, n);
  };
}

function copyRows(from, at, step, to, place, stride, rows, length) {
  if (step === stride && step === length) {
    to.set(from.subarray(at, at + rows * length), place);
    return;
  }
  for (let i = 0; i < rows; i++) {
    to.set(from.subarray(at + i * step, at + i * step + length), place + i * stride);
    if (stride > length) to.fill(0, place + i * stride + length, place + (i + 1) * stride);
  }
}

const matmul = fastMatmul() || multiplyPlain;
