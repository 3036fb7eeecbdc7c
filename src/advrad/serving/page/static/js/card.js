// What the service says about one inspection: verdict, proof, images, histogram.

import { ask } from "./api.js";
import { h } from "./dom.js";
import { histogram } from "./histogram.js";
import { layers, title } from "./layers.js";
import { halvesSentence, proofSentence } from "./proofs.js";
import { kindOf, reviewTag, scoreSentence, shape, time, verdictWord } from "./words.js";

const products = new Map();

function productNamed(name) {
  if (!products.has(name)) products.set(name, ask(`/v1/products/${encodeURIComponent(name)}`));
  return products.get(name);
}

/** The product of an inspection, asked for again where its model was replaced; null if it cannot be had. */
async function productOf(inspection) {
  const { product: name, model } = inspection;
  try {
    const known = await productNamed(name);
    if (known.model === model) return known;
    products.delete(name);
    return await productNamed(name);
  } catch {
    // The verdict stands without it; the next inspection asks again.
    products.delete(name);
    return null;
  }
}

const MEANING = {
  good: "Nothing on this picture is called a defect.",
  suspected: "Treat it as defective. Only a part of the detector that has no proof speaks.",
  defective: "Something on this picture differs from normal ones more than it may.",
};

/** The verdict, large enough to be read from two metres. */
export function verdictBanner(inspection) {
  const kind = kindOf(inspection);
  return h(
    "div",
    { class: `verdict ${kind}` },
    shape(kind),
    h("div", {}, h("p", { class: "word" }, verdictWord(inspection)), h("p", { class: "meaning" }, MEANING[kind])),
  );
}

/** The sentences below the verdict: score, proof, warnings. */
export function sentences(inspection) {
  const { warning, reason } = inspection.details ?? {};
  const proof = proofSentence(inspection);
  const halves = halvesSentence(inspection);
  return h(
    "div",
    { class: "sentences" },
    h("p", {}, scoreSentence(inspection)),
    proof && h("p", { class: "proof" }, proof),
    halves && h("p", { class: "note" }, halves),
    reason && h("p", {}, reason),
    warning && h("p", { class: "warning" }, warning),
  );
}

/** An inspection in full, with a remark if there is one: for Inspect, Review and the detail view. */
export function card(inspection, remark = null) {
  const more = h(
    "div",
    { class: "card-more" },
    h("p", { class: "note" }, title(inspection), " · ", time(inspection.at)),
    reviewTag(inspection.review),
  );
  const images = h("div", { class: "layers" });
  const words = h("div", { class: "card-words" }, verdictBanner(inspection), sentences(inspection), remark && h("p", { class: "note" }, remark));
  fill(inspection, images, more);
  return h("div", { class: "card-grid" }, words, images, more);
}

/** Add what needs the facts of the product: which images there are, and the scores of the calibration. */
async function fill(inspection, images, more) {
  const product = await productOf(inspection);
  images.replaceWith(layers(inspection, product?.provenance?.artefacts ?? null));
  if (inspection.score === null || product?.model !== inspection.model) return;
  const { threshold, score } = inspection;
  more.append(histogram({ scores: product.calibration.scores ?? [], threshold, score }));
}
