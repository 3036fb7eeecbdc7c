// Sending reviews: one after the other, so that an undo never overtakes what it undoes.

import { insist } from "./api.js";

let chain = Promise.resolve();
let open = 0;

function inOrder(work) {
  open += 1;
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

/** Take the review of an inspection back. */
export function takeBack(id) {
  return inOrder(() => insist(path(id), { method: "DELETE" }));
}

// Whoever leaves while a review is on its way is asked first.
window.addEventListener("beforeunload", (event) => {
  if (open > 0) event.preventDefault();
});
