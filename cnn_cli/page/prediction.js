// The prediction, and the views that depend on it.

"use strict";

/** Run the network on the image, and redraw everything; of several calls at a time the last one counts. */
async function predict(page) {
  const turn = ++page.turn,
    result = await page.ask("run", { bytes: page.bytes });
  if (turn !== page.turn) return;
  showPrediction(page, result);
  const timing = select("#timing");
  timing.textContent = `Computed in ${result.milliseconds < 10 ? result.milliseconds.toFixed(1) : Math.round(result.milliseconds)} ms${page.off.size ? ", with some channels turned off" : ""}.`;
  await repaint(page);
  if (turn === page.turn && page.tool && !page.drawing) await page.tool();
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
  page.probabilities = result.probabilities;
  page.scores = result.scores;
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
          el(
            "button",
            { title: "How this probability is computed", click: () => explainClass(page, c) },
            el("span", {}, page.classes[c] || `class ${c}`, right ? el("em", {}, " true class") : null),
            el("span", { class: "bar", "aria-hidden": "true" }, el("i", { style: `width:${100 * p}%` })),
            el("span", {}, percent(p)),
          ),
        );
      }),
    ),
    el("div", { id: "score" }),
  );
  if (page.explained !== null) explainClass(page, page.explained);
}

const explainBest = (page) => {
  explainClass(page, page.predicted);
  select("#prediction").scrollIntoView({ block: "nearest" });
};

/** The computation of a class's probability from the scores, in numbers. */
function explainClass(page, c) {
  page.explained = c;
  const { probabilities, scores } = page,
    name = page.classes[c] || `class ${c}`,
    p = percent(probabilities[c]);
  const { ends } = page.network,
    lines = [];
  if (ends === "probability") lines.push(`The network itself outputs probabilities: that of ${name} is ${p}.`);
  else if (ends === "logarithm")
    lines.push(`The network outputs logarithms of probabilities: exp(${shown(scores[c])}) = ${p} for ${name}.`);
  else if (scores.length === 1)
    lines.push(
      `One score for two classes. Its sigmoid, 1 / (1 + exp(−(${shown(scores[0])}))), is the probability of ${page.classes[1] || "class 1"}: ${percent(probabilities[1])}.`,
    );
  else {
    const sum = scores.reduce((total, score) => total + Math.exp(score), 0);
    lines.push(
      `Softmax: the exponential of the score, divided by the sum of the exponentials of all ${scores.length} scores.`,
      `${name}: score ${shown(scores[c])}, exp(${shown(scores[c])}) = ${shown(Math.exp(scores[c]))}; all classes: ${shown(sum)}.`,
      `${shown(Math.exp(scores[c]))} / ${shown(sum)} = ${p}`,
    );
  }
  select("#score").replaceChildren(...lines.map((line, i) => el("p", { class: i === 2 ? "sum" : "legend" }, line)));
}

/** A detector's boxes over the image, with sliders for the score threshold and the IoU threshold of non-maximum suppression. */
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

/** The class of most positions, other than the background if possible. */
function mostFrequent(classes) {
  const counts = new Map();
  for (const c of classes) counts.set(c, (counts.get(c) || 0) + 1);
  const order = [...counts].sort((a, b) => b[1] - a[1]).map(([c]) => c);
  return order.find((c) => c !== 0) ?? order[0];
}
