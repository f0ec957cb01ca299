// The page: its state and its sections.

"use strict";

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** ask(name, what) → a promise of the answer: of a worker, or of the page itself without workers. */
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
    explained: null,
    turn: 0,
    drawing: false,
    groups: groupsOf(network.rows),
    folded: new Set(),
  };
}

async function start() {
  const content = JSON.parse(select("#content").textContent);
  // Workers have no DOM, so they get only the computing scripts.
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
  markNode(page);
  await chooseImage(page, state.image);
  await showLayer(page);
  await drawTools(page);
  select("#start-tour").addEventListener("click", () => startTour(page));
  select("#theme").addEventListener("click", () => useTheme(page, !isDark()));
  select("#unfold").addEventListener("click", () => fold(page, new Set()));
  select("#fold").addEventListener("click", () => fold(page, new Set(page.groups.keys())));
  for (const id of ["#unfold", "#fold"]) select(id).hidden = page.groups.size === 0;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) => useTheme(page, matches));
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

function useTheme(page, dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  return repaint(page);
}

start().catch((error) => {
  select("#bars").textContent = `The page could not start: ${error.message}`;
  throw error;
});
