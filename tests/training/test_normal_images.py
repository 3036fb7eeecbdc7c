"""Training uses each normal image once, and a model knows its images again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from short_runs import Listener
from toy_parts import write_parts

import advrad
from advrad.attacks.options import AttackOptions
from advrad.attacks.pipeline import prepare
from advrad.certificates.inputs import load_test_images
from advrad.certificates.options import CertifyOptions
from advrad.data.layouts import find_records
from advrad.data.options import DataOptions
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.loading import to_loaded
from advrad.errors import ConfigError
from advrad.training.normal_images import NormalImages
from advrad.training.options import CalibrateOptions, RunOptions
from advrad.training.recalibrate import calibrate
from advrad.training.run import train

SMALL = RunOptions(size_px=64, false_alarm_rate=0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve different normal images and three copies; a test image is a training image."""
    root = write_parts(tmp_path_factory.mktemp("copies") / "data", 12, spots=2)
    good = root / "train" / "good"
    shutil.copy(good / "003.png", good / "a copy.png")
    Image.open(good / "005.png").save(good / "other.bmp")
    Image.open(good / "007.png").save(good / "seen.jpg", quality=92)
    shutil.copy(good / "001.png", root / "test" / "good" / "trained.png")
    return root


@pytest.fixture(scope="module")
def run(data: Path) -> tuple[Path, Listener]:
    listener = Listener()
    train(data, data.parent / "run", SMALL, progress=listener)
    return data.parent / "run", listener


def test_copies_are_left_out_and_named(run: tuple[Path, Listener]) -> None:
    folder, listener = run
    (note,) = [text for text in listener.notes if "copies of others" in text]
    assert "left out: 3 of 15" in note and "train/good/seen.jpg looks like train/good/007.png" in note
    assert any("byte for byte: 1 of 6 (test/good/trained.png is train/good/001.png)" in text for text in listener.notes)
    plan = json.loads((folder / "training" / "plan.json").read_text())
    assert plan["leaves_out_copies"] is True and len(plan["names"]) == 12


def test_calibration_leaves_out_the_same_copies(run: tuple[Path, Listener], data: Path, tmp_path: Path) -> None:
    before = ClosedFormDetector.from_pretrained(run[0])
    shutil.copytree(run[0], tmp_path / "run")
    again = calibrate(tmp_path / "run", data, CalibrateOptions(false_alarm_rate=0.1))
    assert again.calibration.threshold == pytest.approx(before.calibration.threshold, rel=1e-4)
    assert again.calibration.n == 12


def test_evaluate_names_test_images_that_were_trained_on(run: tuple[Path, Listener], data: Path) -> None:
    detector = ClosedFormDetector.from_pretrained(run[0])
    assert len(detector.config.training.seen) == 24
    warnings = advrad.evaluate(detector, data).warnings
    assert any("that the model was made from: 1 of 6 (test/good/trained.png)" in text for text in warnings)
    foreign = advrad.evaluate(lambda images: images.mean((1, 2, 3)), data).warnings
    assert not any("made from" in text or "both train and test" in text for text in foreign)


def test_attack_and_certify_name_them_too(run: tuple[Path, Listener], data: Path) -> None:
    detector = ClosedFormDetector.from_pretrained(run[0])
    found = (
        prepare(to_loaded(detector), data, AttackOptions()).warnings,
        load_test_images(detector, data, CertifyOptions()).warnings,
        load_test_images(detector, data, CertifyOptions(own_size=True)).warnings,
    )
    for warnings in found:
        assert any("made from: 1 of 6 (test/good/trained.png)" in text for text in warnings)


def test_a_stuck_camera_is_refused(tmp_path: Path) -> None:
    data = write_parts(tmp_path, 25)
    good = sorted((data / "train" / "good").iterdir())
    for path in good[5:]:
        shutil.copy(good[0], path)
    source = NormalImages(find_records(data), DataOptions(), 0.1)
    words = r"needs 9 different normal images, but there are 5 \(of 25; 20 are copies of others\)"
    with pytest.raises(ConfigError, match=words):
        source.read(find_records(data).records, 64)
    with pytest.raises(ConfigError, match=words):
        train(data, tmp_path / "run", SMALL)
    older = NormalImages(find_records(data), DataOptions(), 0.1, leave_out_copies=False)
    assert len(older.read(find_records(data).records, 64)) == 25
