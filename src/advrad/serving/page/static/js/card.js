// What the service says about one inspection: verdict, proof, images, histogram.

import { ask } from "./api.js";
import { h } from "./dom.js";
import { histogram } from "./histogram.js";
import { layers, title } from "./layers.js";
import { kindOf, proofSentence, reviewTag, scoreSentence, shape, time, verdictWord } from "./words.js";

const products = new Map();

/** A product by name; asked for once. */
export function productOf(name) {
  if (!products.has(name)) {
    const asked = ask(`/v1/products/${encodeURIComponent(name)}`);
    asked.catch(() => products.delete(name));
    products.set(name, asked);
  }
  return products.get(name);
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
  return h(
    "div",
    { class: "sentences" },
    h("p", {}, scoreSentence(inspection)),
    proof && h("p", { class: "proof" }, proof),
    reason && h("p", {}, reason),
    warning && h("p", { class: "warning" }, warning),
  );
}

/** An inspection in full: for Inspect, Review and the detail view. */
export function card(inspection) {
  const plot = h("div", { class: "score-plot" });
  if (inspection.score !== null) drawHistogram(plot, inspection);
  return h(
    "div",
    { class: "card-grid" },
    h("div", { class: "card-words" }, verdictBanner(inspection), sentences(inspection)),
    layers(inspection),
    h(
      "div",
      { class: "card-more" },
      h("p", { class: "note" }, title(inspection), " · ", time(inspection.at)),
      reviewTag(inspection.review),
      plot,
    ),
  );
}

async function drawHistogram(place, inspection) {
  const product = await productOf(inspection.product).catch(() => null);
  if (product === null || product.model !== inspection.model) return;
  const { threshold, score } = inspection;
  place.replaceChildren(histogram({ scores: product.calibration?.scores ?? [], threshold, score }));
}
