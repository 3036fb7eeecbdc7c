"""The words of a verdict."""

from __future__ import annotations

import itertools

import pytest

from advrad.detectors.verdicts import Verdict, word_of

INSIDE, OUTSIDE = 0.5, 1.5  # of the threshold 1


def word(memory: float, *, lower: float | None, upper: float | None, other: bool = False, failed: bool = False) -> str:
    found = word_of(
        memory_speaks=memory > 1, others_speak=other, failed=failed, lower=lower, upper=upper, threshold=1.0
    )
    assert found.defective == (memory > 1 or other or failed)
    return str(found)


@pytest.mark.parametrize(
    ("memory", "lower", "upper", "other", "failed", "expected"),
    [
        (2.0, 1.1, 3.0, False, False, "defective, proven"),
        (2.0, 1.1, 3.0, True, True, "defective, proven"),
        (2.0, 1.0, 3.0, False, False, "defective"),
        (2.0, None, None, True, False, "defective"),
        (0.5, 0.1, 0.9, False, True, "defective"),
        (0.5, 0.1, 0.9, True, False, "suspected"),
        (0.5, 0.1, 1.1, False, False, "good"),
        (0.5, 0.1, float("inf"), False, False, "good"),
        (0.5, None, None, False, False, "good"),
        (0.5, 0.1, 1.0, False, False, "good, memory proven"),
    ],
)
def test_the_word_says_who_spoke_and_what_is_proven(
    memory: float, lower: float | None, upper: float | None, other: bool, failed: bool, expected: str
) -> None:
    assert word(memory, lower=lower, upper=upper, other=other, failed=failed) == expected


def test_a_higher_score_of_any_half_never_makes_an_image_better() -> None:
    """Ordered from good to defective, the word only rises with the memory's scores and with the other halves."""
    order = list(reversed(Verdict))
    states = list(itertools.product((0.2, 1.4, 3.0), (False, True)))
    for (memory, other), (higher, louder) in itertools.product(states, states):
        if higher >= memory and louder >= other:
            low, high = (
                Verdict(word(score, lower=score - 1, upper=score + 0.5, other=speaks))
                for score, speaks in ((memory, other), (higher, louder))
            )
            assert order.index(low) <= order.index(high)


def test_the_five_words() -> None:
    assert [str(one) for one in Verdict] == [
        "defective, proven",
        "defective",
        "suspected",
        "good",
        "good, memory proven",
    ]
    assert [one.defective for one in Verdict] == [True, True, True, False, False]
