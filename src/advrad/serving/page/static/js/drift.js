// The evidence for a change over the last inspections, as SVG with a text alternative.

import { h, s } from "./dom.js";
import { number } from "./words.js";

const WIDTH = window.matchMedia("(max-width: 620px)").matches ? 330 : 640;
const HEIGHT = 170;
const TOP = 14;
const BASE = 138;
const LEFT = 4;

const NAMES = { score: "score", brightness: "brightness", sharpness: "sharpness" };

function log(evidence) {
  return Math.log10(Math.max(evidence, 1e-3));
}

/** One curve for each watched value; a name at its end, and dashes of its own, so that colour is not needed. */
export function driftChart({ watched, limit }) {
  const curves = Object.entries(watched).filter(([, value]) => value.history.length > 1);
  if (curves.length === 0) return null;
  const all = curves.flatMap(([, value]) => value.history.map(([at]) => at));
  const [first, last] = [Math.min(...all), Math.max(...all)];
  const heights = curves.flatMap(([, value]) => value.history.map(([, evidence]) => log(evidence)));
  const high = Math.max(log(limit) * 1.15, ...heights);
  const low = Math.min(-1, ...heights);
  const x = (at) => LEFT + ((at - first) / (last - first || 1)) * (WIDTH - LEFT - 90);
  const y = (evidence) => BASE - ((log(evidence) - low) / (high - low)) * (BASE - TOP);
  const ends = [];
  const drawn = curves.map(([name, value], index) => {
    const path = value.history.map(([at, evidence], at_) => `${at_ ? "L" : "M"}${x(at).toFixed(1)} ${y(evidence).toFixed(1)}`);
    // Names do not lie on each other: each keeps a line's distance from those before it.
    let level = y(value.history.at(-1)[1]) + 4;
    while (ends.some((other) => Math.abs(other - level) < 15)) level -= 15;
    ends.push(level);
    return s(
      "g",
      { class: `curve-${index}` },
      s("path", { class: "curve", d: path.join("") }),
      s("text", { x: WIDTH - 84, y: level }, NAMES[name] ?? name),
    );
  });
  const svg = s(
    "svg",
    { class: "drift", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" },
    s("line", { class: "axis", x1: 0, x2: WIDTH, y1: BASE, y2: BASE }),
    s("line", { class: "threshold", x1: 0, x2: WIDTH - 90, y1: y(limit), y2: y(limit) }),
    s("text", { class: "strong", x: 2, y: y(limit) - 5 }, "alarm above this line"),
    ...drawn,
    s("text", { class: "small", x: 0, y: HEIGHT - 12 }, `inspection ${number(first)}`),
    s("text", { class: "small", x: WIDTH - 90, y: HEIGHT - 12, "text-anchor": "end" }, `${number(last)}`),
  );
  const words = curves.map(([name, value]) => `${NAMES[name] ?? name} ${number(value.history.at(-1)[1])}`);
  svg.setAttribute("aria-label", `Evidence for a change, alarm at ${number(limit)}. Now: ${words.join(", ")}.`);
  return h("figure", { class: "plot" }, svg);
}
