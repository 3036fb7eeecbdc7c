"""What a report gathers from an evaluation, the detector and the model folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from toy_bounds import IMAGES, RESULT, Brightest, ToyConfig, Unbounded, bounds_of
from toy_datasets import make_mvtec

from advrad.detectors.config import TrainingRecord
from advrad.inference.evaluation import EvaluationResult, evaluate
from advrad.inference.heatmaps import GREEN
from advrad.report.comparison import OtherDetector
from advrad.report.content import report_content
from advrad.report.evaluation_report import ReportContent, write_report


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mvtec(tmp_path_factory.mktemp("data"), train=2, good=2, defects={"scratch": 2})


@pytest.fixture(scope="module")
def evaluation(product: Path) -> EvaluationResult:
    return evaluate(Brightest(), product)


def test_a_detector_with_bounds_shows_what_is_proven(evaluation: EvaluationResult) -> None:
    found = report_content(evaluation, Brightest(), None)
    assert found.proven_radius == "linf 2/255" and found.description == ("the brightest pixel",)
    shown = [*found.misses, *found.finds, *found.false_alarms]
    assert len(shown) == 4
    for item in shown:
        assert item.proof.startswith("proven ") and item.proven_share is not None
        assert item.heat is not None and item.reconstruction is None and item.others == ()
        green = (item.heat == np.float32(GREEN)).all(axis=2).any()
        assert green == (0 < item.proven_share < 1)
    assert found.compared == () and found.registered == ()
    assert found.configuration == {"kind": "closed_form", "image_size_px": 32}


def test_a_detector_without_bounds_shows_none(product: Path) -> None:
    detector = Unbounded(ToyConfig(kind="advrad"))
    found = report_content(evaluate(detector, product), detector, None)
    assert found.proven_radius == ""
    for item in found.misses:
        assert item.proof == "" and item.proven_share is None and item.reconstruction is not None


def test_detectors_are_compared(evaluation: EvaluationResult, tmp_path: Path) -> None:
    folder = tmp_path / "certificates" / "bounds-1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(RESULT | {"category": "widget"}), encoding="utf-8")
    rows = "".join(json.dumps(bounds_of(*image).to_dict()) + "\n" for image in IMAGES)
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    learned = Unbounded(ToyConfig(kind="advrad", training=TrainingRecord(seconds=61.2)))
    found = report_content(evaluation, Brightest(), tmp_path, others=[OtherDetector(learned, evaluation)])
    closed, other = found.compared
    assert (closed.name, closed.certified, other.name, other.certified) == (
        "closed form", 0.75, "learned denoiser", None,
    )  # fmt: skip
    assert (closed.seconds, other.seconds, other.image_auroc) == (None, 61.2, evaluation.image_auroc)
    assert [name for name, _ in found.finds[0].others] == ["learned denoiser"]
    assert found.finds[0].reconstruction is not None, "the reconstruction is that of the other detector"
    assert len(found.certificates) == 1
    page = render(found, tmp_path)
    for words in ("Detectors compared", "61 s", "Proven at linf 2/255", "Map: learned denoiser", "0.750"):
        assert words in page.text, words


def render(content: ReportContent, folder: Path) -> Page:
    write_report(folder / "report.html", content)
    return Page((folder / "report.html").read_text(encoding="utf-8"))
