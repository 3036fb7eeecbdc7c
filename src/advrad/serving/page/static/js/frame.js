// What every page has: the choice of the product, and errors that nobody caught, said aloud.

import { byId } from "./dom.js";
import { Refused } from "./api.js";

const choice = document.getElementById("product-choice");
choice?.addEventListener("change", () => choice.form.requestSubmit());

/** Say what was refused or went wrong, at the top of the page. */
export function complain(error) {
  const place = byId("trouble");
  place.hidden = false;
  byId("trouble-text").textContent = error instanceof Refused ? error.text : `The page met an error: ${error.message ?? error}`;
}

byId("trouble-close").addEventListener("click", () => {
  byId("trouble").hidden = true;
});
window.addEventListener("error", (event) => complain(event.error ?? event));
window.addEventListener("unhandledrejection", (event) => complain(event.reason));
