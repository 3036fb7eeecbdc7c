// A question that needs a yes before something is done that others will notice.

import { byId } from "./dom.js";

/** Ask; true only if the person pressed the button that says so. Escape and Cancel are a no. */
export function confirmed(heading, text, yes) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = heading;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
