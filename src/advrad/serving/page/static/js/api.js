// Requests to the service's HTTP interface. The page has no other way in: what it may do, any client with its key may.

import { pause, untilBack, untilSignedIn } from "./connection.js";

const BUSY_MS = 1000;
const MOST_LATE = 3;

/** An answer that says no: what is wrong, and the fix. */
export class Refused extends Error {
  constructor(status, error) {
    super(error.message ?? `the service answered ${status}`);
    this.status = status;
    this.code = error.code ?? "";
    this.fix = error.fix ?? "";
  }

  /** What is wrong and the fix, in one line. */
  get text() {
    return this.fix ? `${this.message}; ${this.fix}` : this.message;
  }
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  return new Refused(response.status, body.error ?? {});
}

async function answered(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function once(path, options) {
  const response = await answered(path, options);
  return response.status === 204 ? null : response.json();
}

/** Ask for a file once. */
export async function askFile(path) {
  return (await answered(path, {})).blob();
}

/** Ask for JSON once; a service that does not answer is a TypeError, as `fetch` says it. */
export function ask(path, { method = "GET", body = undefined } = {}) {
  if (body === undefined) return once(path, { method });
  return once(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

/** Ask until the service answers: a lost connection shows the banner and is tried again, so nothing is lost. */
export async function insist(path, options = {}) {
  return patiently(() => ask(path, options));
}

/** Send one picture; a busy service (503) and a lost connection are tried again. `waits` is told why. */
export async function sendPicture(product, file, fields, waits = () => {}) {
  return patiently(() => {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) if (value !== "") form.append(name, value);
    form.append("files", file, file.name);
    return once(`/v1/products/${encodeURIComponent(product)}/inspections`, { method: "POST", body: form });
  }, waits, fields.certify ? 1 : MOST_LATE);
}

/** Do something again until the service takes it: where it is busy, does not answer, or wants a new session. */
export async function patiently(work, waits = () => {}, mostLate = MOST_LATE) {
  for (let late = 0; ; ) {
    try {
      return await work();
    } catch (error) {
      // 503: too many wait. 504: it was not done in time and nothing was stored, which may be the picture's own fault.
      if (error instanceof Refused && (error.status === 503 || (error.status === 504 && ++late < mostLate))) {
        waits("busy");
        await pause(BUSY_MS);
      } else if (error instanceof TypeError) {
        waits("gone");
        await untilBack();
      } else if (error instanceof Refused && error.status === 401) {
        waits("signed out");
        await untilSignedIn();
      } else {
        throw error;
      }
    }
  }
}

/** A path with a query; empty values are left out. */
export function query(path, values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return text ? `${path}?${text}` : path;
}

/** Path of an image of an inspection: `picture`, `map`, `overlay` or `reconstruction`. */
export function imagePath(inspection, name) {
  return `/v1/inspections/${encodeURIComponent(inspection.id)}/${name}`;
}
