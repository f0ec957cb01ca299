// Training in the page: mini-batches, the loss, and a step of SGD or Adam, by PyTorch's own formulas.

"use strict";

/** A generator of random numbers in [0, 1) from a seed (mulberry32). */
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(n, random) {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** An image (channels × height × width) shifted by up to `most` pixels in each direction, padded with 0. */
function shifted(image, [channels, height, width], most, random) {
  if (!most) return image;
  const [down, across] = [0, 1].map(() => Math.floor(random() * (2 * most + 1)) - most);
  const out = new image.constructor(image.length),
    length = width - Math.abs(across);
  for (let line = 0; line < channels * height; line++) {
    const y = (line % height) - down;
    if (y < 0 || y >= height) continue;
    const from = (line - down) * width + Math.max(0, -across);
    out.set(image.subarray(from, from + length), line * width + Math.max(0, across));
  }
  return out;
}

/** settings: {optimizer: "sgd" | "adam", lr, momentum}. */
function newTraining(network, settings, seed = 0) {
  const trained = [...network.weights].filter(([name]) => !network.tensors[name].buffer);
  return {
    settings,
    random: randomFrom(seed),
    step: 0,
    seen: 0,
    trained,
    state: new Map(
      trained.map(([name, t]) => [
        name,
        { first: new Float32Array(t.data.length), second: new Float32Array(t.data.length) },
      ]),
    ),
  };
}

/** One step on a batch; changes the network's weights and returns {loss, correct}. */
function trainStep(network, training, pixels, targets) {
  const mode = { training: true, random: training.random };
  const ran = run(network, pixels, mode),
    loss = crossEntropy(network, ran.output, targets);
  const found = gradients(loss, new Float32Array([1]), new Set([pixels]));
  training.step += 1;
  training.seen += targets.length;
  for (const [name, weight] of training.trained) {
    const grad = found.get(weight);
    if (grad) update(weight.data, grad, training.state.get(name), training.settings, training.step);
  }
  return { loss: loss.data[0], correct: countCorrect(network, ran.output, targets) };
}

function update(weight, grad, state, { optimizer, lr, momentum = 0 }, step) {
  if (optimizer === "sgd") {
    for (let i = 0; i < weight.length; i++) {
      state.first[i] = step === 1 ? grad[i] : momentum * state.first[i] + grad[i];
      weight[i] -= lr * state.first[i];
    }
    return;
  }
  const early = 1 - 0.9 ** step,
    late = Math.sqrt(1 - 0.999 ** step);
  for (let i = 0; i < weight.length; i++) {
    state.first[i] += 0.1 * (grad[i] - state.first[i]);
    state.second[i] = 0.999 * state.second[i] + 0.001 * grad[i] * grad[i];
    weight[i] -= ((lr / early) * state.first[i]) / (Math.sqrt(state.second[i]) / late + 1e-8);
  }
}

/** The class with the highest score of each image. */
function predicted(network, output) {
  const [batch, k] = output.shape;
  if (k === 1) return Array.from(output.data, (v) => Number(v > (network.ends === "probability" ? 0.5 : 0)));
  return range(batch).map((n) => {
    let best = 0;
    for (let c = 1; c < k; c++) if (output.data[n * k + c] > output.data[n * k + best]) best = c;
    return best;
  });
}

function countCorrect(network, output, targets) {
  return predicted(network, output).filter((c, n) => c === targets[n]).length;
}

/** Initial weights by PyTorch's default rule: uniform within ±1/√fan_in. */
function initialize(network, seed) {
  const random = randomFrom(seed);
  for (const row of network.rows) {
    const p = row.parameters;
    if (row.type === "Parameter") drawParameter(p[""], row.settings.init, random);
    if (!p.weight) continue;
    if (row.traits.includes("weighted sum")) {
      const bound = 1 / Math.sqrt(count(p.weight.shape.slice(1)));
      for (const t of [p.weight, p.bias])
        if (t) for (let i = 0; i < t.data.length; i++) t.data[i] = (2 * random() - 1) * bound;
    } else if (row.type === "PReLU") {
      p.weight.data.fill(row.settings.init);
    } else {
      p.weight.data.fill(1);
      if (p.bias) p.bias.data.fill(0);
    }
    if (p.running_mean) p.running_mean.data.fill(0);
    if (p.running_var) p.running_var.data.fill(1);
  }
}

function drawParameter(t, init, random) {
  const constant = { zeros: 0, ones: 1 }[init] ?? init;
  for (let i = 0; i < t.data.length; i++) t.data[i] = init === "normal" ? gaussian(random) : constant;
}

/** A sample of the standard normal distribution (Box and Muller). */
const gaussian = (random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
