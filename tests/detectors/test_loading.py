"""Model folders of every kind: found by the kind in their configuration, and refused with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_models import detector as toy_advrad

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormConfig, ClosedFormDetector
from advrad.detectors.config import RecordedFigures
from advrad.detectors.loading import (
    KINDS,
    load_advrad,
    load_config,
    load_detector,
    load_target,
    save_figures,
    to_loaded,
)
from advrad.detectors.saved import SupportsPrediction, image_size_of
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import CheckpointError, ConfigError


@pytest.fixture
def closed(closed_form_run: Path, tmp_path: Path) -> Path:
    """A copy of a folder with a closed-form detector, to be changed."""
    return Path(shutil.copytree(closed_form_run, tmp_path / "closed"))


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    toy_advrad().save_pretrained(tmp_path / "learned")
    return tmp_path / "learned"


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def test_the_kind_in_the_configuration_decides(closed: Path, learned: Path) -> None:
    assert isinstance(load_detector(closed), ClosedFormDetector)
    assert isinstance(load_detector(str(learned)), AdvRAD), "a folder without a kind holds an AdvRAD"
    assert isinstance(load_config(closed), ClosedFormConfig)
    assert load_config(learned).kind == "advrad" and load_config(learned).calibration is not None


def test_every_kind_has_what_a_saved_detector_needs(closed: Path, learned: Path) -> None:
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    for folder in (closed, learned):
        detector = load_detector(folder)
        assert isinstance(detector, SupportsPrediction)
        assert image_size_of(detector) == detector.image_size_px == detector.config.image_size_px
        assert detector.threshold == detector.calibration.threshold
        assert detector.config.kind in KINDS and detector.device == torch.device("cpu")
        assert detector.describe() and all(line == " ".join(line.split()) for line in detector.describe())
        scores = detector.predict_batch(images).scores.tolist()
        for prediction, score in zip(detector.predict(images), scores, strict=True):
            assert prediction.score == score and prediction.defective == (score > detector.calibration.threshold)
            assert prediction.anomaly_map.ndim == 2


def test_a_target_keeps_its_identity(closed: Path, learned: Path, tmp_path: Path) -> None:
    for folder, kind in ((closed, ClosedFormDetector), (learned, WhiteBoxAdvRAD)):
        target, again = load_target(str(folder)), load_target(str(folder))
        assert isinstance(target.detector, kind)
        assert target.identity == again.identity and target.folder == folder
        save_figures(folder, RecordedFigures(image_auroc=0.5))
        assert load_target(str(folder)).identity == target.identity, "a measurement does not change the detector"
    assert load_target(str(closed)).identity != load_target(str(learned)).identity


def test_a_closed_form_in_memory_is_known_by_what_it_holds(closed: Path) -> None:
    one, other = load_detector(closed), load_detector(closed)
    assert to_loaded(one).identity == to_loaded(other).identity
    assert to_loaded(one).detector is one
    name = next(name for name, value in other.state_dict().items() if value.dtype == torch.uint8)
    other.state_dict()[name].view(-1)[0] ^= 1
    assert to_loaded(one).identity != to_loaded(other).identity


def test_advrad_loads_another_kind_unless_its_denoiser_is_needed(closed: Path, learned: Path) -> None:
    for load in (AdvRAD.from_pretrained, load_advrad):
        assert isinstance(load(learned), AdvRAD)
    found: object = AdvRAD.from_pretrained(closed)
    assert isinstance(found, ClosedFormDetector)
    with pytest.raises(CheckpointError, match="holds a closed-form detector, and this needs a learned denoiser"):
        load_advrad(closed)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: shutil.rmtree(folder), "there is no such model folder"),
    (lambda folder: (folder / "config.json").unlink(), "holds no model"),
    (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"short"), "cut short or replaced"),
    (lambda folder: (folder / "config.json").write_bytes(b"{"), "is damaged"),
    (lambda folder: (folder / "config.json").write_text("[]"), "is not a model of advrad"),
    (lambda folder: change(folder, lambda values: values.update(format="other")), "is not a model of advrad"),
    (lambda folder: change(folder, lambda values: values.update(format_version=99)), "install a newer advrad"),
    (lambda folder: change(folder, lambda values: values.update(kind="wavelet")), "kind 'wavelet'.* a newer advrad"),
    (lambda folder: change(folder, lambda values: values.update(kind=["closed_form"])), "a newer advrad"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words[:14] for _, words in DAMAGES])
def test_damaged_newer_and_foreign_folders_are_refused(
    closed: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(closed)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_detector(closed)
    assert str(closed) in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_and_nonsensical_keys_are_named(closed: Path) -> None:
    for edit, named in (
        (lambda values: values.update(colour=1), "colour"),
        (lambda values: values["calibration"].update(false_alarm_rate=2), "calibration.false_alarm_rate"),
    ):
        before = (closed / "config.json").read_bytes()
        change(closed, edit)
        for load in (load_detector, load_config):
            with pytest.raises(ConfigError, match=rf"config\.json: {named}"):
                load(closed)
        (closed / "config.json").write_bytes(before)


def test_a_closed_form_stays_on_the_cpu(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_detector(closed).device == torch.device("cpu")
    with pytest.raises(
        ConfigError, match="cannot be used by a closed-form detector, which computes on the CPU"
    ) as found:
        load_detector(closed, "meta")
    assert found.value.option == "device"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(CheckpointError, match="is a file, not a model folder"):
        load_detector(tmp_path / "model")


def test_figures_of_an_evaluation_and_of_certificates_stay_apart(closed: Path, learned: Path) -> None:
    for folder in (closed, learned):
        weights = (folder / "model.safetensors").read_bytes()
        save_figures(folder, RecordedFigures(certified_linf={"2/255": 0.75}))
        assert "Not evaluated yet" in (folder / "README.md").read_text()
        save_figures(folder, RecordedFigures(image_auroc=0.875, n_normal=3))
        save_figures(folder, RecordedFigures(certified_l2={"0.2": 0.5}))
        figures = save_figures(folder, RecordedFigures(image_auroc=0.625)).figures
        assert figures.to_dict() == {
            "certified_linf": {"2/255": 0.75},
            "certified_l2": {"0.2": 0.5},
            "image_auroc": 0.625,
        }
        assert load_detector(folder).config.figures == figures
        card = (folder / "README.md").read_text()
        assert "| linf 2/255 | 0.7500 |" in card and "| l2 0.2 | 0.5000 |" in card
        assert "| Image AUROC | 0.6250 |" in card
        assert (folder / "model.safetensors").read_bytes() == weights
