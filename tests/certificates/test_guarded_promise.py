"""The false alarms of a guarded detector's tests, counted exactly.

Of n + 1 normal images each is the new one in turn, and the other n set the thresholds. Exchangeable means that each is
equally likely to be new, so the promise is: however the n + 1 images look, at most ``slots`` of them raise an alarm.
There is no chance in that, so one list of images with more alarms refutes a way of setting thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from advrad.detectors.guarded_tests import divide_slots, half_test, make_tests, slots_of
from advrad.detectors.verdicts import word_of

Floats = npt.NDArray[np.float64]
N = 59
SLOTS = divide_slots(N, 0.07, (0.5, 0.5))


def lists_of_scores() -> Iterator[Floats]:
    """Scores of the memory and of another half, (2, n + 1): independent, alike, opposed, with ties."""
    draws = np.random.default_rng(0)
    for _ in range(40):
        memory, other = draws.standard_normal((2, N + 1))
        for weight in (0.0, 0.9, -0.9, 1.0):
            yield np.stack([memory, weight * memory + (1 - abs(weight)) * other])
        yield np.stack([np.exp(2 * memory), other**3])
        yield draws.integers(0, 5, (2, N + 1)).astype(float)


def alarms(scores: Floats, *, leaves_one_out: bool) -> tuple[int, int]:
    """Number of the n + 1 images on which, when new, the memory speaks, and any half speaks."""
    by_memory = by_any = 0
    for new in range(N + 1):
        others = np.delete(scores, new, axis=1)
        memory, other = make_tests(list(others), [(), ()], SLOTS, leaves_one_out=leaves_one_out)
        speaks = scores[:, new] > [memory.threshold, other.threshold]
        by_memory += int(speaks[0])
        by_any += int(speaks.any())
    return by_memory, by_any


def test_the_slots_fill_the_rate_and_no_more() -> None:
    assert slots_of(N, 0.07) == sum(SLOTS) == 4 and sum(SLOTS) / (N + 1) <= 0.07
    assert divide_slots(39, 0.05, (1, 0)) == (1, 1)


@pytest.mark.parametrize("leaves_one_out", [True, False], ids=["plain split", "better split"])
def test_no_list_of_images_has_more_alarms_than_slots(leaves_one_out: bool) -> None:
    most = 0
    for scores in lists_of_scores():
        by_memory, by_any = alarms(scores, leaves_one_out=leaves_one_out)
        assert by_memory <= SLOTS[0] and by_any <= sum(SLOTS)
        most = max(most, by_any)
    assert most == sum(SLOTS), "the bound is reached, so that one more slot would break it"


def test_the_better_split_lowers_thresholds_where_both_see_the_same_images() -> None:
    scores = np.random.default_rng(1).standard_normal(N)
    plain, better = (make_tests([scores, scores], [(), ()], SLOTS, leaves_one_out=way)[1] for way in (True, False))
    assert better.threshold < plain.threshold
    assert better.false_alarm_rate == plain.false_alarm_rate and better.n == plain.n > len(better.scores)


def leave_one_out_alarms(points: Floats, others: Floats, *, leaves_one_out: bool) -> int:
    """Number of alarms where the memory holds the n images, each left out in turn, and the other half is a function.

    Args:
        points: Images as the memory sees them, (n + 1,); its score is the distance to the nearest other image.
        others: Scores of the other half, (n + 1,).
        leaves_one_out: Whether the plain split is used, as it must be here.
    """
    count = 0
    distances = np.abs(points[:, None] - points[None])
    np.fill_diagonal(distances, np.inf)
    for new in range(len(points)):
        kept = np.delete(np.arange(len(points)), new)
        held = distances[np.ix_(kept, kept)].min(1)
        memory, other = make_tests([held, others[kept]], [(), ()], (2, 1), leaves_one_out=leaves_one_out)
        count += bool(distances[new].min() > memory.threshold or others[new] > other.threshold)
    return count


def test_leave_one_out_keeps_its_rate_with_the_plain_split_and_not_with_the_better_one() -> None:
    """Two images are each other's nearest neighbours, far from all others, and stand out for the other half."""
    points = np.array([*np.linspace(-1, 1, 16), 20.0, -20.0, 1000.0, 1000.1])
    others = np.array([*np.zeros(18), 5.0, 6.0])
    assert leave_one_out_alarms(points, others, leaves_one_out=True) == 3, "as many as there are slots"
    assert leave_one_out_alarms(points, others, leaves_one_out=False) == 4, "or the proof is needlessly careful"


def reweighted(point: Floats, bank: Floats, neighbours: int = 3) -> float:
    """The score of PatchCore: the distance to the nearest image, weighted by how usual its neighbourhood is."""
    distances = np.linalg.norm(bank - point, axis=1)
    nearest = bank[distances.argmin()]
    around = np.linalg.norm(bank - nearest, axis=1).argsort()[:neighbours]
    return float(distances.min() * (1 - np.exp(-distances.min()) / np.exp(-distances[around]).sum()))


def nearest(point: Floats, bank: Floats) -> float:
    return float(np.linalg.norm(bank - point, axis=1).min())


def most_alarms(score: Callable[[Floats, Floats], float]) -> int:
    """The most alarms with one slot, over many lists of 5 images that are left out in turn."""
    draws, counts = np.random.default_rng(0), []
    for _ in range(200):
        points = 3 * draws.standard_normal((5, 1))
        counts.append(0)
        for new in range(5):
            bank = np.delete(points, new, axis=0)
            held = [score(bank[i], np.delete(bank, i, axis=0)) for i in range(4)]
            counts[-1] += score(points[new], bank) > half_test(held, 1).threshold
    return max(counts)


def test_leave_one_out_needs_a_score_that_no_further_image_raises() -> None:
    assert most_alarms(nearest) == 1
    assert most_alarms(reweighted) > 1, "or such scores need not be refused"


def test_a_proven_alarm_on_an_attacked_image_is_an_alarm_on_the_image_itself() -> None:
    """Theorem 3: the attacked image is proven defective only if the memory speaks on the image without the attack."""
    draws, radius = np.random.default_rng(4), 0.3
    proven = 0
    for _ in range(60):
        scores = draws.standard_normal(N + 1)
        for new in range(N + 1):
            test = half_test(np.delete(scores, new), SLOTS[0])
            # The worst attack on a score that moves by as much as the image: all the way up.
            attacked = scores[new] + radius
            word = word_of(
                memory_speaks=attacked > test.threshold,
                others_speak=True,
                lower=attacked - radius,
                upper=attacked + radius,
                threshold=test.threshold,
            )
            proven += word == "defective, proven"
    assert proven <= 60 * SLOTS[0]
