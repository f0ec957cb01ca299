// A network: its layers in the order of computation, its weights, and the forward and backward pass.
//
// description: {input, rows, output, mean, std, tensors}, as cnn_cli/page/description.py writes it. A row's `takes` are
// [row, piece]: −1 is the image, piece is null unless a layer has several outputs.

"use strict";

/** From 32-bit or 16-bit floats in base64. */
function decoded(text, half) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return half ? halves(new Uint16Array(bytes.buffer)) : new Float32Array(bytes.buffer);
}

function halves(bits) {
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const sign = bits[i] & 0x8000 ? -1 : 1,
      exponent = (bits[i] >> 10) & 31,
      fraction = bits[i] & 1023;
    if (exponent === 31) out[i] = fraction ? NaN : sign * Infinity;
    else out[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  }
  return out;
}

/** description.tensors: {name: {shape, at}}, `at` counted in values. */
function openNetwork(description, values) {
  const weights = new Map();
  for (const [name, { shape, at }] of Object.entries(description.tensors)) {
    weights.set(name, tensor(shape, values.slice(at, at + count(shape))));
  }
  const rows = description.rows.map((row) => ({
    ...row,
    parameters: Object.fromEntries(Object.entries(row.tensors).map(([local, name]) => [local, weights.get(name)])),
  }));
  return { ...description, rows, weights };
}

const EVALUATION = { training: false };

/**
 * Every row's output for pixels (N, C, H, W) in [0, 1]; rows that only training needs are left out.
 * off: row → set of channels that are set to 0.
 */
function run(network, pixels, mode = EVALUATION, off = new Map()) {
  const values = [],
    image = normalizedPixels(network, pixels);
  network.rows.forEach((row, i) => {
    const arriving = row.takes.map(([from, piece]) => {
      if (from < 0) return image;
      return piece === null ? values[from] : values[from][piece];
    });
    const out = computed(row, arriving, row.parameters, mode);
    values.push(off.has(i) ? silenced(out, off.get(i)) : out);
  });
  const [from, piece] = network.output;
  return { pixels, image, values, output: from < 0 ? image : piece === null ? values[from] : values[from][piece] };
}

function normalizedPixels(network, pixels) {
  if (!network.mean.length) return pixels;
  const area = count(pixels.shape.slice(2)),
    channels = pixels.shape[1],
    of = (i) => Math.floor(i / area) % channels;
  const data = pixels.data.map((v, i) => (v - network.mean[of(i)]) / network.std[of(i)]);
  return made(pixels.shape, data, [pixels], (grad) => [grad.map((g, i) => g / network.std[of(i)])]);
}

function silenced(out, channels) {
  const area = count(out.shape.slice(2)),
    all = out.shape[1];
  const kept = (i) => (channels.has(Math.floor(i / area) % all) ? 0 : 1);
  const quiet = made(
    out.shape,
    out.data.map((v, i) => (kept(i) ? v : 0)),
    [out],
    (grad) => [grad.map((g, i) => g * kept(i))],
  );
  return quiet;
}

/** The inputs of a row in a run, as tensors. */
function arrivingAt(network, ran, i) {
  return network.rows[i].takes.map(([from, piece]) =>
    from < 0 ? ran.image : piece === null ? ran.values[from] : ran.values[from][piece],
  );
}

/** Class probabilities of outputs (N, K): a softmax, unless the network ends in one; of a single output its sigmoid. */
function probabilities(network, output) {
  const [, k] = output.shape;
  if (network.ends === "probability") {
    return k === 1 ? twofold(output.data) : Array.from(output.data);
  }
  if (network.ends === "logarithm") return Array.from(output.data, Math.exp);
  if (k === 1) return twofold(output.data.map(sigmoid));
  return Array.from(softmax(reshape(output, [output.shape[0], k]), 1).data);
}

const twofold = (values) => Array.from(values).flatMap((p) => [1 - p, p]);

/** ∂(score of a class)/∂(pixels) and the gradient at each row, for a single image. `ran` is the run's result. */
function classGradients(network, ran, target) {
  const grad = new Float32Array(ran.output.data.length),
    [, k] = ran.output.shape;
  const area = grad.length / k;
  if (k === 1) grad.fill(target === 0 ? -1 : 1);
  else grad.fill(1, target * area, (target + 1) * area);
  return gradients(ran.output, grad, new Set(network.weights.values()));
}

/** Grad-CAM at a row (Selvaraju et al. 2017): maps weighted by their mean gradients, negative sums set to 0. */
function gradCam(ran, found, i) {
  const map = ran.values[i],
    grad = found.get(map),
    [, channels, height, width] = map.shape,
    area = height * width;
  const out = new Float32Array(area);
  if (!grad) return { height, width, data: out };
  for (let c = 0; c < channels; c++) {
    let weight = 0;
    for (let j = 0; j < area; j++) weight += grad[c * area + j];
    weight /= area;
    for (let j = 0; j < area; j++) out[j] += weight * map.data[c * area + j];
  }
  return { height, width, data: out.map((v) => Math.max(0, v)) };
}

/** The fast gradient sign method (Goodfellow et al. 2015): pixels moved by epsilon in the direction that raises the loss. */
function attacked(network, pixels, target, epsilon) {
  const ran = run(network, pixels),
    loss = crossEntropy(network, ran.output, [target]);
  const grad = gradients(loss, new Float32Array([1]), new Set(network.weights.values())).get(pixels);
  const data = pixels.data.map((v, i) => Math.min(1, Math.max(0, v + epsilon * Math.sign(grad ? grad[i] : 0))));
  return tensor(pixels.shape, data);
}

/** The mean cross-entropy of outputs (N, K) for classes. */
function crossEntropy(network, output, targets) {
  const [batch, k] = output.shape;
  let logs;
  if (network.ends === "logarithm") logs = output;
  else if (network.ends === "probability")
    logs = each(
      output,
      (p) => Math.log(Math.max(p, 1.17549435e-38)),
      (p) => 1 / p,
    );
  else if (k === 1)
    logs = concat([
      each(
        output,
        (x) => -softplusExact(x),
        (x) => -sigmoid(x),
      ),
      each(
        output,
        (x) => -softplusExact(-x),
        (x) => sigmoid(-x),
      ),
    ]);
  else logs = softmax(output, 1, true);
  const classes = logs.shape[1];
  let sum = 0;
  for (let n = 0; n < batch; n++) sum -= logs.data[n * classes + targets[n]];
  return made([1], new Float32Array([sum / batch]), [logs], (grad) => {
    const back = new Float32Array(logs.data.length);
    for (let n = 0; n < batch; n++) back[n * classes + targets[n]] = -grad[0] / batch;
    return [back];
  });
}

const softplusExact = (x) => Math.max(0, x) + Math.log1p(Math.exp(-Math.abs(x)));
