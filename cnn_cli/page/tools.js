// Interactive tools: saliency, adversarial attack, occlusion, filter ablation, the epochs of the run, training.

"use strict";

/** name → [title, draw(page, area)]; draw returns a function that updates what depends on the image, or nothing. */
const TOOLS = {
  saliency: ["Saliency", drawSaliency],
  attack: ["Attack", drawAttack],
  cover: ["Occlusion", drawCover],
  off: ["Ablation", drawOff],
  epochs: ["Epochs", drawEpochs],
  train: ["Train", drawTraining],
};

function toolNames(page) {
  const classifier = page.network.rows.length && page.shape.length === 1 && !page.network.detects.length;
  return Object.keys(TOOLS).filter((name) => {
    if (name === "epochs") return page.content.history.length > 0 || page.content.film;
    if (name === "train") return page.content.digits !== null;
    if (name === "attack") return classifier;
    if (name === "cover") return !page.network.detects.length;
    return true;
  });
}

function drawTools(page) {
  const names = toolNames(page),
    tabs = el("div", { role: "tablist", "aria-label": "Tools" }),
    area = select("#tool");
  const open = async (name, focus = false) => {
    for (const tab of tabs.children) {
      const chosen = tab.dataset.name === name;
      tab.setAttribute("aria-selected", chosen);
      tab.tabIndex = chosen ? 0 : -1;
      if (chosen && focus) tab.focus();
    }
    area.setAttribute("aria-labelledby", `tab-${name}`);
    area.replaceChildren();
    page.tool = null;
    page.cover = null;
    page.tool = TOOLS[name][1](page, area) || null;
    if (page.tool) await page.tool();
  };
  names.forEach((name, i) =>
    tabs.append(
      el(
        "button",
        {
          role: "tab",
          id: `tab-${name}`,
          "data-name": name,
          "aria-controls": "tool",
          click: () => open(name),
          keydown: (event) => {
            const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
            if (step) open(names[(i + step + names.length) % names.length], true);
          },
        },
        TOOLS[name][0],
      ),
    ),
  );
  select("#tabs").replaceChildren(tabs);
  page.openTool = open;
  return open(names[0]);
}

function classChoice(page, onChange) {
  const choice = el("select", { change: onChange });
  choice.append(el("option", { value: "-1" }, "predicted class"));
  page.classes.forEach((name, i) => choice.append(el("option", { value: i }, name)));
  return choice;
}

const targetOf = (page, choice) => (Number(choice.value) < 0 ? page.predicted : Number(choice.value));

function drawSaliency(page, area) {
  const first = el("canvas", { role: "img", "aria-label": "Gradient of the class score with respect to the pixels" });
  const second = el("canvas", { role: "img", "aria-label": "Grad-CAM over the image" });
  const choice = classChoice(page, () => renew()),
    note = el("p", { class: "legend" });
  area.append(
    el(
      "p",
      {},
      "Which pixels matter for a class? The gradient shows how the class score changes with each pixel; Grad-CAM adds up the feature maps of a layer, each weighted by its mean gradient (Selvaraju et al. 2017).",
    ),
    el("label", {}, "Class ", choice),
    el(
      "div",
      { class: "pair" },
      el(
        "figure",
        {},
        first,
        el("figcaption", {}, "Gradient. Orange: a brighter pixel raises the score; blue: it lowers the score."),
      ),
      el("figure", {}, second, el("figcaption", {}, "Grad-CAM")),
    ),
    note,
  );
  const renew = async () => {
    const row = page.camRow();
    const { gradient, cam } = await page.ask("saliency", { target: targetOf(page, choice), row });
    paintMap(first, gradient.data, gradient.width, gradient.height, largest(gradient.data));
    paintImage(second, page.bytes, page.network.input);
    if (cam) paintHeat(second, cam, page.network.input);
    note.textContent = cam
      ? `Grad-CAM at layer ${page.network.rows[row].name}; select another layer with feature maps to see it there.`
      : "Grad-CAM needs a layer with feature maps.";
  };
  return renew;
}

function drawAttack(page, area) {
  const slider = el("input", { type: "range", min: 0, max: 0.3, step: 0.005, value: 0.05, input: () => renew() });
  const picture = el("canvas", { role: "img", "aria-label": "Attacked image" }),
    says = el("p", { "aria-live": "polite" });
  const shown = el("output", {});
  area.append(
    el(
      "p",
      {},
      "The fast gradient sign method (Goodfellow et al. 2015): each pixel changes by epsilon in the direction that increases the loss of the true class, or of the predicted class if the true one is unknown.",
    ),
    el("label", {}, "Epsilon ", slider, " ", shown),
    el("figure", {}, picture),
    says,
  );
  const renew = async () => {
    const epsilon = Number(slider.value),
      target = page.label ?? page.predicted;
    shown.textContent = epsilon.toFixed(3);
    const { pixels, probabilities } = await page.ask("attack", { bytes: page.bytes, target, epsilon });
    paintImage(picture, pixels, page.network.input, 255);
    const best = probabilities.indexOf(Math.max(...probabilities));
    const change = best === target ? "is still predicted" : "is predicted instead";
    says.textContent = `${page.classes[best]} ${change}, with a probability of ${percent(probabilities[best])}.`;
  };
  return renew;
}

function drawCover(page, area) {
  const [, height, width] = page.network.input,
    says = el("p", { "aria-live": "polite" });
  const slider = (name, max, value) =>
    el("input", { type: "range", min: 0, max, value, "aria-label": name, input: () => renew() });
  const [size, y, x] = [
    slider("size of the square", Math.max(height, width), Math.round(Math.max(height, width) / 4)),
    slider("row of the square", height, Math.round(height / 2)),
    slider("column of the square", width, Math.round(width / 2)),
  ];
  const picture = el("canvas", {
    role: "img",
    "aria-label": "Image with a gray square",
    mousemove: (event) => {
      const [row, column] = positionIn(event, picture, width, height);
      [y.value, x.value] = [row, column];
      renew();
    },
  });
  area.append(
    el("p", {}, "Move the pointer over the image to cover part of it, and see whether the prediction changes."),
    el("figure", {}, picture),
    el(
      "div",
      { class: "sliders" },
      el("label", {}, "Size ", size),
      el("label", {}, "Row ", y),
      el("label", {}, "Column ", x),
    ),
    says,
  );
  let busy = false,
    again = false;
  const renew = async () => {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    const bytes = page.bytes.slice(),
      half = Number(size.value) / 2,
      area = height * width;
    for (let i = Math.max(0, Math.round(y.value - half)); i < Math.min(height, Number(y.value) + half); i++) {
      for (let j = Math.max(0, Math.round(x.value - half)); j < Math.min(width, Number(x.value) + half); j++) {
        for (let c = 0; c < page.network.input[0]; c++) bytes[c * area + i * width + j] = 128;
      }
    }
    paintImage(picture, bytes, page.network.input);
    const result = await page.ask("run", { bytes });
    await page.ask("run", { bytes: page.bytes });
    if (result.dense) paintClasses(picture, result.dense, result.shape, page.network.input);
    says.textContent = covered(page, result);
    busy = false;
    if (again) {
      again = false;
      renew();
    }
  };
  return renew;
}

function covered(page, { probabilities }) {
  if (!probabilities) return "";
  const best = probabilities.indexOf(Math.max(...probabilities)),
    before = page.classes[page.predicted];
  const now = `${page.classes[best]} (${percent(probabilities[best])})`;
  return best === page.predicted ? `Predicted: ${now}.` : `Predicted: ${now}; without the square: ${before}.`;
}

function drawOff(page, area) {
  const result = el("p", { "aria-live": "polite" }),
    grid = el("div", { class: "switches" });
  const measure = el(
    "button",
    {
      click: async () => {
        result.textContent = "…";
        const { all, now, known } = await page.ask("accuracy", {
          bytes: page.galleryBytes,
          labels: page.knownLabels(),
        });
        result.textContent = known
          ? `${now} of ${known} gallery images are classified correctly, compared with ${all} with all channels on.`
          : "The true classes of the gallery images are unknown.";
      },
    },
    "Measure accuracy on the gallery",
  );
  area.append(
    el("p", {}, "Select a layer above, then turn off some of its channels: their values become 0."),
    grid,
    el("div", { class: "buttons" }, el("button", { click: () => set(page, null) }, "All on"), measure),
    result,
  );
  const set = async (page, channel) => {
    if (channel === null) page.off.clear();
    else {
      if (!page.off.has(page.row)) page.off.set(page.row, new Set());
      const off = page.off.get(page.row);
      if (off.has(channel)) off.delete(channel);
      else off.add(channel);
      if (!off.size) page.off.delete(page.row);
    }
    await page.ask("off", { off: [...page.off].map(([row, channels]) => [row, [...channels]]) });
    await page.rerun();
  };
  return async () => {
    const row = page.network.rows[page.row];
    if (!row) {
      grid.replaceChildren(el("p", {}, "Select a layer first."));
      return;
    }
    const off = page.off.get(page.row) || new Set();
    grid.replaceChildren(el("h3", {}, `${row.name}: ${row.shape[0]} channel${row.shape[0] === 1 ? "" : "s"}`));
    for (let c = 0; c < Math.min(row.shape[0], 128); c++) {
      grid.append(
        el(
          "button",
          { class: "switch", "aria-pressed": !off.has(c), "aria-label": `channel ${c}`, click: () => set(page, c) },
          `${c}`,
        ),
      );
    }
    if (row.shape[0] > 128) grid.append(el("span", {}, `… the first 128 of ${row.shape[0]}`));
  };
}

function drawEpochs(page, area) {
  const { history, film } = page.content;
  if (history.length) {
    const metric = Object.keys(history[0]).find((key) => /^(val|test)_(?!loss)/.test(key) && history[0][key] !== null);
    const split = metric ? metric.split("_")[0] : "test",
      name = metric ? metric.slice(split.length + 1) : "accuracy";
    const line = (key) => history.filter((h) => h[key] !== null && h[key] !== undefined).map((h) => [h.epoch, h[key]]);
    const lines = { training: line(`train_${name}`), [split]: line(`${split}_${name}`) };
    area.append(el("h3", {}, `${name} by epoch`), chart(lines, { label: `${name} by epoch`, format: percent }));
    const losses = { training: line("train_loss"), [split]: line(`${split}_loss`) };
    if (losses.training.length) area.append(el("h3", {}, "Loss by epoch"), chart(losses, { label: "loss by epoch" }));
  }
  if (!film) {
    area.append(
      el("p", {}, "Train with --filters-every-epoch to save the filters of every epoch and watch them develop here."),
    );
    return null;
  }
  const [filters, channels, height, width] = film.shape,
    size = count(film.shape),
    grid = el("div", { class: "maps" });
  const values = Float32Array.from(new Int8Array(bytesOf(film.values).buffer), (v) => v / 127),
    caption = el("output", {});
  const slider = el("input", {
    type: "range",
    min: 0,
    max: film.epochs.length - 1,
    value: film.epochs.length - 1,
    input: () => draw(),
  });
  const draw = () => {
    const frame = values.subarray(slider.value * size, (Number(slider.value) + 1) * size);
    caption.textContent = film.epochs[slider.value] === 0 ? "before training" : `epoch ${film.epochs[slider.value]}`;
    grid.replaceChildren();
    for (let f = 0; f < filters; f++) {
      const canvas = el("canvas", {
        style: `width:${width * 12}px;height:${height * 12}px`,
        role: "img",
        "aria-label": `filter ${f}`,
      });
      const own = frame.subarray(f * channels * height * width, (f + 1) * channels * height * width);
      if (channels === 3)
        paintImage(
          canvas,
          own.map((v) => 127.5 + 127.5 * v),
          [3, height, width],
        );
      else paintMap(canvas, own, width, height, 1);
      grid.append(canvas);
    }
  };
  area.append(el("h3", {}, "Filters of the first convolution"), el("label", {}, "Epoch ", slider, " ", caption), grid);
  draw();
  return null;
}
