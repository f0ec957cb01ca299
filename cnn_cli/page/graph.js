// The network as a graph: layers and folded groups as nodes in columns, branches side by side.

"use strict";

const NODE = { width: 138, height: 176, across: 28, down: 22 };

/** The groups of the network by path, with the rows inside; only those of more than one row. */
function groupsOf(rows) {
  const groups = new Map();
  rows.forEach((row, i) => {
    const parts = row.name.split(".");
    for (let n = 1; n < parts.length; n++) {
      const path = parts.slice(0, n).join(".");
      if (!groups.has(path)) groups.set(path, []);
      groups.get(path).push(i);
    }
  });
  for (const [path, inside] of groups) if (inside.length < 2 || inside.length === rows.length) groups.delete(path);
  return groups;
}

/** Which groups are folded at first: none of a network with few rows, else the outermost. */
function foldedAtFirst(rows, groups) {
  if (rows.length <= 24) return new Set();
  return new Set(groups.keys());
}

/** The node of a row: the outermost folded group that contains it, else the row itself. */
function nodeOf(name, folded) {
  const parts = name.split(".");
  for (let n = 1; n < parts.length; n++) {
    const path = parts.slice(0, n).join(".");
    if (folded.has(path)) return path;
  }
  return name;
}

const SOFTMAX = -2; // the row of the node for the softmax after the last layer, which is not a layer of the network

/** Whether a softmax that is not part of the network turns scores into probabilities. */
function endsInScores({ rows, output, ends, detects }) {
  const last = rows[output[0]];
  return Boolean(last) && !detects.length && ends === "score" && last.shape.length === 1 && last.shape[0] > 1;
}

/** Nodes in order: {key, rows, row (whose output is shown), group, takes: keys of other nodes or "input"}. */
function nodesOf(network, groups, folded) {
  const { rows } = network;
  const nodes = new Map([["input", { key: "input", rows: [], row: -1, group: false, takes: new Set() }]]);
  rows.forEach((row, i) => {
    const key = nodeOf(row.name, folded),
      group = folded.has(key) && groups.has(key);
    if (!nodes.has(key)) nodes.set(key, { key, rows: [], row: i, group, takes: new Set() });
    const node = nodes.get(key);
    node.rows.push(i);
    node.row = i;
    for (const [from] of row.takes) {
      const source = from < 0 ? "input" : nodeOf(rows[from].name, folded);
      if (source !== key) node.takes.add(source);
    }
  });
  if (endsInScores(network)) {
    const takes = new Set([nodeOf(rows[network.output[0]].name, folded)]);
    nodes.set("softmax", { key: "softmax", rows: [], row: SOFTMAX, group: false, takes });
  }
  return [...nodes.values()];
}

/** Columns by the longest path from the input; in a column, nodes keep the lane of their inputs if it is free. */
function placeNodes(nodes) {
  const places = new Map(),
    taken = new Map();
  const free = (column, lane) => !(taken.get(column) || new Set()).has(lane);
  for (const node of nodes) {
    const sources = [...node.takes].map((key) => places.get(key)).filter(Boolean);
    const column = sources.length ? Math.max(...sources.map((p) => p.column)) + 1 : 0;
    let lane = sources.length ? Math.min(...sources.map((p) => p.lane)) : 0;
    while (!free(column, lane)) lane++;
    if (!taken.has(column)) taken.set(column, new Set());
    taken.get(column).add(lane);
    places.set(node.key, { column, lane });
  }
  return places;
}

/** Draw into `area`; onSelect(node), onFold(path). Returns the nodes with their canvases. */
function drawGraph(area, network, groups, folded, { onSelect, onFold }) {
  const nodes = nodesOf(network, groups, folded),
    places = placeNodes(nodes);
  const columns = Math.max(...[...places.values()].map((p) => p.column)) + 1;
  const lanes = Math.max(...[...places.values()].map((p) => p.lane)) + 1;
  const x = (key) => places.get(key).column * (NODE.width + NODE.across);
  const y = (key) => places.get(key).lane * (NODE.height + NODE.down);
  const width = columns * (NODE.width + NODE.across) - NODE.across,
    height = lanes * (NODE.height + NODE.down);
  const lines = svg("svg", { width, height, class: "edges", "aria-hidden": "true" });
  const list = el("ol", { class: "nodes", style: `width:${width}px;height:${height}px` });
  for (const node of nodes) {
    for (const source of node.takes) {
      const [x1, y1, x2, y2] = [x(source) + NODE.width, y(source) + 62, x(node.key), y(node.key) + 62];
      const bend = Math.max(20, (x2 - x1) / 2);
      lines.append(svg("path", { d: `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` }));
    }
    list.append(drawNode(node, network, x(node.key), y(node.key), { onSelect, onFold }, groups));
  }
  area.replaceChildren(el("div", { class: "canvas", style: `width:${width}px;height:${height}px` }, lines, list));
  return nodes;
}

function drawNode(node, network, left, top, { onSelect, onFold }, groups) {
  const softmax = node.row === SOFTMAX,
    row = network.rows[softmax ? network.output[0] : node.row],
    canvas = el("canvas", { "aria-hidden": "true" });
  const name = node.key === "input" ? "image" : node.key;
  const shape = row ? row.shape : network.input;
  const type = softmax ? "probabilities" : node.group ? `${node.rows.length} layers` : row ? row.title : "input";
  const label = `${name}, ${type}, output ${sizes(shape)}`;
  const button = el(
    "button",
    { class: "node", "aria-label": label, "data-key": node.key, click: () => onSelect(node) },
    el("span", { class: "picture" }, canvas),
    el("strong", {}, name),
    el("span", {}, type),
    el("span", {}, sizes(shape)),
  );
  const item = el("li", { style: `left:${left}px;top:${top}px`, class: node.group ? "group" : null }, button);
  const parent = foldable(node, groups);
  if (node.group)
    item.append(
      el(
        "button",
        { class: "fold", click: () => onFold(node.key), "aria-label": `Unfold ${name}`, title: "Unfold" },
        "+",
      ),
    );
  else if (parent)
    item.append(
      el(
        "button",
        { class: "fold", click: () => onFold(parent), "aria-label": `Fold ${parent}`, title: `Fold ${parent}` },
        "−",
      ),
    );
  node.canvas = canvas;
  node.button = button;
  return item;
}

/** The group whose first row is this one. */
function foldable(node, groups) {
  const parts = node.key.split(".");
  for (let n = parts.length - 1; n > 0; n--) {
    const path = parts.slice(0, n).join(".");
    if (groups.has(path) && groups.get(path)[0] === node.rows[0]) return path;
  }
  return null;
}
