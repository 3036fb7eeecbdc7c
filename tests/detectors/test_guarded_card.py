"""What cards and screens say about a guarded detector."""

from __future__ import annotations

import guarded_run
import pytest

from advrad.detectors.guarded_card import (
    describe_tests,
    half_caption,
    half_cells,
    half_rows,
    joint_rows,
    verdict_meanings,
)
from advrad.detectors.guarded_config import GuardedConfig
from advrad.detectors.guarded_figures import GuardedFigures, HalfFigures
from advrad.detectors.model_card import render
from advrad.detectors.verdicts import Verdict

FIGURES = GuardedFigures(
    halves={
        "memory": HalfFigures(auroc=0.72, tpr=0.5, fpr=0.125, false_alarm_rate=0.05),
        "features": HalfFigures(auroc=None, tpr=1.0, fpr=0.0, false_alarm_rate=0.05),
    },
    tpr_all=0.5, suspected_tpr=0.375, suspected_fpr=0.0, failed=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def config() -> GuardedConfig:
    return guarded_run.named().config


def test_every_verdict_is_explained_in_a_short_line_with_its_promise(config: GuardedConfig) -> None:
    meanings = verdict_meanings(config)
    assert [word for word, _ in meanings] == [str(word) for word in Verdict]
    assert all(len(text) < 190 for _, text in meanings)
    proven, _, suspected, *_ = (text for _, text in meanings)
    assert "linf 2/255" in proven and "at most 5 % get this verdict, even if" in proven
    assert suspected == "Seen by features alone. An attack could have caused it: look at the part itself."
    without = verdict_meanings(config.model_copy(update={"tests": ()}))
    assert "at most" not in without[0][1]


def test_both_tests_the_joint_rate_and_the_ceiling_are_listed(config: GuardedConfig) -> None:
    rows = dict(half_rows(config))
    assert rows["Test of memory"] == f"score above {config.tests[0].threshold:.6g}; false alarms at most 5 %"
    assert rows["Promised false-alarm rate"].startswith("at most 10 %, all halves together, without an attack")
    assert rows["Under any attack"] == "defective, proven: at most 5 % of normal images"
    assert rows["Ceiling"].startswith("-0.5: ") and rows["Calibration images"] == "59"
    assert dict(half_rows(config.model_copy(update={"radius": 0.0})))["Radius of the proofs"].startswith("none")
    assert half_rows(config.model_copy(update={"tests": ()})) == []
    words = describe_tests(config)
    assert "at most 10 %: by the memory at most 5 %, by features alone at most 5 %" in words
    assert "features at most" in describe_tests(config.model_copy(update={"joint": False}))
    assert "does not decide" in describe_tests(config.model_copy(update={"tests": ()}))


def test_figures_of_the_halves_are_cells_and_rows() -> None:
    assert half_cells(FIGURES) == [
        ("memory", "0.7200", "50 %", "12.5 %", "at most 5 %"),
        ("features", "not measured", "100 %", "0 %", "at most 5 %"),
    ]
    rows = dict(joint_rows(FIGURES))
    assert rows["Defects found by both halves"] == "50 %" and rows["Defects only suspected"] == "37.5 %"
    assert rows["A half failed on"] == "2 images, called defective"
    three = FIGURES.model_copy(update={"halves": FIGURES.halves | {"learned": FIGURES.halves["memory"]}, "failed": 0})
    assert "Defects found by every half" in dict(joint_rows(three)) and "A half failed on" not in dict(
        joint_rows(three)
    )
    assert half_caption(FIGURES) != half_caption(FIGURES.model_copy(update={"joint": True}))


def test_the_card_explains_halves_verdicts_and_what_is_not_promised(config: GuardedConfig) -> None:
    figures = config.figures.model_copy(update={"guarded": FIGURES, "image_auroc": 0.9, "tpr": 1.0})
    text = render(config.model_copy(update={"figures": figures}))
    for words in (
        "| suspected | Seen by features alone.",
        "| Test of features | score above ",
        "| memory | 0.7200 | 50 % | 12.5 %",
        "| Half | AUROC | Found | False alarms | Promised |", "| Defects found by either half (TPR) | 100 % |",
        "## What is proven", "every normal image may be called *suspected*",
    ):  # fmt: skip
        assert words in text, words
    assert "| Threshold |" not in text and "Promised false-alarm rate | at most 10 %" in text
