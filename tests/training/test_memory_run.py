"""A run with the memory as a denoiser: the paper's score, from a folder of images to a calibrated model folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from short_runs import Listener, small, weights

from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.data.splits import split_normals
from advrad.denoisers.memory import MemoryDenoiser
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.loading import load_detector
from advrad.detectors.score_config import paper_score
from advrad.errors import ConfigError
from advrad.training.memory_filling import fill_memory, held_back
from advrad.training.options import CalibrateOptions, RunOptions
from advrad.training.recalibrate import calibrate
from advrad.training.run import train

PAPER = RunOptions(denoiser="memory", score="paper", size_px=64, false_alarm_rate=0.2)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch, small(patch):
        train(data, folder, PAPER)
    return folder


def test_it_is_a_detector_with_the_score_of_the_paper(data: Path, finished: Path) -> None:
    made = load_detector(finished)
    assert isinstance(made, AdvRAD) and isinstance(made.denoiser, MemoryDenoiser)
    assert made.config.score == paper_score(64) and made.config.precision == "float32"
    assert made.calibration.false_alarm_rate == 0.2
    found = list(made.predict(sorted(data.rglob("*.png"))[:2]))
    assert all(one.reconstruction is not None and one.reconstruction.shape == (64, 64, 3) for one in found)
    kept = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert kept == {"README.md", "config.json", "model.safetensors", "training/plan.json"}
    assert "| Steps |" not in (finished / "README.md").read_text(encoding="utf-8"), "nothing was trained"


def test_the_memory_holds_the_training_images_but_those_held_back(data: Path, finished: Path) -> None:
    split = split_normals(find_records(data).records, 0, false_alarm_rate=0.2)
    images, made = load_images(split.train, 64), load_detector(finished)
    out = held_back(len(images), 0)
    assert len(set(out)) == len(images) // 3
    assert isinstance(made, AdvRAD) and isinstance(made.denoiser, MemoryDenoiser)
    assert made.denoiser.config.sheets == len(images) - len(out)
    expected = fill_memory(images, made.denoiser.config, 0)
    assert bool((expected.sheets == made.denoiser.sheets).all())


def test_a_finished_run_is_loaded_again(data: Path, finished: Path) -> None:
    listener, before = Listener(), weights(finished)
    again = train(data, finished, resume=True, progress=listener)
    assert isinstance(again, AdvRAD) and weights(finished) == before
    assert listener.stages == []
    assert listener.notes == [f"{finished}: the closed form is finished; there is nothing to resume"]
    with pytest.raises(ConfigError, match="was started with paper"):
        train(data, finished, RunOptions(score="robust"), resume=True)
    with pytest.raises(ConfigError, match="was started without it"):
        train(data, finished, RunOptions(steps=2), resume=True)


def test_threshold_and_score_can_be_set_again(data: Path, finished: Path, tmp_path: Path, small_networks: None) -> None:
    before = load_detector(finished).calibration
    assert calibrate(finished, data, output=tmp_path / "same").calibration == before
    chosen = calibrate(finished, data, CalibrateOptions(score="auto"), tmp_path / "auto")
    assert isinstance(chosen, AdvRAD) and chosen.config.training.candidates
    assert {view.view_px for view in chosen.config.score.views} == {64}


def test_a_size_that_does_not_suit_the_memory_is_refused(data: Path, tmp_path: Path) -> None:
    for size_px in (32, 96):
        with pytest.raises(ConfigError, match=f"size_px {size_px}: must be a multiple of 64 px"):
            train(data, tmp_path / "run", PAPER.model_copy(update={"size_px": size_px}))
    assert not (tmp_path / "run").exists()
