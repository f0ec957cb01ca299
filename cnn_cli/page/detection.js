// From a detector's maps to boxes: distances from the cells, score threshold, non-maximum suppression.
// The same steps as cnn_cli/tasks/cells.py and suppression.py.

"use strict";

const MOST_BOXES = 100,
  MOST_CANDIDATES = 1000;

const valueOf = (ran, [row, piece]) => (piece === null ? ran.values[row] : ran.values[row][piece]);

/** Every cell whose score is above `least`: {box: [x0, y0, x1, y1], label, score, scale, place}. */
function candidates(network, ran, least) {
  const [, height, width] = network.input,
    found = [];
  network.detects.forEach((scale, number) => {
    const scores = valueOf(ran, scale.scores),
      distances = valueOf(ran, scale.boxes);
    const [, classes, rows, columns] = scores.shape,
      area = rows * columns;
    for (let place = 0; place < classes * area; place++) {
      const score = sigmoid(scores.data[place]),
        cell = place % area;
      if (!(score > least)) continue;
      const x = ((cell % columns) + 0.5) * scale.stride,
        y = (Math.floor(cell / columns) + 0.5) * scale.stride;
      const [left, top, right, bottom] = [0, 1, 2, 3].map((side) => {
        const distance = distances.data[side * area + cell];
        return (scale.exponential ? Math.exp(distance) : distance) * scale.stride;
      });
      const clip = (v, n) => Math.min(n, Math.max(0, v));
      const box = [clip(x - left, width), clip(y - top, height), clip(x + right, width), clip(y + bottom, height)];
      if (box[2] > box[0] && box[3] > box[1])
        found.push({ box, label: Math.floor(place / area), score, scale: number, place });
    }
  });
  return found.sort((a, b) => b.score - a.score).slice(0, MOST_CANDIDATES);
}

function overlapOf(a, b) {
  const wide = Math.min(a[2], b[2]) - Math.max(a[0], b[0]),
    high = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (wide <= 0 || high <= 0) return 0;
  const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
  return (wide * high) / (area(a) + area(b) - wide * high);
}

/** The detections after non-maximum suppression per class at an IoU of `overlap`, highest score first. */
function detections(network, ran, { least = 0.01, overlap = 0.6 } = {}) {
  const kept = [];
  for (const one of candidates(network, ran, least)) {
    if (kept.length === MOST_BOXES) break;
    if (kept.every((other) => other.label !== one.label || overlapOf(one.box, other.box) <= overlap)) kept.push(one);
  }
  return kept;
}

/** Gradients of the score behind a detection. */
function detectionGradients(network, ran, { scale, place }) {
  const scores = valueOf(ran, network.detects[scale].scores),
    grad = new Float32Array(scores.data.length);
  grad[place] = 1;
  return gradients(scores, grad, new Set(network.weights.values()));
}
