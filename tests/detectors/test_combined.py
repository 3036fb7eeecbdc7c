"""The closed form and a learned denoiser in one detector: the sum, its bounds, its threshold, and its folder."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_models import detector as learned_detector
from toy_models import generator, stack

import advrad.detectors.closed_form as closed_form
from advrad.certificates.lipschitz import proven_verdict
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import SupportsGradientPrecision, SupportsScoreBounds, SupportsStickerBounds
from advrad.detectors.combined import CombinedConfig, CombinedDetector
from advrad.detectors.loading import load_detector, load_target, to_loaded
from advrad.detectors.saved import SupportsPrediction
from advrad.errors import CheckpointError, ConfigError, NotCalibratedError
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import MemberPlan

IMAGES = stack(30).batch(slice(None))
RADIUS = 8 / 255


@pytest.fixture(scope="module")
def memory() -> closed_form.ClosedFormDetector:
    plan = MemberPlan(name="tiny", size_px=32, cell_px=4, patch_cells=3)
    return fit_closed_form(IMAGES[:20], [plan], false_alarm_rate=0.1)


def combined(
    memory: closed_form.ClosedFormDetector, weight: float = 0.5, low: float = -1.0, high: float = 3.0
) -> CombinedDetector:
    learned = learned_detector(calibrated=False)
    config = CombinedConfig(memory=memory.config, learned=learned.detector_config, weight=weight, low=low, high=high)
    return CombinedDetector(config, memory, learned).eval()


@pytest.fixture
def made(memory: closed_form.ClosedFormDetector) -> CombinedDetector:
    found = combined(memory)
    found.calibrate([IMAGES[20:]], 0.1, {"data": "made up"})
    return found


def test_it_is_what_attacks_certificates_and_prediction_need(made: CombinedDetector) -> None:
    assert isinstance(made, SupportsScoreBounds) and isinstance(made, SupportsPrediction)
    assert isinstance(made, SupportsGradientPrecision) and isinstance(made, SupportsStickerBounds)
    assert made.image_size_px == 32 and made.size_px is None and made.noise_seed == 0
    assert not made.deterministic and made.differentiable
    assert made.device == torch.device("cpu")


@pytest.mark.parametrize(("weight", "low", "high"), [(0.5, -1.0, 3.0), (2.0, 0.0, 0.0), (0.0, -1.0, 1.0)])
def test_the_score_is_the_sum_within_the_limits(
    weight: float, low: float, high: float, memory: closed_form.ClosedFormDetector
) -> None:
    made = combined(memory, weight, low, high)
    images = torch.rand(3, 3, 40, 32, generator=generator(1))
    output = made.predict_batch(images)
    parts = memory.predict_batch(images), made.learned.predict_batch(images)
    assert torch.allclose(output.scores, parts[0].scores + weight * parts[1].scores.clamp(low, high))
    assert output.anomaly_maps is not None and output.anomaly_maps.shape == (3, 1, 32, 32)
    assert torch.equal(output.reconstructions, parts[1].reconstructions)
    noise = made.infer(images, generator(0))
    assert torch.allclose(noise.scores, output.scores, atol=1e-4)


def test_rows_do_not_depend_on_each_other(made: CombinedDetector) -> None:
    images = torch.rand(3, 3, 32, 32, generator=generator(1))
    alone = torch.cat([made.predict_batch(images[row : row + 1]).scores for row in range(3)])
    assert torch.equal(made.predict_batch(images).scores, alone)


def test_without_weight_the_bounds_are_those_of_the_closed_form(memory: closed_form.ClosedFormDetector) -> None:
    made = combined(memory, weight=0.0)
    ours, theirs = (one.score_bounds(IMAGES[:2], RADIUS, "linf") for one in (made, memory))
    assert torch.equal(ours.lower, theirs.lower) and torch.equal(ours.upper, theirs.upper)
    assert torch.equal(ours.scores, theirs.scores)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_attack_and_no_noise_leaves_the_bounds(norm: str, made: CombinedDetector) -> None:
    radius = RADIUS if norm == "linf" else 0.5
    images = torch.cat([IMAGES[20:22], torch.rand(2, 3, 32, 32, generator=generator(2))])
    bounds = made.score_bounds(images, radius, norm)
    assert torch.equal(bounds.scores, made.predict_batch(images).scores)
    assert bool((bounds.lower <= bounds.scores).all() and (bounds.scores <= bounds.upper).all())
    maps = made.predict_batch(images).anomaly_maps
    assert maps is not None and bool((bounds.lower_map <= maps).all())
    for step in range(6):
        draws = generator(step)
        attacked = images.clone().requires_grad_()
        for _ in range(step % 3):
            sign = 1.0 if step % 2 else -1.0
            score = (sign * made.infer(attacked, draws).scores).sum()
            (gradient,) = torch.autograd.grad(score, attacked)
            attacked = _within(attacked + radius * gradient.sign(), images, radius, norm).detach().requires_grad_()
        if step % 3 == 0:
            noise = torch.randint(0, 2, images.shape, generator=draws) * 2.0 - 1
            attacked = _within(images + radius * noise, images, radius, norm)
        with torch.no_grad():
            scores = made.infer(attacked, generator(100 + step)).scores
        assert bool((bounds.lower <= scores).all() and (scores <= bounds.upper).all())


def _within(moved: torch.Tensor, images: torch.Tensor, radius: float, norm: str) -> torch.Tensor:
    """The nearest image within the radius whose values lie in [0, 1]."""
    change = moved - images
    if norm == "l2":
        change = change * (radius / change.flatten(1).norm(dim=1).clamp_min(1e-9)).clamp_max(1)[:, None, None, None]
        return (images + 0.999 * change).clamp(0, 1)
    return (images + change.clamp(-radius, radius)).clamp(0, 1)


def test_the_learned_part_may_be_anything(made: CombinedDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the learned score becomes, the sum stays within the bounds at radius 0."""
    image = IMAGES[20:21]
    bounds = made.score_bounds(image, 0.0, "linf")
    for value in (-1e9, 1e9):
        monkeypatch.setattr(made.learned, "infer", lambda images, noise, value=value: _output(images, value))
        score = float(made.infer(image, generator()).scores)
        assert float(bounds.lower) <= score <= float(bounds.upper)


def _output(images: torch.Tensor, value: float) -> object:
    from advrad.detectors.outputs import AdvRADOutput

    return AdvRADOutput(torch.full((len(images),), value), torch.full_like(images[:, :1, :32, :32], value), images)


def test_no_sticker_leaves_its_bound(made: CombinedDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    images, side = torch.rand(2, 3, 40, 32, generator=generator(3)), 6
    bounds = made.sticker_bounds(images, side)
    nothing_learned = made.memory.sticker_bounds(images, side) + 0.5 * -1.0
    assert torch.equal(bounds, nothing_learned) and bool((bounds < made.predict_batch(images).scores).all())
    # The learned part does its worst; the sticker shows what normal images show there.
    monkeypatch.setattr(made.learned, "infer", lambda images, noise: _output(images, -1e9))
    left = []
    for y, x in itertools.product(range(0, 35, 2), range(0, 27, 2)):
        covered = images.clone()
        covered[:, :, y : y + side, x : x + side] = IMAGES[:1, :, 4:5, 4:5]
        left.append(made.infer(covered, generator()).scores.detach())
    assert bool((torch.stack(left) >= bounds).all())
    assert float((torch.stack(left).amin(0) - bounds).max()) < 0.2 * float(made.memory.infer(images).scores.min())


def test_limits_the_wrong_way_round_are_refused(memory: closed_form.ClosedFormDetector) -> None:
    with pytest.raises(ConfigError, match="low must not be above high"):
        CombinedConfig.parse(combined(memory).config.model_dump(mode="json") | {"low": 4.0})


def test_attacks_may_follow_both_parts(made: CombinedDetector) -> None:
    losses = made.surrogates
    assert {"memory", "learned"} <= set(losses)
    assert any(name.startswith("memory: ") for name in losses) and any(name.startswith("learned: ") for name in losses)
    images = IMAGES[:1].clone().requires_grad_()
    for loss in losses.values():
        (gradient,) = torch.autograd.grad(loss(images, generator()).sum(), images)
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    other = made.with_gradient_precision("bfloat16")
    assert made.gradient_precision == "float32" and other.gradient_precision in ("float32", "bfloat16")
    assert torch.equal(other.predict_batch(IMAGES[:1]).scores, made.predict_batch(IMAGES[:1]).scores)


def test_the_folder_holds_both_parts(made: CombinedDetector, tmp_path: Path) -> None:
    made.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    loaded = load_detector(tmp_path)
    assert isinstance(loaded, CombinedDetector) and loaded.config == made.config
    images = torch.rand(2, 3, 32, 32, generator=generator(5))
    assert torch.equal(loaded.predict_batch(images).scores, made.predict_batch(images).scores)
    assert [one.defective for one in loaded.predict(images)] == [
        one.score > made.threshold for one in made.predict(images)
    ]
    assert "0.5 times the score of a learned denoiser" in (tmp_path / "README.md").read_text(encoding="utf-8")
    target = load_target(str(tmp_path))
    assert target.detector.threshold == made.threshold and len(target.identity) == 64
    assert to_loaded(made).identity != to_loaded(combined(made.memory)).identity


def test_folders_of_other_kinds_are_named(made: CombinedDetector, tmp_path: Path) -> None:
    made.save_pretrained(tmp_path / "both")
    made.memory.save_pretrained(tmp_path / "memory")
    with pytest.raises(CheckpointError, match="is not a combined detector"):
        CombinedDetector.from_pretrained(tmp_path / "memory")
    with pytest.raises(CheckpointError, match="is not a closed-form detector"):
        closed_form.ClosedFormDetector.from_pretrained(tmp_path / "both")
    found: object = AdvRAD.from_pretrained(tmp_path / "both")
    assert isinstance(found, CombinedDetector)
    values = json.loads((tmp_path / "both" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "both" / "config.json").write_text(json.dumps(values | {"memory": made.memory.config.kind}))
    with pytest.raises((CheckpointError, ConfigError), match=r"config\.json"):
        load_detector(tmp_path / "both")


def test_the_threshold_is_a_conformal_quantile_of_the_sums(made: CombinedDetector) -> None:
    scores = made.predict_batch(IMAGES[20:]).scores
    assert made.calibration.threshold == pytest.approx(float(scores.max())) and made.calibration.n == 10
    assert made.calibration.source == {"data": "made up"}
    verdict = proven_verdict(*(float(part) for part in _ends(made)), made.calibration.threshold)
    assert verdict in ("proven good", "not proven")
    with pytest.raises(NotCalibratedError, match="train it again"):
        combined(made.memory).calibration  # noqa: B018
    with pytest.raises(ConfigError, match="needs 19 calibration images, there are 10"):
        made.calibrate([IMAGES[20:]], 0.05)


def _ends(made: CombinedDetector) -> tuple[torch.Tensor, torch.Tensor]:
    bounds = made.score_bounds(IMAGES[20:21], 0.0, "linf")
    return bounds.lower, bounds.upper


def test_the_false_alarm_rate_is_kept(memory: closed_form.ClosedFormDetector) -> None:
    """Over many draws of calibration images and a new one, at most the promised share are false alarms."""
    rate, runs, count = 0.2, 60, 9
    made = combined(memory)
    scores = made.predict_batch(stack(60, seed=7).batch(slice(None))).scores.numpy()
    draws = np.random.default_rng(0)
    alarms = 0
    for _ in range(runs * 20):
        rows = draws.choice(len(scores), count + 1, replace=False)
        threshold = np.sort(scores[rows[:-1]])[int(np.ceil((count + 1) * (1 - rate))) - 1]
        alarms += scores[rows[-1]] > threshold
    assert alarms / (runs * 20) <= rate + 3 * np.sqrt(rate * (1 - rate) / (runs * 20))
