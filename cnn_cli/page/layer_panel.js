// The panel of a layer: its explanation, its feature maps, and the computation of the value under the pointer.

"use strict";

const MAPS_AT_FIRST = 32;

// Introductory notes on a layer's panel, by traits of the layer.
const TERMS = {
  channel: [
    "One map of an input or output. A gray image has one channel, a color image three. Each output channel of a convolution has a kernel for each input channel.",
    ["convolution"],
  ],
  kernel: [
    "A small grid of weights that slides over the input, the same at every position. Training adjusts its weights.",
    ["convolution"],
  ],
  window: ["The part of the input that one value of the output is computed from.", ["convolution", "pooling"]],
  stride: [
    "How many positions the window moves from one output to the next. Stride 2 halves the height and the width.",
    ["convolution", "pooling"],
  ],
  padding: [
    "Rows and columns, usually of zeros, added around the input so that windows also fit at its border. Without padding, a 3x3 kernel makes the height and the width smaller by 2.",
    ["convolution", "pooling"],
  ],
  bias: ["A number added to every sum of a channel; it is trained, too.", ["convolution", "weighted sum"]],
  "receptive field": [
    "The part of the image that a value depends on. It grows from layer to layer.",
    ["convolution", "pooling"],
  ],
};

// The symbols of formulas, if a layer's lines have them.
const LETTERS = {
  size: ["k", "n: height or width of the input; k: kernel size; s: stride; p: padding; ⌊ ⌋: rounded down"],
  "receptive field": [
    "j",
    "r: receptive field of the input, in pixels; w: window; j: jump, the distance in pixels between neighboring values of the input",
  ],
};

/** The panel of the selected row. page: the state that app.js keeps. */
async function showLayer(page) {
  const { network } = page,
    row = network.rows[page.row],
    panel = select("#layer-body");
  select("#layer-title").textContent = row ? `Layer ${row.name}` : "Image";
  if (!row) {
    panel.replaceChildren(
      el(
        "p",
        {},
        `The input of the network: ${sizes(network.input)} values${network.mean.length ? ", normalized with the mean and standard deviation of each channel" : ", from 0 (black) to 1 (white)"}.`,
      ),
    );
    return;
  }
  const facts = el("dl", { class: "facts" });
  const fact = (name, ...text) => facts.append(el("div", {}, el("dt", {}, name), el("dd", {}, ...text)));
  fact("type", row.title);
  fact("input", row.takes.map(([from]) => (from < 0 ? "image" : network.rows[from].name)).join(", ") || "none");
  fact("output", sizes(row.shape));
  for (const [name, text] of windowFacts(row)) fact(name, text);
  fact("parameters", grouped3(row.parameters));
  fact("MACs", grouped3(row.macs));
  const lines = el("dl", { class: "lines" });
  for (const [name, text] of Object.entries(row.lines)) {
    lines.append(el("dt", {}, name), ...text.map((line) => el("dd", {}, line)));
    const [letter, meaning] = LETTERS[name] || [];
    if (letter && text.length > 2 && text[0].includes(letter)) lines.append(el("dd", { class: "legend" }, meaning));
  }
  const maps = el("div", { class: "maps", id: "maps" });
  panel.replaceChildren(
    el("p", {}, row.what),
    facts,
    el("h3", { id: "maps-title" }, row.shape.length === 3 ? "Feature maps: click a value" : "Values: click one"),
    maps,
    el("div", { id: "value", "aria-live": "polite" }),
    Object.keys(row.lines).length
      ? el("details", { open: innerWidth > 800 }, el("summary", {}, "How the sizes are computed"), lines)
      : "",
    termsOf(row),
  );
  await paintMaps(page, maps, MAPS_AT_FIRST);
  if (page.at) await showValue(page);
}

function termsOf(row) {
  const list = el("dl", { class: "lines" });
  for (const [name, [text, traits]] of Object.entries(TERMS)) {
    if (traits.some((trait) => row.traits.includes(trait))) list.append(el("dt", {}, name), el("dd", {}, text));
  }
  return list.childElementCount ? el("details", {}, el("summary", {}, "Terms"), list) : "";
}

/** Kernel or window, stride and padding of a layer that has them. */
function windowFacts(row) {
  const { kernel_size: kernel, stride, padding } = row.settings;
  if (!Array.isArray(kernel)) return [];
  const text = (value) =>
    !Array.isArray(value) ? `${value}` : value.every((v) => v === value[0]) ? `${value[0]}` : value.join(", ");
  const facts = [[row.traits.includes("convolution") ? "kernel" : "window", kernel.join("x")]];
  facts.push(["stride", text(stride ?? kernel)]);
  if (padding !== undefined) facts.push(["padding", text(padding)]);
  return facts;
}

/** The maps of the selected row as buttons; pointing at a value explains it. */
async function paintMaps(page, area, most) {
  const row = page.network.rows[page.row],
    number = page.row;
  const { shape, data, bound, others } = await page.ask("maps", { row: number, most });
  if (number !== page.row) return;
  page.maps = { shape, data };
  if (shape.length === 3 && repaintMaps(area, page.maps, bound)) return;
  area.replaceChildren();
  if (others.length) {
    const pieces = [shape, ...others];
    area.append(el("p", {}, `${pieces.length} pieces, ${pieces.map(sizes).join(" and ")}; the first is shown.`));
  }
  if (shape.length !== 3) {
    area.append(vectorCells(page, data, shape, bound));
    return;
  }
  const [channels, height, width] = shape,
    shownMaps = Math.min(channels, most);
  const scale = Math.max(1, Math.min(8, Math.floor(112 / Math.max(height, width))));
  for (let c = 0; c < shownMaps; c++) {
    const canvas = el("canvas", {
      style: `width:${width * scale}px;height:${height * scale}px`,
      "aria-hidden": "true",
    });
    paintMap(canvas, data.subarray(c * height * width, (c + 1) * height * width), width, height, bound);
    const point = (event) => positionIn(event, canvas, width, height);
    const button = el(
      "button",
      {
        class: "map",
        "data-channel": c,
        "aria-label": `Feature map ${c} of ${row.name}: explain a value`,
        click: (event) => {
          const [y, x] = event.detail ? point(event) : [Math.floor(height / 2), Math.floor(width / 2)];
          choose(page, [c, y, x]);
        },
        mousemove: (event) => pointAt(page, row, [c, ...point(event)], canvas),
        mouseleave: () => leave(page),
      },
      canvas,
      el("span", {}, `${c}`),
    );
    area.append(button);
  }
  if (channels > shownMaps) {
    area.append(el("button", { class: "more", click: () => paintMaps(page, area, channels) }, `Show all ${channels}`));
  }
  area.append(el("p", { class: "legend" }, colorRange(bound)));
}

const colorRange = (bound) => `colors: ${shown(-bound)} blue, 0, ${shown(bound)} orange`;

/** Update the values of the existing maps; false if their number or size differs. */
function repaintMaps(area, { shape, data }, bound) {
  const maps = area.querySelectorAll(".map > canvas"),
    [, height, width] = shape,
    size = height * width;
  if (!maps.length || maps.length * size !== data.length) return false;
  maps.forEach((canvas, c) => paintMap(canvas, data.subarray(c * size, (c + 1) * size), width, height, bound));
  area.querySelector(".legend").textContent = colorRange(bound);
  return true;
}

function vectorCells(page, data, shape, bound) {
  const dark = isDark(),
    cells = el("div", { class: "cells", role: "group", "aria-label": "values" });
  const most = Math.min(data.length, 256);
  for (let i = 0; i < most; i++) {
    const [r, g, b] = signedColor(data[i] / bound, dark);
    const names = page.classes.length === data.length && page.row === page.network.output[0] ? page.classes : null;
    const title = `${names ? `${names[i]}: ` : `${i}: `}${shown(data[i])}`;
    cells.append(
      el("button", {
        class: "cell",
        style: `background:rgb(${r},${g},${b})`,
        title,
        "aria-label": title,
        click: () => choose(page, positionOf(i, shape)),
      }),
    );
  }
  if (data.length > most) cells.append(el("span", {}, `… the first ${most} of ${grouped3(data.length)}`));
  return cells;
}

function positionIn(event, canvas, width, height) {
  const box = canvas.getBoundingClientRect();
  const inside = (v, n) => Math.min(n - 1, Math.max(0, Math.floor(v * n)));
  return [
    inside((event.clientY - box.top) / box.height, height),
    inside((event.clientX - box.left) / box.width, width),
  ];
}

/** On hover: the value as a tooltip, and its receptive field on the image. */
function pointAt(page, row, at, canvas) {
  const value = page.maps.data[placeOf(at, page.maps.shape)];
  canvas.title = `row ${at[1]}, column ${at[2]}: ${shown(value)}`;
  page.showField(receptiveField(row, at, page.network.input));
}

function leave(page) {
  const row = page.network.rows[page.row];
  page.showField(row && page.at ? receptiveField(row, page.at, page.network.input) : null);
}

/** [top, left, height, width] on the image, or null if it is the whole image or irregular. */
function receptiveField(row, at, [, height, width]) {
  if (!row.sees || at.length !== 3 || row.sees.stride.includes(null)) return null;
  const [top, left] = [0, 1].map((a) => row.sees.offset[a] + at[1 + a] * row.sees.stride[a]);
  const [bottom, right] = [top + row.sees.size[0], left + row.sees.size[1]];
  const clip = [Math.max(0, top), Math.max(0, left)];
  return [...clip, Math.min(height, bottom) - clip[0], Math.min(width, right) - clip[1]];
}
