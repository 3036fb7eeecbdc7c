// The detector to take along: a button for each form that it can be had in.

import { askFile, query, Refused } from "./api.js";
import { untilSignedIn } from "./connection.js";
import { byId, facts, h } from "./dom.js";
import { number } from "./words.js";

const FORMS = { openvino: "OpenVINO", onnx: "ONNX" };
const ENGINES = { openvino: "openvino", onnxruntime: "onnx" };

function hand(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function take(form, made) {
  const buttons = byId("take").querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  const place = byId("taken");
  place.textContent = made ? "The export is being made and compared with the detector. This takes a minute or so." : "";
  try {
    const path = `/v1/products/${encodeURIComponent(facts.product)}/export`;
    const blob = await askFile(query(path, { to: form }));
    const name = `${facts.product}-${form}.zip`;
    hand(blob, name);
    place.textContent = `${name}, ${number(blob.size / 1e6)} MB. 'advrad predict' and 'advrad serve' take its folder.`;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) await untilSignedIn();
    place.textContent = error instanceof Refused ? error.text : "The service does not answer. Try again.";
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

/** Draw the buttons for a product, once for each model. */
export function drawTake(product) {
  const place = document.getElementById("take");
  if (place === null || place.dataset.model === product.model) return;
  place.dataset.model = product.model;
  const { exported, engine } = product.provenance;
  const forms = exported ? [ENGINES[engine]] : Object.keys(FORMS);
  const active = product.thresholds.find((version) => version.active);
  byId("take-note").hidden = exported && active.version === 0;
  place.replaceChildren(
    ...forms.map((form) =>
      h("button", { type: "button", onclick: () => take(form, !exported) }, `Detector for ${FORMS[form]} (ZIP)`),
    ),
  );
}
