"""What the figures of a certification mean, and what they do not, in sentences."""

from __future__ import annotations

from advrad.certificates.results import CertificationResult
from advrad.utils.formatting import radius_text


def meaning(result: CertificationResult) -> tuple[str, ...]:
    """Say what the figures of a certification mean, and what they do not, in sentences."""
    return _of_bounds(result) if result.method == "bounds" else _of_smoothing(result)


def _of_smoothing(result: CertificationResult) -> tuple[str, ...]:
    count = result.n_normal + result.n_anomalous
    confidence = f"{100 * (result.confidence or 0):g} %"
    sentences = [
        f"At each radius, the bounds of all {count} images hold together with a confidence of {confidence}: after any"
        " perturbation of every image by at most that l2 length, the smoothed score has at least the certified AUROC."
    ]
    if result.threshold is not None:
        sentences.append(f"Each single verdict holds with a confidence of {confidence}.")
    sentences.append(
        f"Mind the scale: rounding a whole image of this size to 8 bits changes it by an l2 of about"
        f" {result.rounding_l2:.2g}. A certificate says nothing about larger changes, or about another light, camera or"
        " framing."
    )
    return tuple(sentences)


def _of_bounds(result: CertificationResult) -> tuple[str, ...]:
    change = "of every pixel value by at most that much" if result.norm == "linf" else "by at most that l2 length"
    sentences = [
        f"The bounds are computed, not estimated, and hold for every attack: after any change {change}, on all"
        f" {result.n_normal + result.n_anomalous} images at once, the AUROC is at least the certified one. The interval"
        " is about other images of the same kind."
    ]
    if result.words is not None:
        sentences.append(
            "'defective, proven' holds for every image within the radius, whatever an attack makes of the other"
            " halves. 'good, memory proven' is about the memory alone: no perturbation hides from it what it would see,"
            " but an attack may make another half speak, and may hide a defect that only such a half sees"
            " ('suspected')."
        )
    elif result.threshold is not None:
        sentences.append("A proven verdict holds for every image within the radius.")
    if result.sticker is not None:
        sentences.append(
            f"A sticker may change everything inside one square of {result.sticker.side_px} px, anywhere; the bound is"
            " about anomalous images only. Nothing is promised for a good image with a sticker: a sticker is a defect."
        )
    if result.norm == "linf":
        half = radius_text(0.5 / 255, "linf")
        scale = f"rounding to 8 bits changes a pixel value by up to {half}, which lies inside a radius of 1/255."
    else:
        scale = f"rounding a whole image of this size to 8 bits changes it by an l2 of about {result.rounding_l2:.2g}."
    sentences.append(
        f"Mind the scale: {scale} A certificate says nothing about larger changes, or about another light, camera or"
        " framing."
    )
    return tuple(sentences)
