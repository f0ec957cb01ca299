// A guided tour in ten steps.

"use strict";

const TOUR = [
  [
    "#image",
    "The image",
    "The input of a network is an array of numbers: here is one image, at the network's input size. Choose another from the gallery, draw one, or open a file.",
  ],
  [
    "#prediction",
    "The prediction",
    "The network outputs a score for each class. A softmax turns the scores into probabilities that sum to 100%.",
  ],
  [
    "#network",
    "Layers",
    "From left to right: the output of each layer is the input of the next. Select one to look inside.",
  ],
  [
    "#network",
    "Feature maps",
    "Each picture shows the output of a layer for this image. Orange values are positive, blue ones negative, and the color in between is 0.",
  ],
  [
    "#layer",
    "What a layer does",
    "This panel describes the selected layer, its output size, its parameters (the numbers that training adjusts) and its MACs (multiply-accumulate operations: one multiplication and one addition each).",
  ],
  [
    "#layer",
    "One value",
    "Click a value of a feature map. A convolution places its kernel on a window, multiplies element by element, sums the products and adds the bias.",
  ],
  [
    "#image",
    "Receptive field",
    "The frame on the image shows which pixels that value depends on. Deeper layers have larger receptive fields.",
  ],
  [
    "#tools",
    "Saliency",
    "Saliency maps show which pixels drive a class score. Cover part of the image in Occlusion to test this.",
  ],
  [
    "#tools",
    "Ablation and attacks",
    "Turn off channels in Ablation, or change the pixels slightly in Attack, and see how the prediction changes.",
  ],
  [
    "#tools",
    "Training",
    "A small network can be trained in the browser: watch the loss decrease and the filters develop. Now explore on your own.",
  ],
];

function startTour() {
  const box = select("#tour");
  let step = 0;
  const close = () => {
    box.hidden = true;
    clear();
    select("#start-tour").focus();
  };
  const clear = () => document.querySelectorAll(".toured").forEach((node) => node.classList.remove("toured"));
  const draw = () => {
    const [query, title, text] = TOUR[step],
      target = select(query);
    clear();
    target.classList.add("toured");
    target.scrollIntoView({ block: "nearest" });
    const back = el("button", { click: () => move(-1), disabled: step === 0 }, "Back");
    const next = el("button", { click: () => move(1) }, step === TOUR.length - 1 ? "Done" : "Next");
    box.replaceChildren(
      el("h2", { tabindex: -1 }, `${step + 1}. ${title}`),
      el("p", {}, text),
      el("div", { class: "buttons" }, back, next, el("button", { click: close }, "Close")),
    );
    box.querySelector("h2").focus({ preventScroll: true });
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
