"""AdvRAD in a model folder: saving, loading, and folders that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_models import detector, random_images

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.model_folder import load_folder, save_folder
from advrad.errors import CheckpointError, ConfigError, NotCalibratedError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    detector().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_detector_scores_alike_bit_by_bit(saved: Path) -> None:
    images = random_images(4)
    made = detector()
    for where in (saved, str(saved)):
        loaded = AdvRAD.from_pretrained(where)
        assert not loaded.training
        assert loaded.detector_config == made.detector_config
        for one, other in zip(loaded.predict_batch(images), made.predict_batch(images), strict=True):
            assert torch.equal(one, other)
    assert [p.defective for p in loaded.predict(images)] == [p.defective for p in made.predict(images)]


def test_a_saved_detector_saves_the_same_files(saved: Path, tmp_path: Path) -> None:
    AdvRAD.from_pretrained(saved).save_pretrained(tmp_path / "again")
    names = sorted(path.name for path in saved.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_an_uncalibrated_detector_stays_so(tmp_path: Path) -> None:
    detector(calibrated=False).save_pretrained(tmp_path)
    with pytest.raises(NotCalibratedError):
        list(AdvRAD.from_pretrained(tmp_path).predict(random_images(1)))


def test_the_folder_holds_no_path_of_this_machine(saved: Path, tmp_path: Path) -> None:
    for path in saved.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda values: values.update(colour=1), "colour"),
        (lambda values: values["score"].update(squash=True), "score.squash"),
        (lambda values: values["denoiser"].update(kind="other"), "denoiser"),
        (lambda values: values["calibration"].update(false_alarm_rate=2), "calibration.false_alarm_rate"),
        (lambda values: values.pop("size_px"), "size_px"),
        (lambda values: values.update(size_px="big"), "size_px"),
    ],
)
def test_unknown_missing_and_nonsensical_keys_are_named(
    saved: Path, edit: Callable[[dict], object], named: str
) -> None:
    change(saved, edit)
    with pytest.raises(ConfigError, match=rf"config\.json: {named}") as caught:
        AdvRAD.from_pretrained(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values["denoiser"].update(channels=[8, 24]),
        lambda values: values["denoiser"].update(blocks=[2, 1]),
        lambda values: values.update(locations=values["locations"][:1]),
        lambda values: values["score"]["looks"].pop(),
        lambda values: values["score"]["looks"].append(values["score"]["looks"][0]),
    ],
)
def test_a_config_of_another_model_is_refused(saved: Path, edit: Callable[[dict], object]) -> None:
    change(saved, edit)
    with pytest.raises(CheckpointError) as caught:
        AdvRAD.from_pretrained(saved)
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)


def test_statistics_of_another_size_are_refused(saved: Path) -> None:
    values, tensors = load_folder(saved)
    tensors["mean_0"] = tensors["mean_0"][:, :, ::2, ::2].contiguous()
    save_folder(saved, values, tensors)
    with pytest.raises(
        ConfigError, match=r"config\.json: score: the statistics of an error map of 32 px have another size"
    ):
        AdvRAD.from_pretrained(saved)


@pytest.mark.parametrize("view_px", [4, 33, 36])
def test_a_view_that_does_not_suit_the_network_is_refused(view_px: int, saved: Path) -> None:
    values, tensors = load_folder(saved)
    values["score"]["looks"][0]["view_px"] = view_px
    for name in ("mean_0", "spread_0"):
        tensors[name] = torch.ones(1, 1, view_px, view_px)
    save_folder(saved, values, tensors)
    words = rf"config\.json: score: a view of {view_px} px does not suit the denoiser; it must be a multiple of 8 px"
    with pytest.raises(ConfigError, match=words):
        AdvRAD.from_pretrained(saved)


def test_options_that_do_not_exist_are_refused(saved: Path) -> None:
    with pytest.raises(ConfigError, match="colour is not known"):
        AdvRAD.from_pretrained(saved, colour=1)


def test_saving_again_renews_the_model_card(tmp_path: Path) -> None:
    made = detector()
    made.save_pretrained(tmp_path)
    before = (tmp_path / "README.md").read_text(encoding="utf-8")
    made.calibrate([random_images(50, seed=5)], 0.02)
    made.save_pretrained(tmp_path)
    after = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert after != before and "50" in after
