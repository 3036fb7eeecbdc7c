"""Scores that point the wrong way, or nowhere: larger for normal images than for anomalous ones, or always the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advrad import metrics

#: A score is doubted where chance alone gives so low an AUROC with at most this probability,
LEVEL = 0.02
#: and where the AUROC lies below this: a detector that is merely bad does not.
BELOW = 0.4


@dataclass(frozen=True, slots=True)
class ScoreDoubt:
    """A reason to doubt that a larger score means more anomalous.

    Attributes:
        name: Short, fixed name.
        words: Description: what was found, what it means, and what to do.
        note: What it means for figures under attack.
    """

    name: str
    words: str
    note: str


def doubt_scores(
    labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], *, from_folder: bool
) -> ScoreDoubt | None:
    """Look for scores that are larger for normal images, or always the same.

    Args:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        scores: Scores of the images as given, (n,), finite.
        from_folder: Whether the detector is one of a model folder, whose score cannot be negated; then the labels are
            doubted alone.

    Returns:
        The doubt; None for none, and for images of one class.

    Example:
        >>> labels, scores = np.repeat([0, 1], 5), np.linspace(1.0, 0.0, 10)
        >>> doubt_scores(labels, scores, from_folder=False).name
        'wrong direction'
    """
    if not labels.any() or labels.all():
        return None
    if np.ptp(scores) == 0:
        return ScoreDoubt(
            "constant score",
            f"all {len(scores)} images got the same score, {scores[0]:.6g}: it tells nothing about them, and the AUROC"
            " of 0.5 is no measurement",
            "all images got the same score as given, so these figures mean nothing",
        )
    area = metrics.auroc(labels, scores)
    chance = metrics.auroc_by_chance(labels, scores) if area < BELOW else 1.0
    if chance > LEVEL:
        return None
    mend = (
        "check that normal and anomalous test images are not swapped"
        if from_folder
        else "negate it, or check that the labels are not swapped (0 is normal, 1 is anomalous)"
    )
    return ScoreDoubt(
        "wrong direction",
        f"the AUROC of the images as given is {area:.3f}, below 0.5, which chance explains with a probability of"
        f" {chance:.2g} only: the score seems to be larger for normal images; {mend}",
        "the score seems to point the wrong way, so these figures mean nothing until that is mended",
    )
