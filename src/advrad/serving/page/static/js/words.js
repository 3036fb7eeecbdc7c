// Verdicts, reviews, proofs, numbers and times in plain words, with shapes that need no colour.

import { h, s } from "./dom.js";

const SHAPES = {
  good: () => [s("circle", { cx: 12, cy: 12, r: 10.5 }), s("path", { class: "mark", d: "M7 12.5l3.5 3.5L17 8.8" })],
  defective: () => [
    s("path", { d: "M7.7 1.5h8.6l6.2 6.2v8.6l-6.2 6.2H7.7l-6.2-6.2V7.7z" }),
    s("path", { class: "mark", d: "M8 8l8 8M16 8l-8 8" }),
  ],
  suspected: () => [
    s("path", { d: "M12 1.8L23 21.8H1z", "stroke-linejoin": "round" }),
    s("path", { class: "mark", d: "M12 9v6M12 17.6v1.4" }),
  ],
  unsure: () => [
    s("path", { d: "M12 1L23 12 12 23 1 12z" }),
    s("path", { class: "mark", d: "M9.6 9.6a2.5 2.5 0 1 1 3.4 2.5c-.8.4-1 .8-1 1.7M12 16.4v1.3" }),
  ],
};

/** Kind of a verdict: `good`, `suspected` or `defective`. */
export function kindOf(inspection) {
  if (!inspection.defective) return "good";
  return inspection.verdict === "suspected" ? "suspected" : "defective";
}

/** The shape of a kind: circle, octagon, triangle or diamond. The word always stands beside it. */
export function shape(kind) {
  return s("svg", { class: `shape ${kind}`, viewBox: "0 0 24 24", "aria-hidden": "true" }, ...SHAPES[kind]());
}

const VERDICTS = { good: "Good", suspected: "Suspected", defective: "Defective" };

/** The verdict in one word. */
export function verdictWord(inspection) {
  return VERDICTS[kindOf(inspection)];
}

/** Shape and word of a verdict, in a line of text. */
export function verdictTag(inspection) {
  return h("span", { class: `tag ${kindOf(inspection)}` }, shape(kindOf(inspection)), verdictWord(inspection));
}

export const REVIEWS = { good: "Good", defective: "Defective", unsure: "Unsure" };

/** Shape and word of a review; nothing where there is none. */
export function reviewTag(review) {
  if (!review) return null;
  return h("span", { class: `tag review ${review.label}` }, shape(review.label), `Reviewed: ${REVIEWS[review.label]}`);
}

/** A number with four significant digits. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(Number(value))) return "–";
  return String(Number(Number(value).toPrecision(4)));
}

/** A share in per cent. */
export function percent(share, digits = 1) {
  if (share === null || share === undefined) return "–";
  return `${(100 * share).toFixed(digits).replace(/\.0+$/, "")} %`;
}

/** A count with its noun: `count(1, "picture")`. */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  timeZoneName: "short",
});

const SHORT_CLOCK = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  timeZoneName: "short",
});

/** A time in the time zone of this computer, which is named. */
export function time(text) {
  return h("time", { datetime: text, title: text }, CLOCK.format(new Date(text)));
}

/** A time as `time`, without year and seconds. */
export function shortTime(text) {
  return h("time", { datetime: text, title: text }, SHORT_CLOCK.format(new Date(text)));
}

/** What the score says, in a sentence. */
export function scoreSentence(inspection) {
  const { score, threshold } = inspection;
  if (score === null) return "There is no score: a part of the detector failed, so the picture counts as defective.";
  const side = score > threshold ? "above" : "not above";
  return `Score ${number(score)}, ${side} the threshold ${number(threshold)}.`;
}
