"""Figures of the halves of a guarded detector on labelled images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from advrad.inference.half_scores import HalfScores
from advrad.inference.threshold_advice import advise_on_halves

ROWS = np.array([[0.0, 0.0], [2.0, 2.0], [0.0, 2.0], [2.0, 0.0], [np.nan, 0.0], [0.0, 2.0]])
LABELS = np.array([0, 0, 0, 1, 1, 1])
ONE = np.ones(2)


def halves(scores: np.ndarray, joint: bool = False) -> HalfScores:
    return HalfScores(("memory", "features"), scores, ONE, 0.025 * ONE, np.array([1.0, 3.0]), joint)


def test_an_image_is_defective_if_a_half_speaks_or_failed() -> None:
    found = halves(ROWS)
    assert found.defective.tolist() == [False, True, True, True, True, True]
    assert found.suspected.tolist() == [False, False, True, False, False, True]
    assert found.failed.any(1).tolist() == [False, False, False, False, True, False]
    assert found.surprises[1].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(("joint", "alarms"), [(False, 2 / 3), (True, 1 / 3)])
def test_each_half_has_its_own_figures_against_its_own_promise(joint: bool, alarms: float) -> None:
    found = halves(ROWS, joint).figures(LABELS)
    memory, features = found.halves["memory"], found.halves["features"]
    assert (memory.tpr, memory.fpr, memory.auroc) == (pytest.approx(1 / 3), pytest.approx(1 / 3), None)
    assert features.tpr == pytest.approx(1 / 3) and features.fpr == pytest.approx(alarms)
    assert (found.tpr_all, found.suspected_tpr, found.suspected_fpr) == (0.0, *[pytest.approx(1 / 3)] * 2)
    assert (found.failed, found.joint) == (1, joint)


def test_verdicts_are_counted_by_their_words() -> None:
    found = halves(ROWS).figures(LABELS)
    assert found.counted == [("defective", 2, 1), ("suspected", 1, 1), ("good", 0, 1)], "without bounds"
    bounds = np.array([[-1.0, 0.5], [1.5, 3.0], [-1.0, 2.0], [0.5, 3.0], [np.nan, np.nan], [-1.0, 0.5]])
    proven = replace(halves(ROWS), bounds=bounds, radius=2 / 255)
    assert [str(word) for word in proven.words] == [
        "good, memory proven", "defective, proven", "suspected", "defective", "defective", "suspected",
    ]  # fmt: skip
    counted = proven.figures(LABELS).counted
    assert counted[0] == ("defective, proven", 0, 1) and counted[-1] == ("good, memory proven", 0, 1)
    for place in (1, 2):
        assert sum(row[place] for row in counted) == 3, "each image once"


def test_without_one_class_its_figures_are_missing() -> None:
    found = halves(ROWS[:3]).figures(LABELS[:3])
    assert found.tpr_all is None and found.halves["features"].auroc is None and found.suspected_fpr is not None


def test_more_false_alarms_than_the_tests_promise_are_named_by_half() -> None:
    labels, quiet = np.zeros(40, dtype=np.int64), np.zeros((40, 2))
    assert advise_on_halves(labels, halves(quiet)) is None
    loud = quiet.copy()
    loud[:8, 1] = 2.0
    found = advise_on_halves(labels, halves(loud))
    assert found is not None and found.rate is None
    for words in (
        "8 of 40 normal test images (20 %)",
        "at most 5 % together",
        "features raises 8, and",
        "memory raises 0",
    ):
        assert words in found.text, words
    both = np.repeat([[2.0, 2.0], [0.0, 0.0]], [3, 37], axis=0)
    text = advise_on_halves(labels, halves(both, joint=True))
    assert text is None, "3 of 40 can be chance, and the other half's share them"
    assert advise_on_halves(labels[:5], halves(np.full((5, 2), 9.0))) is None, "too few normal images to say it"
