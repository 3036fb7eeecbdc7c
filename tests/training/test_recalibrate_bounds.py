"""New thresholds of a closed form: plain ones, and ones that hold under any attack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_datasets import make_mvtec, write_good
from trained_run import Cli

import advrad
from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.conformal import conformal_threshold
from advrad.detectors.loading import load_detector
from advrad.errors import CheckpointError, ConfigError, DataError
from advrad.training.options import CalibrateOptions, RunOptions
from advrad.training.plan import plan_path
from advrad.training.recalibrate import calibrate
from advrad.training.run import train
from advrad.utils.progress import CallbackReporter

EPS = 2 / 255
ROBUST = CalibrateOptions(radius=EPS, norm="linf")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mvtec(tmp_path_factory.mktemp("data"), "nut", train=8, good=2, defects={"scratch": 2}, size=64)


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(data, folder, RunOptions(size_px=64, false_alarm_rate=0.2))
    return folder


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be changed."""
    return Path(shutil.copytree(fitted, tmp_path / "model"))


def closed_form(folder: Path) -> ClosedFormDetector:
    detector = load_detector(folder)
    assert isinstance(detector, ClosedFormDetector)
    return detector


def test_without_options_the_threshold_is_that_of_the_fit(model: Path, data: Path) -> None:
    before = closed_form(model).calibration
    calibrate(model, data, CalibrateOptions())
    after = closed_form(model)
    for name in ("threshold", "heat_low", "heat_high"):
        assert getattr(after.calibration, name) == pytest.approx(getattr(before, name), rel=1e-5)
    assert (after.calibration.n, after.calibration.source) == (before.n, before.source)
    assert after.calibration.picture_statistics == before.picture_statistics is not None
    assert len(before.picture_statistics.brightness) == before.n
    assert after.config.robust_calibration is None


def test_another_rate_is_a_quantile_of_the_same_scores(model: Path, data: Path) -> None:
    told: list[tuple[int, int]] = []
    calibrate(
        model, data, CalibrateOptions(false_alarm_rate=0.3), progress=CallbackReporter(lambda *at: told.append(at))
    )
    detector = closed_form(model)
    images = normals(data)
    held = detector.config.held_out
    scores = [float(detector.scores(images[i : i + 1], exclude=torch.tensor([i]))) for i in held]
    assert detector.calibration.threshold == pytest.approx(conformal_threshold(scores, 0.3))
    assert detector.calibration.false_alarm_rate == 0.3 and detector.calibration.n == len(held)
    assert told[-1] == (len(held), len(held))


def normals(data: Path) -> torch.Tensor:
    records = [one for one in find_records(data).records if one.split == "train"]
    images = load_images(sorted(records, key=lambda record: record.path.as_posix()), 64)
    return images.batch(range(len(images)))


@pytest.mark.parametrize(("norm", "radius"), [("linf", EPS), ("l2", 0.2), (None, EPS)])
def test_the_robust_threshold_is_a_quantile_of_upper_bounds(
    norm: str | None, radius: float, model: Path, data: Path
) -> None:
    calibrate(model, data, CalibrateOptions(radius=radius, norm=norm))  # type: ignore[arg-type]
    detector = closed_form(model)
    robust, plain = detector.config.robust_calibration, detector.calibration
    assert robust is not None and (robust.norm, robust.radius) == (norm or "linf", radius)
    assert (robust.n, robust.false_alarm_rate, robust.confidence) == (plain.n, plain.false_alarm_rate, None)
    images = normals(data)
    upper = [
        float(detector.score_bounds(images[i : i + 1], radius, robust.norm, torch.tensor([i])).upper)
        for i in detector.config.held_out
    ]
    assert robust.threshold == pytest.approx(conformal_threshold(upper, plain.false_alarm_rate))
    assert robust.threshold > plain.threshold
    stored = json.loads((model / "config.json").read_text())["robust_calibration"]
    assert not {"draws", "confidence"} & set(stored) and stored["norm"] == robust.norm


def test_certify_uses_the_robust_threshold_at_its_radius(model: Path, data: Path, tmp_path: Path) -> None:
    calibrate(model, data, ROBUST)
    detector = closed_form(model)
    robust = detector.config.robust_calibration
    assert robust is not None
    held = advrad.certify(detector, data, radii=("1/255", "2/255"))
    assert held.threshold == robust.threshold and held.method == "bounds"
    other = advrad.certify(detector, data, radii=("1/255",))
    assert other.threshold == detector.calibration.threshold


def test_the_command_sets_both_thresholds(cli: Cli, model: Path, data: Path, tmp_path: Path) -> None:
    options = ("--norm", "linf", "--radius", "1/255", "--false-alarm-rate", 0.25)
    done = cli("calibrate", model, data, *options, "-o", tmp_path / "new")
    assert done.status == 0, done.err
    assert "certified" in done.out and "even after any linf perturbation of up to 1/255" in done.out
    assert "--norm linf --radius 1/255" in done.out, "the next command uses the new threshold"
    assert closed_form(model).config.robust_calibration is None, "the old model is unchanged"
    assert closed_form(tmp_path / "new").calibration.false_alarm_rate == 0.25


def test_other_images_are_refused(model: Path, data: Path, tmp_path: Path) -> None:
    before = (model / "config.json").read_bytes()
    changed, fewer = (Path(shutil.copytree(data, tmp_path / name / "nut")) for name in ("changed", "fewer"))
    for seed, path in enumerate(sorted((changed / "train" / "good").iterdir())):
        write_good(path, 64, 500 + seed)
    (fewer / "train" / "good" / "003.png").unlink()
    for folder in (changed, fewer):
        with pytest.raises(DataError, match="are not those of the fit"):
            calibrate(model, folder, ROBUST)
    assert (model / "config.json").read_bytes() == before


def test_the_plan_file_is_not_needed(model: Path, data: Path) -> None:
    plan_path(model).unlink()
    calibrate(model, data, ROBUST)
    assert closed_form(model).config.robust_calibration is not None


def test_what_a_closed_form_cannot_do(model: Path, data: Path, tmp_path: Path) -> None:
    for options in (CalibrateOptions(score="robust"), CalibrateOptions(optimise_for_radius=0.2)):
        with pytest.raises(ConfigError, match="learned denoiser"):
            calibrate(model, data, options, tmp_path / "new")
    for norm in ("linf", None):
        with pytest.raises(ConfigError, match=r"radius 1\.17647: must be between 0 and 1, for pixel values"):
            calibrate(model, data, CalibrateOptions(radius="300/255", norm=norm), tmp_path / "new")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs 99 calibration images"):
        calibrate(model, data, CalibrateOptions(false_alarm_rate=0.01))
    detector = closed_form(model)
    detector.config = detector.config.model_copy(update={"held_out": ()})
    detector.save_pretrained(model)
    with pytest.raises(CheckpointError, match="does not record how it was fitted"):
        calibrate(model, data, ROBUST)
