// Inspect: pictures go to the service one by one, each with its place in the list, and the newest answer is shown.

import { insist, Refused, sendPicture } from "./api.js";
import { useCamera } from "./camera.js";
import { card } from "./card.js";
import { byId, facts, h, remember, remembered } from "./dom.js";
import { droppedFiles, seen } from "./files.js";
import { count, kindOf, shape, verdictWord } from "./words.js";

// Proofs take longer, and each request has a deadline.
const AT_ONCE = 4;
const PROOFS_AT_ONCE = 2;
const FOLLOW_MS = 1200;
const MOST_ROWS = 1000;

const items = [];
let running = 0;
let chosen = null;
let followed = 0;

const STATES = {
  waiting: "waiting",
  sending: "being inspected",
  busy: "waiting: the service is busy",
  gone: "waiting: the service does not answer",
  "signed out": "waiting: sign in again",
};

function drawRow(item) {
  const { state, inspection } = item;
  let says = STATES[state];
  let sign = h("span", { class: "pending", "aria-hidden": "true" });
  if (state === "done") {
    says = verdictWord(inspection);
    sign = shape(kindOf(inspection));
  } else if (state === "failed") {
    says = item.reason;
    sign = h("span", { class: "failed", "aria-hidden": "true" }, "!");
  }
  const name = h("span", { class: "name" }, item.file.name);
  const words = h("span", { class: "says" }, says);
  item.row.className = state === "done" ? `row ${kindOf(inspection)}` : `row ${state}`;
  const inner =
    state === "done"
      ? h("button", { type: "button", onclick: () => choose(item), "aria-pressed": String(item === chosen) }, sign, name, words)
      : h("div", { class: "still" }, sign, name, words);
  const focused = item.row.contains(document.activeElement);
  item.row.replaceChildren(inner);
  if (focused) inner.focus();
}

function choose(item) {
  const before = chosen;
  chosen = item;
  if (before) drawRow(before);
  drawRow(item);
  byId("result").replaceChildren(card(item.inspection, item.unproven ?? null));
}

function say(item) {
  byId("latest").textContent = `${item.file.name}: ${item.state === "done" ? verdictWord(item.inspection) : item.reason}`;
}

function drawSummary() {
  const done = items.filter((item) => item.state === "done");
  const failed = items.filter((item) => item.state === "failed");
  const open = items.length - done.length - failed.length;
  const defective = done.filter((item) => item.inspection.defective).length;
  const parts = [`${count(done.length, "picture")} inspected`, `${defective} defective`];
  if (failed.length) parts.push(`${failed.length} failed`);
  if (open) parts.push(`${open} to come`);
  byId("summary").textContent = items.length ? parts.join(", ") : "";
  const progress = byId("progress");
  progress.max = Math.max(items.length, 1);
  progress.value = done.length + failed.length;
  progress.hidden = items.length < 2;
  byId("list-part").hidden = items.length === 0;
  byId("retry").hidden = failed.length === 0;
}

async function work(item) {
  item.state = "sending";
  drawRow(item);
  try {
    const answer = await sendPicture(item.product, item.file, item.fields, (why) => {
      item.state = why;
      drawRow(item);
    });
    const [found] = answer.inspections;
    if (found.error) throw new Refused(422, found.error);
    item.inspection = found;
    item.state = "done";
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (item.fields.certify && (error.code === "certificate_unavailable" || error.status === 504)) {
      // The verdict does not need the proof, which some models cannot give, or not in time.
      item.unproven = `No proof: ${error.text}.`;
      item.fields = { ...item.fields, certify: "" };
      await work(item);
      return;
    }
    item.state = "failed";
    item.reason = error.text;
  }
}

async function next() {
  const item = items.find((other) => other.state === "waiting");
  if (item === undefined || running >= (item.fields.certify ? PROOFS_AT_ONCE : AT_ONCE)) return;
  running += 1;
  try {
    await work(item);
  } finally {
    running -= 1;
  }
  drawRow(item);
  drawSummary();
  say(item);
  follow(item);
  next();
}

/** Show an answer as it comes, but no more often than a person can look. */
function follow(item) {
  const last = !items.some((other) => other.state in STATES);
  if (item.state !== "done" || (!last && performance.now() - followed < FOLLOW_MS)) return;
  followed = performance.now();
  choose(item);
}

function add(files) {
  const fields = { part_id: byId("part").value.trim(), station: byId("station").value.trim() };
  if (byId("certify").checked) fields.certify = "true";
  for (const file of files) {
    const item = { file, fields, product: facts.product, state: "waiting", row: h("li", { class: "row" }) };
    items.push(item);
    byId("list").prepend(item.row);
    drawRow(item);
  }
  while (byId("list").children.length > MOST_ROWS) byId("list").lastElementChild.remove();
  // A part has one identity: the next picture is of another one.
  if (files.length > 0) byId("part").value = "";
  else byId("latest").textContent = "There is no file in what was chosen.";
  drawSummary();
  for (let started = running; started < AT_ONCE; started += 1) next();
}

function retry() {
  for (const item of items) {
    if (item.state !== "failed") continue;
    item.state = "waiting";
    drawRow(item);
  }
  drawSummary();
  for (let started = running; started < AT_ONCE; started += 1) next();
}

function connectDrop(zone) {
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) zone.classList.remove("over");
  });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    add(await droppedFiles(event.dataTransfer));
  });
}

function connect() {
  for (const id of ["station", "certify"]) {
    const field = byId(id);
    if (id === "station") field.value = remembered(id, "");
    else field.checked = remembered(id, "true") === "true";
    field.addEventListener("change", () => remember(id, id === "station" ? field.value : String(field.checked)));
  }
  for (const id of ["files", "folder"]) {
    const input = byId(id);
    const take = () => {
      add(seen(input.files));
      input.value = "";
    };
    input.addEventListener("change", take);
    // Files may have been chosen while this script was still on its way.
    if (input.files.length > 0) take();
    byId(`${id}-button`).addEventListener("click", () => input.click());
  }
  byId("retry").addEventListener("click", retry);
  connectDrop(byId("drop"));
  useCamera(add);
  window.addEventListener("beforeunload", (event) => {
    if (items.some((item) => item.state in STATES)) event.preventDefault();
  });
}

/** Where the detector proves nothing, such as an export, no proof is offered. */
async function offerProofs() {
  const product = await insist(`/v1/products/${encodeURIComponent(facts.product)}`);
  if (product.provenance.certifies) return;
  byId("certify").checked = false;
  byId("certify").disabled = true;
  byId("certify-label").textContent = "This detector proves nothing";
}

connect();
offerProofs();
