// Recent inspections beside what was usual in the calibration, as SVG with a text alternative.

import { h, s } from "./dom.js";
import { count, number, percent, shortTime } from "./words.js";

const WIDTH = 330;
const HEIGHT = 120;
const TOP = 8;
const BASE = 100;
const NAMES = { score: "Score", brightness: "Brightness", sharpness: "Sharpness" };
const SIDES = { higher: "higher", lower: "lower" };

/** Least and largest value that are drawn: some defects score so high that the usual would be a line. */
function range(values, quantiles) {
  const [from, to] = [quantiles["0.01"], quantiles["0.99"]];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (from === undefined) return [low, high];
  const wide = to - from || Math.abs(to) || 1;
  return [Math.max(Math.min(low, from), from - wide), Math.min(Math.max(high, to), to + wide)];
}

function dots(name, recent, quantiles) {
  const values = recent.map((inspection) => inspection[name]).filter((value) => value !== null);
  if (values.length === 0) return null;
  const [low, high] = range(values, quantiles ?? {});
  // What lies beyond is drawn at the edge.
  const y = (value) => BASE - ((Math.min(Math.max(value, low), high) - low) / (high - low || 1)) * (BASE - TOP);
  const x = (index) => 4 + (index / Math.max(values.length - 1, 1)) * (WIDTH - 8);
  const band = (from, to, kind) =>
    quantiles?.[from] === undefined
      ? null
      : s("rect", { class: kind, x: 0, width: WIDTH, y: y(quantiles[to]), height: Math.max(y(quantiles[from]) - y(quantiles[to]), 1) });
  const svg = s(
    "svg",
    { class: "drift", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" },
    band("0.01", "0.99", "band"),
    band("0.25", "0.75", "band inner"),
    ...values.map((value, index) => s("circle", { class: "dot", cx: x(index).toFixed(1), cy: y(value).toFixed(1), r: 2 })),
    s("text", { class: "small", x: 0, y: HEIGHT - 4 }, "earlier"),
    s("text", { class: "small", x: WIDTH, y: HEIGHT - 4, "text-anchor": "end" }, "now"),
  );
  const of = quantiles?.["0.01"] !== undefined ? `Usual from ${number(quantiles["0.01"])} to ${number(quantiles["0.99"])}.` : "";
  const span = `from ${number(Math.min(...values))} to ${number(Math.max(...values))}, the last ${number(values.at(-1))}`;
  svg.setAttribute("aria-label", `${NAMES[name]} of the last ${count(values.length, "inspection")} ${span}. ${of}`);
  return h("figure", { class: "plot" }, svg);
}

function evidence(status) {
  if (!status.watched) return h("p", { class: "note" }, status.words);
  const [side, share] = Object.entries(status.evidence).sort(([, one], [, other]) => other - one)[0];
  const words = `evidence that it is ${SIDES[side]}: ${percent(share, 0)} of an alarm`;
  return h("p", { class: "note" }, h("meter", { min: 0, max: 1, value: share, "aria-label": words }), ` ${words}`);
}

/** One small chart for each watched value: the last inspections over the bands of the calibration. */
export function driftCharts(status, recent) {
  const parts = Object.entries(status.statistics).map(([name, one]) =>
    h("div", { class: "watched" }, h("h3", {}, NAMES[name] ?? name), dots(name, recent, one.quantiles), evidence(one)),
  );
  return h("div", { class: "charts" }, ...parts);
}

/** The alarms that people have looked into. */
export function pastAlarms(past) {
  if (past.length === 0) return null;
  const rows = past.map((alarm) => h("li", {}, alarm.words, " Looked into ", shortTime(alarm.acknowledged_at), "."));
  return h("details", {}, h("summary", {}, count(past.length, "earlier alarm")), h("ul", { class: "links" }, ...rows));
}
