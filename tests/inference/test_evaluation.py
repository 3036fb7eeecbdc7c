"""Evaluation of a detector: images, figures and files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advrad.data.labelled import load_labelled
from advrad.data.layouts import Dataset, find_records
from advrad.data.options import DataOptions
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import RecordedFigures
from advrad.detectors.loading import load_detector, save_figures
from advrad.detectors.wrappers import wrap
from advrad.errors import CheckpointError, DataError, DetectorError, ImageError
from advrad.inference.evaluation import EvaluationResult, evaluate, write_scores
from advrad.inference.figures import compute_figures
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
    assert evaluation.maps is not None and evaluation.masks is not None
    assert evaluation.maps.shape == evaluation.masks.shape == (11, 64, 64)
    assert evaluation.maps.dtype == np.float32


def test_gives_every_figure_as_plain_json(evaluation: EvaluationResult, detector: AdvRAD) -> None:
    figures = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
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
    assert figures["warnings"][0].startswith("Brightness alone separates normal from anomalous")


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


SPOTS = torch.rand(10, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.5
SPOTS[5:, :, 6:10, 6:10] = 1.0
LABELS = [0] * 5 + [1] * 5


def spot(images: torch.Tensor) -> torch.Tensor:
    """Anomaly maps, (b, 1, h, w): the brightness."""
    return images.mean(1, keepdim=True)


def test_any_callable_on_tensors() -> None:
    found = evaluate(spot, (SPOTS, LABELS), batch_size=3)
    assert (found.image_auroc, found.n_normal, found.n_anomalous) == (1.0, 5, 5)
    assert found.tpr is found.fpr is found.threshold is found.aupro is None
    assert found.maps is not None and found.maps.shape == (10, 24, 24)
    np.testing.assert_allclose(found.maps, spot(SPOTS)[:, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.scores, found.maps.max((1, 2)))
    assert found.per_defect["anomaly"].n == 5
    assert found.shortcuts["brightness"] == 1.0
    assert (found.category, found.records, found.names[0]) == ("images", (), "00000")


def test_a_wrapped_detector_with_a_threshold(widgets: Path) -> None:
    wrapped = wrap(spot, threshold=0.9, deterministic=True, size_px=64)
    found = evaluate(wrapped, widgets)
    assert found.maps is not None and found.maps.shape == (11, 64, 64)
    assert found.threshold == 0.9 and found.tpr is not None and found.fpr is not None
    assert found.pixel_auroc is not None and found.aupro is not None
    with pytest.raises(DataError, match="24 x 24 px, but the detector takes 64 x 64 px"):
        evaluate(wrapped, (SPOTS, LABELS))


def test_a_callable_without_maps_or_with_noise() -> None:
    def noisy(images: torch.Tensor) -> torch.Tensor:
        return images.amax((1, 2, 3)) + 0.01 * torch.randn(len(images))

    found = evaluate(noisy, (SPOTS, LABELS))
    assert found.maps is None and found.pixel_auroc is None
    assert found.scores.tolist() == evaluate(noisy, (SPOTS, LABELS), batch_size=1).scores.tolist()
    assert found.scores.tolist() != evaluate(noisy, (SPOTS, LABELS), seed=1).scores.tolist()


def test_grey_images_have_no_shortcuts() -> None:
    found = evaluate(spot, (SPOTS[:, :1], LABELS))
    assert (found.image_auroc, found.shortcuts, found.warnings) == (1.0, {}, ())


def test_a_detector_without_scores_is_refused() -> None:
    with pytest.raises(DetectorError, match="returned str"):
        evaluate(lambda images: "good", (SPOTS, LABELS))


def test_our_detector_takes_tensors(detector: AdvRAD, widgets: Path, evaluation: EvaluationResult) -> None:
    images = load_labelled(widgets, detector.size_px)
    found = evaluate(detector, (images.images, images.labels))
    np.testing.assert_allclose(found.scores, evaluation.scores, rtol=1e-5)
    assert found.image_auroc == evaluation.image_auroc and found.tpr == evaluation.tpr
    assert found.pixel_auroc is None


def test_a_result_is_saved_and_shown(evaluation: EvaluationResult, tmp_path: Path) -> None:
    evaluation.save(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "evaluation.json").read_text()) == evaluation.to_dict()
    assert len((tmp_path / "new" / "scores.jsonl").read_text().splitlines()) == 11
    shown = repr(evaluation)
    assert shown.startswith("EvaluationResult(category='widget', image_auroc=") and len(shown) < 300
    assert "n_normal=6, n_anomalous=5)" in shown
    tensors = evaluate(spot, (SPOTS, LABELS))
    tensors.save(str(tmp_path / "tensors"))
    first = json.loads((tmp_path / "tensors" / "scores.jsonl").read_text().splitlines()[0])
    assert (first["path"], first["label"], first["defect"]) == ("00000", 0, "good")


def test_known_figures() -> None:
    labels = np.array([0, 0, 1, 1])
    masks = np.zeros((4, 4, 4), bool)
    masks[2, 0, 0] = True
    scores = np.array([0.0, 2.0, 3.0, 1.0])
    pixels = (masks[:3], masks[:3].astype(np.float32))
    figures = compute_figures(labels, scores, ("good", "good", "cut", "hole"), 1.5, pixels=pixels).to_dict()
    assert figures["image_auroc"] == 0.75
    assert figures["pixel_auroc"] == 1.0
    assert figures["aupro"] == 1.0
    assert (figures["tpr"], figures["fpr"]) == (0.5, 0.5)
    assert figures["per_defect"] == {
        "cut": {"n": 1, "auroc": 1.0, "tpr": 1.0},
        "hole": {"n": 1, "auroc": 0.5, "tpr": 0.0},
    }


def test_without_threshold_there_are_no_rates() -> None:
    labels, maps = np.array([0, 1]), np.zeros((1, 4, 4), np.float32)
    scores = np.array([0.0, 1.0])
    figures = compute_figures(labels, scores, ("good", "cut"), None, pixels=(maps > 0, maps)).to_dict()
    assert figures["image_auroc"] == 1.0
    assert figures["threshold"] is figures["tpr"] is figures["fpr"] is None
    assert figures["pixel_auroc"] is figures["aupro"] is None


@pytest.mark.parametrize(("label", "missing"), [(0, "anomalous"), (1, "normal")])
def test_one_class_alone_gives_none_and_a_note(detector: AdvRAD, widgets: Path, label: int, missing: str) -> None:
    found = evaluate(detector, only(find_records(widgets), lambda record: record.label == label))
    assert found.image_auroc is found.image_auroc_ci is None
    assert (found.tpr is None) == (label == 0)
    assert (found.fpr is None) == (label == 1)
    assert (found.shortcuts, found.warnings) == ({}, ())
    assert any(f"no {missing} test image" in note for note in found.notes)
    json.dumps(found.to_dict(), allow_nan=False)


def test_no_test_images_is_an_error(detector: AdvRAD, widgets: Path) -> None:
    with pytest.raises(DataError, match="no test images"):
        evaluate(detector, only(find_records(widgets), lambda record: record.split == "train"))


def test_images_without_masks_are_left_out_of_the_pixel_figures(
    detector: AdvRAD, widgets: Path, evaluation: EvaluationResult
) -> None:
    dataset = find_records(widgets)
    bare = replace(dataset, records=tuple(replace(r, mask=None) for r in dataset.records))
    found = evaluate(detector, bare)
    assert found.pixel_auroc is found.aupro is None
    assert found.image_auroc == evaluation.image_auroc
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
    assert found.n_anomalous == 4


def test_saved_figures_reach_the_configuration_and_the_card(
    widget_run: Path, evaluation: EvaluationResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(widget_run, run)
    assert "Not evaluated yet" in (run / "README.md").read_text()
    weights = (run / "model.safetensors").read_bytes()
    save_figures(run, evaluation.figures)
    again = load_detector(run, "cpu")
    assert again.detector_config.figures == evaluation.figures
    assert (run / "model.safetensors").read_bytes() == weights
    card = (run / "README.md").read_text()
    assert "Not evaluated yet" not in card
    assert f"{evaluation.image_auroc:.4f}" in card
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
    assert content.image_auroc == evaluation.image_auroc
    assert len(content.misses) + len(content.finds) == 5
    assert content.false_alarms[0].score == evaluation.scores[evaluation.labels == 0].max()
    assert content.misses[0].mask is not None
    assert content.misses[0].heat is not None
    assert "/" not in content.provenance["category"]
    write_report(tmp_path / "report.html", content)
    page = (tmp_path / "report.html").read_text()
    assert "scratch/" in page
    assert evaluation.warnings[0] in page
