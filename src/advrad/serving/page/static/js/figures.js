// Figures of the evaluation that is saved in the model, and where the model comes from.

import { h } from "./dom.js";
import { count, number, percent, time } from "./words.js";

/** A large value with its name below. */
export function figure(value, name) {
  return h("div", { class: "figure" }, h("span", { class: "value" }, value), h("span", { class: "name" }, name));
}

/** The figures of an evaluation; a sentence where none is saved. */
export function evaluationParts(evaluation) {
  if (!evaluation) return [h("p", {}, "No evaluation is saved in this model. Run advrad evaluate on test pictures.")];
  const { image_auroc: auroc, image_auroc_ci: ci, aupro, tpr, fpr, n_good: good, n_defect: defective } = evaluation;
  const of = ci ? `, 95 % interval ${number(ci[0])} to ${number(ci[1])}` : "";
  const parts = [
    tpr != null && figure(percent(tpr), `of ${count(defective, "defective picture")} found`),
    fpr != null && figure(percent(fpr), `of ${count(good, "normal picture")} called defective`),
    auroc != null && figure(number(auroc), `AUROC of pictures${of}`),
    aupro != null && figure(number(aupro), "AUPRO: how well the map finds the place"),
  ];
  const kinds = Object.entries(evaluation.per_defect ?? {});
  return [h("div", { class: "figures" }, ...parts), kinds.length ? kindsTable(kinds) : null];
}

function kindsTable(kinds) {
  const rows = kinds.map(([name, { n, auroc, tpr }]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name.replaceAll("_", " ")),
      h("td", {}, String(n)),
      h("td", {}, percent(tpr)),
      h("td", {}, number(auroc)),
    ),
  );
  const heads = ["Defect", "Pictures", "Found", "AUROC"].map((text) => h("th", { scope: "col" }, text));
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures by kind of defect" },
    h("table", {}, h("caption", {}, "By kind of defect"), h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...rows)),
  );
}

function share(found) {
  if (!found) return "not known";
  const { count: some, n, expected, low, high } = found;
  return h(
    "span",
    {},
    h("strong", {}, percent(expected)),
    ` (${some} of ${n})`,
    h("br"),
    h("span", { class: "note" }, `between ${percent(low)} and ${percent(high)}`),
  );
}

/** What a threshold would do: false alarms and misses, by each kind of picture that is known. */
export function whatIfParts(answer) {
  const { false_alarms: calibration, drawn, reviewed, notes } = answer;
  const found = [
    ["Pictures of the calibration", { false_alarms: calibration, misses: null }],
    ["Reviewed, drawn at random", drawn],
    ["Reviewed, all", reviewed],
  ].filter(([, shares], index) => index === 0 || shares.false_alarms || shares.misses);
  const rows = found.map(([name, shares], index) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", {}, share(shares.false_alarms)),
      h("td", {}, index === 0 ? "–" : share(shares.misses)),
    ),
  );
  const heads = ["By", "False alarms", "Missed defects"].map((text) => h("th", { scope: "col" }, text));
  const confidence = (calibration ?? drawn.false_alarms ?? reviewed.false_alarms)?.confidence ?? 0.95;
  const table = h("table", {}, h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...rows));
  const explained = `Each interval holds the true share with ${percent(confidence)} confidence.`;
  return [table, h("details", {}, h("summary", {}, explained), ...notes.map((note) => h("p", { class: "note" }, note)))];
}

function words(value) {
  if (value === true) return "yes";
  if (value === false) return "no";
  if (Array.isArray(value)) return value.map(words).join("; ");
  if (value === null || typeof value !== "object") return String(value);
  return Object.entries(value)
    .filter(([, inner]) => inner !== null)
    .map(([name, inner]) => `${name.replaceAll("_", " ")} ${words(inner)}`)
    .join(", ");
}

const ELSEWHERE = ["model", "calibration"];

/** Rows of a list of facts: where the model comes from. */
export function modelRows(product) {
  const rows = [["Identity", h("code", {}, product.model)]];
  for (const [name, value] of Object.entries(product.provenance ?? {})) {
    if (value === null || value === "" || ELSEWHERE.includes(name)) continue;
    const label = name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
    rows.push([label, name.endsWith("_at") ? time(value) : name === "kind" ? value.replaceAll("_", " ") : words(value)]);
  }
  return rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
}
