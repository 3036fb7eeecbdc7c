// What is proven of a verdict, in plain words. No sentence says more than the certificate holds.

import { number, percent } from "./words.js";

/** A number rounded down to two digits: a proof is never said to reach further than it does. */
function roundedDown(value) {
  const unit = 10 ** (Math.floor(Math.log10(value)) - 1);
  // The small addition keeps 3.5 from becoming 3.4 where 3.5 / 255 * 255 falls a hair below it.
  return Number((Math.floor(value / unit + 1e-6) * unit).toPrecision(2));
}

function size(norm, radius) {
  return norm === "linf" ? `up to ${roundedDown(255 * radius)}/255` : `up to ${roundedDown(radius)} in Euclidean norm`;
}

/** Every change within a radius. */
export function everyChange(norm, radius) {
  return `${norm === "linf" ? "every change of the pixels" : "every change of the picture"} by ${size(norm, radius)}`;
}

function noChange({ norm, certified_radius: radius }) {
  return `${norm === "linf" ? "no change of any pixel" : "no change of the picture"} by ${size(norm, radius)}`;
}

/** A certificate by noise: it is right with a stated confidence, and about the score of noisy copies. */
function byNoise(certificate, defective) {
  const says = { "certified anomalous": true, "certified normal": false }[certificate.certified];
  if (says === undefined) return "Not proven: the draws of noise do not decide.";
  if (says !== defective) return "Not proven: noisy copies of the picture get the other verdict.";
  const what = defective ? "hides it from a vote over noisy copies" : "makes a vote over noisy copies call it defective";
  return `Proven with ${percent(certificate.confidence)} confidence: ${noChange(certificate)} ${what}.`;
}

/** A certificate of a detector with several parts: only the first, the memory, has a proof. */
function byMemory(certificate, inspection) {
  const { certified_half: name } = certificate;
  const speaks = inspection.details.halves?.[0]?.speaks;
  if (speaks !== inspection.defective) return `Not proven: only parts without a proof speak, not the ${name}.`;
  if (speaks) return `Proven: ${noChange(certificate)} hides it.`;
  return `Proven: ${noChange(certificate)} has hidden a defect that the ${name} would see.`;
}

/** What is proven of the verdict, in a sentence; null where no proof was asked for. */
export function proofSentence(inspection) {
  const certificate = inspection.details?.certificate;
  if (!certificate) return null;
  if (certificate.confidence !== undefined) return byNoise(certificate, inspection.defective);
  if (!(certificate.certified_radius > 0)) return "Not proven: a tiny change of the pixels might turn this verdict.";
  if (certificate.certified_half) return byMemory(certificate, inspection);
  const { certified_threshold: threshold } = certificate;
  const other = threshold !== inspection.threshold;
  if (other && inspection.score > threshold !== inspection.defective) {
    return `Not proven: with the threshold ${number(threshold)}, which proofs need, the verdict is the other one.`;
  }
  const base = other ? `Proven with the threshold ${number(threshold)}` : "Proven";
  return `${base}: ${noChange(certificate)} ${inspection.defective ? "hides it" : "makes it defective"}.`;
}

/** What each part of a detector with several says; null for others. */
export function halvesSentence(inspection) {
  const halves = inspection.details?.halves;
  if (!halves) return null;
  return halves.map((half) => `${half.name}: ${half.speaks ? "sees a defect" : "sees none"}`).join("; ");
}
