"""Evaluation: which images count, what is measured, and what is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advrad.data.layouts import Dataset, find_records
from advrad.data.options import DataOptions
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import RecordedFigures
from advrad.detectors.loading import load_detector
from advrad.detectors.model_folder import save_figures
from advrad.errors import CheckpointError, DataError, ImageError
from advrad.inference.evaluation import EvaluationResult, evaluate, measure, write_scores
from advrad.report.content import report_content
from advrad.report.evaluation_report import write_report
from advrad.utils.progress import CallbackReporter

KEYS = {
    "image_auroc",
    "image_auroc_ci",
    "pixel_auroc",
    "aupro",
    "tpr",
    "fpr",
    "threshold",
    "n_good",
    "n_defect",
    "per_defect",
    "shortcuts",
    "warnings",
}


@pytest.fixture(scope="module")
def detector(widget_run: Path) -> AdvRAD:
    return load_detector(widget_run, "cpu")


@pytest.fixture(scope="module")
def evaluation(detector: AdvRAD, widgets: Path) -> EvaluationResult:
    return evaluate(detector, find_records(widgets))


def only(dataset: Dataset, keep: Callable[[Any], bool]) -> Dataset:
    return replace(dataset, records=tuple(record for record in dataset.records if keep(record)))


def test_measures_the_test_images_only(evaluation: EvaluationResult) -> None:
    assert all(record.split == "test" for record in evaluation.records)
    assert len(evaluation.labels) == 11
    assert evaluation.maps.shape == evaluation.masks.shape == (11, 64, 64)
    assert evaluation.maps.dtype == np.float32


def test_gives_every_figure_as_plain_json(evaluation: EvaluationResult, detector: AdvRAD) -> None:
    figures = json.loads(json.dumps(evaluation.figures, allow_nan=False))
    assert set(figures) == KEYS
    assert figures["n_good"] == 6
    assert figures["n_defect"] == 5
    assert figures["threshold"] == detector.calibration.threshold
    low, high = figures["image_auroc_ci"]
    assert 0 <= low <= high <= 1
    assert {name: row["n"] for name, row in figures["per_defect"].items()} == {"dent": 2, "scratch": 3}
    assert set(figures["per_defect"]["dent"]) == {"n", "auroc", "tpr"}
    # The defects of these widgets are bright squares.
    assert figures["shortcuts"]["brightness"] == 1.0
    assert figures["warnings"][0].startswith("Brightness alone tells good from defective")


def test_scores_are_those_of_predict(evaluation: EvaluationResult, detector: AdvRAD) -> None:
    paths = [record.path for record in evaluation.records]
    scores = [prediction.score for prediction in detector.predict(paths)]
    # The cache rounds images to 16 bits.
    np.testing.assert_allclose(evaluation.scores, scores, rtol=2e-2, atol=2e-2)


def test_batches_and_progress_change_nothing(detector: AdvRAD, widgets: Path, evaluation: EvaluationResult) -> None:
    told: list[tuple[int, int]] = []
    again = evaluate(
        detector,
        find_records(widgets),
        batch_size=3,
        progress=CallbackReporter(lambda done, total: told.append((done, total))),
    )
    np.testing.assert_allclose(again.scores, evaluation.scores, rtol=1e-4, atol=1e-4)
    assert told == [(3, 11), (6, 11), (9, 11), (11, 11)]


def test_known_figures() -> None:
    labels = np.array([0, 0, 1, 1])
    masks = np.zeros((4, 4, 4), bool)
    masks[2, 0, 0] = True
    figures = measure(
        labels,
        np.array([0.0, 2.0, 3.0, 1.0]),
        ("good", "good", "cut", "hole"),
        masks,
        masks.astype(np.float32),
        np.array([True, True, True, False]),
        1.5,
    )
    assert figures["image_auroc"] == 0.75
    assert figures["pixel_auroc"] == 1.0
    assert figures["aupro"] == 1.0
    assert (figures["tpr"], figures["fpr"]) == (0.5, 0.5)
    assert figures["per_defect"] == {
        "cut": {"n": 1, "auroc": 1.0, "tpr": 1.0},
        "hole": {"n": 1, "auroc": 0.5, "tpr": 0.0},
    }


def test_without_threshold_there_are_no_rates() -> None:
    labels, maps = np.array([0, 1]), np.zeros((2, 4, 4), np.float32)
    figures = measure(labels, np.array([0.0, 1.0]), ("good", "cut"), maps > 0, maps, np.array([True, False]), None)
    assert figures["image_auroc"] == 1.0
    assert figures["threshold"] is figures["tpr"] is figures["fpr"] is None
    assert figures["pixel_auroc"] is figures["aupro"] is None


@pytest.mark.parametrize(("label", "missing"), [(0, "defective"), (1, "good")])
def test_one_kind_alone_leaves_gaps_and_a_note(detector: AdvRAD, widgets: Path, label: int, missing: str) -> None:
    found = evaluate(detector, only(find_records(widgets), lambda record: record.label == label))
    assert found.figures["image_auroc"] is found.figures["image_auroc_ci"] is None
    assert (found.figures["tpr"] is None) == (label == 0)
    assert (found.figures["fpr"] is None) == (label == 1)
    assert (found.figures["shortcuts"], found.figures["warnings"]) == ({}, [])
    assert any(f"no {missing} test image" in note for note in found.notes)
    json.dumps(found.figures, allow_nan=False)


def test_no_test_images_is_an_error(detector: AdvRAD, widgets: Path) -> None:
    with pytest.raises(DataError, match="no test images"):
        evaluate(detector, only(find_records(widgets), lambda record: record.split == "train"))


def test_images_without_masks_are_left_out_of_the_pixel_figures(
    detector: AdvRAD, widgets: Path, evaluation: EvaluationResult
) -> None:
    dataset = find_records(widgets)
    bare = replace(dataset, records=tuple(replace(r, mask=None) for r in dataset.records))
    found = evaluate(detector, bare)
    assert found.figures["pixel_auroc"] is found.figures["aupro"] is None
    assert found.figures["image_auroc"] == evaluation.figures["image_auroc"]
    assert any("without a usable mask" in note for note in found.notes)


def test_a_broken_image_stops_or_is_left_out(detector: AdvRAD, widgets: Path, tmp_path: Path) -> None:
    data = tmp_path / "widget"
    shutil.copytree(widgets, data)
    bad = data / "test" / "dent" / "000.png"
    bad.write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        evaluate(detector, find_records(data))
    found = evaluate(detector, find_records(data), options=DataOptions(skip_bad=True))
    assert [error.path for error in found.skipped] == [bad]
    assert found.figures["n_defect"] == 4


def test_saved_figures_reach_the_configuration_and_the_card(
    widget_run: Path, evaluation: EvaluationResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(widget_run, run)
    assert "Not evaluated yet" in (run / "README.md").read_text()
    weights = (run / "model.safetensors").read_bytes()
    save_figures(run, RecordedFigures.model_validate(evaluation.figures))
    again = load_detector(run, "cpu")
    assert again.detector_config.figures.to_dict() == evaluation.figures
    assert (run / "model.safetensors").read_bytes() == weights
    card = (run / "README.md").read_text()
    assert "Not evaluated yet" not in card
    assert f"{evaluation.figures['image_auroc']:.4f}" in card
    assert "| scratch | 3 |" in card
    assert "> **Warning.** Brightness alone" in card


def test_saving_figures_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        save_figures(tmp_path, RecordedFigures())


def test_scores_as_json_lines(evaluation: EvaluationResult, tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.jsonl", evaluation)
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rows] == evaluation.scores.tolist()
    assert {row["defect"] for row in rows} == {"good", "dent", "scratch"}


def test_the_report_shows_the_evaluation(
    evaluation: EvaluationResult, detector: AdvRAD, widget_run: Path, tmp_path: Path
) -> None:
    content = report_content(evaluation, detector, widget_run)
    assert content.image_auroc == evaluation.figures["image_auroc"]
    assert len(content.misses) + len(content.finds) == 5
    assert content.false_alarms[0].score == evaluation.scores[evaluation.labels == 0].max()
    assert content.misses[0].mask is not None
    assert content.misses[0].heat is not None
    assert "/" not in content.provenance["category"]
    write_report(tmp_path / "report.html", content)
    page = (tmp_path / "report.html").read_text()
    assert "scratch/" in page
    assert evaluation.figures["warnings"][0] in page
