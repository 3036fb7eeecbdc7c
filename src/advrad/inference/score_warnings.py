"""Warnings about the scores of a detector on labelled images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from advrad.data.labelled import LabelledImages
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.direction import doubt_scores
from advrad.detectors.probing import BATCH_WORDS, depends_on_batch
from advrad.detectors.saved import SupportsPrediction

#: Images with which a detector is tested for whether it scores each on its own.
_TOGETHER = 4


def score_warnings(
    detector: SupportsPrediction | AnomalyDetector,
    images: LabelledImages,
    scores: npt.NDArray[np.float64],
    seed: int,
) -> list[str]:
    """Find scores that point the wrong way or nowhere, and scores that depend on the other images of a batch.

    Args:
        detector: Detector.
        images: Images.
        scores: Their scores, (n,).
        seed: Seed of the noise.
    """
    foreign = not isinstance(detector, SupportsPrediction)
    doubt = doubt_scores(images.labels, scores, from_folder=not foreign)
    found = [] if doubt is None else [doubt.words]
    if not isinstance(detector, SupportsPrediction):
        together = images.batch(slice(0, min(_TOGETHER, len(images))))
        if depends_on_batch(detector, together, seed):
            found.append(f"{BATCH_WORDS}; here every image was scored alone")
    return found
