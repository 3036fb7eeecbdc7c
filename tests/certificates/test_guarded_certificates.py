"""Certificates of a guarded detector: what is counted by the words of its verdicts, and what is stored and said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_guarded import EPS, dents, guarded, haze, normals

import advrad
from advrad.certificates.results import CertificationResult
from advrad.certificates.words import proven_by_word, word_radius
from advrad.cli.tables import show_certificates
from advrad.detectors.config import RobustCalibration
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.verdicts import Verdict

RADII = (0.5 / 255, EPS)
DATA = (torch.cat([normals(3, 5), haze(2, 7), dents(2, 6, 0.06), dents(1, 6, 0.022)]), [0] * 3 + [1] * 5)


@pytest.fixture(scope="module")
def detector() -> GuardedDetector:
    return guarded()


@pytest.fixture(scope="module")
def stored(detector: GuardedDetector, tmp_path_factory: pytest.TempPathFactory) -> tuple[CertificationResult, Path]:
    folder = tmp_path_factory.mktemp("certificates") / "run"
    return advrad.certify(detector, DATA, radii=RADII, output=folder), folder


def test_every_word_is_counted_and_those_of_defects_that_are_certainly_found(
    detector: GuardedDetector, stored: tuple[CertificationResult, Path]
) -> None:
    result, words = stored[0], stored[0].words
    assert words is not None and list(words) == list(RADII)
    for place, (radius, counts) in enumerate(words.items()):
        found = [verdict.word for verdict in detector.verdicts(DATA[0], radius=radius)]
        assert [row.words[place] for row in result.rows] == found
        assert {word: found[:3].count(word) for word in Verdict} == counts.normal
        assert {word: found[3:].count(word) for word in Verdict} == counts.anomalous
        assert counts.found == found[3:].count(Verdict.PROVEN_DEFECTIVE) / 5
    assert words[EPS].anomalous[Verdict.SUSPECTED] == 2, "haze is seen by the other half only"
    assert words[EPS].found == pytest.approx(0.4) and words[RADII[0]].found == pytest.approx(0.6)


def test_verdicts_follow_the_words_and_reach_as_far_as_the_memory(
    detector: GuardedDetector, stored: tuple[CertificationResult, Path]
) -> None:
    threshold = detector.tests[0].threshold
    for row, image in zip(stored[0].rows, DATA[0], strict=True):
        assert row.verdicts == tuple(proven_by_word(word) for word in row.words)
        assert row.radius == word_radius(detector, image, row.words[0], "linf")
        bounds = detector.memory.score_bounds(image[None], row.radius or 0.0, "linf")
        if row.words[0] == Verdict.SUSPECTED:
            assert row.radius == 0 and float(bounds.scores) <= threshold
        elif row.words[0].defective:
            assert float(bounds.lower) > threshold
        else:
            assert float(bounds.upper) <= threshold


def test_a_high_ceiling_does_not_hide_what_the_memory_proves_good() -> None:
    """The score of a good image may be driven above 0 then; what its memory says stays proven."""
    high = guarded(ceiling=0.3)
    data = (torch.cat([normals(3, 5), dents(1, 6)]), [0, 0, 0, 1])
    result = advrad.certify(high, data, radii=(1e-4,))
    assert result.words is not None and result.words[1e-4].normal[Verdict.PROVEN_GOOD] == 3
    assert all(row.verdicts == ("proven good",) and row.upper[0] == 0.3 for row in result.rows[:3])


def test_the_result_is_stored_and_read_and_the_run_continues(
    detector: GuardedDetector, stored: tuple[CertificationResult, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result, folder = stored
    values = result.to_dict()
    assert values["words"][f"{EPS:g}"]["anomalous"]["defective, proven"] == 2
    assert CertificationResult.parse(values).words == result.words
    again = advrad.certify(detector, DATA, radii=RADII, output=folder)
    assert again.words == result.words and [row.seconds for row in again.rows] == [row.seconds for row in result.rows]
    assert "'good, memory proven' is about the memory alone" in " ".join(result.meaning)
    assert "A proven verdict holds for every image" not in " ".join(result.meaning)
    show_certificates(result, "title")
    shown = " ".join(capsys.readouterr().out.split())
    assert "Verdicts within linf 2/255: 40 % of the defects are certainly found" in shown
    assert "good, memory proven" in shown


def test_the_threshold_under_attack_is_one_of_the_score(detector: GuardedDetector) -> None:
    strict = guarded()
    strict.update_config(
        robust_calibration=RobustCalibration(threshold=12.0, false_alarm_rate=0.1, radius=EPS, norm="linf", n=59)
    )
    result = advrad.certify(strict, DATA, radii=(EPS,))
    assert result.threshold == 12.0 and result.words is not None
    for row in result.rows:
        assert (row.verdicts == ("proven defective",)) == (row.lower[0] is not None and row.lower[0] > 12)
    assert result.words[EPS].found == pytest.approx(0.4), "the words are those of the tests"


def test_other_detectors_have_no_words() -> None:
    result = advrad.certify(guarded().memory, DATA, radii=(EPS,))
    assert result.words is None and "words" not in result.to_dict() and "words" not in result.rows[0].to_dict()
