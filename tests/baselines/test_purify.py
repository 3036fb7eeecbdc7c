"""The purifier: exact where the result can be computed, with exact gradients, and its dilemma."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_features import ToyFeatures, assert_contract, make_context
from toy_models import Linear, assert_gradient, detector, generator, generators, random_denoiser, random_images, stack

from advrad.attacks.base import AttackInput
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.threat import Threat
from advrad.baselines.base import FitContext
from advrad.baselines.purify import Purified, PurifyOptions, fit_purified
from advrad.baselines.spade import Spade, SpadeOptions, fit_spade
from advrad.data.loading import ImageStack
from advrad.denoisers.base import Denoiser
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector, SurrogateLoss
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError
from advrad.metrics import auroc


def spectrum(side: int) -> Tensor:
    """Power spectrum of smooth images."""
    rate = (torch.fft.fftfreq(side)[:, None].square() + torch.fft.rfftfreq(side)[None].square()).sqrt()
    return 0.5 / (1 + (rate / 0.06) ** 6)


class Wiener(Denoiser):
    """The optimal denoiser of :func:`smooth_images`, a Gaussian process: the Wiener filter around grey."""

    multiple_px = 2

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        power = spectrum(z.shape[-1]).to(z)
        kept = power / (power + sigma.view(-1, 1, 1, 1) ** 2)
        return 0.5 + torch.fft.irfft2(kept * torch.fft.rfft2(z - 0.5), s=z.shape[-2:])


def smooth_images(count: int, seed: int) -> Tensor:
    white = torch.randn(count, 3, 32, 32, generator=generator(seed))
    return (0.5 + torch.fft.irfft2(spectrum(32).sqrt() * torch.fft.rfft2(white), s=(32, 32))).clamp(0, 1)


def spade(taught: FitContext) -> Spade:
    return fit_spade(taught, SpadeOptions(neighbours=5), ToyFeatures())


def smooth_lesson(ours: AdvRAD | None = None) -> FitContext:
    values = np.rint(smooth_images(40, 1).numpy() * 65535).astype(np.uint16)
    return FitContext(ImageStack(values, stack(40).records), diffusion=None if ours is None else lambda: ours)


def inner() -> Spade:
    """A detector that small perturbations fool, fitted on smooth images."""
    return spade(smooth_lesson())


def purifier(judge: AnomalyDetector | None = None, **options: object) -> Purified:
    return Purified(judge or inner(), Wiener(), PurifyOptions(**options), 32)


def scores(system: AnomalyDetector, images: Tensor) -> Tensor:
    return system.infer(images, generator(5)).scores


def climbed(system: AnomalyDetector, images: Tensor) -> Tensor:
    """Attack images with PGD at 8/255 so that their scores rise."""
    ball = Threat(norm="linf", eps=8 / 255)
    return pgd(AttackInput(lambda x: scores(system, x), images, ball, generators(len(images)), 10)).images


@pytest.mark.parametrize("options", [{}, {"draws": 2}, {"steps": 3}])
def test_contract(options: dict[str, object]) -> None:
    def contrast(images: Tensor) -> Tensor:
        return (images - images.mean((2, 3), keepdim=True)).square().mean(1, keepdim=True)

    # No nearest neighbours: between equally near ones, rounding that depends on the batch would decide.
    assert_contract(purifier(wrap(contrast, deterministic=True), **options))


def test_one_shot_is_one_call_of_the_denoiser_on_the_noisy_image() -> None:
    denoiser = Linear(0.9, 0.05)
    system = Purified(wrap(lambda x: x.mean((1, 2, 3))), denoiser, PurifyOptions(sigma=0.2), 32)
    images = random_images(3)
    noise = torch.randn(1, 3, 32, 32, generator=generator(5))
    asked = 0.9 * (images + 0.2 * noise) + 0.05
    torch.testing.assert_close(system.purify(images, generator(5)), asked)
    torch.testing.assert_close(scores(system, images), asked.mean((1, 2, 3)))
    assert len(denoiser.asked) == 2
    assert torch.equal(denoiser.asked[0][1], torch.full((3,), 0.2))
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


def test_what_is_purified_is_handed_on_unclamped() -> None:
    system = Purified(wrap(lambda x: x.amax((1, 2, 3))), Linear(2.0), PurifyOptions(), 32)
    assert float(scores(system, torch.ones(1, 3, 32, 32))) > 1.9


def test_draws_are_averaged() -> None:
    system, images = purifier(draws=3), random_images(2)
    source = generator(5)
    said = [system.inner.infer(system.purify(images, source), source) for _ in range(3)]
    answer = system.infer(images, generator(5))
    torch.testing.assert_close(answer.scores, sum(part.scores for part in said) / 3)
    torch.testing.assert_close(answer.anomaly_maps, sum(part.anomaly_maps for part in said) / 3)


def test_a_walk_of_many_steps_is_the_reverse_diffusion() -> None:
    system, images = purifier(steps=4, sigma=0.3), random_images(2)
    expected = reconstruct(Wiener(), images, 0.3, generator(5), steps=4)
    torch.testing.assert_close(scores(system, images), system.inner.infer(expected, generator()).scores)


def test_hints_are_what_they_say() -> None:
    assert not purifier().surrogates
    noisy = wrap(lambda x: x.mean((1, 2, 3)), surrogates={"blind": lambda x, generator: x.amax((1, 2, 3))})
    system, images = purifier(noisy, draws=2, steps=3), random_images(2)
    surrogates = system.surrogates
    assert set(surrogates) == {"part one draw", "one shot", "straight through", "blind"}

    source = generator(5)
    parts = [surrogates["part one draw"](images, source) for _ in range(2)]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, scores(system, images))
    one_shot = purifier(noisy)
    torch.testing.assert_close(surrogates["one shot"](images, generator(5)), scores(one_shot, images))
    single = purifier(noisy, steps=3)
    torch.testing.assert_close(surrogates["straight through"](images, generator(5)), scores(single, images))
    purified = single.purify(images, generator(5))
    torch.testing.assert_close(surrogates["blind"](images, generator(5)), purified.amax((1, 2, 3)))


@pytest.mark.parametrize("gaussian", [True, False])
def test_straight_through_has_the_gradient_of_the_first_step(gaussian: bool) -> None:
    def gradient(climb: SurrogateLoss) -> Tensor:
        point = random_images(2).requires_grad_()
        return torch.autograd.grad(climb(point, generator(5)).sum(), point)[0]

    weights = torch.randn(3, 32, 32, generator=generator(8))
    projection = wrap(lambda x: (weights * x).sum((1, 2, 3)))
    system = Purified(projection, Wiener() if gaussian else random_denoiser(), PurifyOptions(steps=3), 32)
    straight, exact = gradient(system.surrogates["straight through"]), gradient(lambda x, g: system.infer(x, g).scores)
    torch.testing.assert_close(straight, gradient(system.surrogates["one shot"]))
    if gaussian:  # here all steps of the reverse diffusion together have the gain of one
        torch.testing.assert_close(straight, exact)
    else:
        assert float((straight - exact).norm() / exact.norm()) > 0.02


def test_hints_have_exact_gradients() -> None:
    system = purifier(steps=3, draws=2).double()
    point = random_images(1, seed=2, dtype=torch.float64)
    for name in ("part one draw", "one shot"):
        hint = system.surrogates[name]
        assert_gradient(lambda x, hint=hint: hint(x, generator(5)), point, directions=2)


def test_it_promises_no_gradient_that_its_inner_detector_lacks() -> None:
    blind = wrap(lambda x: x.detach().mean((1, 2, 3)), differentiable=False)
    assert not purifier(blind).differentiable
    assert purifier().differentiable


def test_the_dilemma() -> None:
    """More noise removes more of an attack and more of a small defect; a large defect survives longer."""
    judge, good = inner(), smooth_images(12, 2)
    small, large = good.clone(), good.clone()
    small[:, :, 10:12, 20:22] = 1 - good[:, :, 10:12, 20:22].round()
    large[:, :, 8:20, 12:24] = 1 - good[:, :, 8:20, 12:24].round()
    attacked = climbed(judge, good)
    undefended = float((scores(judge, attacked) - scores(judge, good)).mean())

    def area(system: AnomalyDetector, bad: Tensor) -> float:
        return auroc([0] * 12 + [1] * 12, [*scores(system, good).tolist(), *scores(system, bad).tolist()])

    kept, rises, areas = [], [], []
    for sigma in (0.01, 0.1, 0.3):
        system = purifier(judge, sigma=sigma, draws=2)
        clean = system.purify(good, generator(3))
        kept.append(
            [
                float((system.purify(bad, generator(3)) - clean).square().sum() / (bad - good).square().sum())
                for bad in (attacked, small, large)
            ]
        )
        # The attacker knows the purifier and uses its gradients.
        rises.append(float((scores(system, climbed(system, good)) - scores(system, good)).mean()) / undefended)
        areas.append((area(system, small), area(system, large)))
    for much, less in itertools.pairwise(kept):
        assert all(after < 0.7 * before for before, after in zip(much, less, strict=True))
    assert all(of_attack < of_small < of_large for of_attack, of_small, of_large in kept)
    assert rises[0] > 0.05 > 0.03 > rises[1] > rises[2]
    assert area(judge, small) > 0.75 and area(judge, large) > 0.95
    assert areas[1][0] < 0.6 and areas[1][1] > 0.8


def test_fitting_takes_the_denoiser_of_the_lesson() -> None:
    ours, heard = detector(), []
    taught = FitContext(stack(), diffusion=lambda: ours)
    judge = fit_spade(make_context(), SpadeOptions(), ToyFeatures())

    def fit(given: FitContext) -> AnomalyDetector:
        heard.append(given)
        return judge

    system = fit_purified(taught, PurifyOptions(), fit)
    assert system.denoiser is ours.denoiser and system.inner is judge and system.size_px == 32
    assert len(heard) == 1 and heard[0] is taught
    with pytest.raises(ConfigError, match="diffusion"):
        fit_purified(FitContext(stack()), PurifyOptions(), fit)


def test_purified_training_images_have_noise_of_their_own() -> None:
    ours, heard = detector(), []
    ours.denoiser = Wiener()

    def fit(given: FitContext) -> AnomalyDetector:
        heard.append(given.normal_images)
        return spade(given)

    taught = smooth_lesson(ours)
    fit_purified(taught, PurifyOptions(sigma=0.2, learns="purified"), fit)
    fit_purified(taught, PurifyOptions(sigma=0.2, learns="purified"), fit)
    assert np.array_equal(heard[0].values, heard[1].values)
    assert heard[0].records == taught.normal_images.records
    noise = torch.randn(40, 3, 32, 32, generator=taught.generator("purified"))
    expected = (
        Wiener().denoise(taught.normal_images.batch(slice(None)) + 0.2 * noise, torch.full((40,), 0.2)).clamp(0, 1)
    )
    torch.testing.assert_close(heard[0].batch(slice(None)), expected, atol=1e-4, rtol=0)


def test_learning_from_purified_images_lowers_their_scores() -> None:
    ours = detector()
    ours.denoiser = Linear(0.9, 0.2)
    good, surprise = smooth_images(12, 2), {}
    for learns in ("given", "purified"):
        system = fit_purified(smooth_lesson(ours), PurifyOptions(sigma=0.02, learns=learns), spade)
        surprise[learns] = float(scores(system, good).mean() / scores(inner(), good).mean())
    assert surprise["given"] > 10 > 2 > surprise["purified"], surprise


def test_images_of_a_wrong_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="size_px 33: does not suit the denoiser; choose a multiple of 2"):
        Purified(wrap(torch.sum), Wiener(), PurifyOptions(), 33)
    with pytest.raises(ConfigError, match="size_px 32: must be 64"):
        Purified(wrap(torch.sum, size_px=64), Wiener(), PurifyOptions(), 32)


@pytest.mark.parametrize("values", [{"sigma": 0}, {"steps": 0}, {"draws": 0}, {"noise": 1}, {"learns": "nothing"}])
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"grid.toml: {next(iter(values))}"):
        PurifyOptions.parse(values, "grid.toml")
