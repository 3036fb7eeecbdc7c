"""Noise samples of a detector's score, in the form that certificates need.

A certificate bounds the smoothed score: a quantile (usually the median) of the detector's score over Gaussian noise, or
the mean of such quantiles over parts of the score that have noise of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from advrad.certificates.order_statistics import Floats, samples_needed
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import validated_output
from advrad.errors import ConfigError

#: Samples per batch on a CPU; more gain almost nothing there (``performance/certify.py``).
BATCH_SIZE = 8
#: Samples per batch on other devices. Untested on GPU.
_GPU_BATCH_SIZE = 64


def batch_size_on(device: torch.device) -> int:
    """Number of samples that pass the network in one batch on this device."""
    return BATCH_SIZE if device.type == "cpu" else _GPU_BATCH_SIZE


class Sampler(Protocol):
    """Samples bounds on a score over all perturbations of an image within a radius."""

    @property
    def method(self) -> str:
        """Name of the certificate: ``percentile`` or ``two-path``."""

    @property
    def sigma(self) -> float | None:
        """Standard deviation of the noise that the certificate adds to the image; None if it adds none."""

    @property
    def quantile(self) -> float:
        """Level of the quantile over the noise that smooths the score, in (0, 1)."""

    @property
    def noise_hint(self) -> str:
        """How to get stronger noise, in words, for errors about a radius that is too large."""

    def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
        """Compute how far a perturbation of l2 length 1 moves the centre of the noise, for each part of the score.

        Args:
            height_px: Height of the image as given.
            width_px: Width of the image as given.

        Returns:
            Movements, (parts,), in standard deviations of the part's noise.
        """

    def sample(
        self, image: Tensor, radii: Sequence[float], n: int, generator: torch.Generator
    ) -> tuple[Floats, Floats]:
        """Sample bounds on the score, each sample with independent noise.

        Args:
            image: Image as given, (c, h, w), float in [0, 1].
            radii: Radii of the perturbations, l2, for pixel values in [0, 1] of the image as given; >= 0.
            n: Number of samples.
            generator: Source of all noise.

        Returns:
            Lower and upper bound, (parts, radii, n): for the same noise, no image within the radius has a score outside
            of them. The smoothed score is the mean over parts of the quantile over samples.
        """


def samples_for_bounds(sampler: Sampler, sides: Sequence[int], radius: float, alpha: float) -> int:
    """Compute the smallest number of samples that bounds an image's smoothed score on both sides.

    Args:
        sampler: Sampler of the score.
        sides: Height and width of the image as given.
        radius: Radius of the perturbations, l2.
        alpha: Probability that one side fails, in (0, 1); the parts of the score share it.

    Returns:
        The number of samples.

    Raises:
        ConfigError: The radius is too large for any number of samples.
    """
    shifts = [shift * radius for shift in sampler.shifts(*sides)]
    try:
        return max(samples_needed(shift, alpha / len(shifts), sampler.quantile) for shift in shifts)
    except ConfigError:
        raise ConfigError(
            f"is {max(shifts):.3g} standard deviations of the noise, which no number of noise samples can certify;"
            f" choose a smaller radius, or {sampler.noise_hint}",
            option="radius",
            value=radius,
        ) from None


def check_n_samples(n_samples: int, needed: int, radius: float, confidence: float, sampler: Sampler) -> None:
    """Check that the number of noise samples suffices for a radius.

    Args:
        n_samples: Number of samples that may be used.
        needed: Number of samples that are needed.
        radius: Radius of the perturbations, l2.
        confidence: Confidence of the bounds, for the error.
        sampler: Sampler of the score, for the error.

    Raises:
        ConfigError: More samples are needed.
    """
    if needed > n_samples:
        raise ConfigError(
            f"cannot be certified with {n_samples} noise samples at a confidence of {confidence:g}; use at least"
            f" {needed} samples (draws {needed}), or {sampler.noise_hint}",
            option="radius",
            value=radius,
        )


class Percentile:
    """Smooths any detector by adding Gaussian noise to the image; the detector's own workings do not matter.

    Guarantee: for every perturbation of l2 length r, the median score over the noise lies between the quantiles of the
    unperturbed score at the levels ``Phi(-r / sigma)`` and ``Phi(r / sigma)``.

    Args:
        detector: Any detector.
        sigma: Standard deviation of the noise, for pixel values in [0, 1] of the image as given, > 0.
        deterministic: Whether the detector draws no noise of its own, and scores each image of a batch on its own; then
            several samples pass it in one batch.

    Raises:
        ConfigError: ``sigma`` is not above 0.

    Source: Chiang et al. 2020, "Detection as Regression: Certified Object Detection by Median Smoothing".

    Example:
        >>> import torch
        >>> from advrad import wrap
        >>> detector = wrap(lambda images: images.mean((1, 2, 3)), deterministic=True)
        >>> sampler = Percentile(detector, sigma=0.1, deterministic=True)
        >>> lower, upper = sampler.sample(torch.zeros(3, 8, 8), (0.05,), 16, torch.Generator().manual_seed(0))
        >>> lower.shape
        (1, 1, 16)
    """

    method = "percentile"
    quantile = 0.5
    noise_hint = "a larger sigma"

    def __init__(self, detector: AnomalyDetector, sigma: float, deterministic: bool) -> None:
        if not sigma > 0:
            raise ConfigError("must be above 0; without noise nothing can be certified", option="sigma", value=sigma)
        self.detector, self.sigma = detector, sigma
        # A detector may use the same noise for all images of a batch; samples in one batch would then be dependent.
        self.batch_size = BATCH_SIZE if deterministic else 1

    def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
        """See :class:`Sampler`."""
        return (1 / self.sigma,)

    def sample(
        self, image: Tensor, radii: Sequence[float], n: int, generator: torch.Generator
    ) -> tuple[Floats, Floats]:
        """See :class:`Sampler`. The detector sees the image through the noise only, so both bounds are the score."""
        scores = []
        for start in range(0, n, self.batch_size):
            shape = (min(self.batch_size, n - start), *image.shape)
            noised = image + self.sigma * torch.randn(shape, generator=generator)
            scores.append(validated_output(self.detector, noised, generator).scores)
        sampled = torch.cat(scores).double().numpy()
        for_every_radius = np.broadcast_to(sampled, (1, len(radii), n))
        return for_every_radius, for_every_radius
