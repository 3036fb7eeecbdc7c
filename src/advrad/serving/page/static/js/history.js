// History: one page of inspections as a gallery, kept up to date.

import { ask, imagePath, query, Refused } from "./api.js";
import { repeat, untilBack, untilSignedIn } from "./connection.js";
import { byId, h } from "./dom.js";
import { complain } from "./frame.js";
import { title } from "./layers.js";
import { count, number, reviewTag, shortTime, verdictTag } from "./words.js";

const PER_PAGE = 48;
const REFRESH_MS = 3000;
const FILTERS = ["product", "verdict", "review", "part_id", "station", "since", "until"];

const tiles = new Map();
const given = new URLSearchParams(location.search);

/** The filters as the interface wants them: times of this computer become times in UTC. */
function filters() {
  const values = Object.fromEntries(FILTERS.map((name) => [name, given.get(name) ?? ""]));
  for (const name of ["since", "until"]) {
    if (values[name]) values[name] = new Date(values[name]).toISOString();
  }
  return values;
}

function thumbnail(inspection) {
  const frame = h("span", { class: "thumb" });
  const image = h("img", { alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => frame.replaceChildren("no picture to show"));
  image.src = query(imagePath(inspection, "picture"), { side: 240 });
  frame.append(image);
  return frame;
}

function tile(inspection) {
  const known = JSON.stringify([inspection.id, inspection.review]);
  const before = tiles.get(inspection.id);
  if (before?.known === known) return before.node;
  const path = query(`/history/${encodeURIComponent(inspection.id)}`, { product: inspection.product });
  const node = h(
    "li",
    {},
    h(
      "a",
      { href: path },
      thumbnail(inspection),
      verdictTag(inspection),
      h("span", { class: "name" }, title(inspection)),
      h("span", { class: "note" }, `Score ${number(inspection.score)} · ${inspection.product}`),
      h("span", { class: "note" }, shortTime(inspection.at)),
      reviewTag(inspection.review),
    ),
  );
  tiles.set(inspection.id, { known, node });
  return node;
}

function draw(answer) {
  const gallery = byId("gallery");
  const nodes = answer.inspections.map(tile);
  const same = nodes.length === gallery.children.length && nodes.every((node, index) => node === gallery.children[index]);
  if (!same) gallery.replaceChildren(...nodes);
  const older = byId("older");
  older.hidden = !answer.next;
  if (answer.next) older.href = query("/history", { ...Object.fromEntries(given), after: answer.next });
  byId("newest").hidden = !given.get("after");
  byId("newest").href = query("/history", { ...Object.fromEntries(given), after: "" });
  const filtered = FILTERS.some((name) => given.get(name));
  const none = filtered ? "Nothing fits these filters." : "Nothing has been inspected yet.";
  byId("summary").textContent = nodes.length ? `${count(nodes.length, "inspection")} on this page, newest first` : none;
}

async function refresh() {
  try {
    draw(await ask(query("/v1/inspections", { ...filters(), limit: PER_PAGE, after: given.get("after") })));
  } catch (error) {
    if (error instanceof TypeError) await untilBack();
    else if (error instanceof Refused && error.status === 401) await untilSignedIn();
    else complain(error);
  }
}

byId("csv").href = query("/v1/inspections.csv", filters());
// The form sends every field; empty ones would only make the address long.
byId("filters").addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
});
repeat(refresh, REFRESH_MS);
