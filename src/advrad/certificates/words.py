"""What is proven of the verdicts of a guarded detector: what its memory says within a radius."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.certificates.lipschitz import ProvenVerdict, verdict_radius
from advrad.detectors.verdicts import Verdict
from advrad.utils.radii import Norm

if TYPE_CHECKING:
    from torch import Tensor

    from advrad.detectors.guarded import GuardedDetector

_PROVEN: dict[Verdict, ProvenVerdict] = {
    Verdict.PROVEN_DEFECTIVE: "proven defective",
    Verdict.PROVEN_GOOD: "proven good",
}


def proven_by_word(word: Verdict) -> ProvenVerdict:
    """Say what a word proves: that the memory finds every image within the radius defective, or none of them.

    Args:
        word: Word of the verdict.

    Example:
        >>> proven_by_word(Verdict.PROVEN_GOOD), proven_by_word(Verdict.SUSPECTED)
        ('proven good', 'not proven')
    """
    return _PROVEN.get(word, "not proven")


def word_radius(detector: GuardedDetector, image: Tensor, word: Verdict, norm: Norm) -> float:
    """Find the largest radius for which the memory proves the verdict on an image.

    Args:
        detector: Guarded detector.
        image: Image, (3, h, w) float in [0, 1].
        word: Word of its verdict at any radius.
        norm: Norm of the perturbation.

    Returns:
        A radius, see :func:`advrad.certificates.lipschitz.verdict_radius`; 0 where the memory does not agree with the
        verdict, because another half spoke or failed.
    """
    threshold = detector.tests[0].threshold
    score = float(detector.memory.predict_batch(image[None]).scores)
    if (score > threshold) != word.defective:
        return 0.0
    return verdict_radius(detector.memory, image, threshold, norm, {0.0: (score, score)})
