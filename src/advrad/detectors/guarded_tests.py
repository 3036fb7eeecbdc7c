"""The tests of a guarded detector's halves, and the score that joins them: pure functions.

**Tests.** Each half has a conformal test: it calls an image defective where its score exceeds a threshold, the k-th
largest score of n normal images. A new normal image exceeds it with a probability of at most ``k / (n + 1)``. The
``floor(alpha (n + 1))`` slots are divided between the halves, so that the sum of these probabilities, which bounds the
rate of false alarms of all halves together, is at most alpha.

**The better split.** An image on which the memory speaks is a false alarm anyway, so it need not count against the
other halves: their scores of such images are set to minus infinity before their thresholds are taken. Then the
probability that a half speaks *and the memory does not* is at most ``k / (n + 1)``, and the sum is at most alpha again.
The proof is in docs/certificates.md. It needs scores that do not depend on the calibration images, so it does not hold
where these are in the memory and are left out one by one.

**The score.** The surprise of a half is ``(score - threshold) * slope``, where the slope makes surprises of different
halves comparable: minus the logarithm of the tail probability of an exponential distribution with the median and the
threshold of the calibration scores, up to a constant. It is above 0 where the half speaks. The score of the detector is

    S = max(a_memory, max over others of limit(a, ceiling)),

and whatever an attack makes of the other halves, ``a_memory <= S <= max(a_memory, ceiling)``.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from advrad.detectors.guarded_config import BEND, HalfTest
from advrad.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]

#: Surprise that stands for a memory that failed: enough to be a defect, whatever the ceiling.
FAILED_MEMORY = 1.0
#: Least factor by which a half's tail falls from its median to its threshold, as a logarithm.
_LEAST_FALL = 0.1
#: Least distance between median and threshold, as a share of their size.
LEAST_SPREAD = 1e-6


def slots_of(n: int, false_alarm_rate: float) -> int:
    """Number of calibration images that may exceed a threshold: ``floor(rate (n + 1))``.

    Args:
        n: Number of calibration images.
        false_alarm_rate: Highest probability of a false alarm, in (0, 1).

    Raises:
        ConfigError: The rate is out of range.

    Example:
        >>> slots_of(39, 0.05), slots_of(38, 0.05)
        (2, 1)
    """
    if not 0 < false_alarm_rate < 1:
        raise ConfigError("must lie strictly between 0 and 1", option="false_alarm_rate", value=false_alarm_rate)
    return math.floor(false_alarm_rate * (n + 1) + 1e-9)  # the small number corrects the rounding of 0.05 * 40


def images_needed(false_alarm_rate: float, halves: int) -> int:
    """Fewest calibration images that give every half a slot.

    Args:
        false_alarm_rate: Highest probability of a false alarm, in (0, 1).
        halves: Number of halves, the memory among them.

    Example:
        >>> images_needed(0.05, 2)
        39
    """
    return math.ceil(halves / false_alarm_rate - 1e-9) - 1


def divide_slots(n: int, false_alarm_rate: float, beyond: Sequence[float]) -> tuple[int, ...]:
    """Divide the slots of n calibration images between halves: one to each, and the rest in proportion.

    Without a reason for another division the memory gets the rest: what it loses, the proofs lose.

    Args:
        n: Number of calibration images.
        false_alarm_rate: Highest probability of a false alarm of all halves together, in (0, 1).
        beyond: What each half gets of the rest, that of the memory first, >= 0; only the proportions count. All 0: the
            memory gets everything.

    Returns:
        Slots of each half. Their sum divided by ``n + 1`` is at most the rate.

    Raises:
        ConfigError: There are too few images.

    Example:
        >>> divide_slots(99, 0.05, (1, 0)), divide_slots(99, 0.05, (1, 1)), divide_slots(39, 0.05, (1, 0))
        ((4, 1), (3, 2), (1, 1))
    """
    total, halves = slots_of(n, false_alarm_rate), len(beyond)
    if total < halves:
        raise ConfigError(
            f"needs {images_needed(false_alarm_rate, halves)} calibration images for {halves} tests, there"
            f" {'is' if n == 1 else 'are'} {n}; give more normal images, or accept a rate of"
            f" {math.ceil(1e4 * halves / (n + 1)) / 1e4:g} or more",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    weights = list(beyond) if any(beyond) else [1.0] + [0.0] * (halves - 1)
    slots, rest = [1] * halves, total - halves
    for _ in range(rest):
        lacking = [weight * rest / sum(weights) - given for weight, given in zip(weights, slots, strict=True)]
        slots[lacking.index(max(lacking))] += 1
    return tuple(slots)


def divide_rate(rate: float, share: float, memory: int, others: Sequence[int]) -> tuple[int, list[int]]:
    """Divide a rate between the memory and other halves, whose calibration images may be different ones.

    Args:
        rate: False-alarm rate of all together.
        share: Share of the memory, in (0, 1]. Each other half gets one slot at least.
        memory: Number of the memory's calibration images.
        others: Numbers of the other halves' calibration images.

    Returns:
        Slots of the memory, and of the others. The probabilities of a false alarm add up to the rate at most.

    Raises:
        ConfigError: There are too few images for the rate, or the rate is out of range.

    Example:
        >>> divide_rate(0.05, 1.0, memory=79, others=[79]), divide_rate(0.05, 0.5, memory=79, others=[39])
        ((3, [1]), (2, [1]))
    """
    slots_of(memory, rate)  # refuses a rate that is out of range
    steps = [1 / (n + 1) for n in others]
    most = int((rate - sum(steps)) * (memory + 1) + 1e-9)  # so that every other half gets a slot
    if most < 1:
        lowest = math.ceil(1e4 * (1 / (memory + 1) + sum(steps))) / 1e4
        counts = " and ".join(map(str, others if len(set(others)) > 1 else others[:1]))
        raise ConfigError(
            f"is too low for {memory} calibration images of the memory and {counts} of the other"
            f" {'half' if len(others) == 1 else 'halves'}; give more normal images, or accept a rate of {lowest:g} or"
            " more",
            option="false_alarm_rate",
            value=rate,
        )
    own = max(1, min(slots_of(memory, rate * share), most))
    slots, left = [1] * len(others), rate - own / (memory + 1) - sum(steps) + 1e-12
    while fitting := [place for place, step in enumerate(steps) if step <= left]:
        place = min(fitting, key=lambda place: slots[place] * steps[place])
        slots[place] += 1
        left -= steps[place]
    return own, slots


def kth_largest(scores: Sequence[float] | Floats, k: int) -> float:
    """The k-th largest score: at most k - 1 of them exceed it.

    Args:
        scores: Scores, at least k.
        k: Number of slots, at least 1.

    Example:
        >>> kth_largest([3.0, 1.0, 2.0], 2)
        2.0
    """
    return float(np.sort(np.asarray(scores, dtype=np.float64))[-k])


def slope_of(scores: Sequence[float] | Floats, threshold: float, false_alarm_rate: float) -> float:
    """Compute by how much a half's surprise rises with its score.

    An exponential tail that falls to one half at the median and to the rate at the threshold has ``-log p = slope *
    score + constant``. The slope is never 0 or infinite, even where all scores are the same.

    Args:
        scores: Calibration scores of the half.
        threshold: Its threshold.
        false_alarm_rate: Probability with which a normal image exceeds it, in (0, 1).

    Example:
        >>> round(slope_of([0.0, 1.0, 2.0], threshold=2.0, false_alarm_rate=0.25), 3)
        0.693
    """
    median = float(np.median(np.asarray(scores, dtype=np.float64)))
    fall = max(math.log(0.5 / false_alarm_rate), _LEAST_FALL)
    return fall / max(threshold - median, LEAST_SPREAD * max(abs(threshold), abs(median), 1e-30))


def half_test(
    scores: Sequence[float] | Floats,
    slots: int,
    *,
    counted: npt.NDArray[np.bool_] | None = None,
    maxima: Sequence[float] | Floats = (),
) -> HalfTest:
    """Make the test of one half from its scores of normal images.

    Args:
        scores: Scores of the n calibration images.
        slots: Number of slots k, from 1 to n.
        counted: Images that count, (n,), for the better split: those on which the memory does not speak. None for all.
        maxima: Largest value of each image's anomaly map, for heat maps; empty if the half has no maps.

    Raises:
        ConfigError: A score is not a finite number, or fewer scores count than there are slots.

    Example:
        >>> test = half_test([float(value) for value in range(39)], 1)
        >>> test.threshold, test.false_alarm_rate
        (38.0, 0.025)
    """
    values = np.asarray(scores, dtype=np.float64)
    heights = np.asarray(maxima, dtype=np.float64)
    if not np.isfinite(values).all() or not np.isfinite(heights).all():
        raise ConfigError("calibration: a score of a normal image is not a finite number; mend the detector")
    count = len(values)
    kept = values if counted is None else values[counted]
    if not 1 <= slots <= len(kept):
        raise ConfigError(
            f"calibration: {slots} slots do not suit the {len(kept)} scores that count; give more normal images, or a"
            " lower false-alarm rate"
        )
    threshold, rate = kth_largest(kept, slots), slots / (count + 1)
    low, high = _glow(heights, slots)
    return HalfTest(
        threshold=threshold,
        false_alarm_rate=rate,
        n=count,
        scores=tuple(sorted(kept.tolist())),
        slope=slope_of(values, threshold, rate),
        heat_low=low,
        heat_high=high,
    )


def _glow(maxima: Floats, slots: int) -> tuple[float, float]:
    """Values of the map between which heat maps glow: the median of the maxima, and the k-th largest of them."""
    if not len(maxima):
        return 0.0, 1.0
    low, high = float(np.median(maxima)), kth_largest(maxima, slots)
    return low, max(high, low) + LEAST_SPREAD * max(abs(high), abs(low), 1.0)


def make_tests(
    scores: Sequence[Sequence[float] | Floats],
    maxima: Sequence[Sequence[float] | Floats],
    slots: Sequence[int],
    *,
    leaves_one_out: bool,
) -> tuple[HalfTest, ...]:
    """Make the tests of all halves from their scores of the same images.

    Args:
        scores: Scores of the n images by half, that of the memory first.
        maxima: Largest values of the anomaly maps by half, n each; an empty sequence for a half without maps.
        slots: Slots of each half, see :func:`divide_slots`.
        leaves_one_out: Whether these images are in the memory, and were left out one by one. Then the better split is
            not proven, and not used.

    Returns:
        The tests, that of the memory first.

    Raises:
        ConfigError: A score is not a finite number, or there are too few images.

    Example:
        >>> scores = [9.0, 1.0, 2.0, 0.0]
        >>> [test.threshold for test in make_tests([scores, scores], [(), ()], (2, 1), leaves_one_out=False)]
        [2.0, 2.0]
        >>> [test.threshold for test in make_tests([scores, scores], [(), ()], (2, 1), leaves_one_out=True)]
        [2.0, 9.0]
    """
    memory = half_test(scores[0], slots[0], maxima=maxima[0])
    counted = None if leaves_one_out else np.asarray(scores[0], dtype=np.float64) <= memory.threshold
    others = zip(scores[1:], maxima[1:], slots[1:], strict=True)
    return (memory, *(half_test(part, k, counted=counted, maxima=heights) for part, heights, k in others))


def p_value(test: HalfTest, score: float) -> float:
    """Conformal p-value of a score: ``(1 + number of calibration scores that are as large) / (n + 1)``.

    It is at most the test's false-alarm rate exactly where the half speaks.

    Args:
        test: Test of the half.
        score: Its score.

    Example:
        >>> test = half_test([1.0, 2.0, 3.0], 1)
        >>> p_value(test, 2.5), p_value(test, 3.5)
        (0.5, 0.25)
    """
    as_large = len(test.scores) - bisect.bisect_left(test.scores, score)
    return (1 + as_large) / (test.n + 1)


def surprise(scores: Tensor, test: HalfTest) -> Tensor:
    """Surprise of scores: above 0 exactly where they exceed the threshold.

    Computed in float64, where neither the difference nor the product of float32 scores can round to 0.

    Args:
        scores: Scores, any shape.
        test: Test of the half.

    Example:
        >>> surprise(torch.tensor([2.0, 3.0, 4.0]), half_test([1.0, 2.0, 3.0], 1)).sign()
        tensor([-1.,  0.,  1.], dtype=torch.float64)
    """
    return (scores.double() - test.threshold) * test.slope


def limit(values: Tensor, ceiling: float | Tensor) -> Tensor:
    """Limit values to a ceiling, smoothly: the same up to just below it, rising without reaching it beyond.

    Args:
        values: Values, any shape.
        ceiling: Ceiling c. With d = :data:`BEND`, ``limit(a) = a`` up to c - d, and ``c - d^2 / (a - c + 2 d)`` above.
            The slope is 1 at the join and never 0.

    Example:
        >>> [round(value, 4) for value in limit(torch.tensor([-5.0, 0.9, 1.0, 3.0]).double(), 1.0).tolist()]
        [-5.0, 0.9, 0.95, 0.9955]
    """
    excess = values - ceiling
    above = excess > -BEND
    # Below the join the other branch is not used, and must not divide by 0: its gradient would be NaN.
    reach = torch.where(above, excess + 2 * BEND, torch.ones_like(values))
    return torch.where(above, ceiling - BEND**2 / reach, values)


def usable_ceiling(ceiling: float) -> float:
    """The nearest lower ceiling that a guarded detector takes: 0 for one above 0 and below :data:`BEND`.

    Args:
        ceiling: Ceiling.

    Example:
        >>> usable_ceiling(0.05), usable_ceiling(-0.3), usable_ceiling(0.3)
        (0.0, -0.3, 0.3)
    """
    return 0.0 if 0 < ceiling < BEND else ceiling
