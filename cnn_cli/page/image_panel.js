// The image: one of the gallery, a drawing, or a file; and the receptive field over it.

"use strict";

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
  for (const button of document.querySelectorAll(".thumbnail")) {
    button.setAttribute("aria-pressed", Number(button.dataset.image) === page.image);
  }
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
    context = pad.getContext("2d", { willReadFrequently: true }),
    [, height, width] = page.network.input;
  const images = page.content.gallery.names.map((_, i) => ({ channels: 1, height, width, data: page.imageOf(i) }));
  const part = images.length ? brightPart(images) : null;
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, pad.width, pad.height);
  };
  let last = null,
    busy = false,
    again = false;
  const use = async () => {
    again = busy;
    if (busy) return;
    busy = true;
    try {
      await show();
    } finally {
      busy = false;
    }
    if (again) await use();
  };
  const show = () => {
    const pixels = context.getImageData(0, 0, pad.width, pad.height);
    const drawing = withChannels(fromCanvas(pixels), 1),
      side = Math.max(height, width);
    page.image = null;
    const moved = placed(drawing, part, side);
    return useImage(page, fitted(moved, page.content.preprocessing).data, null, "Your drawing");
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
    page.drawing = true;
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
    pad.addEventListener(kind, async () => {
      last = null;
      page.drawing = false;
      await use();
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

function showField(page, box) {
  const frame = select("#field");
  frame.hidden = !box;
  if (!box) return;
  const [, height, width] = page.network.input,
    [top, left, high, wide] = box;
  frame.style.cssText = `top:${(100 * top) / height}%;left:${(100 * left) / width}%;height:${(100 * high) / height}%;width:${(100 * wide) / width}%`;
}
