"""The ddpm denoiser: noise levels, units, gradients, and the network's options."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from advrad.denoisers.ddpm import PRESETS, DdpmConfig, DdpmDenoiser, Schedule, build
from advrad.errors import ConfigError

TINY = PRESETS["tiny"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, size_px: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size_px, size_px, generator=generator(seed), dtype=dtype)


def wakened(config: DdpmConfig = TINY) -> DdpmDenoiser:
    torch.manual_seed(0)
    return build(config).eval()


class Oracle(nn.Module):
    """Knows the clean image, and predicts like a perfect network of the given type."""

    def __init__(self, clean: Tensor, config: DdpmConfig) -> None:
        super().__init__()
        self.clean = 2 * clean - 1
        abar = torch.cumprod(1 - config.schedule.betas(), 0)
        self.abar = abar
        self.kind = config.prediction_type
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, step: Tensor) -> SimpleNamespace:
        self.seen.append(step)
        # Fractional steps lie between two levels, evenly in the logarithm.
        levels = ((1 - self.abar) / self.abar).sqrt().log()
        below = step.long().clamp(max=len(levels) - 2)
        level = torch.lerp(levels[below], levels[below + 1], (step - below).double()).exp()[:, None, None, None]
        alpha = (1 + level**2).rsqrt()
        noise = (x / alpha - self.clean) / level
        answers = {
            "epsilon": noise,
            "sample": self.clean,
            "v_prediction": alpha * (noise - level * self.clean),
        }
        return SimpleNamespace(sample=answers[self.kind])


@pytest.mark.parametrize(
    ("step", "sigma"), [(25, 0.046), (50, 0.086), (100, 0.169), (150, 0.259), (200, 0.360), (300, 0.617)]
)
def test_linear_schedule_gives_the_known_noise_levels(step: int, sigma: float) -> None:
    sigmas = Schedule().sigmas()
    assert sigmas[step - 1].item() == pytest.approx(sigma, abs=5e-4)
    # At that level the network receives the same step, counted from 0.
    denoiser = DdpmDenoiser(Oracle(pictures(1), TINY), TINY)
    denoiser(pictures(1), sigmas[step - 1 : step].float())
    assert denoiser.network.seen[0].item() == pytest.approx(step - 1, abs=1e-3)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_schedules_agree_with_diffusers(kind: str) -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=500, beta_schedule=kind).betas.double()
    ours = Schedule(num_train_timesteps=500, beta_schedule=kind).betas()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert (Schedule(beta_schedule=kind).sigmas().diff() > 0).all()


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("sigma", [0.01, 0.17, 0.3, 1.0])
def test_a_perfect_network_recovers_the_image(kind: str, sigma: float) -> None:
    config = TINY.model_copy(update={"prediction_type": kind})
    clean = pictures(2, dtype=torch.float64)
    denoiser = DdpmDenoiser(Oracle(clean, config), config)
    noise = torch.randn(clean.shape, generator=generator(1), dtype=torch.float64)
    levels = torch.tensor([sigma, 1.5 * sigma], dtype=torch.float64)
    recon = denoiser(clean + levels[:, None, None, None] * noise, levels)
    # The step is computed in float32, which limits the precision.
    torch.testing.assert_close(recon, clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_network_has_no_loss(kind: str) -> None:
    config = TINY.model_copy(update={"prediction_type": kind})
    clean = pictures(4, dtype=torch.float64)
    denoiser = DdpmDenoiser(Oracle(clean, config), config)
    level = torch.tensor([0.0, 0.3, 0.6, 0.999], dtype=torch.float64)
    noise = torch.randn(clean.shape, generator=generator(1), dtype=torch.float64)
    loss = denoiser.training_loss(clean, clean, level, noise)
    assert loss.shape == (4,)
    # At the first steps the noise is a small difference of float32 levels.
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-6)
    assert denoiser.network.seen[0].tolist() == [0, 300, 600, 999]


def test_network_sees_images_of_unit_scale_in_its_own_range() -> None:
    seen: list[Tensor] = []

    class Silent(nn.Module):
        def forward(self, x: Tensor, step: Tensor) -> SimpleNamespace:
            seen.append(x)
            return SimpleNamespace(sample=torch.zeros_like(x))

    z = pictures(1)
    # A network that predicts no noise returns its input, and the changes of range cancel.
    assert torch.allclose(DdpmDenoiser(Silent(), TINY)(z, torch.tensor([0.5])), z)
    # Noise of 0.5 on [0, 1] is noise of 1 on [-1, 1], so abar is 1/2.
    torch.testing.assert_close(seen[0], (2 * z - 1) / math.sqrt(2))


def test_levels_outside_the_schedule_use_its_ends() -> None:
    denoiser = DdpmDenoiser(Oracle(pictures(2), TINY), TINY)
    assert denoiser.sigma_min == pytest.approx(0.005, rel=1e-3)
    assert denoiser.sigma_max == pytest.approx(78.7, rel=1e-3)
    denoiser(pictures(2), torch.tensor([denoiser.sigma_min / 10, denoiser.sigma_max * 10]))
    assert denoiser.network.seen[0].tolist() == [0, 999]


def test_rows_are_independent() -> None:
    denoiser = wakened()
    z, sigma = pictures(3), torch.tensor([0.05, 0.2, 0.6])
    together = denoiser(z, sigma)
    assert together.shape == z.shape
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], denoiser(z[i : i + 1], sigma[i : i + 1]), rtol=1e-4, atol=1e-5)
    gradient = torch.autograd.grad(denoiser(z.requires_grad_(), sigma)[1].sum(), z)[0]
    assert gradient[1].abs().sum() > 0
    assert gradient[0].abs().sum() == 0
    assert gradient[2].abs().sum() == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_gradient_is_exact(channels: int, kind: str) -> None:
    config = TINY.model_copy(update={"channels": channels, "prediction_type": kind})
    denoiser = wakened(config).double()
    z = pictures(1, dtype=torch.float64)
    sigma = torch.tensor([0.2], dtype=torch.float64)
    weight = torch.randn(z.shape, generator=generator(1), dtype=torch.float64)

    def value(at: Tensor) -> Tensor:
        return (weight * denoiser(at, sigma)).sum()

    gradient = torch.autograd.grad(value(z.requires_grad_()), z)[0]
    for seed in range(3):
        direction = torch.randn(z.shape, generator=generator(2 + seed), dtype=torch.float64)
        step = 1e-5
        with torch.no_grad():
            slope = (value(z + step * direction) - value(z - step * direction)) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_grey_network_averages_the_channels_and_their_noise() -> None:
    config = TINY.model_copy(update={"channels": 1})
    clean = pictures(1, dtype=torch.float64).mean(1, keepdim=True)
    denoiser = DdpmDenoiser(Oracle(clean, config), config)
    noise = torch.randn((1, 3, 16, 16), generator=generator(1), dtype=torch.float64)
    sigma = torch.tensor([0.3], dtype=torch.float64)
    recon = denoiser(clean + sigma * noise, sigma)
    torch.testing.assert_close(recon, clean.expand(1, 3, 16, 16), rtol=0, atol=1e-5)
    expected = Schedule().sigmas()[denoiser.network.seen[0].round().long()]
    assert expected.item() == pytest.approx(0.3 / math.sqrt(3), rel=0.01)
    level = torch.tensor([0.5], dtype=torch.float64)
    assert denoiser.training_loss(clean.expand(1, 3, 16, 16), clean, level, noise).item() < 1e-6


def test_training_lowers_the_loss() -> None:
    denoiser = wakened().train()
    images = pictures(1).expand(8, -1, -1, -1)
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=2e-3)
    losses = []
    for step in range(30):
        draws = generator(step)
        level, noise = torch.rand(8, generator=draws), torch.randn(images.shape, generator=draws)
        loss = denoiser.training_loss(images, images, level, noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in denoiser.parameters())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_configuration_and_weights_rebuild_the_denoiser() -> None:
    first = wakened()
    config = DdpmConfig.model_validate_json(TINY.model_dump_json())
    assert config == TINY
    second = build(config).eval()
    second.load_state_dict(first.state_dict())
    z, sigma = pictures(2), torch.tensor([0.1, 0.4])
    assert torch.equal(first(z, sigma), second(z, sigma))


def test_paper_preset_has_the_shape_of_the_published_network() -> None:
    with torch.device("meta"):
        from diffusers import UNet2DModel

        config = PRESETS["paper"]
        network = UNet2DModel(
            block_out_channels=config.block_out_channels,
            down_block_types=config.down_block_types,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(config.down_block_types)),
        )
    assert [width // 128 for width in config.block_out_channels] == [1, 1, 2, 2, 4, 4]
    assert (config.size_px, config.schedule) == (256, Schedule(num_train_timesteps=1000))
    # The public 256 px DDPM checkpoints have as many parameters.
    assert sum(parameter.numel() for parameter in network.parameters()) == 113_673_219


def test_window_is_ignored() -> None:
    denoiser = wakened()
    z, sigma = pictures(1), torch.tensor([0.2])
    assert torch.equal(denoiser.denoise(z, sigma, torch.tensor([[-1.0, -1.0, 0.0, 0.0]])), denoiser(z, sigma))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 17}, "multiple of 2"),
        ({"down_block_types": ["DownBlock2D"]}, "one length"),
        ({"channels": 2}, "channels"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"schedule": {"beta_start": 0.5, "beta_end": 0.1}}, "beta_end lies below"),
        ({"schedule": {"trained_betas": [0.1]}}, "num_train_timesteps values"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_wrong_configuration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DdpmConfig.parse({**TINY.model_dump(mode="json"), **change}, "test")


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"nonsense": 1}},
        {"options": {"norm_num_groups": 5}},
        {"down_block_types": ("DownBlock2D", "NoSuchBlock")},
    ],
)
def test_network_that_diffusers_refuses_is_a_configuration_error(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="diffusers refuses the network") as caught:
        build(TINY.model_copy(update=change))
    assert "\n" not in str(caught.value)


def test_missing_diffusers_is_reported_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"pip install 'advrad\[ddpm\]'"):
        build(TINY)
