// Whether the service answers. One banner tells it on every page, and what was waiting goes on when it is back.

import { byId } from "./dom.js";

const RETRY_MS = 2000;

async function answers(path) {
  try {
    return (await fetch(path, { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** A banner that stays until a path answers; all who wait for it go on together. */
function wait(banner, path) {
  let open = null;
  return () => {
    open ??= (async () => {
      byId(banner).hidden = false;
      do await pause(RETRY_MS);
      while (!(await answers(path)));
      byId(banner).hidden = true;
      open = null;
    })();
    return open;
  };
}

/** Say that the service does not answer, and wait until it does. */
export const untilBack = wait("gone", "/healthz");

/** Say that the session has ended, and wait until the person has signed in again, in another tab. */
export const untilSignedIn = wait("signed-out", "/v1/products");

/** Wait for some milliseconds. */
export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Call a function now and again while the page is seen; calls never overlap. */
export async function repeat(work, ms) {
  for (;;) {
    if (!document.hidden) await work();
    await pause(ms);
  }
}
