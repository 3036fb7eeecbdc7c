"""The images that set a threshold, found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import exportable_runs
import pytest

from advrad.data.layouts import find_records
from advrad.data.splits import split_normals
from advrad.detectors.loading import load_detector
from advrad.errors import CheckpointError, ConfigError
from advrad.training.threshold_images import recorded_data, threshold_images


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exportable_runs.product(tmp_path_factory.mktemp("product"))


def names(stack: object) -> list[str]:
    return [record.path.name for record in stack.records]  # type: ignore[attr-defined]


@pytest.mark.parametrize("left_out", [False, True])
def test_a_closed_form_has_those_that_it_held_out(left_out: bool, product: Path, tmp_path: Path) -> None:
    folder = exportable_runs.closed_form(product, tmp_path / "run", left_out=left_out)
    assert recorded_data(folder) == product
    found = threshold_images(load_detector(folder), folder, product)
    assert found.left_out == left_out
    assert names(found.images) == [f"{number:03}.png" for number in exportable_runs.HELD_OUT]


def test_a_learned_detector_has_its_calibration_split(widget_run: Path, widgets: Path) -> None:
    found = threshold_images(load_detector(widget_run), widget_run, recorded_data(widget_run))
    held = split_normals(find_records(widgets).records, 0).calibration
    assert not found.left_out and names(found.images) == [record.path.name for record in held]


def test_a_detector_that_no_training_made_has_all_normal_images_of_the_folder(
    closed_form_run: Path, widgets: Path
) -> None:
    found = threshold_images(load_detector(closed_form_run), closed_form_run, widgets)
    assert len(found.images) == 48 and not found.left_out


def test_a_closed_form_that_does_not_say_how_it_was_fitted_is_refused(product: Path, tmp_path: Path) -> None:
    folder = exportable_runs.closed_form(product, tmp_path / "run")
    detector = load_detector(folder)
    training = detector.config.training
    detector.update_config(training=type(training)())  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="does not record how it was fitted"):
        threshold_images(detector, folder, product)


def test_a_plan_without_images_is_one_clear_line(product: Path, tmp_path: Path) -> None:
    folder = exportable_runs.closed_form(product, tmp_path / "run")
    path = folder / "training" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"data": str(tmp_path / "gone")}))
    with pytest.raises(ConfigError, match=r"are no longer in .*gone; give their folder"):
        recorded_data(folder)
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"plan\.json: is damaged"):
        recorded_data(folder)
    shutil.rmtree(path.parent)
    with pytest.raises(ConfigError, match="does not record where its images are"):
        recorded_data(folder)
