"""New thresholds and scores for a trained model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import trained_run
from trained_run import Cli

from advrad.certificates.smoothing import Sampler
from advrad.certificates.threshold import upper_bounds
from advrad.certificates.two_path import TwoPath
from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.splits import split_normals
from advrad.detectors.conformal import conformal_threshold
from advrad.detectors.loading import load_detector
from advrad.errors import CheckpointError, ConfigError, DataError, OutputError
from advrad.training.options import CalibrateOptions
from advrad.training.recalibrate import calibrate


@pytest.fixture
def model(widget_run: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be changed."""
    return Path(shutil.copytree(widget_run, tmp_path / "model"))


def config_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_without_options_the_thresholds_are_those_of_training(model: Path, widgets: Path) -> None:
    before = load_detector(model).detector_config.calibration
    calibrate(model, widgets, CalibrateOptions())
    assert load_detector(model).detector_config.calibration == before


def test_another_rate_is_the_quantile_of_the_same_images(model: Path, widgets: Path) -> None:
    detector = calibrate(model, widgets, CalibrateOptions(false_alarm_rate=0.3))
    held = load_images(split_normals(find_records(widgets).records, 0).calibration, detector.size_px)
    scores = detector.predict_batch(held.batch(slice(None)))[0].tolist()
    assert detector.calibration.threshold == conformal_threshold(scores, 0.3)
    assert detector.calibration.n == len(scores) == 19
    expected = PictureReference.of(picture_statistics(image) for image in held.batch(slice(None)))
    assert detector.calibration.picture_statistics == expected
    assert load_detector(model).calibration == detector.calibration, "and it is saved"


def test_a_radius_sets_the_threshold_of_certified_verdicts(model: Path, widgets: Path) -> None:
    options = CalibrateOptions(radius=0.05, false_alarm_rate=0.2, n_samples=24)
    promise = calibrate(model, widgets, options).detector_config.robust_calibration
    assert promise is not None and (promise.radius, promise.n_samples, promise.n) == (0.05, 24, 19)
    detector = load_detector(model)
    assert detector.detector_config.robust_calibration == promise
    # Its own draws give other bounds, but no threshold far from this one.
    sampler: Sampler = TwoPath(detector)
    held = load_images(split_normals(find_records(widgets).records, 0).calibration, detector.size_px)
    from toy_models import generator

    values = upper_bounds(sampler, list(held.batch(slice(None))), 0.05, 24, 0.999, generator(9))
    above = sum(value > promise.threshold for value in values)
    assert above <= 7, "about a fifth of the bounds lie above it"
    wider = calibrate(model, widgets, options.model_copy(update={"radius": 0.1})).detector_config.robust_calibration
    assert wider is not None and wider.threshold > promise.threshold


def test_a_new_threshold_removes_the_threshold_under_attack(model: Path, widgets: Path) -> None:
    calibrate(model, widgets, CalibrateOptions(radius=0.05, false_alarm_rate=0.2, n_samples=24))
    assert calibrate(model, widgets, CalibrateOptions()).detector_config.robust_calibration is None


@pytest.mark.parametrize("options", [{"score": "auto"}, {"score": "robust"}, {"optimise_for_radius": 0.05}])
def test_a_new_score_makes_another_model(
    options: dict[str, object], model: Path, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    monkeypatch.setattr("advrad.training.selection_certificate.IMAGES", (6, 6))
    before = (model / "config.json").read_bytes()
    wanted = CalibrateOptions.parse(options | {"false_alarm_rate": 0.2, "draws": 24}, "test")
    with pytest.raises(ConfigError, match="output: is needed"):
        calibrate(model, widgets, wanted)
    calibrate(model, widgets, wanted, tmp_path / "new")
    assert (model / "config.json").read_bytes() == before
    old, new = (load_detector(folder).detector_config for folder in (model, tmp_path / "new"))
    assert old.training.winner == "paper" != new.training.winner
    assert new.training.reason and new.training.seconds == old.training.seconds
    assert (new.robust_calibration is not None) == ("optimise_for_radius" in options)
    # It remembers enough to be calibrated again.
    assert calibrate(tmp_path / "new", widgets, CalibrateOptions()).detector_config.calibration is not None
    with pytest.raises(OutputError, match="holds a model"):
        calibrate(model, widgets, wanted, tmp_path / "new")


def test_a_new_threshold_removes_the_measured_figures(model: Path, widgets: Path, cli: Cli) -> None:
    assert cli("evaluate", model, widgets, "--save", "--json").status == 0
    assert config_of(model)["figures"]
    calibrate(model, widgets, CalibrateOptions(false_alarm_rate=0.3))
    assert config_of(model)["figures"] == {}


def test_other_normal_images_are_refused(model: Path, widgets: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(widgets, tmp_path / widgets.name))
    next((other / "train" / "good").iterdir()).unlink()
    with pytest.raises(DataError, match=r"not those of the training \(47 now, 48 then\)"):
        calibrate(model, other, CalibrateOptions())


def test_a_model_without_a_training_record_is_refused(model: Path, widgets: Path) -> None:
    values = config_of(model)
    values["training"] = {}
    (model / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not record how it was trained"):
        calibrate(model, widgets, CalibrateOptions())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--false-alarm-rate", "0.01"), "needs 99 calibration images"),
        (("--radius", "0.05"), "needs 20 calibration images under attack, there are 19"),
        (("--radius", "-1"), "--radius -1: must be 0 or more"),
        (("--radius", "0"), "--radius 0: must be above 0"),
        (("--norm", "l2"), "--norm l2: belongs to a radius; give both"),
        (("--radius", "40", "--false-alarm-rate", "0.2"), "--radius 40"),
        (("--score", "best"), "--score best: is unknown"),
        (("--score", "robust", "--optimise-for-radius", "0.1", "-o", "x"), "give one of them"),
        (("--optimise-for-radius", "0", "-o", "x"), "must be above 0"),
        (("--score", "robust"), "--output: is needed"),
    ],
)
def test_an_option_that_cannot_be_met_is_an_error_of_one_line(
    arguments: tuple[str, ...], words: str, model: Path, widgets: Path, cli: Cli
) -> None:
    before = (model / "config.json").read_bytes()
    done = cli("calibrate", model, widgets, *arguments)
    assert done.status == 2
    assert words in done.err.splitlines()[-1] and "Traceback" not in done.err
    assert (model / "config.json").read_bytes() == before


def test_the_command_prints_both_thresholds(model: Path, widgets: Path, cli: Cli) -> None:
    done = cli("calibrate", model, widgets, "--radius", "0.05", "--false-alarm-rate", "0.2", "--draws", "24")
    assert done.status == 0, done.err
    detector = load_detector(model).detector_config
    assert detector.calibration is not None and detector.robust_calibration is not None
    assert f"threshold  {detector.calibration.threshold:.6g}" in done.out
    assert f"certified  {detector.robust_calibration.threshold:.6g}" in done.out
    assert "even after any l2 perturbation of up to 0.05" in done.out
