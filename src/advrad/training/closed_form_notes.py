"""Notes about normal images from which a closed-form detector turns out too strict or too tolerant.

Its promise about false alarms holds for any exchangeable images. These notes are about images that are probably not
what the user meant to give: nearly the same scene again and again, or an image of something else.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from advrad.detectors.conformal import conformal_threshold

#: Largest distance, in [0, 1] pixel units, up to which normal images hardly differ: one level of 8 bits.
_ONE_LEVEL = 1 / 255
#: Fewest scores among which one can stand out.
_LEAST_SCORES = 10
#: Share of the scores below the usual upper end, from which it is measured how far others lie.
_USUAL = 0.8
#: How many times the way from the median to the usual upper end the score of a stranger lies above the median, and how
#: many times the way to the largest score of the others. The scores of normal images fall off about exponentially
#: there, so one in 10,000 of them reaches the first, and hardly any the second.
_FAR, _BEYOND_ALL = 8.0, 5.0
#: Number of scores below which the second factor grows.
_MANY = 20
#: Largest number of images that are named.
_NAMED = 3


def note_on_likeness(distances: Sequence[float], false_alarm_rate: float) -> str | None:
    """Describe normal images that hardly differ from each other.

    Args:
        distances: Largest distance of each image to the others, in [0, 1] pixel units.
        false_alarm_rate: False-alarm rate of the threshold, in (0, 1).

    Returns:
        The note; None if the images differ by more than one level of 8 bits.

    Example:
        >>> note_on_likeness([0.03] * 20, 0.05) is None
        True
    """
    largest = conformal_threshold(distances, false_alarm_rate)
    if largest > _ONE_LEVEL:
        return None
    return (
        f"the normal images hardly differ from each other, by {255 * largest:.2g} of 255 levels: an image with a"
        " little more noise, other light or another position will be called defective; add images of other pieces,"
        " taken at other times"
    )


def strangers_among(scores: Sequence[float], usual: Sequence[float] | None = None) -> list[int]:
    """Find scores far above those of other normal images.

    Args:
        scores: Scores of normal images, each compared with the others.
        usual: Scores from which it is learned what is usual; None for ``scores``.

    Returns:
        Positions of the scores, the largest first; none with fewer than 10 usual scores.

    Example:
        >>> strangers_among([1.0, 1.1, 9.0, 1.2, 1.3, 1.1, 1.0, 1.2, 1.1, 1.2])
        [2]
    """
    usual = scores if usual is None else usual
    if len(usual) < _LEAST_SCORES:
        return []
    middle, high = statistics.median(usual), sorted(usual)[int(_USUAL * (len(usual) - 1))]
    limit = middle + _FAR * (high - middle)
    others = [score for score in usual if score <= limit]
    beyond = _BEYOND_ALL * max(1, _MANY / len(usual))  # of few scores the largest says less about the next
    limit = max(limit, middle + beyond * (max(others) - middle))
    found = [place for place, score in enumerate(scores) if high > middle and score > limit]
    return sorted(found, key=lambda place: -scores[place])


def note_on_strangers(names: Sequence[str], threshold: float | None = None, without: float | None = None) -> str:
    """Describe normal images that differ from the others far more than these from each other.

    Args:
        names: Names of the images, at least one, the strangest first.
        threshold: Threshold of the detector, if they take part in it.
        without: What it would be without them.
    """
    named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    one = len(names) == 1
    text = f"{named}: differ{'s' if one else ''} from the other normal images far more than these from each other"
    if threshold is not None and without is not None and without < threshold:
        text += f", so the threshold is {threshold:.3g}, not {without:.3g}, and defects may go unnoticed"
    return f"{text}; look at {'it' if one else 'them'}, and leave out what is no normal image of this product"
