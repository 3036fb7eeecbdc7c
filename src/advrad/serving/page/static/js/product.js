// Product: has something changed, what if the threshold were another, which version decides, how well was it tested.

import { ask, insist, query, Refused } from "./api.js";
import { confirmed } from "./confirm.js";
import { repeat, untilBack, untilSignedIn } from "./connection.js";
import { byId, facts, h, show } from "./dom.js";
import { driftCharts, pastAlarms } from "./drift.js";
import { evaluationParts, modelRows, whatIfParts } from "./figures.js";
import { complain } from "./frame.js";
import { histogram } from "./histogram.js";
import { drawTake } from "./take.js";
import { count, number, percent, time } from "./words.js";

const REFRESH_MS = 3000;
const WAIT_MS = 200;
const RECENT = 200;
const base = `/v1/products/${encodeURIComponent(facts.product)}`;

let product = null;
let trial = null;
let asked = null;

function say(text) {
  byId("says").textContent = text;
}

function activeVersion() {
  return product.thresholds.find((version) => version.active) ?? null;
}

function drawPlot() {
  const scores = product.calibration.scores ?? [];
  // A plot of nothing says nothing: guarded detectors keep no scores.
  const plot = scores.length || !product.guarded ? histogram({ scores, threshold: product.threshold, trial }) : null;
  show(byId("plot"), plot);
}

function words(version) {
  return version.version === 0 ? "0, of the model folder" : String(version.version);
}

function versionRow(version) {
  const act = h("button", { type: "button", class: "small", onclick: () => activate(version) }, "Activate");
  const state = version.active ? h("strong", {}, "✓ decides now") : facts.may.admin ? act : "stored";
  const made = version.version === 0 ? "with the model" : h("span", {}, time(version.made_at), ` by ${version.made_by}`);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, words(version)),
    h("td", {}, number(version.threshold)),
    h("td", {}, version.source.promise === false ? "not promised" : percent(version.false_alarm_rate)),
    h("td", {}, count(version.n, "picture")),
    h("td", {}, made),
    h("td", {}, state),
  );
}

async function activate(version) {
  const before = activeVersion();
  const text =
    `Now decides: version ${words(before)}, threshold ${number(before.threshold)}.\n` +
    `Then decides: version ${words(version)}, threshold ${number(version.threshold)}.\n` +
    "It holds for every picture from then on. The old version stays and can be activated again.";
  if (!(await confirmed(`Activate version ${version.version}?`, text, `Activate version ${version.version}`))) return;
  try {
    await insist(`${base}/calibrations/${version.version}/activate`, { method: "POST" });
    say(`Version ${version.version} decides now, in place of version ${before.version}.`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.text);
  }
  await refresh();
}

async function make(event) {
  event.preventDefault();
  try {
    const body = { false_alarm_rate: Number(byId("rate").value) / 100, images: byId("images").value };
    const made = await insist(`${base}/calibrations`, { method: "POST", body });
    say(
      `Version ${made.version} is made: threshold ${number(made.threshold)} from ${count(made.n, "picture")}. ` +
        `${made.source.words} It decides nothing until it is activated.`,
    );
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.text);
  }
  await refresh();
}

async function askWhatIf(threshold) {
  const place = byId("what-if");
  try {
    const answer = await ask(query(`${base}/what-if`, { threshold }));
    if (trial === null || threshold === trial) place.replaceChildren(...whatIfParts(answer));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    place.replaceChildren(h("p", {}, error.text));
  }
}

function tryOut() {
  trial = Number(byId("threshold").value);
  byId("tried").textContent = number(trial);
  drawPlot();
  clearTimeout(asked);
  asked = setTimeout(askWhatIf, WAIT_MS, trial);
}

/** The slider spans the scores of the calibration and what lies a little beyond, on both sides of the threshold. */
function prepareTrial() {
  const scores = product.calibration.scores ?? [];
  const known = [...scores, ...product.thresholds.map((version) => version.threshold)];
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const margin = (high - low || Math.abs(high) || 1) * 0.3;
  const slider = byId("threshold");
  slider.min = low;
  slider.max = high + margin;
  slider.value = product.threshold;
  slider.addEventListener("input", tryOut);
  byId("trial").hidden = product.guarded;
  byId("guarded").hidden = !product.guarded;
  const making = document.getElementById("new-threshold");
  if (making) making.hidden = product.guarded;
  byId("tried").textContent = number(product.threshold);
  if (!product.guarded) askWhatIf(product.threshold);
  const rate = document.getElementById("rate");
  if (rate) rate.value = Number((100 * product.calibration.false_alarm_rate).toPrecision(3));
  document.getElementById("make")?.addEventListener("submit", make);
}

function draw(found) {
  const first = product === null;
  byId("problem").hidden = !found.problem;
  byId("problem").textContent = `The folder of the model was replaced, and what it holds now cannot be used, so the model before it inspects on. ${found.problem}`;
  if (!first && found.model !== product.model) say("The model was replaced; everything below is that of the new one.");
  product = found;
  drawPlot();
  show(byId("figures"), ...evaluationParts(product.evaluation));
  show(byId("model"), ...modelRows(product));
  drawTake(product);
  const rows = product.thresholds.map(versionRow);
  const known = JSON.stringify(product.thresholds);
  const place = byId("versions");
  if (place.dataset.known !== known) place.replaceChildren(...rows);
  place.dataset.known = known;
  if (first) prepareTrial();
}

function driftButton(text, path) {
  const press = () => insist(`${base}/drift/${path}`, { method: "POST" }).then(refresh);
  return h("button", { type: "button", onclick: press }, text);
}

function drawDrift(status, recent) {
  const place = byId("drift");
  const known = JSON.stringify([status, recent.at(-1)?.id]);
  if (place.dataset.known === known) return;
  place.dataset.known = known;
  const learns = Object.values(status.statistics).some((one) => one.reference === "none" && one.learning === 0);
  const buttons = facts.may.review
    ? [
        status.alarm && driftButton("I have looked into it", "acknowledge"),
        learns && driftButton("Learn what is normal from the next good pictures", "reference"),
      ]
    : [];
  const alarms = status.alarms.map((alarm) => h("p", { class: "warning" }, alarm.words));
  place.replaceChildren(
    ...(alarms.length ? alarms : [h("p", {}, status.words)]),
    driftCharts(status, recent),
    h(
      "p",
      { class: "note" },
      "Each dot is an inspection. The bands hold 98 and 50 of 100 calibration pictures. An alarm is false with a " +
        `probability of at most ${percent(status.false_alarm_rate)}, however long the service runs.`,
    ),
    h("div", { class: "buttons" }, ...buttons.filter(Boolean)),
    pastAlarms(status.past) ?? "",
  );
}

async function refresh() {
  try {
    draw(await ask(base));
    const found = await ask(query("/v1/inspections", { product: facts.product, limit: RECENT }));
    const recent = found.inspections.filter((inspection) => inspection.model === product.model).reverse();
    drawDrift(await ask(`${base}/drift`), recent);
  } catch (error) {
    if (error instanceof TypeError) await untilBack();
    else if (error instanceof Refused && error.status === 401) await untilSignedIn();
    else complain(error);
  }
}

repeat(refresh, REFRESH_MS);
