"""DDPM networks, the unconditional ``UNet2DModel`` of diffusers, as denoisers.

A DDPM receives ``x_k = sqrt(abar_k) x + sqrt(1 - abar_k) noise`` and the step number k. Divided by ``sqrt(abar_k)``
this is an image plus noise of level ``s_k = sqrt((1 - abar_k) / abar_k)``. So the network denoises at any noise level:
find the step of the level, scale the noisy image, and compute the clean image from the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn

from advrad.denoisers.base import SCALES, Denoiser
from advrad.errors import ConfigError
from advrad.utils.config import Config

_NO_DIFFUSERS = "the ddpm denoiser needs the diffusers library: pip install 'advrad[ddpm]'"


class Schedule(Config):
    """Noise schedule of a DDPM. The names are those of the diffusers schedulers.

    Attributes:
        beta_schedule: Growth of the variances: linear, linear in their square root, the squared cosine of Nichol and
            Dhariwal 2021, or a sigmoid.
        beta_start: Variance that the first step adds; the cosine schedule does not use it.
        beta_end: Variance that the last step adds; the cosine schedule does not use it.
        num_train_timesteps: Number of steps, T.
        trained_betas: Variance of every step, in place of a formula; None for the formula.
    """

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.02, gt=0, lt=1)
    num_train_timesteps: int = Field(default=1000, ge=2, le=100_000)
    trained_betas: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.beta_end < self.beta_start:
            raise ValueError("beta_end lies below beta_start")
        if self.trained_betas is not None:
            if len(self.trained_betas) != self.num_train_timesteps:
                raise ValueError("trained_betas must hold num_train_timesteps values")
            if not all(0 < beta < 1 for beta in self.trained_betas):
                raise ValueError("trained_betas must lie between 0 and 1")
        return self

    def betas(self) -> Tensor:
        """Compute the variance that each step adds, (T,) float64."""
        steps = self.num_train_timesteps
        if self.trained_betas is not None:
            return torch.tensor(self.trained_betas, dtype=torch.float64)
        if self.beta_schedule == "scaled_linear":
            return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, steps, dtype=torch.float64) ** 2
        if self.beta_schedule == "sigmoid":
            rise = torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64))
            return rise * (self.beta_end - self.beta_start) + self.beta_start
        if self.beta_schedule == "squaredcos_cap_v2":
            time = torch.arange(steps + 1, dtype=torch.float64) / steps
            abar = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
            return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
        return torch.linspace(self.beta_start, self.beta_end, steps, dtype=torch.float64)

    def sigmas(self) -> Tensor:
        """Compute the noise level of each step in [0, 1] pixel units, (T,) float64, rising.

        Entry ``k - 1`` is step k of the papers, which count from 1; diffusers counts from 0. The linear schedule gives
        0.046 at k = 25 and 0.169 at k = 100.
        """
        abar = torch.cumprod(1 - self.betas(), 0)
        return ((1 - abar) / abar).sqrt() / 2


class DdpmConfig(Config):
    """Shape and noise schedule of a ``UNet2DModel``.

    Attributes:
        kind: Name of this kind of denoiser in files.
        size_px: Side of the square images, pixels.
        channels: 3 for colour; 1 for a grey network, which receives the mean of the three channels.
        block_out_channels: Width of each level, beginning at the full resolution.
        down_block_types: Name of the diffusers block of each level; ``AttnDownBlock2D`` has attention.
        layers_per_block: Residual layers per level.
        prediction_type: Prediction of the network: the noise (``epsilon``), the clean image (``sample``), or the
            velocity of Salimans and Ho 2022 (``v_prediction``).
        schedule: Noise schedule.
        options: Further arguments of ``UNet2DModel``, by name.
    """

    kind: Literal["ddpm"] = "ddpm"
    size_px: int = Field(default=256, ge=8, le=4096)
    channels: Literal[1, 3] = 3
    block_out_channels: tuple[int, ...] = Field(min_length=1)
    down_block_types: tuple[str, ...]
    layers_per_block: int = Field(default=2, ge=1)
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    schedule: Schedule = Schedule()
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.down_block_types) != len(self.block_out_channels):
            raise ValueError("down_block_types and block_out_channels must be of one length")
        if any(width < 1 for width in self.block_out_channels):
            raise ValueError("block_out_channels must be positive")
        shrink = 2 ** (len(self.block_out_channels) - 1)
        if self.size_px % shrink:
            raise ValueError(f"size_px must be a multiple of {shrink}, one halving per level")
        return self


PRESETS: Mapping[str, DdpmConfig] = {
    # The size of the original DDPM for 256 px images: attention at 16 px and, in the middle, at 8 px.
    "paper": DdpmConfig(
        size_px=256,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=(*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    ),
    # For tests and demonstrations only.
    "tiny": DdpmConfig(
        size_px=16,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        layers_per_block=1,
        options={"norm_num_groups": 4},
    ),
}


class DdpmDenoiser(Denoiser):
    """A DDPM network as a denoiser.

    A noise level between two steps becomes a fractional step, interpolated in the logarithm of the level. Outside
    ``[sigma_min, sigma_max]`` the network receives the nearest step and the formulas use the true level. Below that
    range this is harmless, because the output differs from the input by less noise than the first step adds. Above it
    the result is meaningless; images are scored at much lower levels.

    Args:
        network: Network, called as ``network(x, step).sample`` with x (b, c, h, w) and step (b,), counted from 0.
        config: Configuration of the network.

    Attributes:
        config: The configuration.
        sigma_min: Lowest noise level of the schedule, [0, 1] pixel units.
        sigma_max: Highest noise level of the schedule, [0, 1] pixel units.
    """

    log_levels: Tensor

    def __init__(self, network: nn.Module, config: DdpmConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        # Both the network's levels and the scales of the error maps halve the image.
        self.multiple_px = 2 ** max(len(config.block_out_channels) - 1, SCALES - 1)
        sigmas = config.schedule.sigmas()
        # The noise of the mean of three channels is weaker by the square root of 3.
        per_network = 1.0 if config.channels == 3 else 3**0.5
        self.sigma_min = float(sigmas[0]) * per_network
        self.sigma_max = float(sigmas[-1]) * per_network
        # In the [-1, 1] units of the network. Not saved, because the configuration determines it.
        self.register_buffer("log_levels", (2 * sigmas).log().float(), persistent=False)

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        """Remove the noise; see :meth:`advrad.denoisers.base.Denoiser.denoise`. ``window`` is ignored."""
        x = 2 * z - 1
        level = 2 * sigma
        if self.config.channels == 1:
            x = x.mean(1, keepdim=True)
            level = level / 3**0.5
        column = level[:, None, None, None]
        shrink = (1 + column**2).rsqrt()  # sqrt(abar) of this level
        prediction = self._predict(x * shrink, self._step(level))
        if self.config.prediction_type == "epsilon":
            clean = x - column * prediction
        elif self.config.prediction_type == "v_prediction":
            # v = sqrt(abar) noise - sqrt(1 - abar) clean, solved for clean.
            clean = shrink**2 * x - shrink * column * prediction
        else:
            clean = prediction
        return ((clean + 1) / 2).expand_as(z)

    def training_loss(
        self, images: Tensor, corrupted: Tensor, level: Tensor, noise: Tensor, window: Tensor | None = None
    ) -> Tensor:
        """The simple DDPM loss: squared error of the prediction at a step drawn uniformly.

        Args:
            images: Normal images, (b, 3, h, w) float in [0, 1].
            corrupted: Ignored, because a DDPM predicts the noise in ``images``.
            level: Steps, (b,) float in [0, 1), as a fraction of all steps.
            noise: Standard normal noise, (b, 3, h, w).
            window: Ignored.

        Returns:
            Loss of each image, (b,), >= 0.

        Source: Ho, Jain, Abbeel 2020, equation 14.
        """
        x = 2 * images - 1
        if self.config.channels == 1:
            x, noise = x.mean(1, keepdim=True), noise.mean(1, keepdim=True) * 3**0.5
        steps = len(self.log_levels)
        step = (level * steps).long().clamp(max=steps - 1)
        column = self.log_levels[step].exp().to(x.dtype)[:, None, None, None]
        shrink = (1 + column**2).rsqrt()
        prediction = self._predict(shrink * (x + column * noise), step)
        targets = {"epsilon": noise, "sample": x, "v_prediction": shrink * (noise - column * x)}
        return (prediction - targets[self.config.prediction_type]).square().mean((1, 2, 3))

    def _step(self, level: Tensor) -> Tensor:
        """Find the fractional steps, counted from 0, of noise levels (b,) in [-1, 1] units."""
        wanted = level.to(self.log_levels.dtype).log()
        # A count in place of a search, because ONNX has no search operator.
        upper = (self.log_levels < wanted[:, None]).sum(1).clamp(1, len(self.log_levels) - 1)
        low, high = self.log_levels[upper - 1], self.log_levels[upper]
        return upper - 1 + ((wanted - low) / (high - low)).clamp(0, 1)

    def _predict(self, x: Tensor, step: Tensor) -> Tensor:
        if self.config.options.get("time_embedding_type") == "learned":
            step = step.round().long()  # a table of embeddings has no fractional rows
        prediction: Tensor = self.network(x, step).sample
        return prediction.to(x.dtype)  # autocast gives bfloat16


def build(config: DdpmConfig) -> DdpmDenoiser:
    """Make an untrained denoiser. The weights are drawn from PyTorch's global random state.

    Args:
        config: Configuration of the network.

    Raises:
        ConfigError: diffusers is not installed, or refuses the configuration.
    """
    unet = unet_class()
    arguments = {
        "up_block_types": _mirrored(config.down_block_types),
        **config.options,
        "sample_size": config.size_px,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "block_out_channels": config.block_out_channels,
        "down_block_types": config.down_block_types,
        "layers_per_block": config.layers_per_block,
    }
    try:
        network = unet(**arguments)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ConfigError(f"ddpm: diffusers refuses the network: {' '.join(str(error).split())}") from None
    return DdpmDenoiser(network, config)


def unet_class() -> Any:
    """Import the class ``UNet2DModel`` of diffusers.

    Raises:
        ConfigError: diffusers is not installed.
    """
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise ConfigError(_NO_DIFFUSERS) from None
    return UNet2DModel


def _mirrored(down_block_types: tuple[str, ...]) -> tuple[str, ...]:
    """Give the up blocks that belong to the down blocks, beginning at the lowest resolution."""
    return tuple(name.replace("Down", "Up") for name in reversed(down_block_types))
