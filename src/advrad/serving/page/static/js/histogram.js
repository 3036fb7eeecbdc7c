// The scores of the calibration as a histogram, with the threshold and the score of one picture.

import { h, s } from "./dom.js";
import { number } from "./words.js";

const BARS = 24;
// On a small screen the drawing has fewer units, so that its words stay as large as the text around it.
const WIDTH = window.matchMedia("(max-width: 620px)").matches ? 330 : 640;
const HEIGHT = 190;
const TOP = 44;
const BASE = 158;

function bars(scores, low, high) {
  const counts = new Array(BARS).fill(0);
  for (const score of scores) {
    const bar = Math.floor(((score - low) / (high - low)) * BARS);
    counts[Math.min(Math.max(bar, 0), BARS - 1)] += 1;
  }
  return counts;
}

function range(scores, marks) {
  const low = Math.min(...scores, ...marks);
  const high = Math.max(...scores, ...marks);
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}

/** A label that stays inside the drawing: at its place, or aligned to the nearer edge. */
function label(x, y, text, properties) {
  const anchor = x < 90 ? "start" : x > WIDTH - 90 ? "end" : "middle";
  return s("text", { x, y, "text-anchor": anchor, ...properties }, text);
}

/**
 * The histogram as SVG with a text alternative.
 *
 * @param scores Scores of the calibration images; without them only the axis and the marks are drawn.
 * @param threshold Threshold, a dashed line.
 * @param score Score of a picture, a triangle; null if none.
 * @param trial A threshold that is tried, a dotted line; null if none.
 */
export function histogram({ scores, threshold, score = null, trial = null }) {
  const marks = [threshold, score, trial].filter((value) => value !== null && value !== undefined);
  const [low, high] = range(scores, marks);
  const x = (value) => ((value - low) / (high - low)) * WIDTH;
  const counts = bars(scores, low, high);
  const largest = Math.max(...counts, 1);
  const wide = WIDTH / BARS;
  const caption = scores.length ? "scores of normal images" : "score; the model keeps none of normal images";
  const drawn = counts.map((found, index) => {
    const tall = (found / largest) * (BASE - TOP);
    return s("rect", { class: "bar", x: index * wide + 1, y: BASE - tall, width: wide - 2, height: tall });
  });
  const parts = [
    s("line", { class: "axis", x1: 0, x2: WIDTH, y1: BASE, y2: BASE }),
    s("text", { class: "small", x: 0, y: HEIGHT - 6, "text-anchor": "start" }, number(low)),
    s("text", { class: "small", x: WIDTH, y: HEIGHT - 6, "text-anchor": "end" }, number(high)),
    s("text", { class: "small", x: WIDTH / 2, y: HEIGHT - 6, "text-anchor": "middle" }, caption),
    s("line", { class: "threshold", x1: x(threshold), x2: x(threshold), y1: 20, y2: BASE }),
    label(x(threshold), 13, `threshold ${number(threshold)}`, { class: "strong" }),
  ];
  if (trial !== null) {
    parts.push(s("line", { class: "trial", x1: x(trial), x2: x(trial), y1: 40, y2: BASE }));
    parts.push(label(x(trial), 34, `tried ${number(trial)}`, { class: "accent" }));
  }
  if (score !== null) {
    const at = x(score);
    parts.push(s("line", { class: "score", x1: at, x2: at, y1: 42, y2: BASE }));
    parts.push(s("path", { class: "score", d: `M${at - 7} ${BASE + 12}h14l-7 -11z` }));
    parts.push(label(at, 34, `this picture ${number(score)}`, { class: "accent" }));
  }
  const svg = s("svg", { class: "histogram", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }, ...drawn, ...parts);
  svg.setAttribute("aria-label", alternative({ scores, threshold, score, trial }));
  return h("figure", { class: "plot" }, svg);
}

function alternative({ scores, threshold, score, trial }) {
  const above = scores.filter((value) => value > threshold).length;
  const parts = [
    scores.length
      ? `Scores of ${scores.length} calibration images from ${number(Math.min(...scores))} to ${number(Math.max(...scores))}.`
      : "The model folder holds no scores of its calibration.",
    `Threshold ${number(threshold)}${scores.length ? `, exceeded by ${above} of them` : ""}.`,
  ];
  if (trial !== null) parts.push(`Tried threshold ${number(trial)}.`);
  if (score !== null) parts.push(`This picture ${number(score)}.`);
  return parts.join(" ");
}
