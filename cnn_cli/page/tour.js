// A guided tour in ten steps.

"use strict";

const TOUR = [
  [
    "#image",
    "The image",
    "A network sees numbers: here is one image, as large as the network takes it. Choose another from the gallery, draw one, or open a file.",
  ],
  [
    "#prediction",
    "The prediction",
    "The network gives a score for each class. A softmax turns the scores into probabilities that sum to 100 %.",
  ],
  [
    "#network",
    "Layers",
    "From left to right: every layer takes what the one before it gives. Select one to look inside.",
  ],
  [
    "#network",
    "Feature maps",
    "Each picture shows what a layer gives for this image. Orange values are positive, blue ones negative, and the color between them is 0.",
  ],
  [
    "#layer",
    "What a layer does",
    "Here is the selected layer in words, the size of its output, and where its numbers come from.",
  ],
  [
    "#layer",
    "One value",
    "Click a value of a feature map. A convolution lays its kernel on a window, multiplies value by value, and adds up, bias included.",
  ],
  [
    "#image",
    "Receptive field",
    "The frame on the image shows which pixels that value depends on. Deeper layers see more.",
  ],
  ["#tools", "What matters", "Saliency shows which pixels a class depends on. Cover a part of the image to test it."],
  [
    "#tools",
    "What if",
    "Switch channels off, or move the pixels a little against the network, and see what it predicts then.",
  ],
  [
    "#tools",
    "Learning",
    "A small network can be trained here: watch the loss fall and the filters form. You are ready to explore.",
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
