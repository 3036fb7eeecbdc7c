"""The range of the values: a training keeps it with the model, and images of another range are not judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trained_run
from PIL import Image
from toy_datasets import make_mvtec

import advrad
from advrad.data.options import DataOptions
from advrad.errors import ConfigError, DataError, ImageError
from advrad.inference.prediction import PredictionRecord, predict_paths
from advrad.training.options import CalibrateOptions, RunOptions
from advrad.training.recalibrate import calibrate
from advrad.training.run import train
from advrad.utils.progress import SILENT

SMALL = RunOptions(size_px=64, data=DataOptions(value_range=1023))


class Notes(type(SILENT)):  # type: ignore[misc]
    """Keeps the messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def with_bits(source: Path, target: Path, factor: float, kind: type) -> Path:
    """A copy of a data set with other values; masks stay as they are."""
    for path in sorted(source.rglob("*.png")):
        new = target / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        if "ground_truth" in path.parts:
            shutil.copy(path, new)
        else:
            with Image.open(path) as image:
                values = np.asarray(image.convert("L"))
            Image.fromarray(np.rint(values * factor).astype(kind)).save(new)
    return target


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 8 bits."""
    colour = make_mvtec(tmp_path_factory.mktemp("colour"), train=20, good=3, defects={"scratch": 3}, size=64)
    return with_bits(colour, tmp_path_factory.mktemp("eight"), 1, np.uint8)


@pytest.fixture(scope="module")
def ten(eight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images with 10 bits in files of 16."""
    return with_bits(eight, tmp_path_factory.mktemp("ten"), 1023 / 255, np.uint16)


@pytest.fixture(scope="module")
def run(ten: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the images with 10 bits, trained with their white."""
    folder = tmp_path_factory.mktemp("runs") / "ten"
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        train(ten, folder, SMALL)
    return folder


def test_a_given_white_is_kept_and_used_again(run: Path, ten: Path, eight: Path) -> None:
    detector = advrad.load_detector(run)
    record = detector.config.training.value_range
    assert record is not None and record.whites == (1023,) and record.given == 1023
    assert json.loads((run / "training" / "plan.json").read_text())["value_range"] == 1023
    files = sorted((ten / "test").rglob("*.png"))
    first = [found.score for found in detector.predict(files)]
    again = [found for found in predict_paths(detector, files, value_range=1023)]
    assert [found.score for found in again if isinstance(found, PredictionRecord)] == first
    # The same images of 8 bits differ by rounding only.
    same = sorted((eight / "test").rglob("*.png"))
    for score, found in zip(first, predict_paths(detector, same, value_range=255), strict=True):
        assert isinstance(found, PredictionRecord) and found.score == pytest.approx(score, abs=0.02)
        assert found.levels is not None and found.levels.white == 255
    result = advrad.evaluate(detector, ten)
    np.testing.assert_allclose(np.sort(result.scores), np.sort(first), atol=1e-5)


def test_images_of_another_range_are_refused(run: Path, eight: Path) -> None:
    detector = advrad.load_detector(run)
    image = next((eight / "test").rglob("*.png"))
    [refused] = predict_paths(detector, [image])
    assert isinstance(refused, ImageError)
    assert (
        "no value exceeds 255, but 1023 shall be white" in refused.reason and "give value_range 255" in refused.reason
    )
    with pytest.raises(ImageError, match="1023 shall be white"):
        list(detector.predict(image))
    with pytest.raises(ImageError, match="1023 shall be white"):
        advrad.evaluate(detector, eight)


def test_every_use_of_a_model_of_8_bits_refuses_16(
    run: Path, eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    made = train(eight, tmp_path / "run", RunOptions(size_px=64))
    record = made.config.training.value_range
    assert record is not None and record.whites == (255,) and record.given is None
    full = with_bits(eight, tmp_path / "full" / eight.name, 257.0, np.uint16)
    said = r"has 16 bits \(white is 65535\), but the model was trained on images of 8 bits"
    image = next((full / "test").rglob("*.png"))
    [refused] = predict_paths(made, [image])
    assert isinstance(refused, ImageError) and refused.reason.endswith("give value_range 65535 if that is its white")
    for use in (
        lambda: list(made.predict(image)),
        lambda: advrad.evaluate(made, full),
        lambda: advrad.attack(made, full, attack="square", limit=2),
        lambda: advrad.certify(made, full, radii=["1/255"], norm="linf", limit=2),
        lambda: calibrate(tmp_path / "run", full, CalibrateOptions(false_alarm_rate=0.05)),
    ):
        with pytest.raises(ImageError, match=said):
            use()
    given = advrad.evaluate(made, full, options=DataOptions(value_range=65535))
    np.testing.assert_allclose(np.sort(given.scores), np.sort(advrad.evaluate(made, eight).scores), atol=1e-4)
    # Another format of the same range is fine, and so is a model that an earlier version trained.
    with Image.open(next((eight / "test").rglob("*.png"))) as grey:
        grey.convert("RGB").save(tmp_path / "a.bmp")
    assert all(isinstance(found, PredictionRecord) for found in predict_paths(made, [tmp_path / "a.bmp"]))
    made.update_config(training=made.config.training.model_copy(update={"value_range": None}))
    assert all(isinstance(found, PredictionRecord) for found in predict_paths(made, [image]))


def test_training_warns_of_an_unlikely_range(ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_run.shrink(monkeypatch)
    notes = Notes()
    train(ten, tmp_path / "run", RunOptions(size_px=64), progress=notes)
    [warning] = [line for line in notes.lines if line.startswith("warning: the brightest")]
    assert "of 65535, so they are read nearly black; with values of 10 bits, give value_range 1023" in warning
    with pytest.raises(ConfigError, match=r"value_range 1023: the run in .* was started without it"):
        train(ten, tmp_path / "run", SMALL, resume=True)


def test_images_that_show_nothing_stop_the_training(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for index in range(24):
        Image.new("L", (64, 64), 90 + index).save(data / f"{index}.png")
    with pytest.raises(DataError, match="each of the images shows one single value, so nothing can be learnt"):
        train(data, tmp_path / "run", RunOptions(size_px=64))
    for index in range(24):
        Image.effect_noise((64, 64), 40).convert("RGBA").save(data / f"{index}.png")
        with Image.open(data / f"{index}.png") as image:
            image.putalpha(0)
            image.save(data / f"{index}.png")
    with pytest.raises(ImageError, match="transparent everywhere"):
        train(data, tmp_path / "run", RunOptions(size_px=64))
