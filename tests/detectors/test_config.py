"""The configuration of a detector: what a model folder's config.json may hold."""

from __future__ import annotations

import json

import pytest
from golden_model import GOLDEN
from toy_models import TINY

from advrad.denoisers.factory import build_denoiser
from advrad.denoisers.lean import LeanDenoiser
from advrad.detectors.config import DetectorConfig, ImageCounts, RecordedFigures, RobustCalibration, TrainingRecord
from advrad.errors import ConfigError

TRAINING = {
    "plan": {
        "layout": "folder",
        "category": "widget",
        "train": {"seed": 3, "steps": 40, "views": [{"picture_px": 128, "window_px": 64}], "restore": 0.5},
    },
    "seconds": 90.0,
    "pictures": {"train": 30, "selection": 5, "calibration": 19},
    "tried": [["first", 0.9], ["second", 0.8]],
    "candidates": 2,
    "winner": "first",
    "reason": "best of all",
    "attacked": [],
    "versions": {"advrad": "0.1.0"},
}
FIGURES = {
    "image_auroc": 0.9,
    "image_auroc_ci": [0.8, 1.0],
    "pixel_auroc": None,
    "n_good": 10,
    "n_defect": 4,
    "per_defect": {"scratch": {"n": 4, "auroc": 0.9, "tpr": None}},
    "warnings": ["Brightness alone tells."],
}


def test_build_denoiser_makes_the_kind_that_is_named() -> None:
    assert isinstance(build_denoiser(TINY), LeanDenoiser)
    assert build_denoiser(TINY).config == TINY


def test_a_training_record_is_typed_and_keeps_its_json() -> None:
    record = TrainingRecord.parse(TRAINING, "config.json")
    assert (record.category, record.loop.steps, record.loop.views[0].image_px) == ("widget", 40, 128)
    assert record.images == ImageCounts(train=30, selection=5, calibration=19) and record.images.total == 54
    assert record.tried[0] == ("first", 0.9)
    assert json.loads(json.dumps(record.to_dict())) == TRAINING


def test_recorded_figures_are_typed_and_keep_their_json() -> None:
    figures = RecordedFigures.parse(FIGURES, "config.json")
    assert (figures.n_normal, figures.n_anomalous, figures.image_auroc_ci) == (10, 4, (0.8, 1.0))
    assert figures.per_defect["scratch"].n == 4
    assert json.loads(json.dumps(figures.to_dict())) == FIGURES


@pytest.mark.parametrize("record", [TrainingRecord(), RecordedFigures()])
def test_an_empty_record_stays_empty(record: TrainingRecord | RecordedFigures) -> None:
    assert not record and record.to_dict() == {}


def test_a_record_without_a_plan_has_no_values() -> None:
    record = TrainingRecord.parse({"seconds": 1.0}, "config.json")
    assert record and record.category == "" and not record.loop and record.loop.views == ()


def test_unknown_facts_of_other_versions_are_kept_in_records_only() -> None:
    values = {"future": 1, "plan": {"future": [2], "train": {"future": "3"}}}
    assert TrainingRecord.parse(values, "config.json").to_dict() == values
    assert RecordedFigures.parse({"future": 1}, "config.json").to_dict() == {"future": 1}
    with pytest.raises(ConfigError, match=r"config\.json: future"):
        DetectorConfig.parse(golden() | {"future": 1}, "config.json")


def test_a_wrong_type_in_a_record_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"config\.json: training\.seconds"):
        DetectorConfig.parse(golden() | {"training": {"seconds": "long"}}, "config.json")


def golden() -> dict[str, object]:
    values: dict[str, object] = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if name not in ("format", "format_version", "weights_sha256")}


def test_the_configuration_of_advrad_0_1_0_keeps_its_json() -> None:
    assert DetectorConfig.parse(golden(), "config.json").model_dump(mode="json") == golden()


def test_a_robust_calibration_keeps_its_json_names() -> None:
    values = {"threshold": 1.0, "false_alarm_rate": 0.05, "radius": 0.1, "n": 99, "draws": 64, "confidence": 0.999}
    config = DetectorConfig.parse(golden() | {"guarantee": values}, "config.json")
    assert isinstance(config.robust_calibration, RobustCalibration) and config.robust_calibration.n_samples == 64
    assert config.model_dump(mode="json")["guarantee"] == values | {"source": {}}


def test_an_older_configuration_without_optional_fields_loads() -> None:
    values = {name: golden()[name] for name in ("denoiser", "size_px", "score")}
    config = DetectorConfig.parse(values, "config.json")
    assert config.calibration is config.robust_calibration is None and not config.training and not config.figures
