// Picture, anomaly map and reconstruction of one inspection, blended by one slider.

import { imagePath, query } from "./api.js";
import { h } from "./dom.js";
import { everyChange } from "./proofs.js";

const LAYERS = [
  { name: "picture", label: "Picture" },
  { name: "overlay", label: "Anomaly map" },
  { name: "reconstruction", label: "Reconstruction" },
];
const STEP = 100;
const SIDE_PX = 2048;

let shown = 0;

function words(position, labels) {
  const lower = Math.floor(position / STEP);
  const share = position % STEP;
  if (share === 0) return labels[lower];
  return `${100 - share} % ${labels[lower]}, ${share} % ${labels[lower + 1]}`;
}

/**
 * The images of an inspection under one slider.
 *
 * @param made Names of the images that the detector makes; null if that is not known.
 *
 * The slider keeps its place from one inspection to the next. An image that cannot be shown leaves the slider, and the
 * reason is written below.
 */
export function layers(inspection, made = null) {
  const frame = h("div", { class: "frame" });
  const slider = h("input", { type: "range", min: 0, step: 5, "aria-label": "Picture, anomaly map, reconstruction" });
  const ticks = h("div", { class: "ticks" });
  const legend = h("p", { class: "note legend" }, legendWords(inspection));
  const reasons = h("div", { class: "note" });
  let present = [];

  function blend() {
    const position = Number(slider.value);
    shown = position;
    for (const [index, layer] of present.entries()) {
      // The first stays below, each further one fades in over it.
      layer.image.style.opacity = index === 0 ? 1 : Math.min(Math.max(position / STEP - index + 1, 0), 1);
    }
    legend.hidden = !present.some((layer) => layer.name === "overlay");
    slider.setAttribute("aria-valuetext", words(position, present.map((layer) => layer.label)));
    for (const [index, tick] of [...ticks.children].entries()) {
      tick.setAttribute("aria-pressed", String(position === index * STEP));
    }
  }

  function arrange() {
    slider.max = Math.max(present.length - 1, 0) * STEP;
    slider.hidden = present.length < 2;
    slider.value = Math.min(shown, Number(slider.max));
    ticks.replaceChildren(
      ...present.map((layer, index) =>
        h(
          "button",
          {
            type: "button",
            class: "tick",
            onclick: () => {
              slider.value = index * STEP;
              blend();
            },
          },
          layer.label,
        ),
      ),
    );
    ticks.hidden = present.length < 2;
    blend();
  }

  async function leave(layer) {
    present = present.filter((other) => other !== layer);
    layer.image.remove();
    const kept = shown;
    arrange();
    shown = kept;
    const why = await reason(inspection, layer.name);
    reasons.append(h("p", {}, `${layer.label}: ${why}`));
  }

  present = LAYERS.filter((layer) => layer.name === "picture" || !made || made.includes(layer.name)).map((layer) => {
    const image = h("img", { alt: `${layer.label} of ${title(inspection)}`, decoding: "async" });
    const entry = { ...layer, image };
    image.addEventListener("error", () => leave(entry));
    image.src = source(inspection, layer.name);
    return entry;
  });
  frame.append(...present.map((layer) => layer.image));
  frame.style.aspectRatio = `${inspection.width_px} / ${inspection.height_px}`;
  slider.addEventListener("input", blend);
  arrange();
  return h("div", { class: "layers" }, frame, slider, ticks, legend, reasons);
}

/** What the lines of the anomaly map mean. */
function legendWords(inspection) {
  const { certificate, halves } = inspection.details ?? {};
  const words = ["Anomaly map: a white line surrounds what normal pictures hardly show."];
  if (certificate?.certified === "proven defective") {
    words.push(
      `A broken green and black line surrounds the proven area: it stays a defect under ${everyChange(certificate.norm, certificate.radius)}.`,
    );
  }
  if (halves) words.push("A dotted blue line surrounds what the parts without a proof see.");
  return words.join(" ");
}

/** Where an image is. The picture comes in a form that every browser shows, such as for TIFF. */
function source(inspection, name) {
  return name === "picture" ? query(imagePath(inspection, name), { side: SIDE_PX }) : imagePath(inspection, name);
}

/** Fetch the picture of an inspection that will be shown soon. */
export function preload(inspection) {
  new Image().src = source(inspection, "picture");
}

async function reason(inspection, name) {
  try {
    const response = await fetch(source(inspection, name), { cache: "no-store" });
    if (response.ok) return "the browser cannot show this format.";
    const { error } = await response.json();
    return [error.message, error.fix].filter(Boolean).join("; ");
  } catch {
    return "it could not be loaded.";
  }
}

/** What an inspection is called: its part, else its file, else its identity. */
export function title(inspection) {
  return inspection.part_id || inspection.file_name || inspection.id;
}
