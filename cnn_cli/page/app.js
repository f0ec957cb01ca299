// The page: its state and its sections.

"use strict";

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** ask(name, what) → a promise of the answer: of a worker, or of the page itself where there are none. */
async function openSession(source, document) {
  try {
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const waiting = new Map();
    let last = 0;
    worker.onmessage = ({ data: { id, answer, error } }) => {
      const { resolve, reject } = waiting.get(id);
      waiting.delete(id);
      if (error) reject(new Error(error));
      else resolve(answer);
    };
    const ask = (name, what) =>
      new Promise((resolve, reject) => {
        waiting.set(++last, { resolve, reject });
        worker.postMessage({ id: last, ask: name, what });
      });
    const failed = new Promise((_, reject) => {
      worker.onerror = () => reject(new Error("no worker"));
    });
    await Promise.race([ask("open", document), failed]);
    return ask;
  } catch {
    const session = newSession(document);
    return async (name, what) => ANSWERS[name](session, what || {});
  }
}

function newPage(content, ask) {
  const network = content.network,
    gallery = bytesOf(content.gallery.images),
    size = count(network.input);
  const last = network.rows.length && !network.detects.length ? network.rows[network.output[0]] : null;
  return {
    content,
    network,
    ask,
    classes: content.classes,
    shape: last ? last.shape : network.input,
    galleryBytes: gallery,
    imageOf: (i) => gallery.slice(i * size, (i + 1) * size),
    row: 0,
    at: null,
    off: new Map(),
    bytes: null,
    label: null,
    predicted: 0,
    tool: null,
    field: null,
    groups: groupsOf(network.rows),
    folded: new Set(),
  };
}

async function start() {
  const content = JSON.parse(select("#content").textContent);
  // Workers have no DOM, so theirs is the part of the scripts that computes.
  const source = select("#computing").textContent;
  const ask = await openSession(source, { network: content.network, weights: content.weights, half: content.half });
  const page = newPage(content, ask);
  page.folded = foldedAtFirst(page.network.rows, page.groups);
  page.camRow = () => {
    const row = page.network.rows[page.row];
    return page.picked && row && row.shape.length === 3 && !row.pieces.length ? page.row : content.cam;
  };
  page.showField = (box) => showField(page, box);
  page.remember = () => remember(page);
  page.rerun = () => predict(page);
  page.knownLabels = () => content.gallery.labels.map((l) => (content.gallery.classes.length ? null : l));
  page.digits = () => trainingDigits(page);
  drawImagePart(page);
  drawNetwork(page);
  const state = readState(page);
  page.row = state.row;
  page.picked = state.picked;
  page.at = state.at;
  await chooseImage(page, state.image);
  await showLayer(page);
  await drawTools(page);
  select("#start-tour").addEventListener("click", startTour);
  select("#theme").addEventListener("click", () => switchTheme(page));
  select("#unfold").addEventListener("click", () => fold(page, new Set()));
  select("#fold").addEventListener("click", () => fold(page, new Set(page.groups.keys())));
  for (const id of ["#unfold", "#fold"]) select(id).hidden = page.groups.size === 0;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint(page));
  document.body.dataset.ready = "true";
}

/** Layer, value and image from the address: #image=3&layer=0&at=2,5,7. */
function readState(page) {
  const state = new URLSearchParams(location.hash.slice(1)),
    name = state.get("layer");
  const row = page.network.rows.findIndex((r) => r.name === name);
  const image = Number(state.get("image")) || 0,
    at = state.get("at");
  return {
    row: row < 0 ? 0 : row,
    picked: row >= 0,
    image: Math.min(image, page.content.gallery.names.length - 1),
    at: at ? at.split(",").map(Number) : null,
  };
}

function remember(page) {
  const state = new URLSearchParams();
  if (page.image !== null) state.set("image", page.image);
  if (page.network.rows[page.row]) state.set("layer", page.network.rows[page.row].name);
  if (page.at) state.set("at", page.at.join(","));
  history.replaceState(null, "", `#${state.toString().replace(/%2C/g, ",")}`);
}

// The image: gallery, drawing, file.

function drawImagePart(page) {
  const { gallery } = page.content,
    list = select("#gallery");
  gallery.names.forEach((name, i) => {
    const canvas = el("canvas", { "aria-hidden": "true" }),
      label = nameOf(page, gallery.labels[i]) || name;
    paintImage(canvas, page.imageOf(i), page.network.input);
    list.append(
      el(
        "button",
        {
          class: "thumbnail",
          "data-image": i,
          title: label,
          "aria-label": `Image ${i}: ${label}`,
          click: () => chooseImage(page, i),
        },
        canvas,
      ),
    );
  });
  select("#gallery-source").textContent = `Gallery: ${gallery.source}.`;
  if (page.network.input[0] === 1) preparePad(page);
  else select("#draw").hidden = true;
  const file = select("#file");
  file.addEventListener("change", () => file.files[0] && openFile(page, file.files[0]));
  const drop = select("#image");
  drop.addEventListener("dragover", (event) => event.preventDefault());
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) openFile(page, event.dataTransfer.files[0]);
  });
}

const nameOf = (page, label) =>
  label === null ? null : (page.content.gallery.classes.length ? page.content.gallery.classes : page.classes)[label];

function chooseImage(page, i) {
  const { gallery } = page.content,
    own = gallery.classes.length === 0;
  page.image = i;
  for (const button of document.querySelectorAll(".thumbnail")) {
    button.setAttribute("aria-pressed", Number(button.dataset.image) === i);
  }
  const known = nameOf(page, gallery.labels[i]);
  return useImage(
    page,
    page.imageOf(i),
    own ? gallery.labels[i] : null,
    known ? `True class: ${known}` : gallery.names[i],
  );
}

async function useImage(page, bytes, label, caption) {
  page.bytes = bytes;
  page.label = label;
  paintImage(select("#picture"), bytes, page.network.input);
  select("#caption").textContent = caption;
  page.remember();
  await predict(page);
}

async function openFile(page, file) {
  const note = select("#image-note");
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    note.textContent = `${file.name} is not an image that this browser can open; choose a PNG, JPEG or WebP file.`;
    return;
  }
  const canvas = document.createElement("canvas"),
    scale = Math.min(1, 2048 / Math.max(picture.width, picture.height));
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  page.image = null;
  const how = page.content.preprocessing.text;
  note.textContent = `${file.name}, ${picture.width}x${picture.height}: ${how}, as in cnn predict.`;
  await useImage(page, fitted(fromCanvas(pixels), page.content.preprocessing).data, null, file.name);
}

/** A pad to draw on with mouse, finger or stylus: white on black, as the images of the data set are. */
function preparePad(page) {
  const pad = select("#pad"),
    context = pad.getContext("2d"),
    [, height, width] = page.network.input;
  const images = page.content.gallery.names.map((_, i) => ({ channels: 1, height, width, data: page.imageOf(i) }));
  const part = images.length ? brightPart(images) : null;
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, pad.width, pad.height);
  };
  let last = null,
    waiting = false;
  const use = async () => {
    if (waiting) return;
    waiting = true;
    await new Promise(requestAnimationFrame);
    waiting = false;
    const pixels = context.getImageData(0, 0, pad.width, pad.height);
    const drawing = withChannels(fromCanvas(pixels), 1),
      side = Math.max(height, width);
    page.image = null;
    const moved = placed(drawing, part, side);
    await useImage(page, fitted(moved, page.content.preprocessing).data, null, "Your drawing");
  };
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * pad.width) / box.width,
      ((event.clientY - box.top) * pad.height) / box.height,
    ];
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    last = at(event);
    stroke(context, last, last);
    use();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    const now = at(event);
    stroke(context, last, now);
    last = now;
    use();
  });
  for (const kind of ["pointerup", "pointercancel"])
    pad.addEventListener(kind, () => {
      last = null;
    });
  select("#clear").addEventListener("click", clear);
  clear();
  if (part) {
    select("#draw-note").textContent =
      `Your drawing is scaled so that its longer side is ${percent(part.side)} of the image, and shifted so that its center of mass matches that of the gallery images.`;
  }
}

function stroke(context, from, to) {
  Object.assign(context, { strokeStyle: "#fff", lineWidth: 20, lineCap: "round", lineJoin: "round" });
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

// The prediction, and what follows from it.

async function predict(page) {
  const result = await page.ask("run", { bytes: page.bytes });
  showPrediction(page, result);
  const timing = select("#timing");
  timing.textContent = `Computed in ${result.milliseconds < 10 ? result.milliseconds.toFixed(1) : Math.round(result.milliseconds)} ms${page.off.size ? ", with some channels turned off" : ""}.`;
  await repaint(page);
  if (page.tool) await page.tool();
}

function showPrediction(page, result) {
  const area = select("#bars");
  if (result.boxes) {
    showBoxes(page, area);
    return;
  }
  if (result.dense) {
    const classes = [...new Set(result.dense)];
    page.predicted = mostFrequent(result.dense);
    paintImage(select("#picture"), page.bytes, page.network.input);
    paintClasses(select("#picture"), result.dense, result.shape, page.network.input);
    area.replaceChildren(
      el(
        "ul",
        { class: "legend-list" },
        ...classes.map((c) =>
          el(
            "li",
            {},
            el("i", { style: `background:${CLASS_COLORS[c % CLASS_COLORS.length]}` }),
            page.classes[c] || `class ${c}`,
          ),
        ),
      ),
    );
    return;
  }
  if (!result.probabilities) {
    area.replaceChildren(el("p", {}, `The output has ${sizes(result.shape)} values.`));
    return;
  }
  const order = range(result.probabilities.length).sort((a, b) => result.probabilities[b] - result.probabilities[a]);
  page.predicted = order[0];
  area.replaceChildren(
    el(
      "ol",
      { class: "bars" },
      ...order.slice(0, 10).map((c) => {
        const p = result.probabilities[c],
          right = c === page.label;
        return el(
          "li",
          { class: right ? "true" : null },
          el("span", {}, page.classes[c] || `class ${c}`, right ? el("em", {}, " true class") : null),
          el("span", { class: "bar", "aria-hidden": "true" }, el("i", { style: `width:${100 * p}%` })),
          el("span", {}, percent(p)),
        );
      }),
    ),
  );
}

/** A detector's boxes over the image, with sliders for the least score and for how far two of a class may overlap. */
async function showBoxes(page, area) {
  if (!page.thresholds) {
    const slider = (value) =>
      el("input", { type: "range", min: 0.05, max: 0.95, step: 0.05, value, input: () => showBoxes(page, area) });
    page.thresholds = { score: slider(0.3), overlap: slider(0.6), list: el("ol", { class: "legend-list" }) };
    area.replaceChildren(
      el("label", {}, "Score threshold ", page.thresholds.score),
      el("br"),
      el("label", {}, "NMS IoU threshold ", page.thresholds.overlap),
      page.thresholds.list,
    );
  }
  const { score, overlap, list } = page.thresholds;
  const { boxes } = await page.ask("boxes", { least: Number(score.value), overlap: Number(overlap.value) });
  page.predicted = boxes.length ? boxes[0].label : 0;
  paintImage(select("#picture"), page.bytes, page.network.input);
  paintBoxes(select("#picture"), boxes, page.network.input);
  list.replaceChildren(
    ...boxes
      .slice(0, 10)
      .map(({ label, score: p }) =>
        el(
          "li",
          {},
          el("i", { style: `background:${boxColor(label)}` }),
          `${page.classes[label] || `class ${label}`} ${percent(p)}`,
        ),
      ),
  );
  if (!boxes.length) list.append(el("li", {}, "No box reaches this score."));
  if (boxes.length > 10) list.append(el("li", {}, `and ${boxes.length - 10} more`));
}

/** The class of the most positions, background aside where there is another. */
function mostFrequent(classes) {
  const counts = new Map();
  for (const c of classes) counts.set(c, (counts.get(c) || 0) + 1);
  const order = [...counts].sort((a, b) => b[1] - a[1]).map(([c]) => c);
  return order.find((c) => c !== 0) ?? order[0];
}

function showField(page, box) {
  const frame = select("#field");
  frame.hidden = !box;
  if (!box) return;
  const [, height, width] = page.network.input,
    [top, left, high, wide] = box;
  frame.style.cssText = `top:${(100 * top) / height}%;left:${(100 * left) / width}%;height:${(100 * high) / height}%;width:${(100 * wide) / width}%`;
}

// The network.

function drawNetwork(page) {
  page.nodes = drawGraph(select("#graph"), page.network, page.groups, page.folded, {
    onSelect: (node) => selectNode(page, node),
    onFold: (path) => {
      const folded = new Set(page.folded);
      if (!folded.delete(path)) folded.add(path);
      fold(page, folded);
    },
  });
  page.seen?.disconnect();
  page.seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const node = page.nodes.find((n) => n.button === target);
        node.visible = isIntersecting;
        if (isIntersecting) paintNode(page, node);
      }
    },
    { root: select("#graph"), rootMargin: "200px" },
  );
  for (const node of page.nodes) page.seen.observe(node.button);
}

async function fold(page, folded) {
  page.folded = folded;
  drawNetwork(page);
  markNode(page);
  await repaint(page);
}

async function selectNode(page, node) {
  page.row = node.row;
  page.picked = true;
  page.at = null;
  page.showField(null);
  page.remember();
  markNode(page);
  await showLayer(page);
  if (page.tool) await page.tool();
}

function markNode(page) {
  const row = page.network.rows[page.row];
  for (const node of page.nodes) {
    const chosen = row ? node.key === nodeOf(row.name, page.folded) : node.key === "input";
    node.button.setAttribute("aria-current", chosen);
    if (chosen) bringIntoView(node.button.parentElement);
  }
}

/** Scroll the graph, and not the page. */
function bringIntoView(item) {
  const area = select("#graph");
  for (const [start, size, scroll] of [
    ["offsetLeft", "offsetWidth", "scrollLeft"],
    ["offsetTop", "offsetHeight", "scrollTop"],
  ]) {
    const room = size === "offsetWidth" ? area.clientWidth : area.clientHeight,
      place = item[start];
    if (place < area[scroll] || place + item[size] > area[scroll] + room)
      area[scroll] = Math.max(0, place - room / 2 + item[size] / 2);
  }
}

async function paintNode(page, node) {
  if (!page.bytes) return;
  if (node.row < 0) {
    paintImage(node.canvas, page.bytes, page.network.input);
    return;
  }
  const { pieces } = await page.ask("maps", { row: node.row }),
    [{ shape, data }] = pieces;
  if (shape.length === 3) paintMosaic(node.canvas, data, shape, 9);
  else paintVector(node.canvas, data);
}

async function repaint(page) {
  markNode(page);
  await Promise.all(page.nodes.filter((node) => node.visible).map((node) => paintNode(page, node)));
  const maps = select("#maps");
  if (maps) {
    await paintMaps(page, maps, maps.querySelectorAll(".map").length || MAPS_AT_FIRST);
    if (page.at) await showValue(page);
  }
}

function switchTheme(page) {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  return repaint(page);
}

/** The digits at the network's size, fitted as the gallery's images are. */
function trainingDigits(page) {
  if (page.fittedDigits) return page.fittedDigits;
  const { side, parts } = page.content.digits,
    area = side * side,
    size = count(page.network.input);
  const fit = ({ images, labels }) => {
    const all = Uint8Array.from(images, (c) => Math.round((parseInt(c, 17) * 255) / 16)),
      out = new Uint8Array(labels.length * size);
    labels.forEach((_, n) => {
      const image = { channels: 1, height: side, width: side, data: all.slice(n * area, (n + 1) * area) };
      out.set(fitted(image, { ...page.content.preprocessing, resize_size: null }).data, n * size);
    });
    return out;
  };
  page.fittedDigits = {
    bytes: fit(parts.train),
    labels: parts.train.labels,
    testBytes: fit(parts.test),
    testLabels: parts.test.labels,
  };
  return page.fittedDigits;
}

start().catch((error) => {
  select("#bars").textContent = `The page could not start: ${error.message}`;
  throw error;
});
