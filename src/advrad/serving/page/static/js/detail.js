// One inspection: what the service said, what is stored, and what a person says.

import { ask, insist, Refused } from "./api.js";
import { card } from "./card.js";
import { confirmed } from "./confirm.js";
import { repeat, untilBack, untilSignedIn } from "./connection.js";
import { byId, facts, h, show } from "./dom.js";
import { complain } from "./frame.js";
import { useKeys } from "./keys.js";
import { title } from "./layers.js";
import { putReview, takeBack } from "./reviewing.js";
import { number, REVIEWS, reviewTag, time } from "./words.js";

const REFRESH_MS = 3000;
const place = byId("detail");
const path = `/v1/inspections/${encodeURIComponent(place.dataset.id)}`;
let current = null;

function say(text) {
  byId("says").textContent = text;
}

function stored(inspection) {
  const rows = [
    ["Identity", inspection.id],
    ["Product", inspection.product],
    ["Time", time(inspection.at)],
    ["File", inspection.file_name || "–"],
    ["Part", inspection.part_id ?? "–"],
    ["Station", inspection.station ?? "–"],
    ["Size", `${inspection.width_px} × ${inspection.height_px} pixels`],
    ["Verdict", inspection.verdict],
    ["Score", number(inspection.score)],
    ["Threshold", `${number(inspection.threshold)}, ${versionWords(inspection.calibration)}`],
    ["Model", h("code", {}, inspection.model)],
    ["Brightness", number(inspection.brightness)],
    ["Sharpness", number(inspection.sharpness)],
    ["SHA-256 of the picture", h("code", {}, inspection.picture)],
  ];
  return rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
}

function versionWords(version) {
  return version === 0 ? "that of the model folder" : `version ${version}`;
}

function drawReview(inspection) {
  if (!facts.may.review) return;
  const { review } = inspection;
  byId("undo").disabled = !review;
  show(
    byId("judged"),
    ...(review
      ? [reviewTag(review), ` by ${review.by}, `, time(review.at), review.note ? `: ${review.note}` : ""]
      : ["Nobody has reviewed it."]),
  );
}

function draw(inspection) {
  const changed = JSON.stringify(inspection) !== JSON.stringify(current);
  current = inspection;
  if (!changed) return;
  byId("detail-title").textContent = title(inspection);
  document.title = `${title(inspection)} · advrad`;
  const shown = place.dataset.drawn;
  // A review changes no image: the slider stays where the person left it.
  if (!shown) place.replaceChildren(card({ ...inspection, review: null }));
  place.dataset.drawn = "true";
  byId("stored").replaceChildren(...stored(inspection));
  byId("raw").textContent = JSON.stringify(inspection, null, 2);
  drawReview(inspection);
}

async function refresh() {
  try {
    draw(await ask(path));
  } catch (error) {
    if (error instanceof TypeError) await untilBack();
    else if (error instanceof Refused && error.status === 401) await untilSignedIn();
    else if (error instanceof Refused && error.status === 404) say("This inspection is not in the history, or was deleted.");
    else complain(error);
  }
}

async function judge(label) {
  if (current === null) return;
  try {
    await putReview(current, label, byId("note").value.trim(), "picked");
    byId("note").value = "";
    say(`Stored: ${REVIEWS[label]}.`);
  } catch (error) {
    if (!(error instanceof Refused) || error.code !== "review_changed") throw error;
    say("Not stored: somebody else reviewed it meanwhile. Their review is shown now; press again to replace it.");
  }
  await refresh();
}

async function undo() {
  if (!current?.review) return;
  const { at } = current.review;
  const taken = await takeBack(current.id, () => at);
  say(taken ? "Review taken back." : "Not taken back: somebody else reviewed it meanwhile.");
  await refresh();
}

async function remove() {
  const name = title(current);
  if (!(await confirmed("Delete this inspection?", `${name}\nThis cannot be undone.`, "Delete"))) return;
  await insist(path, { method: "DELETE" });
  location.assign("/history");
}

for (const button of document.querySelectorAll("[data-label]")) {
  button.addEventListener("click", () => judge(button.dataset.label));
}
if (facts.may.review) {
  byId("undo").addEventListener("click", undo);
  useKeys({ g: () => judge("good"), d: () => judge("defective"), u: () => judge("unsure"), z: undo });
}
if (facts.may.admin) byId("delete").addEventListener("click", remove);
repeat(refresh, REFRESH_MS);
