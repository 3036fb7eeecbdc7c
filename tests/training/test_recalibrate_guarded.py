"""New tests of a guarded detector, and a new threshold of a detector on features."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_guarded
import trained_run
from toy_datasets import make_mvtec, write_good

import advrad
from advrad.data.arrays import image_batches
from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.png import write_image
from advrad.data.trained_images import digests_of
from advrad.detectors.config import PlanRecord, TrainingRecord
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.guarded_tests import kth_largest, surprise
from advrad.detectors.loading import load_detector
from advrad.errors import ConfigError, DataError
from advrad.training import guarded_run
from advrad.training.closed_form_run import ClosedFormRun
from advrad.training.options import CalibrateOptions
from advrad.training.recalibrate import calibrate
from advrad.training.recalibrate_bounds import read_same_images
from advrad.training.recalibrate_guarded import moved_ceiling
from advrad.training.run import train
from advrad.utils.progress import SILENT

SIZE_PX, EPS, RATE = 32, 2 / 255, 0.2
#: With few images each is left out of both halves in turn; with many part B is in neither.
FEW, MANY = 40, 72


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Model folder and data by name, ``few`` and ``many``; not to be changed."""
    fit, made = guarded_run.fit_features, {}

    def small_features(images: torch.Tensor, **options: Any) -> FeatureDetector:
        return fit(images, **options | {"network": "lite0", "layers": (1,)})

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        patch.setattr(guarded_run, "fit_features", small_features)
        for name, count in (("few", FEW), ("many", MANY)):
            root = tmp_path_factory.mktemp(name)
            data = make_mvtec(root, train=count, good=2, defects={"dent": 2}, size=SIZE_PX)
            train(data, root / "run", features="patchcore", size_px=SIZE_PX, false_alarm_rate=RATE)
            made[name] = (root / "run", data)
        yield made
    torch.set_num_threads(threads)


@pytest.fixture(params=["few", "many"])
def model(request: pytest.FixtureRequest, runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a model folder, to be changed, and its data."""
    folder, data = runs[request.param]
    return Path(shutil.copytree(folder, tmp_path / "model")), data


def guarded(folder: Path) -> GuardedDetector:
    detector = load_detector(folder)
    assert isinstance(detector, GuardedDetector)
    return detector


def slots(detector: GuardedDetector) -> list[int]:
    return [round(test.false_alarm_rate * (test.n + 1)) for test in detector.tests]


def test_without_options_the_tests_are_those_of_the_fit(model: tuple[Path, Path]) -> None:
    before = guarded(model[0])
    images = read_same_images(before.memory, *model, SILENT)
    expected = PictureReference.of(picture_statistics(images.batch([row])[0]) for row in before.memory.config.held_out)
    calibrate(*model, CalibrateOptions())
    after = guarded(model[0])
    assert before.calibration.picture_statistics == after.calibration.picture_statistics == expected
    assert (after.config.joint, slots(after)) == (before.config.joint, slots(before))
    assert after.config.ceiling == pytest.approx(before.config.ceiling, rel=1e-3)
    for one, other in zip(after.tests, before.tests, strict=True):
        for name in ("threshold", "slope", "heat_low", "heat_high"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-3)


def test_another_rate_divides_the_slots_again_and_keeps_its_promise(model: tuple[Path, Path]) -> None:
    before = guarded(model[0])
    calibrate(*model, CalibrateOptions(false_alarm_rate=0.4))
    after = guarded(model[0])
    n = after.calibration.n
    assert sum(slots(after)) == int(0.4 * (n + 1)) > sum(slots(before)) and min(slots(after)) >= 1
    assert after.calibration.false_alarm_rate == 0.4 and after.config.robust_calibration is None
    for one, other, k in zip(after.tests, before.tests, slots(after), strict=True):
        assert one.threshold <= other.threshold and one.threshold == kth_largest(one.scores, k)
    # Under the better split the images on which the memory speaks do not count against the features.
    spoken = sum(score > after.tests[0].threshold for score in after.tests[0].scores)
    assert len(after.tests[1].scores) == (n - spoken if after.config.joint else n)
    # A ceiling of at most 0 stands for the same score of the memory as before.
    if before.config.ceiling <= 0 and after.config.ceiling < 0:
        scores = [one.tests[0].threshold + one.config.ceiling / one.tests[0].slope for one in (before, after)]
        assert scores[1] == pytest.approx(scores[0])


def test_the_threshold_under_attack_is_the_memorys_at_the_full_rate(model: tuple[Path, Path]) -> None:
    folder, data = model
    calibrate(folder, data, CalibrateOptions(radius=EPS))
    detector = guarded(folder)
    robust = detector.config.robust_calibration
    assert robust is not None and (robust.norm, robust.radius, robust.n) == ("linf", EPS, detector.calibration.n)
    images = read_same_images(detector.memory, folder, data, SILENT)
    upper = []
    for index in detector.memory.config.held_out:
        bounds = detector.memory.score_bounds(images.batch([index]), EPS, "linf", exclude=torch.tensor([index]))
        upper.append(float(bounds.upper))
    quantile = kth_largest(upper, int(RATE * (robust.n + 1)))
    known = max(float(surprise(torch.tensor(quantile), detector.tests[0])), detector.config.ceiling)
    assert robust.threshold == pytest.approx(known) and robust.threshold >= detector.config.ceiling
    figures = advrad.certify(detector, data, radii=(EPS,))
    assert figures.threshold == robust.threshold and figures.words is not None


def test_other_images_are_refused(model: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = model
    before = (folder / "config.json").read_bytes()
    changed, fewer = (Path(shutil.copytree(data, tmp_path / name / data.name)) for name in ("changed", "fewer"))
    for seed, path in enumerate(sorted((changed / "train" / "good").iterdir())):
        write_good(path, SIZE_PX, 500 + seed)
    next((fewer / "train" / "good").iterdir()).unlink()
    for other in (changed, fewer):
        with pytest.raises(DataError, match="are not those of the fit"):
            calibrate(folder, other, CalibrateOptions())
    assert (folder / "config.json").read_bytes() == before


def test_too_low_a_rate_is_refused_before_images_are_read(
    model: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClosedFormRun, "read", None)
    with pytest.raises(ConfigError, match=r"needs 199 calibration images for 2 tests, there are \d+; give more"):
        calibrate(*model, CalibrateOptions(false_alarm_rate=0.01))
    with pytest.raises(ConfigError, match="learned denoiser"):
        calibrate(*model, CalibrateOptions(score="robust"), model[0].parent / "new")


# --- Detectors that advrad.guard made ---


def write_images(folder: Path, images: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        write_image(folder / f"{index:03}.png", image.permute(1, 2, 0).numpy())
    return folder


@pytest.fixture(scope="module", params=["memory with a plan", "memory without"])
def made_by_guard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folder of a detector that advrad.guard made with normal images; not to be changed."""
    root = tmp_path_factory.mktemp("guard")
    known = write_images(root / "known", toy_guarded.normals(16, 0))
    memory = toy_guarded.closed_form(toy_guarded.normals(16, 0))
    memory.calibrate([toy_guarded.normals(79, 1)], 0.05)
    plan = PlanRecord.model_validate({"kind": "memory"}) if request.param == "memory with a plan" else None
    seen = digests_of(load_images(find_records(known).records, memory.framing))
    memory.update_config(training=TrainingRecord(plan=plan, seen=seen))
    (root / "half.py").write_text(HALF)
    found = advrad.guard(f"{root / 'half.py'}:contrast", memory, toy_guarded.normals(79, 2), ceiling=-1.5)
    found.save_pretrained(root / "model")
    return root / "model"


HALF = """
import torch.nn.functional as F


def contrast(images):
    around = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return 1e3 * F.avg_pool2d((images - around).square().mean(1, keepdim=True), 9, stride=1).flatten(1).amax(1)
"""


def test_a_detector_that_guard_made_takes_new_normal_images(made_by_guard: Path, tmp_path: Path) -> None:
    data = write_images(tmp_path / "new", toy_guarded.normals(49, 3))
    again = calibrate(made_by_guard, data, CalibrateOptions(false_alarm_rate=0.1), tmp_path / "model")
    before, expected = guarded(made_by_guard), guarded(made_by_guard)
    expected.calibrate(sorted(data.iterdir()), 0.1)
    assert isinstance(again, GuardedDetector) and again.config.joint and again.config.robust_calibration is None
    assert again.tests == expected.tests == guarded(tmp_path / "model").tests != before.tests
    assert again.calibration.n == 49 and slots(again) == [4, 1] and again.calibration.source == {"data": "new"}
    # The ceiling stands for the same score of the memory as before.
    scores = [one.tests[0].threshold + one.config.ceiling / one.tests[0].slope for one in (before, again)]
    assert scores[1] == pytest.approx(scores[0]) and again.config.ceiling != before.config.ceiling


def test_its_threshold_under_attack_rests_on_the_new_images(made_by_guard: Path, tmp_path: Path) -> None:
    data = write_images(tmp_path / "new", toy_guarded.normals(19, 3))
    again = calibrate(made_by_guard, data, CalibrateOptions(false_alarm_rate=0.1, radius=EPS), tmp_path / "model")
    assert isinstance(again, GuardedDetector)
    batches = image_batches(sorted(data.iterdir()), again.framing, 1)
    bounds = [again.memory.score_bounds(one.pixels, EPS, "linf") for one in batches]
    upper = [max(float(surprise(found.upper, again.tests[0])), again.config.ceiling) for found in bounds]
    robust = again.config.robust_calibration
    assert robust is not None and robust.n == 19 and robust.threshold == pytest.approx(kth_largest(upper, 2))


def test_images_that_a_half_was_made_from_are_refused(made_by_guard: Path, tmp_path: Path) -> None:
    before = (made_by_guard / "config.json").read_bytes()
    images = torch.cat([toy_guarded.normals(16, 0)[:3], toy_guarded.normals(60, 4)])
    with pytest.raises(DataError, match=r"new: 3 of the 63 normal images are images that the model was made from"):
        calibrate(made_by_guard, write_images(tmp_path / "new", images), CalibrateOptions())
    few = write_images(tmp_path / "few", toy_guarded.normals(20, 5))
    with pytest.raises(ConfigError, match="needs 39 different normal images for the thresholds of 2 detectors"):
        calibrate(made_by_guard, few, CalibrateOptions())
    assert (made_by_guard / "config.json").read_bytes() == before


def test_a_ceiling_above_0_stays() -> None:
    before = HalfTest(threshold=2.0, false_alarm_rate=0.1, n=19, slope=2.0)
    higher, lower = (before.model_copy(update={"threshold": value}) for value in (3.0, 1.0))
    assert moved_ceiling(0.3, before, higher) == 0.3
    assert moved_ceiling(-1.0, before, higher) == -3.0 and moved_ceiling(-1.0, before, lower) == 0.0


def test_features_take_another_rate_from_their_stored_scores(
    runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    folder, data = runs["many"]
    features = guarded(folder).others["features"]
    assert isinstance(features, FeatureDetector)
    features.calibrate(sorted((data / "train" / "good").iterdir()), false_alarm_rate=0.1)
    features.save_pretrained(tmp_path / "features")
    before = features.calibration
    after = calibrate(tmp_path / "features", data, CalibrateOptions(false_alarm_rate=0.05)).calibration
    assert after.threshold == kth_largest(before.scores, int(0.05 * (before.n + 1))) > before.threshold
    assert load_detector(tmp_path / "features").calibration == after
    with pytest.raises(ConfigError, match="needs exact bounds of the score, which features have not"):
        calibrate(tmp_path / "features", data, CalibrateOptions(radius=EPS))
