// Training in the page: settings, curves, and the digits to train on.

"use strict";

function drawTraining(page, area) {
  const choice = el(
    "select",
    {},
    el("option", { value: "adam" }, "Adam"),
    el("option", { value: "sgd" }, "SGD with momentum 0.9"),
  );
  const lr = el("input", { type: "number", value: 0.002, step: "any", min: 0 });
  const batch = el("input", { type: "number", value: 32, min: 2, max: 256 });
  const shift = el("input", { type: "number", value: Math.floor(page.network.input[1] / 9), min: 0, max: 8 });
  const fresh = el("input", { type: "checkbox", checked: true });
  choice.addEventListener("change", () => {
    lr.value = choice.value === "adam" ? 0.002 : 0.01;
  });
  const plot = el("div"),
    says = el("p", { "aria-live": "polite" });
  const losses = [],
    accuracies = [];
  let going = false,
    started = false,
    clock = 0,
    running = Promise.resolve();
  const prepare = async () => {
    if (started) return;
    started = true;
    losses.length = accuracies.length = clock = 0;
    const settings = {
      optimizer: choice.value,
      lr: Number(lr.value),
      momentum: 0.9,
      batch: Number(batch.value),
      shift: Number(shift.value),
      seed: 0,
      fresh: fresh.checked,
    };
    await page.ask("startTraining", { settings, digits: page.digits() });
  };
  const advance = (batches) => (running = running.then(() => steps(batches)));
  const steps = async (batches) => {
    await prepare();
    const begin = performance.now();
    const { done, step, epoch } = await page.ask("train", { batches, milliseconds: 1500 });
    clock += performance.now() - begin;
    done.forEach((d, i) => losses.push([step - done.length + i + 1, d.loss]));
    if (!Number.isFinite(losses[losses.length - 1][1])) {
      going = false;
      says.textContent = "Training diverged: the loss is not finite. Reset, and choose a smaller learning rate.";
      return;
    }
    const { accuracy } = await page.ask("testTraining");
    accuracies.push([step, accuracy]);
    const last = losses.slice(-20).reduce((sum, p) => sum + p[1], 0) / Math.min(20, losses.length);
    says.textContent = `Step ${step}, epoch ${epoch.toFixed(2)}: loss ${last.toFixed(3)}, test accuracy ${percent(accuracy)}, ${(clock / 1000).toFixed(1)} s of training.`;
    const thin = losses.filter((_, i) => i % Math.ceil(losses.length / 200) === 0 || i === losses.length - 1);
    plot.replaceChildren(
      chart({ loss: thin }, { label: "training loss by step" }),
      chart({ "test accuracy": accuracies }, { label: "test accuracy by step", format: percent }),
    );
    await page.rerun();
  };
  const start = el(
    "button",
    {
      click: async () => {
        going = !going;
        start.textContent = going ? "Pause" : "Start";
        while (going) await advance(1000);
        start.textContent = "Start";
      },
    },
    "Start",
  );
  const reset = async () => {
    going = false;
    await running; // its result would be of the previous weights
    started = false;
    await page.ask("reset");
    plot.replaceChildren();
    says.textContent = "The weights are reset to those in the file.";
    await page.rerun();
  };
  area.append(
    el(
      "p",
      {},
      "Train this network in the browser on the handwritten digits of scikit-learn: 1,000 training and 200 test images.",
    ),
    el(
      "div",
      { class: "sliders" },
      el("label", {}, "Optimizer ", choice),
      el("label", {}, "Learning rate ", lr),
      el("label", {}, "Batch size ", batch),
      el("label", {}, "Random shift in pixels ", shift),
      el("label", {}, fresh, " start from random weights"),
    ),
    el(
      "div",
      { class: "buttons" },
      start,
      el("button", { click: () => advance(1) }, "One step"),
      el("button", { click: reset }, "Reset"),
    ),
    says,
    plot,
  );
  return null;
}

/** The digits at the network's input size, resized like the gallery's images. */
function trainingDigits(page) {
  if (page.fittedDigits) return page.fittedDigits;
  const { side, parts } = page.content.digits,
    area = side * side,
    size = count(page.network.input);
  const fit = ({ images, labels }) => {
    const letters = images.replace(/[A-Z]/g, (c) => "0".repeat(c.charCodeAt(0) - 62));
    const all = Uint8Array.from(letters, (c) => Math.round((parseInt(c, 17) * 255) / 16)),
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
