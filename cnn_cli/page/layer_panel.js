// The panel of a layer: its explanation, its feature maps, and the computation of the value under the pointer.

"use strict";

const MAPS_AT_FIRST = 32,
  CHANNELS_AT_FIRST = 3,
  TERMS_SHOWN = 12;

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
  fact("parameters", grouped3(row.parameters));
  fact("MACs", grouped3(row.macs));
  const lines = el("dl", { class: "lines" });
  for (const [name, text] of Object.entries(row.lines)) {
    lines.append(el("dt", {}, name), ...text.map((line) => el("dd", {}, line)));
  }
  const maps = el("div", { class: "maps", id: "maps" });
  panel.replaceChildren(
    el("p", {}, row.what),
    facts,
    Object.keys(row.lines).length
      ? el("details", { open: innerWidth > 800 }, el("summary", {}, "How the numbers are computed"), lines)
      : "",
    el("h3", {}, row.shape.length === 3 ? "Feature maps" : "Values"),
    maps,
    el("div", { id: "value", "aria-live": "polite" }),
  );
  await paintMaps(page, maps, MAPS_AT_FIRST);
  if (page.at) await showValue(page);
}

/** The maps of the selected row as buttons; pointing at a value explains it. */
async function paintMaps(page, area, most) {
  const row = page.network.rows[page.row],
    number = page.row;
  const { pieces } = await page.ask("maps", { row: number });
  if (number !== page.row) return;
  const { shape, data } = pieces[0],
    bound = largest(data);
  page.maps = { shape, data, pieces };
  area.replaceChildren();
  if (pieces.length > 1) {
    area.append(
      el("p", {}, `${pieces.length} pieces, ${pieces.map((p) => sizes(p.shape)).join(" and ")}; the first is shown.`),
    );
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
  const range = `colors: ${shown(-bound)} blue, 0, ${shown(bound)} orange`;
  area.append(el("p", { class: "legend" }, range));
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

/** Hovering: the value as a tooltip, and on the image what it sees. */
function pointAt(page, row, at, canvas) {
  const value = page.maps.data[placeOf(at, page.maps.shape)];
  canvas.title = `row ${at[1]}, column ${at[2]}: ${shown(value)}`;
  page.showField(receptiveField(row, at, page.network.input));
}

function leave(page) {
  const row = page.network.rows[page.row];
  page.showField(row && page.at ? receptiveField(row, page.at, page.network.input) : null);
}

/** [top, left, height, width] on the image, or null where a position sees all of it or moves unevenly. */
function receptiveField(row, at, [, height, width]) {
  if (!row.sees || at.length !== 3 || row.sees.stride.includes(null)) return null;
  const [top, left] = [0, 1].map((a) => row.sees.offset[a] + at[1 + a] * row.sees.stride[a]);
  const [bottom, right] = [top + row.sees.size[0], left + row.sees.size[1]];
  const clip = [Math.max(0, top), Math.max(0, left)];
  return [...clip, Math.min(height, bottom) - clip[0], Math.min(width, right) - clip[1]];
}

async function choose(page, at) {
  page.at = at;
  page.remember();
  leave(page);
  await showValue(page);
}

async function showValue(page) {
  const row = page.network.rows[page.row],
    area = select("#value");
  if (!row || !area) return;
  const { shape, data } = page.maps;
  const at = page.at.map((v, d) => Math.min(shape[d] - 1, Math.max(0, v)));
  if (at.length !== shape.length) return;
  page.at = at;
  const found = await page.ask("explain", { row: page.row, at });
  markValue(at, shape);
  const value = data[placeOf(at, shape)];
  const axes =
    shape.length === 3 ? ["channel", "row", "column"] : shape.length === 1 ? ["position"] : ["channel", "position"];
  const inputs = axes.map((axis, d) =>
    el(
      "label",
      {},
      `${axis} `,
      el("input", {
        type: "number",
        min: 0,
        max: shape[d] - 1,
        value: at[d],
        change: (event) =>
          choose(
            page,
            at.map((v, i) => (i === d ? Number(event.target.value) : v)),
          ),
      }),
    ),
  );
  area.replaceChildren(
    el("h3", {}, `The value at ${at.join(", ")}: ${shown(value)}`),
    el("div", { class: "position" }, ...inputs),
    ...explainedValue(row, found, shape, at),
  );
}

function markValue(at, shape) {
  for (const button of document.querySelectorAll(".map")) {
    button.classList.toggle("chosen", Number(button.dataset.channel) === at[0]);
    button.querySelector(".spot")?.remove();
    if (Number(button.dataset.channel) !== at[0] || shape.length !== 3) continue;
    const canvas = button.querySelector("canvas"),
      [, height, width] = shape;
    const side = [canvas.clientWidth / width, canvas.clientHeight / height];
    button.append(
      el("i", {
        class: "spot",
        style: `left:${canvas.offsetLeft + at[2] * side[0]}px;top:${canvas.offsetTop + at[1] * side[1]}px;width:${side[0]}px;height:${side[1]}px`,
      }),
    );
  }
}

function explainedValue(row, found, shape, at) {
  if (found.operation === "formula") {
    const parts = [el("p", { class: "sum" }, `${found.text} = ${shown(found.result)}`)];
    if (found.note) parts.push(el("p", {}, found.note));
    if (found.terms.length) parts.unshift(el("p", {}, sourceText(found)));
    return parts;
  }
  if (found.operation === "copy") {
    const [term] = found.terms;
    if (!term) return [el("p", {}, found.text)];
    const from = term.position
      ? `the value at ${term.position.join(", ")} of ${found.inputs[term.input]}`
      : "outside the input";
    return [el("p", { class: "sum" }, `Copied from ${from}: ${shown(term.value)}`)];
  }
  if (found.operation === "maximum") return highestOf(found);
  return found.kernel ? convolutionOf(row, found, at) : weightedSum(found);
}

const sourceText = (found) => {
  const [term] = found.terms,
    where = term.position ? ` at ${term.position.join(", ")}` : "";
  return found.terms.length === 1
    ? `From the value ${shown(term.value)}${where} of ${found.inputs[term.input]}.`
    : `From ${found.terms.length} values of ${[...new Set(found.terms.map((t) => found.inputs[t.input]))].join(" and ")}.`;
};

function highestOf(found) {
  const values = found.terms.map((t) => t.value),
    best = values.indexOf(Math.max(...values));
  const columns = new Set(found.terms.map((t) => t.position[t.position.length - 1])).size;
  return [
    el("p", {}, `The maximum of ${values.length} values ${windowText(found)}.`),
    numberGrid(values, columns, largest(values), { caption: "input", mark: best }),
    el("p", { class: "sum" }, `max = ${shown(found.result)}`),
  ];
}

/** Which rows and columns a window covers. */
function windowText(found) {
  const inside = found.terms.filter((t) => t.position),
    axes = inside[0] ? inside[0].position.length : 0;
  if (axes < 2) return "";
  const span = (d) => {
    const all = inside.map((t) => t.position[d]),
      [low, high] = [Math.min(...all), Math.max(...all)];
    return low === high ? `${low}` : `${low} to ${high}`;
  };
  const across = axes === 3 ? `in rows ${span(1)} and columns ${span(2)}` : `at positions ${span(1)}`;
  return `${across} of ${found.inputs[0]} (${sizes(found.shapes[0])})`;
}

/** One row of window · kernel = products for each channel, then their sum. */
function convolutionOf(row, found, at) {
  const [channels, kh, kw] = found.kernel,
    size = kh * kw,
    parts = [];
  const bounds = [largest(found.terms.map((t) => t.value)), largest(found.terms.map((t) => t.weight))];
  const products = found.terms.map((t) => t.value * t.weight),
    bound = largest(products);
  const sums = range(channels).map((c) => products.slice(c * size, (c + 1) * size).reduce((a, b) => a + b, 0));
  const area = el("div", { class: "products" });
  const draw = (most) => {
    area.replaceChildren();
    for (let c = 0; c < Math.min(channels, most); c++) {
      const terms = found.terms.slice(c * size, (c + 1) * size),
        outside = terms.map((t) => t.position === null);
      const first = terms.find((t) => t.position),
        name = channels > 1 && first ? `channel ${first.position[0]}` : "window";
      area.append(
        el(
          "div",
          { class: "product" },
          numberGrid(
            terms.map((t) => t.value),
            kw,
            bounds[0],
            { caption: name, outside },
          ),
          el("b", {}, "×"),
          numberGrid(
            terms.map((t) => t.weight),
            kw,
            bounds[1],
            { caption: "kernel" },
          ),
          el("b", {}, "="),
          numberGrid(products.slice(c * size, (c + 1) * size), kw, bound, { caption: "products" }),
          el("b", {}, `Σ ${shown(sums[c])}`),
        ),
      );
    }
    if (channels > most)
      area.append(el("button", { class: "more", click: () => draw(channels) }, `Show all ${channels} channels`));
  };
  draw(CHANNELS_AT_FIRST);
  parts.push(el("p", {}, `Filter ${at[0]} lies ${windowText(found)}.`));
  if (row.settings.stride) parts.push(el("p", {}, placeText(row, at)));
  parts.push(area);
  const terms =
    sums.length > 4
      ? `${sums.slice(0, 3).map(bracketed).join(" + ")} + … (${sums.length} sums)`
      : sums.map(bracketed).join(" + ");
  parts.push(
    el(
      "p",
      { class: "sum" },
      `${terms}${row.settings.bias ? ` + ${bracketed(found.bias)} (bias)` : ""} = ${shown(found.result)}`,
    ),
  );
  return parts;
}

/** Where the window starts: position · stride − padding. */
function placeText(row, at) {
  const s = row.settings,
    names = at.length === 3 ? ["row", "column"] : ["position"];
  const texts = names.map((name, a) => {
    const padding =
      typeof s.padding === "string"
        ? s.padding === "same"
          ? Math.floor((s.dilation[a] * (s.kernel_size[a] - 1)) / 2)
          : 0
        : s.padding[a];
    return `${name} ${at[1 + a]}·${s.stride[a]}${padding ? ` − ${padding}` : ""} = ${at[1 + a] * s.stride[a] - padding}`.replace(
      "= -",
      "= −",
    );
  });
  return `The window starts at ${texts.join(", ")}: the position in the output times the stride, minus the padding.`;
}

function weightedSum(found) {
  const order = range(found.terms.length).sort(
    (a, b) =>
      Math.abs(found.terms[b].value * found.terms[b].weight) - Math.abs(found.terms[a].value * found.terms[a].weight),
  );
  const named = order.slice(0, TERMS_SHOWN),
    body = el("tbody");
  for (const i of named) {
    const { position, value, weight } = found.terms[i];
    body.append(
      el(
        "tr",
        {},
        el("td", {}, position ? position.join(", ") : "border"),
        el("td", {}, shown(value)),
        el("td", {}, shown(weight)),
        el("td", {}, shown(value * weight)),
      ),
    );
  }
  const rest = order.slice(TERMS_SHOWN).reduce((sum, i) => sum + found.terms[i].value * found.terms[i].weight, 0);
  if (order.length > TERMS_SHOWN) {
    body.append(
      el(
        "tr",
        {},
        el("td", { colspan: 3 }, `${grouped3(order.length - TERMS_SHOWN)} other terms`),
        el("td", {}, shown(rest)),
      ),
    );
  }
  if (found.bias) body.append(el("tr", {}, el("td", { colspan: 3 }, "bias"), el("td", {}, shown(found.bias))));
  const head = el(
    "thead",
    {},
    el("tr", {}, ...["from", "value", "weight", "product"].map((t) => el("th", { scope: "col" }, t))),
  );
  return [
    el(
      "p",
      {},
      `The sum of ${grouped3(found.terms.length)} values, each multiplied by its weight; largest products first.`,
    ),
    el("table", { class: "terms" }, head, body),
    el("p", { class: "sum" }, `sum = ${shown(found.result)}`),
  ];
}
