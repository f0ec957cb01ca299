// Drawing: elements, colors of values, maps on canvases.

"use strict";

const select = (query) => document.querySelector(query);

/** An element with attributes (functions become listeners) and children. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name.startsWith("aria-") && typeof value === "boolean") node.setAttribute(name, `${value}`);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const grouped3 = (n) =>
  Math.round(n)
    .toString()
    .replace(/\B(?=(\d{3})+(?!\d))/g, ",");
const percent = (p) => `${(100 * p).toFixed(1)}%`;
const sizes = (shape) => shape.join("x") || "a number";

// Positive values are orange, negative ones blue, and 0 is the background: light or dark as the page is.
const isDark = () => document.documentElement.dataset.theme === "dark";

function signedColor(t, dark) {
  const zero = dark ? [24, 26, 32] : [255, 255, 255];
  const end = t > 0 ? (dark ? [255, 159, 64] : [201, 84, 0]) : dark ? [96, 165, 250] : [29, 78, 216];
  const share = Math.min(1, Math.abs(t));
  return zero.map((from, i) => Math.round(from + (end[i] - from) * share));
}

/** The colors from −1 to 1 in 511 steps, as pixels of a canvas. */
function signedPixels(dark) {
  const bytes = new Uint8ClampedArray(4 * 511);
  for (let i = 0; i < 511; i++) bytes.set([...signedColor((i - 255) / 255, dark), 255], 4 * i);
  return new Uint32Array(bytes.buffer);
}

const PIXELS = { light: signedPixels(false), dark: signedPixels(true) };

/** Black or white, whichever has more contrast to a color. */
function textColor(color) {
  const [r, g, b] = color.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

function largest(values) {
  let most = 0;
  for (const v of values) if (Math.abs(v) > most) most = Math.abs(v);
  return most || 1;
}

/** Draw one map in color into a canvas with a pixel per value. */
function paintMap(canvas, values, width, height, bound) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"),
    picture = context.createImageData(width, height),
    pixels = new Uint32Array(picture.data.buffer),
    colors = PIXELS[isDark() ? "dark" : "light"],
    scale = 255 / bound;
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = colors[255 + Math.round(Math.min(255, Math.max(-255, values[i] * scale || 0)))];
  }
  context.putImageData(picture, 0, 0);
}

const MOSAIC = 9; // maps in the picture of a layer

/** The first maps side by side with a gap of one pixel. */
function paintMosaic(canvas, data, [channels, height, width], bound) {
  const shown = Math.min(channels, MOSAIC),
    columns = Math.ceil(Math.sqrt(shown)),
    rows = Math.ceil(shown / columns);
  const scale = Math.max(1, Math.floor(96 / (columns * Math.max(width, height))));
  canvas.width = columns * width * scale + (columns - 1) * 2;
  canvas.height = rows * height * scale + (rows - 1) * 2;
  const context = canvas.getContext("2d"),
    small = document.createElement("canvas");
  context.imageSmoothingEnabled = false;
  for (let c = 0; c < shown; c++) {
    paintMap(small, data.subarray(c * height * width, (c + 1) * height * width), width, height, bound);
    const x = (c % columns) * (width * scale + 2),
      y = Math.floor(c / columns) * (height * scale + 2);
    context.drawImage(small, x, y, width * scale, height * scale);
  }
}

/** A list of numbers as a square of cells. */
function paintVector(canvas, data, bound) {
  const side = Math.ceil(Math.sqrt(data.length)),
    filled = new Float32Array(side * Math.ceil(data.length / side));
  filled.set(data);
  paintMap(canvas, filled, side, filled.length / side, bound);
}

/** The image: bytes (C, H, W), or pixels in [0, 1]. */
function paintImage(canvas, values, [channels, height, width], factor = 1) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"),
    picture = context.createImageData(width, height),
    area = width * height;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) picture.data[4 * i + c] = values[(channels === 1 ? 0 : c) * area + i] * factor;
    picture.data[4 * i + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

/** A heat map over an image, from transparent to red. */
function paintHeat(canvas, { height, width, data }, shape) {
  const small = document.createElement("canvas");
  small.width = width;
  small.height = height;
  const context = small.getContext("2d"),
    picture = context.createImageData(width, height),
    bound = largest(data);
  for (let i = 0; i < data.length; i++) {
    const t = Math.abs(data[i]) / bound;
    picture.data.set([255, Math.round(190 * (1 - t)), 0, Math.round(210 * t)], 4 * i);
  }
  context.putImageData(picture, 0, 0);
  const target = canvas.getContext("2d");
  target.imageSmoothingEnabled = true;
  target.drawImage(small, 0, 0, shape[2], shape[1]);
}

const CLASS_COLORS = [
  "#00000000",
  "#e6194b",
  "#3cb44b",
  "#ffe119",
  "#4363d8",
  "#f58231",
  "#911eb4",
  "#46f0f0",
  "#f032e6",
  "#bcf60c",
  "#fabebe",
  "#008080",
  "#e6beff",
  "#9a6324",
  "#fffac8",
  "#800000",
  "#aaffc3",
  "#808000",
  "#ffd8b1",
  "#000075",
];

/** A class for each position, over the image. */
function paintClasses(canvas, classes, [, height, width], shape) {
  const small = document.createElement("canvas");
  small.width = width;
  small.height = height;
  const context = small.getContext("2d");
  for (let i = 0; i < classes.length; i++) {
    context.fillStyle = CLASS_COLORS[classes[i] % CLASS_COLORS.length];
    context.fillRect(i % width, Math.floor(i / width), 1, 1);
  }
  const target = canvas.getContext("2d");
  target.globalAlpha = 0.6;
  target.imageSmoothingEnabled = false;
  target.drawImage(small, 0, 0, shape[2], shape[1]);
  target.globalAlpha = 1;
}

const boxColor = (label) => CLASS_COLORS[1 + (label % (CLASS_COLORS.length - 1))];

/** Boxes in pixels of the image, drawn on a canvas enlarged for it. */
function paintBoxes(canvas, boxes, [, height, width]) {
  const scale = Math.max(1, Math.floor(512 / Math.max(height, width))),
    copy = document.createElement("canvas");
  copy.width = width;
  copy.height = height;
  copy.getContext("2d").drawImage(canvas, 0, 0);
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(copy, 0, 0, canvas.width, canvas.height);
  context.lineWidth = 3;
  for (const {
    box: [x0, y0, x1, y1],
    label,
  } of boxes) {
    context.strokeStyle = boxColor(label);
    context.strokeRect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
  }
}

/** A line chart with its data as a table for screen readers. lines: {name: [[x, y], …]}. */
function chart(lines, { width = 320, height = 140, label, format = (v) => v.toPrecision(3) }) {
  const points = Object.values(lines).flat(),
    xs = points.map((p) => p[0]),
    ys = points.map((p) => p[1]);
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const x = (v) => 44 + (width - 54) * (right > left ? (v - left) / (right - left) : 0.5);
  const y = (v) => 8 + (height - 30) * (high > low ? (high - v) / (high - low) : 0.5);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" });
  for (const v of high > low ? [low, high] : [low]) {
    picture.append(svg("line", { x1: 44, x2: width - 10, y1: y(v), y2: y(v), class: "grid" }));
    picture.append(svg("text", { x: 40, y: y(v) + 4, "text-anchor": "end" }, format(v)));
  }
  picture.append(svg("text", { x: 44, y: height - 6 }, `${left}`));
  picture.append(svg("text", { x: width - 10, y: height - 6, "text-anchor": "end" }, `${right}`));
  Object.entries(lines).forEach(([name, line], i) => {
    const path = line.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    picture.append(svg("polyline", { points: path, class: `line line${i}` }));
    const last = line[line.length - 1];
    if (line.length === 1)
      picture.append(svg("circle", { cx: x(last[0]), cy: y(last[1]), r: 3, class: `dot line${i}` }));
  });
  const names = Object.keys(lines).map((name, i) => el("span", { class: `key line${i}` }, name));
  return el("figure", { class: "plot" }, picture, el("figcaption", {}, ...names));
}

/** A number in a cell: three decimals, fewer of a large one. */
function brief(value) {
  const size = Math.abs(value),
    text = value === 0 ? "0" : value.toFixed(size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0);
  return text.replace("-", "−");
}

/** Numbers as a small table of colored cells; `mark` is the index of one to frame. */
function numberGrid(values, columns, bound, { caption, mark = -1, outside = [] } = {}) {
  const dark = isDark(),
    body = el("tbody"),
    table = el("table", { class: "numbers" });
  if (caption) table.append(el("caption", {}, caption));
  for (let start = 0; start < values.length; start += columns) {
    const row = el("tr");
    for (let i = start; i < Math.min(values.length, start + columns); i++) {
      const color = signedColor(values[i] / bound, dark),
        style = `background:rgb(${color});color:${textColor(color)}`;
      const kind = [i === mark ? "mark" : "", outside[i] ? "outside" : ""].join(" ").trim();
      row.append(
        el(
          "td",
          { style, class: kind || null, title: outside[i] ? "outside the input" : shown(values[i]) },
          brief(values[i]),
        ),
      );
    }
    body.append(row);
  }
  table.append(body);
  return table;
}
