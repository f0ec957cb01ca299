// Computes what the page requests without blocking it. Runs in a web worker, or in the page itself where
// there are none.

"use strict";

function newSession(document) {
  const network = openNetwork(document.network, decoded(document.weights, document.half));
  return { document, network, start: kept(network), off: new Map(), ran: null, training: null };
}

const kept = (network) => new Map([...network.weights].map(([name, t]) => [name, t.data.slice()]));

function restoreWeights(session) {
  for (const [name, values] of session.start) session.network.weights.get(name).data.set(values);
}

const pixelsOf = (network, bytes) =>
  tensor(
    [bytes.length / count(network.input), ...network.input],
    Float32Array.from(bytes, (v) => v / 255),
  );

function scored(network, ran) {
  const { output } = ran;
  if (network.detects.length) return { boxes: detections(network, ran) };
  if (output.shape.length === 4) return { dense: denseClasses(output), shape: output.shape.slice(1) };
  if (output.shape.length !== 2) return { values: Array.from(output.data), shape: output.shape.slice(1) };
  return { probabilities: probabilities(network, output), scores: Array.from(output.data) };
}

/** The class with the highest score at each position. */
function denseClasses(output) {
  const [, k, height, width] = output.shape,
    area = height * width,
    classes = new Uint8Array(area);
  for (let i = 0; i < area; i++) {
    if (k === 1) classes[i] = output.data[i] > 0 ? 1 : 0;
    else for (let c = 1; c < k; c++) if (output.data[c * area + i] > output.data[classes[i] * area + i]) classes[i] = c;
  }
  return classes;
}

/** The gradients of a class score, or of the score of a detector's best box of the class. */
function gradientsFor(network, ran, target) {
  if (!network.detects.length) return classGradients(network, ran, target);
  const boxes = detections(network, ran),
    best = boxes.find((box) => box.label === target) || boxes[0];
  return best ? detectionGradients(network, ran, best) : new Map();
}

const ANSWERS = {
  /** bytes: the image at the network's size. */
  run(session, { bytes }) {
    const { network } = session,
      begin = performance.now();
    session.ran = run(network, pixelsOf(network, bytes), EVALUATION, session.off);
    return { ...scored(network, session.ran), milliseconds: performance.now() - begin };
  },

  /** A row's output: of feature maps the first `most` channels. `bound` is the largest absolute value of all. */
  maps(session, { row, most }) {
    const value = row < 0 ? session.ran.image : session.ran.values[row];
    const [first, ...others] = Array.isArray(value) ? value : [value];
    const shape = first.shape.slice(1),
      end = shape.length === 3 ? most * shape[1] * shape[2] : first.data.length;
    let bound = 0;
    for (let i = 0; i < first.data.length; i++) bound = Math.max(bound, Math.abs(first.data[i]));
    return { shape, data: first.data.slice(0, end), bound: bound || 1, others: others.map((t) => t.shape.slice(1)) };
  },

  explain(session, { row, at }) {
    const { network, ran } = session,
      arriving = arrivingAt(network, ran, row),
      out = ran.values[row];
    const clean = session.off.has(row)
      ? computed(network.rows[row], arriving, network.rows[row].parameters, EVALUATION)
      : out;
    const [piece] = [out].flat(),
      value = piece.data[placeOf(at, piece.shape.slice(1))];
    if (Array.isArray(clean)) return { operation: "copy", terms: [], text: "slices of the input", value };
    const inputs = network.rows[row].takes.map(([from]) => (from < 0 ? "image" : network.rows[from].name));
    const shapes = arriving.map((x) => x.shape.slice(1));
    const explained = explanation(network.rows[row], arriving, clean, network.rows[row].parameters, at);
    return { ...explained, inputs, shapes, value };
  },

  /** The gradient of the class score with respect to the pixels, and Grad-CAM at a row. */
  saliency(session, { target, row }) {
    const { ran, network } = session,
      found = gradientsFor(network, ran, target),
      grad = found.get(ran.pixels);
    const [channels, height, width] = network.input,
      strongest = new Float32Array(height * width);
    if (grad) {
      for (let c = 0; c < channels; c++) {
        for (let i = 0; i < strongest.length; i++) {
          const value = grad[c * strongest.length + i];
          if (Math.abs(value) > Math.abs(strongest[i])) strongest[i] = value;
        }
      }
    }
    const cam = row < 0 || ran.values[row].shape.length !== 4 ? null : gradCam(ran, found, row);
    return { gradient: { height, width, data: strongest }, cam };
  },

  attack(session, { bytes, target, epsilon }) {
    const { network } = session,
      moved = attacked(network, pixelsOf(network, bytes), target, epsilon);
    const ran = run(network, moved, EVALUATION, session.off);
    return { pixels: moved.data, ...scored(network, ran) };
  },

  /** A detector's boxes for other thresholds. */
  boxes(session, thresholds) {
    return { boxes: detections(session.network, session.ran, thresholds) };
  },

  /** off: [[row, [channels]]]. */
  off(session, { off }) {
    session.off = new Map(off.map(([row, channels]) => [row, new Set(channels)]));
    return {};
  },

  /** How many images of the gallery are classified correctly, with the channels switched off and without. */
  accuracy(session, { bytes, labels }) {
    const { network } = session,
      size = count(network.input);
    const correct = (off) =>
      labels.filter((label, n) => {
        if (label === null) return false;
        const ran = run(network, pixelsOf(network, bytes.subarray(n * size, (n + 1) * size)), EVALUATION, off);
        return predicted(network, ran.output)[0] === label;
      }).length;
    const known = labels.filter((label) => label !== null).length;
    return { all: correct(new Map()), now: correct(session.off), known };
  },

  /** settings: {optimizer, lr, momentum, batch, shift, seed, fresh}; digits: {bytes, labels, testBytes, testLabels}. */
  startTraining(session, { settings, digits }) {
    const { network } = session;
    if (settings.fresh) initialize(network, settings.seed);
    else restoreWeights(session);
    session.training = newTraining(network, settings, settings.seed);
    session.digits = digits;
    session.order = [];
    return {};
  },

  /** Some batches; ends early after `milliseconds`. */
  train(session, { batches, milliseconds }) {
    const { network, training, digits } = session,
      size = count(network.input),
      begin = performance.now(),
      done = [];
    while (done.length < batches && (!done.length || performance.now() - begin < milliseconds)) {
      const { batch } = training.settings;
      if (session.order.length < batch) session.order = Array.from(shuffled(digits.labels.length, training.random));
      const chosen = session.order.splice(0, batch),
        bytes = new Uint8Array(chosen.length * size);
      chosen.forEach((from, n) => {
        const image = digits.bytes.subarray(from * size, (from + 1) * size);
        bytes.set(shifted(image, network.input, training.settings.shift, training.random), n * size);
      });
      done.push(
        trainStep(
          network,
          training,
          pixelsOf(network, bytes),
          chosen.map((from) => digits.labels[from]),
        ),
      );
    }
    return { done, step: training.step, seen: training.seen, epoch: training.seen / digits.labels.length };
  },

  testTraining(session) {
    const { network, digits } = session,
      size = count(network.input);
    let correct = 0;
    for (let from = 0; from < digits.testLabels.length; from += 50) {
      const labels = digits.testLabels.slice(from, from + 50);
      const bytes = digits.testBytes.subarray(from * size, (from + labels.length) * size);
      correct += countCorrect(network, run(network, pixelsOf(network, bytes)).output, labels);
    }
    return { accuracy: correct / digits.testLabels.length };
  },

  reset(session) {
    restoreWeights(session);
    session.training = null;
    return {};
  },
};

if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope) {
  let session = null;
  self.onmessage = ({ data: { id, ask, what } }) => {
    try {
      if (ask === "open") {
        session = newSession(what);
        self.postMessage({ id, answer: {} });
      } else {
        self.postMessage({ id, answer: ANSWERS[ask](session, what || {}) });
      }
    } catch (error) {
      self.postMessage({ id, error: `${error.name}: ${error.message}` });
    }
  };
}
