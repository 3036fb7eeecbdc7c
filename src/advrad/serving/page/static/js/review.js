// Review by keyboard: one key says what a picture is, and the next one is there at once.

import { ask, query, Refused } from "./api.js";
import { card } from "./card.js";
import { repeat, untilBack, untilSignedIn } from "./connection.js";
import { byId, facts, h, remember, remembered } from "./dom.js";
import { complain } from "./frame.js";
import { useKeys } from "./keys.js";
import { preload, title } from "./layers.js";
import { changes, putReview, settled, takeBack } from "./reviewing.js";
import { count, REVIEWS } from "./words.js";

const AHEAD = 12;
const REFRESH_MS = 2500;

const order = byId("order");
let queue = [];
let current = null;
let remaining = 0;
const done = [];
const finished = new Set();

function say(text) {
  byId("says").textContent = text;
}

function drawProgress() {
  byId("summary").textContent = `${count(done.length, "picture")} reviewed here, ${remaining} to go`;
  const progress = byId("progress");
  progress.max = Math.max(done.length + remaining, 1);
  progress.value = done.length;
  byId("undo").disabled = done.length === 0;
}

function drawCurrent() {
  byId("judge").hidden = current === null;
  byId("current").replaceChildren(
    current ? card(current) : h("p", { class: "empty" }, "Nothing waits for a review. New pictures appear here by themselves."),
  );
}

/** Show an inspection, or the next of the queue. */
function turnTo(inspection) {
  current = inspection ?? queue.shift() ?? null;
  byId("note").value = current?.review?.note ?? "";
  drawCurrent();
  // The picture after this one is fetched now, so that it is there when its turn comes.
  if (queue[0]) preload(queue[0]);
}

async function judge(label) {
  if (current === null) return;
  const inspection = current;
  const note = byId("note").value.trim();
  const entry = { inspection };
  done.push(entry);
  finished.add(inspection.id);
  remaining = Math.max(remaining - 1, 0);
  say(`${title(inspection)}: ${REVIEWS[label]}.`);
  turnTo();
  drawProgress();
  try {
    entry.stored = await putReview(inspection, label, note, order.value === "random" ? "random" : "picked");
  } catch (error) {
    done.splice(done.indexOf(entry), 1);
    drawProgress();
    if (error instanceof Refused && error.code === "review_changed") {
      say(`${title(inspection)}: not stored, because somebody else reviewed it meanwhile. ${error.fix}`);
    } else {
      finished.delete(inspection.id);
      complain(error);
    }
  }
  if (queue.length < AHEAD / 2) await refresh();
}

async function undo() {
  const entry = done.pop();
  if (entry === undefined) return;
  const { inspection } = entry;
  if (current !== null) queue.unshift(current);
  remaining += 1;
  say(`${title(inspection)}: review taken back.`);
  turnTo({ ...inspection, review: null });
  drawProgress();
  try {
    const taken = await takeBack(inspection.id, () => entry.stored?.review.at);
    finished.delete(inspection.id);
    if (!taken) say(`${title(inspection)}: not taken back, because somebody else reviewed it meanwhile.`);
  } catch (error) {
    complain(error);
  }
}

async function load() {
  await settled();
  const before = changes();
  const path = `/v1/products/${encodeURIComponent(facts.product)}/review-queue`;
  const answer = await ask(query(path, { limit: AHEAD, order: order.value }));
  const waiting = answer.inspections.filter((found) => !finished.has(found.id) && !found.review);
  remaining = Math.max(answer.remaining, waiting.length);
  if (current !== null) await lookAtCurrent(before);
  queue = waiting.filter((found) => found.id !== current?.id);
  if (current === null && queue.length > 0) turnTo();
  if (current === null) drawCurrent();
  drawProgress();
}

/** Leave a picture that was reviewed or deleted elsewhere, and say so. */
async function lookAtCurrent(before) {
  const shown = current;
  const now = await ask(`/v1/inspections/${encodeURIComponent(shown.id)}`).catch((error) => {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  });
  // What this page itself does meanwhile is nobody else's review.
  if (current !== shown || changes() !== before || (now !== null && !now.review)) return;
  finished.add(shown.id);
  say(
    now === null
      ? `${title(shown)} was deleted elsewhere. Here is the next picture.`
      : `${title(shown)} was reviewed elsewhere as ${REVIEWS[now.review.label].toLowerCase()}, by ${now.review.by}. Here is the next picture.`,
  );
  current = null;
}

let loading = null;

/** Fetch the queue; calls at the same time share one answer. */
function refresh() {
  loading ??= (async () => {
    try {
      await load();
    } catch (error) {
      if (error instanceof TypeError) await untilBack();
      else if (error instanceof Refused && error.status === 401) await untilSignedIn();
      else complain(error);
    } finally {
      loading = null;
    }
  })();
  return loading;
}

function connect() {
  for (const button of document.querySelectorAll("[data-label]")) {
    button.addEventListener("click", () => judge(button.dataset.label));
  }
  byId("undo").addEventListener("click", undo);
  const keys = byId("keys");
  keys.checked = remembered("keys", "true") === "true";
  keys.addEventListener("change", () => remember("keys", String(keys.checked)));
  const note = byId("note");
  note.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") note.blur();
  });
  const toNote = () => note.focus();
  useKeys(
    { g: () => judge("good"), d: () => judge("defective"), u: () => judge("unsure"), z: undo, n: toNote },
    () => keys.checked,
  );
  order.value = remembered("order", "closest");
  order.addEventListener("change", () => {
    remember("order", order.value);
    queue = [];
    current = null;
    refresh();
  });
}

connect();
repeat(refresh, REFRESH_MS);
