// Sending reviews: one after the other, so that an undo never overtakes what it undoes.

import { ask, insist, patiently } from "./api.js";

let chain = Promise.resolve();
let open = 0;
let begun = 0;

/** Number of changes that this page has begun. */
export function changes() {
  return begun;
}

/** Wait until what this page has begun is stored: what is read before that does not hold it. */
export function settled() {
  return chain;
}

function inOrder(work) {
  open += 1;
  begun += 1;
  const done = chain.then(work).finally(() => {
    open -= 1;
  });
  chain = done.catch(() => {});
  return done;
}

function path(id) {
  return `/v1/inspections/${encodeURIComponent(id)}/review`;
}

/** Time of the review that this page has seen; the service refuses where somebody else reviewed in between. */
function seen(inspection) {
  return inspection.review?.at ?? null;
}

/** Store a review; returns the inspection with it. */
export function putReview(inspection, label, note, chosen) {
  return inOrder(() => insist(path(inspection.id), { method: "PUT", body: { label, note, chosen, seen: seen(inspection) } }));
}

/**
 * Take a review back, and no other one: not that of somebody else, and none twice where the answer was lost.
 *
 * @param id Identity of the inspection.
 * @param at Gives the time of the review, once it is known.
 * @returns Whether it was taken back; it was not where another review stands now.
 */
export function takeBack(id, at) {
  let sent = false;
  return inOrder(() =>
    patiently(async () => {
      const { review } = await ask(`/v1/inspections/${encodeURIComponent(id)}`);
      if (review?.at !== at()) return sent || !review;
      sent = true;
      await ask(path(id), { method: "DELETE" });
      return true;
    }),
  );
}

// Whoever leaves while a review is on its way is asked first.
window.addEventListener("beforeunload", (event) => {
  if (open > 0) event.preventDefault();
});
