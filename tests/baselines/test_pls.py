"""PLS: its component analyses against numpy, their moving averages, and the robustness that they give."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from toy_features import assert_contract, make_context, robust_auroc
from toy_models import generator, random_images
from toy_squares import normal_and_squares

from advrad.baselines.autoencoder import AutoencoderOptions, fit_autoencoder
from advrad.baselines.pls import Pls, PlsOptions, PrincipalComponents, fit_pls
from advrad.errors import ConfigError

EPS = 8 / 255
SMALL = PlsOptions(work_px=32, channels=(8, 16, 32), latent_channels=4, components=4, batch_size=8, steps=2)


@cache
def fitted(eps: float = EPS, steps: int = 200, seed: int = 0) -> Pls:
    return fit_pls(make_context(24, seed=seed), SMALL.model_copy(update={"attack_eps": eps, "steps": steps}))


def samples(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Samples of a Gaussian with a mean and rotated axes of clearly different lengths."""
    draws = generator(seed)
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator(99)))
    return torch.randn(count, width, generator=draws) * 2.0 ** -torch.arange(width) @ turn + 3


def low_rank(data: np.ndarray, count: int) -> np.ndarray:
    """The best approximation of rank ``count`` about the mean, by numpy's singular values."""
    mean = data.mean(0)
    left, sizes, right = np.linalg.svd(data - mean, full_matrices=False)
    return (left[:, :count] * sizes[:count]) @ right[:count] + mean


def test_contract() -> None:
    system = fitted(steps=2)
    assert isinstance(system, Pls)
    assert_contract(system)


@pytest.mark.parametrize("count", [1, 3])
def test_components_are_those_of_singular_values(count: int) -> None:
    analysis, data = PrincipalComponents(6, count, 0.1), samples(50, 6)
    analysis.update(data)
    torch.testing.assert_close(analysis.axes.mT @ analysis.axes, torch.eye(count))
    restored = analysis.restore(analysis.reduce(data))
    np.testing.assert_allclose(restored, low_rank(data.numpy(), count), atol=1e-4)


def test_both_analyses_in_cascade_are_those_of_numpy() -> None:
    torch.manual_seed(0)
    system = Pls(32, SMALL)
    latent = torch.randn(8, 4, 4, 4, generator=generator(2)) * torch.tensor([3.0, 1.0, 0.5, 0.2]).view(1, 4, 1, 1) + 1
    system.update(latent)
    vectors = latent.permute(0, 2, 3, 1).reshape(128, 4).double().numpy()
    mean = vectors.mean(0)
    axis = np.linalg.svd(vectors - mean, full_matrices=False)[2][0]
    numbers = low_rank(((vectors - mean) @ axis).reshape(8, 16), 4)
    expected = (numbers.reshape(128, 1) * axis + mean).reshape(8, 4, 4, 4).transpose(0, 3, 1, 2)
    purified = system.purify(latent)
    np.testing.assert_allclose(purified, expected, atol=1e-4)
    # A projection: applying it twice changes nothing more, and it leaves `components` degrees of freedom.
    torch.testing.assert_close(system.purify(purified), purified, atol=1e-4, rtol=1e-4)
    fresh = torch.randn(40, 4, 4, 4, generator=generator(3))
    assert int(torch.linalg.matrix_rank((system.purify(fresh) - system.purify(fresh[:1])).flatten(1), atol=1e-3)) == 4


def test_components_follow_whatever_their_signs_and_rotation() -> None:
    analysis = PrincipalComponents(6, 3, 0.2)
    for step in range(60):
        analysis.update(samples(200, 6, seed=step))
    data = samples(5000, 6, seed=1000)
    torch.testing.assert_close(analysis.axes.mT @ analysis.axes, torch.eye(3))
    torch.testing.assert_close(analysis.mean, data.mean(0), atol=0.1, rtol=0)
    lost = (analysis.restore(analysis.reduce(data)) - data).square().mean()
    least = np.square(low_rank(data.numpy(), 3) - data.numpy()).mean()
    assert float(lost) < 1.1 * float(least)


def test_averages_move_by_the_momentum() -> None:
    analysis = PrincipalComponents(2, 1, 0.25)
    analysis.update(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    analysis.update(torch.tensor([[4.0, 3.0], [4.0, 5.0]]))
    torch.testing.assert_close(analysis.mean, torch.tensor([1.0, 1.0]))
    # The axis (1, 0), then a quarter of the way to (0, 1) or its negative, and of length 1 again.
    expected = torch.tensor([[0.75], [0.25]]) / 0.625**0.5
    torch.testing.assert_close(analysis.axes.abs(), expected)


def test_the_analyses_are_the_trained_ones_and_stay() -> None:
    system = fitted(steps=2)
    assert bool(system.channel_components.initialised) and bool(system.position_components.initialised)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    system.infer(random_images(3), generator())
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


def test_it_loses_less_under_attack_than_a_plain_autoencoder() -> None:
    good, bad = normal_and_squares()
    options = AutoencoderOptions.model_validate(
        {name: getattr(SMALL, name) for name in AutoencoderOptions.model_fields}
    )
    plain = fit_autoencoder(make_context(24), options.model_copy(update={"steps": 200}))
    for system in (plain, fitted()):
        assert robust_auroc(system, good, bad, 0.0) > 0.95
    assert robust_auroc(fitted(), good, bad, EPS) > robust_auroc(plain, good, bad, EPS) + 0.2


def test_learning_from_attacks_helps_beyond_the_components() -> None:
    good, bad = normal_and_squares()
    assert robust_auroc(fitted(), good, bad, EPS) > robust_auroc(fitted(0.0), good, bad, EPS) + 0.2


def test_the_seed_decides() -> None:
    one, other = fitted(steps=3, seed=1), fitted(steps=3, seed=2)
    same = fit_pls(make_context(24, seed=1), SMALL.model_copy(update={"attack_eps": EPS, "steps": 3}))
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.channel_components.axes, other.channel_components.axes)


@pytest.mark.parametrize("values", [{"components": 17}, {"components": 8, "batch_size": 8}, {"momentum": 0}])
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"grid\.toml: .*(components|momentum)"):
        PlsOptions.parse(values, "grid.toml")
