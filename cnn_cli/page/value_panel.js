// The computation of the selected value, with its numbers.

"use strict";

const CHANNELS_AT_FIRST = 3,
  TERMS_SHOWN = 12;

async function choose(page, at) {
  page.at = at;
  page.remember();
  await showValue(page);
  // The maps and the numbers together where they fit, else the numbers.
  const area = select("#value"),
    title = select("#maps-title");
  if (!area || area.getBoundingClientRect().bottom <= innerHeight) return;
  const fits = area.getBoundingClientRect().bottom - title.getBoundingClientRect().top <= innerHeight;
  (fits ? title : area).scrollIntoView({ block: "start" });
}

async function showValue(page) {
  const row = page.network.rows[page.row],
    area = select("#value");
  if (!row || !area) return;
  const { shape } = page.maps;
  const at = page.at.map((v, d) => Math.min(shape[d] - 1, Math.max(0, v)));
  if (at.length !== shape.length) return;
  page.at = at;
  const found = await page.ask("explain", { row: page.row, at });
  markValue(at, shape);
  leave(page);
  const { value } = found;
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
  parts.push(el("p", {}, `The kernel of output channel ${at[0]} lies ${windowText(found)}.`));
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
