// The network: its graph, the selected layer, and the pictures of the layers.

"use strict";

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

const selectNode = (page, node) => (node.row === SOFTMAX ? explainBest(page) : selectRow(page, node.row));

async function selectRow(page, row) {
  page.row = row;
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
    const chosen = node.row === SOFTMAX ? false : row ? node.key === nodeOf(row.name, page.folded) : node.key === "input";
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
  if (node.row === SOFTMAX) {
    if (page.probabilities) paintVector(node.canvas, Float32Array.from(page.probabilities), 1);
    return;
  }
  if (node.row < 0) {
    paintImage(node.canvas, page.bytes, page.network.input);
    return;
  }
  const { shape, data, bound } = await page.ask("maps", { row: node.row, most: MOSAIC });
  if (shape.length === 3) paintMosaic(node.canvas, data, shape, bound);
  else paintVector(node.canvas, data, bound);
}

async function repaint(page) {
  await Promise.all(page.nodes.filter((node) => node.visible).map((node) => paintNode(page, node)));
  const maps = select("#maps");
  if (maps) {
    await paintMaps(page, maps, maps.querySelectorAll(".map").length || MAPS_AT_FIRST);
    if (page.at) await showValue(page);
  }
}
