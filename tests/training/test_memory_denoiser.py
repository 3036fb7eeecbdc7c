"""A detector on the memory denoiser: its score, its folder, attacks on it and its certificate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_models import generator, stack

import advrad
import advrad.training.score_selection
from advrad.denoisers.memory import MemoryDenoiser, MemoryDenoiserConfig
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.training.memory_denoiser import fit_memory_denoiser
from advrad.training.score_candidates import ScoreObjective

SMALL = MemoryDenoiserConfig(side_cells=16, patch_cells=3, window_cells=1)
SCORE = ScoreConfig(views=(NoiseView(view_px=16, sigma=0.1),), pooling=0.01)


@pytest.fixture(scope="module")
def fitted() -> AdvRAD:
    return fit_memory_denoiser(stack(60), SMALL, score=SCORE, false_alarm_rate=0.1)


def labelled_images() -> tuple[Tensor, list[int]]:
    """Four new normal images, and the same with a dark bar."""
    normal = stack(4, seed=7).batch(slice(None))
    anomalous = normal.clone()
    anomalous[:, :, 12:20, 14:18] = 0.1
    return torch.cat([normal, anomalous]), [0] * 4 + [1] * 4


def test_it_tells_defects_from_normal_images(fitted: AdvRAD) -> None:
    images, _ = labelled_images()
    scores = fitted.predict_batch(images).scores
    assert float(scores[4:].min()) > max(fitted.calibration.threshold, float(scores[:4].max()))
    recon = fitted.predict_batch(images).reconstructions
    assert float((recon[4:, :, 12:20, 14:18] - 0.1).mean()) > 0.2, "the reconstruction has no defect"


def test_images_of_the_statistics_are_not_in_the_memory(fitted: AdvRAD) -> None:
    counts = fitted.detector_config.training.images
    assert counts is not None and isinstance(fitted.denoiser, MemoryDenoiser)
    assert fitted.denoiser.config.sheets == counts.train - counts.train // 3
    assert counts.total == 60


def test_the_score_is_chosen_like_that_of_a_learned_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advrad.training.score_selection, "DEFECTS_PER_SELECTION", 8)
    for objective in (ScoreObjective("clean"), ScoreObjective("certified", 0.1)):
        chosen = fit_memory_denoiser(stack(24), SMALL, objective=objective, false_alarm_rate=0.2)
        training = chosen.detector_config.training
        assert training.candidates and training.candidates > 10 and training.reason
        assert {view.view_px for view in chosen.detector_config.score.views} == {16}
        assert (chosen.detector_config.robust_calibration is not None) == (objective.radius > 0)


def test_it_is_saved_as_small_images_and_loaded(fitted: AdvRAD, tmp_path: Path) -> None:
    from safetensors import safe_open

    fitted.save_pretrained(tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert file.get_tensor("denoiser.sheets").dtype == torch.uint8
    assert json.loads((tmp_path / "model" / "config.json").read_text())["denoiser"]["kind"] == "memory"
    loaded, (images, _) = AdvRAD.from_pretrained(tmp_path / "model"), labelled_images()
    assert torch.equal(loaded.predict_batch(images).scores, fitted.predict_batch(images).scores)
    assert loaded.calibration == fitted.calibration


def test_gradients_of_the_score_reach_the_image(fitted: AdvRAD) -> None:
    images = labelled_images()[0].requires_grad_()
    (gradient,) = torch.autograd.grad(fitted.score(images, generator()).sum(), images)
    assert bool((gradient.flatten(1).abs().amax(1) > 0).all())


def test_the_attack_suite_runs_on_it(fitted: AdvRAD) -> None:
    result = advrad.attack(fitted, labelled_images(), attack="suite", budget="quick", eps="2/255", limit=2)
    assert result.clean_auroc == 1.0
    assert result.robust_auroc is not None and 0 <= result.robust_auroc <= 1
    assert not [flag for flag in result.flags if "gradient" in flag.name], "the gradients are trusted"


def test_the_two_path_certificate_runs_on_it(fitted: AdvRAD) -> None:
    result = advrad.certify(fitted, labelled_images(), radii=(0.02, 0.1), method="two-path", n_samples=64, limit=4)
    small, large = result.certified_auroc.values()
    assert small is not None and large is not None and small > 0.5 and small >= large
