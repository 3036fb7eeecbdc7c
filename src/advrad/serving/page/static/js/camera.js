// The camera: its picture on the page, and one frame of it as a file.

import { byId } from "./dom.js";

let stream = null;
let frames = 0;

function say(text) {
  byId("camera-says").textContent = text;
}

const REASONS = {
  NotAllowedError: "The browser does not allow this page to use the camera. Allow it in the address bar.",
  NotFoundError: "There is no camera. Plug one in and try again.",
  NotReadableError: "Another program uses the camera. Close it and try again.",
};

function stop() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  byId("camera-view").srcObject = null;
  byId("camera").hidden = true;
  byId("camera-open").hidden = false;
  byId("camera-open").focus();
}

async function open() {
  if (!navigator.mediaDevices?.getUserMedia) {
    say("Browsers give a camera only to pages over https, or from the computer itself (localhost).");
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 }, height: { ideal: 1080 } } });
  } catch (error) {
    say(REASONS[error.name] ?? `The camera could not be opened: ${error.message}`);
    return;
  }
  say("");
  byId("camera").hidden = false;
  byId("camera-open").hidden = true;
  const view = byId("camera-view");
  view.srcObject = stream;
  await view.play();
  byId("camera-take").focus();
}

async function take(send) {
  const view = byId("camera-view");
  if (!view.videoWidth) {
    say("The camera has not given a picture yet. Wait a moment.");
    return;
  }
  say("");
  const canvas = document.createElement("canvas");
  canvas.width = view.videoWidth;
  canvas.height = view.videoHeight;
  canvas.getContext("2d").drawImage(view, 0, 0);
  // PNG keeps every grey level; a proof about a picture should be about what the camera gave.
  const content = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  frames += 1;
  send([new File([content], `camera-${frames}.png`, { type: "image/png" })]);
}

/** Connect the buttons of the camera; `send` gets each frame as a list of one file. */
export function useCamera(send) {
  byId("camera-open").addEventListener("click", open);
  byId("camera-take").addEventListener("click", () => take(send));
  byId("camera-stop").addEventListener("click", stop);
}
