"""AnoDDPM: its reverse process against the paper's formulas, its gradients, and its accuracy on a toy product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy_models import assert_gradient, generator, random_images, stack

from advrad.baselines import anoddpm
from advrad.baselines.anoddpm import AnoDDPM, AnoDDPMOptions, fit_anoddpm, step_back
from advrad.baselines.base import FitContext
from advrad.denoisers.ddpm import Schedule
from advrad.detectors.probing import probe
from advrad.errors import ConfigError
from advrad.metrics import auroc

SMALL = AnoDDPMOptions(work_px=32, channels=(8, 16), blocks=(1, 1), walk_steps=4, steps=3)
KINDS = ["gaussian", "simplex"]


def system(size_px: int = 32, **changes: object) -> AnoDDPM:
    """A small system without zero weights, so that every path through it matters."""
    made = AnoDDPM(size_px, SMALL.model_copy(update=changes))
    draws = generator(7)
    with torch.no_grad():
        for parameter in made.parameters():
            fan = max(1, parameter[0].numel() if parameter.ndim > 1 else 16)
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * (0.7 / fan**0.5))
    return made.eval().requires_grad_(False)


def with_defects(images: Tensor) -> Tensor:
    """A grey square of 10 px in every image, each at another position."""
    images = images.clone()
    for row, (top, left) in enumerate(torch.randint(22, (len(images), 2), generator=generator(5)).tolist()):
        images[row, :, top : top + 10, left : left + 10] = torch.tensor([0.9, 0.1, 0.2])[:, None, None]
    return images


@pytest.mark.parametrize("noise", KINDS)
def test_a_score_depends_on_its_own_image_only(noise: str) -> None:
    detector, images = system(48, noise=noise), random_images(5, 48)
    together = detector.infer(images, generator(1))
    assert together.scores.shape == (5,)
    assert together.anomaly_maps is not None
    assert together.anomaly_maps.shape == (5, 1, 48, 48)
    for row in range(5):
        alone = detector.infer(images[row : row + 1], generator(1))
        assert torch.allclose(alone.scores, together.scores[row : row + 1], rtol=1e-4)
        assert alone.anomaly_maps is not None
        assert torch.allclose(alone.anomaly_maps[0], together.anomaly_maps[row], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("noise", KINDS)
def test_its_noise_is_the_generators(noise: str) -> None:
    detector, images = system(noise=noise), random_images(2)
    traits = probe(detector, images)
    assert (traits.deterministic, traits.differentiable) == (detector.deterministic, detector.differentiable)
    assert torch.equal(detector.infer(images, generator(1)).scores, detector.infer(images, generator(1)).scores)


def test_the_score_is_the_mean_of_the_largest_squared_differences() -> None:
    detector, images = system(pooling=0.25), random_images(2)
    recon = detector.reconstruct(images, generator(3), SMALL.walk_steps)
    error = (images - recon).square().mean(1).flatten(1)
    expected = error.sort(1, descending=True).values[:, : 32 * 32 // 4].mean(1)
    assert torch.allclose(detector.infer(images, generator(3)).scores, expected)


@pytest.mark.parametrize("noise", KINDS)
@pytest.mark.parametrize("walk_steps", [1, 4])
def test_gradients_are_exact_through_the_whole_walk(noise: str, walk_steps: int) -> None:
    detector = system(48, noise=noise, walk_steps=walk_steps).double()
    images = random_images(2, 48, dtype=torch.float64)
    assert_gradient(lambda x: detector.infer(x, generator(3)).scores, images)


def test_checkpointing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, calls = system().double(), []

    def gradient() -> Tensor:
        images = random_images(2, dtype=torch.float64).requires_grad_()
        (found,) = torch.autograd.grad(detector.infer(images, generator(3)).scores.sum(), images)
        return found

    checkpointed = gradient()

    def plain(call, *arguments: object, use_reentrant: bool) -> Tensor:  # type: ignore[no-untyped-def]
        calls.append(use_reentrant)
        return call(*arguments)

    monkeypatch.setattr(anoddpm, "checkpoint", plain)
    torch.testing.assert_close(gradient(), checkpointed, rtol=1e-9, atol=1e-12)
    assert calls == [False] * SMALL.walk_steps


def test_hints_of_a_walk() -> None:
    detector, images = system().double(), random_images(2, dtype=torch.float64)
    assert not system(walk_steps=1).surrogates
    assert set(detector.surrogates) == {"one shot", "straight through"}
    one_shot = system(walk_steps=1).double()
    expected = one_shot.infer(images, generator(3)).scores
    assert torch.allclose(detector.surrogates["one shot"](images, generator(3)), expected)

    point = images.clone().requires_grad_()
    straight = detector.surrogates["straight through"](point, generator(3))
    assert torch.allclose(straight, detector.infer(images, generator(3)).scores)
    (shortcut,) = torch.autograd.grad(straight.sum(), point)
    (exact,) = torch.autograd.grad(detector.infer(point, generator(3)).scores.sum(), point)
    assert float(shortcut.norm()) > 0
    assert not torch.allclose(shortcut, exact, rtol=0.01)


@pytest.mark.parametrize(("now", "after"), [(250, 249), (250, 200), (1, 0), (40, 0)])
def test_a_step_back_is_the_textbooks_posterior(now: int, after: int) -> None:
    """Ho et al. 2020, equations 6 and 7, where a step of the reverse process is one diffusion step."""
    abar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - Schedule().betas(), 0)])
    alpha = abar[now] / abar[after]
    clean, noisy, noise = torch.randn(3, 1, 3, 8, 8, generator=generator(), dtype=torch.float64)
    mean = abar[after].sqrt() * (1 - alpha) / (1 - abar[now]) * clean
    mean = mean + alpha.sqrt() * (1 - abar[after]) / (1 - abar[now]) * noisy
    variance = (1 - abar[after]) / (1 - abar[now]) * (1 - alpha)
    expected = mean + variance.sqrt() * noise

    levels = AnoDDPM(32, SMALL).sigmas
    # In [0, 1] units an image and its noise are half as large; the offset of 1/2 belongs to the clean image.
    z, recon = noisy / abar[now].sqrt() / 2 + 0.5, clean / 2 + 0.5
    found = step_back(z, recon, levels[now], levels[after], noise)
    assert torch.allclose(2 * (found - 0.5) * abar[after].sqrt(), expected, rtol=1e-10, atol=1e-12)


def test_one_shot_is_a_walk_of_one_step() -> None:
    detector, images = system(walk_steps=1), random_images(3)
    (now, end) = detector.options.walk(1)
    assert (now, end) == (250, 0)
    z = images + detector.sigmas[now] * detector.sample_noise(images, generator(3))
    expected = detector.denoise(z, detector.sigmas[now])
    torch.testing.assert_close(detector.reconstruct(images, generator(3), 1), expected, rtol=1e-5, atol=1e-6)


def test_the_full_walk_visits_every_step() -> None:
    options = AnoDDPMOptions(walk_steps=250)
    assert options.walk(250) == list(range(250, -1, -1))
    assert SMALL.walk(4) == [250, 188, 125, 62, 0]


@pytest.mark.parametrize("noise", KINDS)
def test_a_perfect_network_leads_back_to_the_image(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, images = system(noise=noise).double(), random_images(2, dtype=torch.float64)
    monkeypatch.setattr(detector, "predict", lambda z, sigma: (z - images) / sigma[:, None, None, None])
    assert torch.allclose(detector.reconstruct(images, generator(3), 4), images)


def test_the_untrained_network_guesses_linearly() -> None:
    detector, sigma = AnoDDPM(32, SMALL), torch.tensor([0.3])
    z = random_images(1)
    expected = 0.6 * (2 * z - 1) / (0.36 + 0.25)
    assert torch.allclose(detector.predict(z, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("noise", KINDS)
def test_after_a_short_training_coarse_defects_stand_out(noise: str) -> None:
    options = SMALL.model_copy(update={"noise": noise, "steps": 150, "batch_size": 8, "learning_rate": 3e-3})
    context = FitContext(stack(24))
    images = stack(16, seed=1).batch(slice(0, 16))
    detector = fit_anoddpm(context, options)
    assert not detector.training
    drawn = torch.cat([detector.sample_noise(images, generator(seed)) for seed in range(16)])
    trained, untrained = (one.loss(images, drawn, generator(4)).detach() for one in (detector, AnoDDPM(32, options)))
    assert trained < 0.7 * untrained
    scores = torch.cat([detector.infer(part, generator(2)).scores for part in (images, with_defects(images))])
    assert auroc([0] * 16 + [1] * 16, scores.numpy()) > 0.95


def test_the_seed_decides_the_weights() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (fit_anoddpm(FitContext(stack(), seed=seed), SMALL).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["network.stem.weight"], other["network.stem.weight"])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"walk_steps": 300}, "walk_steps must be at most start_step"),
        ({"channels": [8, 16]}, "blocks and channels"),
        ({"work_px": 100}, "work_px"),
        ({"period": 3}, "period"),
    ],
)
def test_options_that_make_no_sense(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AnoDDPMOptions.parse(values, "grid.toml")
