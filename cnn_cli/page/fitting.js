// Preprocessing of an image, as in cnn_cli/data/preprocessing.py, byte for byte.
//
// Images are {channels, height, width, data}: bytes, one channel after the other.

"use strict";

const LUMA = [19595, 38470, 7471]; // ITU-R BT.601 in units of 1/65536

/** From a canvas: RGBA on white, where it is transparent. */
function fromCanvas({ width, height, data }) {
  const out = { channels: 3, height, width, data: new Uint8Array(3 * height * width) },
    area = height * width;
  for (let i = 0; i < area; i++) {
    const alpha = data[4 * i + 3] / 255;
    for (let c = 0; c < 3; c++) out.data[c * area + i] = Math.round(data[4 * i + c] * alpha + 255 * (1 - alpha));
  }
  return out;
}

function withChannels(image, channels) {
  const area = image.height * image.width;
  if (image.channels === channels) return image;
  const data = new Uint8Array(channels * area);
  for (let i = 0; i < area; i++) {
    if (channels === 1) {
      let sum = 0x8000;
      for (let c = 0; c < 3; c++) sum += image.data[c * area + i] * LUMA[c];
      data[i] = sum >> 16;
    } else {
      for (let c = 0; c < channels; c++) data[c * area + i] = image.data[i];
    }
  }
  return { ...image, channels, data };
}

/** For each position of the result: the first position that it reads, and its weights; PyTorch's antialiased filters. */
function smoothWeights(n, out, cubic) {
  const scale = n / out,
    wide = Math.max(1, scale),
    support = (cubic ? 2 : 1) * wide,
    a = -0.5;
  const kernel = (x) => {
    const d = Math.abs(x);
    if (!cubic) return Math.max(0, 1 - d);
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
  };
  return range(out).map((i) => {
    const center = scale * (i + 0.5),
      first = Math.max(0, Math.trunc(center - support + 0.5));
    const size = Math.min(n, Math.trunc(center + support + 0.5)) - first;
    const weights = range(size).map((j) => kernel((j + first - center + 0.5) / wide));
    const sum = weights.reduce((x, y) => x + y, 0);
    return { first, weights: weights.map((w) => w / sum) };
  });
}

const byte = (v) => Math.min(255, Math.max(0, Math.round(v)));

function resized(image, height, width, interpolation) {
  if (image.height === height && image.width === width) return image;
  const cubic = interpolation === "bicubic",
    { channels } = image;
  const across = smoothWeights(image.width, width, cubic),
    down = smoothWeights(image.height, height, cubic);
  const half = new Uint8Array(channels * image.height * width),
    data = new Uint8Array(channels * height * width);
  for (let line = 0; line < channels * image.height; line++) {
    for (let x = 0; x < width; x++) {
      const { first, weights } = across[x],
        from = line * image.width + first;
      let sum = 0;
      for (let j = 0; j < weights.length; j++) sum += weights[j] * image.data[from + j];
      half[line * width + x] = byte(sum);
    }
  }
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      const { first, weights } = down[y],
        to = (c * height + y) * width;
      for (let x = 0; x < width; x++) {
        let sum = 0;
        for (let j = 0; j < weights.length; j++) sum += weights[j] * half[(c * image.height + first + j) * width + x];
        data[to + x] = byte(sum);
      }
    }
  }
  return { channels, height, width, data };
}

/** The center, or padding on all sides. */
function centered(image, height, width) {
  const top = roundHalfEven((image.height - height) / 2),
    left = roundHalfEven((image.width - width) / 2);
  const kept = [Math.min(image.height, height), Math.min(image.width, width)];
  const [down, across] = [Math.floor((height - kept[0]) / 2), Math.floor((width - kept[1]) / 2)];
  const data = new Uint8Array(image.channels * height * width);
  for (let c = 0; c < image.channels; c++) {
    for (let y = 0; y < kept[0]; y++) {
      const from = (c * image.height + y + Math.max(0, top)) * image.width + Math.max(0, left);
      data.set(image.data.subarray(from, from + kept[1]), (c * height + y + down) * width + across);
    }
  }
  return { channels: image.channels, height, width, data };
}

/** preprocessing: {input: [C, H, W], resize, resize_size, interpolation}. */
function fitted(image, preprocessing) {
  const [channels, height, width] = preprocessing.input,
    mode = preprocessing.interpolation;
  let now = withChannels(image, channels);
  if (preprocessing.resize === "crop") {
    const longest = Math.floor(
      (8 * Math.min(now.height, now.width) * Math.max(height, width)) / Math.min(height, width),
    );
    if (Math.max(now.height, now.width) > longest) {
      now = centered(now, Math.min(now.height, longest), Math.min(now.width, longest));
    }
  }
  const { height: h, width: w } = now,
    size = preprocessing.resize_size;
  if (size) {
    const short = Math.min(h, w);
    return centered(resized(now, Math.floor((size * h) / short), Math.floor((size * w) / short), mode), height, width);
  }
  if (h === height && w === width) return now;
  if (preprocessing.resize === "stretch") return resized(now, height, width, mode);
  const scale = (preprocessing.resize === "crop" ? Math.max : Math.min)(height / h, width / w);
  const sides = [h, w].map((side) => Math.max(1, roundHalfEven(side * scale)));
  return centered(resized(now, ...sides, mode), height, width);
}

/** Where the bright part of images lies: mean of the longer side and of the center, as fractions of the image. */
function brightPart(images) {
  const boxes = images.map(boundingBox).filter(Boolean);
  if (!boxes.length) return null;
  const mean = (of) => boxes.reduce((sum, box) => sum + of(box), 0) / boxes.length;
  return { side: mean((b) => Math.max(b.height, b.width)), y: mean((b) => b.y), x: mean((b) => b.x) };
}

/** For a dark image: height and width of the bounding box of pixels above 0.1, and the center of mass. */
function boundingBox({ height, width, data }) {
  let [top, left, bottom, right, mass, my, mx] = [height, width, -1, -1, 0, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = data[y * width + x];
      if (value < 26) continue;
      [top, left, bottom, right] = [Math.min(top, y), Math.min(left, x), Math.max(bottom, y), Math.max(right, x)];
      mass += value;
      my += value * (y + 0.5);
      mx += value * (x + 0.5);
    }
  }
  if (bottom < 0) return null;
  return {
    top,
    left,
    height: (bottom - top + 1) / height,
    width: (right - left + 1) / width,
    y: my / mass / height,
    x: mx / mass / width,
  };
}

/** A drawing, scaled and moved so that its bright part is placed as in the data set's images. */
function placed(drawing, part, side) {
  const box = boundingBox(drawing);
  if (!box || !part) return drawing;
  const { height, width, data, channels } = drawing;
  const cut = {
    channels,
    height: Math.round(box.height * height),
    width: Math.round(box.width * width),
    data: null,
  };
  cut.data = new Uint8Array(cut.height * cut.width);
  for (let y = 0; y < cut.height; y++) {
    const from = (box.top + y) * width + box.left;
    cut.data.set(data.subarray(from, from + cut.width), y * cut.width);
  }
  const scale = (part.side * side) / Math.max(cut.height, cut.width);
  const small = resized(
    cut,
    Math.max(1, Math.round(cut.height * scale)),
    Math.max(1, Math.round(cut.width * scale)),
    "bilinear",
  );
  const middle = boundingBox(small) || { y: 0.5, x: 0.5 };
  const out = { channels, height: side, width: side, data: new Uint8Array(side * side) };
  const top = Math.round(part.y * side - middle.y * small.height),
    left = Math.round(part.x * side - middle.x * small.width);
  for (let y = 0; y < small.height; y++) {
    for (let x = 0; x < small.width; x++) {
      const [to, across] = [y + top, x + left];
      if (to >= 0 && to < side && across >= 0 && across < side)
        out.data[to * side + across] = small.data[y * small.width + x];
    }
  }
  return out;
}
