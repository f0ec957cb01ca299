// A guided tour in ten steps. Each points at a part of the page and shows there what it says.

"use strict";

const firstRow = (page, fits) => page.network.rows.findIndex(fits);
const firstConvolution = (page) => firstRow(page, (row) => row.traits.includes("convolution"));

/** Select a row; the first one where there is none. */
const showRow = (page, row) => selectRow(page, Math.max(0, row));

/** Select the first convolution, and the largest value of its first map. */
async function showWindow(page) {
  const row = firstConvolution(page);
  await showRow(page, row);
  if (row < 0 || page.maps.shape.length !== 3) return;
  const [, height, width] = page.maps.shape,
    map = page.maps.data.subarray(0, height * width);
  await choose(page, [0, ...positionOf(map.indexOf(Math.max(...map)), [height, width])]);
}

function sizeText(page) {
  const row = page.network.rows[firstConvolution(page)];
  const general =
    "The stride is how far the window moves from one output to the next. Padding adds zeros around the input, so that windows also fit at its border.";
  if (!row || row.shape.length !== 3) return general;
  const { kernel_size: kernel, stride, padding } = row.settings,
    { width: side } = inputOf(page, row);
  const zeros = typeof padding === "string" ? `padding “${padding}”` : padding[1] ? `padding ${padding[1]}` : "no padding";
  return `${general} Here a ${kernel.join("x")} kernel with stride ${stride[1]} and ${zeros} fits ${row.shape[2]} times in a row of ${side} values, so the output is ${sizes(row.shape.slice(1))}.`;
}

function inputOf(page, row) {
  const [from] = row.takes[0],
    shape = from < 0 ? page.network.input : page.network.rows[from].shape;
  return { width: shape[shape.length - 1] };
}

const openTool = async (page, ...names) => {
  const name = names.find((n) => select(`#tab-${n}`));
  if (name) await page.openTool(name);
};

/** [where, title, text or its function, what to show there]. */
const TOUR = [
  [
    "#image",
    "The image",
    "The input of a network is an array of numbers, one per pixel and channel: one channel for gray, three for red, green and blue. Choose another image, draw one, or open a file.",
  ],
  [
    "#network",
    "Layers",
    "From left to right: the output of each layer is the input of the next. An output of 32x26x26 values, say, has 32 channels: grids of 26x26 values, shown as pictures called feature maps. Orange values are positive, blue ones negative, and the color in between is 0.",
    (page) => showRow(page, firstConvolution(page)),
  ],
  [
    "#layer",
    "A convolution",
    "A convolution slides a kernel, a small grid of weights, over its input. Each output channel has its own kernels, one for each input channel, and finds one pattern, such as an edge, wherever it is.",
    (page) => showRow(page, firstConvolution(page)),
  ],
  [
    "#value",
    "One value",
    "At each position the window of the input and the kernel are multiplied element by element; the sum of the products, plus the bias, is one value of the output. Click any value to see its numbers.",
    showWindow,
  ],
  ["#value", "Stride and padding", sizeText, showWindow],
  [
    "#image",
    "Receptive field",
    "The frame on the image shows which pixels the selected value depends on: its receptive field. Deeper layers have larger ones, because each of their values depends on several values that each depend on a window.",
    async (page) => {
      const deeper = page.network.rows.findLastIndex((row) => row.traits.includes("convolution") && row.shape.length === 3);
      await showRow(page, deeper);
      if (deeper >= 0) await choose(page, page.network.rows[deeper].shape.map((n, d) => (d ? n >> 1 : 0)));
    },
  ],
  [
    "#layer",
    "ReLU and max pooling",
    "ReLU replaces negative values by 0; without it, layer after layer would still be one weighted sum. Max pooling keeps the maximum of each window: the maps get smaller, and exact positions matter less.",
    (page) => {
      const pooling = firstRow(page, (row) => row.type.includes("MaxPool"));
      return showRow(page, pooling >= 0 ? pooling : firstRow(page, (row) => row.traits.includes("activation")));
    },
  ],
  [
    "#prediction",
    "The prediction",
    "The last layer of a classifier outputs a score for each class. Softmax turns scores into probabilities: the exponential of each score, divided by the sum of all of them. Click a class to see its numbers.",
    async (page) => document.querySelector(".bars button")?.click(),
  ],
  [
    "#tools",
    "Experiments",
    "Saliency shows which pixels drive a class score. The other tabs cover a part of the image, attack it with small changes, or turn off channels, to see how the prediction changes.",
    (page) => openTool(page, "saliency"),
  ],
  [
    "#tools",
    "Training",
    "Training changes the weights: the kernels and biases. The loss is a number that is large where the true class gets a low probability. For a batch of images, the gradient of the loss says how each weight should change to make the loss smaller; each weight moves a small step that way, thousands of times. A small network trains here: press Start, and watch its loss and its feature maps.",
    (page) => openTool(page, "train", "epochs"),
  ],
];

function startTour(page) {
  const box = select("#tour");
  let step = 0;
  const close = () => {
    box.hidden = true;
    clear();
    select("#start-tour").focus();
  };
  const clear = () => document.querySelectorAll(".toured").forEach((node) => node.classList.remove("toured"));
  const draw = async () => {
    const [query, title, text, show] = TOUR[step];
    const back = el("button", { click: () => move(-1), disabled: step === 0 }, "Back");
    const next = el("button", { click: () => move(1) }, step === TOUR.length - 1 ? "Done" : "Next");
    box.replaceChildren(
      el("h2", { tabindex: -1 }, `${step + 1}. ${title}`),
      el("p", {}, typeof text === "string" ? text : text(page)),
      el("div", { class: "buttons" }, back, next, el("button", { click: close }, "Close")),
    );
    box.querySelector("h2").focus({ preventScroll: true });
    const now = step;
    if (show) await show(page);
    if (now !== step || box.hidden) return;
    clear();
    const target = select(query)?.childElementCount ? select(query) : select("#layer");
    target.classList.add("toured");
    target.scrollIntoView({ block: target.offsetHeight > innerHeight ? "start" : "nearest" });
  };
  const move = (by) => {
    step += by;
    if (step === TOUR.length) close();
    else draw();
  };
  box.hidden = false;
  box.onkeydown = (event) => {
    if (event.key === "Escape") close();
  };
  draw();
}
