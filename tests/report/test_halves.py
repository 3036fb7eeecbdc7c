"""What a report shows about the halves of a guarded detector."""

from __future__ import annotations

from pathlib import Path

import guarded_run
import numpy as np
import pytest
from html_page import Page

from advrad.detectors.guarded import GuardedDetector
from advrad.inference.evaluation import EvaluationResult, evaluate
from advrad.inference.half_scores import HalfScores
from advrad.report.content import report_content
from advrad.report.evaluation_report import ReportContent, write_report
from advrad.report.halves import Halves, halves_section, surprise_figure

ONE = np.ones(2)
LABELS = np.array([False, False, True, True])
SCORES = HalfScores(
    ("memory", "features"), np.array([[0.0, 0.5], [0.9, 4.0], [7.0, -2.0], [np.nan, 3.0]]), ONE, 0.05 * ONE, 2 * ONE
)


@pytest.fixture(scope="module")
def detector() -> GuardedDetector:
    return guarded_run.named()


@pytest.fixture(scope="module")
def evaluation(detector: GuardedDetector, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    return evaluate(detector, guarded_run.write_product(tmp_path_factory.mktemp("product")))


@pytest.fixture(scope="module")
def content(detector: GuardedDetector, evaluation: EvaluationResult) -> ReportContent:
    return report_content(evaluation, detector, None)


def test_the_plot_has_all_images_both_thresholds_and_the_verdicts() -> None:
    figure = surprise_figure(SCORES, 1, LABELS)
    (axes,) = figure.axes
    shown = [line for line in axes.lines if str(line.get_label()).startswith(("normal", "anomalous"))]
    assert [str(line.get_label()) for line in shown] == ["normal (2)", "anomalous (1)"], "a failed image is left out"
    points = np.concatenate([np.column_stack(line.get_data()) for line in shown])
    np.testing.assert_allclose(points, [[-2.0, -1.0], [-0.2, 6.0], [12.0, -6.0]])
    dashed = [line for line in axes.lines if line not in shown]
    assert list(dashed[0].get_xdata()) == [0, 0], "the threshold of the memory"
    words = [text.get_text() for text in axes.texts]
    assert words == ["suspected", "good", "defective", "defective, the memory alone"]
    low, high = axes.get_xlim()
    assert low < -2 and high > 12


def test_the_section_counts_verdicts_and_names_what_is_left_out() -> None:
    figures = SCORES.figures(LABELS.astype(np.int64))
    found = halves_section(Halves(SCORES, figures, (("good", "Nothing."),), "At most 10 %."), LABELS)
    assert found["counts"] == [("defective", 2, 0), ("suspected", 0, 1), ("good", 0, 1)]
    assert (found["title"], found["left_out"], [name for name, _ in found["plots"]]) == ("Two halves", 1, ["features"])
    assert 'alt="Surprise of the memory and of features: of 2 anomalous images both find 0' in str(found["plots"][0][1])


def test_the_page_explains_the_halves(content: ReportContent, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", content)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    for words in (
        "Two halves", "defective, proven", "good, memory proven", "Seen by features alone.", "by either half",
        "Half: memory", "Half: features", "Both halves", "suspected", "dotted blue line", "at most 5 %",
        "Defects found by both halves", "The verdicts come from the tests of the halves.",
    ):  # fmt: skip
        assert words in page.text, words
    assert "called defective. " not in page.text and "an image with a higher score" not in page.text
    assert len(page.plots()) == 3 and all(image["alt"] for image in page.all("img"))
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_the_gallery_has_both_maps_the_word_and_a_proof_of_the_memory(content: ReportContent) -> None:
    shown = {item.name: item for item in (*content.misses, *content.finds, *content.false_alarms)}
    dent = next(item for name, item in shown.items() if name.startswith("dent"))
    haze = next(item for name, item in shown.items() if name.startswith("haze"))
    assert [name for name, _ in haze.halves] == ["memory", "features"]
    assert (dent.word, haze.word) == ("defective, proven", "suspected") and dent.defective and haze.defective
    assert dent.proof.startswith("memory proven defective up to linf ")
    assert haze.proof.startswith("memory proven good up to linf 0."), "its score is below the memory's threshold"
    memory, features = (image for _, image in haze.halves)
    np.testing.assert_array_equal(memory, haze.image)
    assert not np.array_equal(features, haze.image)


def test_another_detector_has_no_such_section(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", ReportContent("nut", [0, 1], [0.1, 0.9], ("good", "cut"), threshold=0.5))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "h-halves" not in text and "dotted blue" not in text and "at the threshold" in text
