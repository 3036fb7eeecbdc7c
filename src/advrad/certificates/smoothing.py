"""Draws of a score under noise, in the form that certificates need; and those of any detector at all.

A certificate speaks of the smoothed score: a quantile (mostly the median) of the detector's score over Gaussian noise,
or the mean of such quantiles over parts of the score that have noise of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.order_statistics import draws_needed
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import validated_output
from advrad.errors import ConfigError

Floats = npt.NDArray[np.float64]

#: Draws that go through a network side by side: more gain next to nothing on a CPU (``performance/certify.py``).
BATCH = 8
#: On anything else, which is idle with so few; never measured, for want of one.
_BATCH_ELSEWHERE = 64


def side_by_side(device: torch.device) -> int:
    """How many draws go through a network at once."""
    return BATCH if device.type == "cpu" else _BATCH_ELSEWHERE


class Sampler(Protocol):
    """Draws bounds on a score under every change of an image within a radius."""

    @property
    def method(self) -> str:
        """Name of the argument by which the bounds hold: ``percentile`` or ``two-path``."""

    @property
    def quantile(self) -> float:
        """That smooths: of the score over its noise, strictly between 0 and 1."""

    @property
    def largest(self) -> str:
        """What to strengthen where a radius is out of reach, in words."""

    def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
        """By how much a change of length 1 moves the noise, in its standard deviations, for each part of the score.

        Args:
            height_px: of the image as given.
            width_px: of the image as given.
        """

    def draw(
        self, image: Tensor, radii: Sequence[float], count: int, generator: torch.Generator
    ) -> tuple[Floats, Floats]:
        """Draw the score's bounds, each draw on independent noise.

        Args:
            image: (c, h, w) in [0, 1], as given.
            radii: of the changes, l2 in [0, 1] pixel units of the image as given; >= 0.
            count: of draws.
            generator: source of all noise.

        Returns:
            Lower and upper bound, (parts, radii, count): for the same noise no image within the radius has a score
            outside. The smoothed score is the mean over parts of the quantile over draws.
        """


def draws_in_reach(sampler: Sampler, sides: Sequence[int], radius: float, failure: float) -> int:
    """Fewest draws that bound a smoothed score on both sides.

    Args:
        sampler: of the score.
        sides: height and width of the image as given.
        radius: of the changes.
        failure: probability that a side fails; the parts of the score share it.

    Raises:
        ConfigError: the radius is out of reach of any number of draws.
    """
    shifts = [shift * radius for shift in sampler.shifts(*sides)]
    try:
        return max(draws_needed(shift, failure / len(shifts), sampler.quantile) for shift in shifts)
    except ConfigError:
        raise ConfigError(
            f"--radius {radius:g}: is {max(shifts):.3g} standard deviations of the noise, out of reach of any number of"
            f" draws; choose a smaller one, or {sampler.largest}"
        ) from None


def refuse_too_few(needed: int, draws: int, radius: float, confidence: float, sampler: Sampler) -> None:
    """Refuse a radius that so many draws cannot reach, before any is made.

    Raises:
        ConfigError: says how many it takes.
    """
    if needed > draws:
        raise ConfigError(
            f"--radius {radius:g}: is out of reach of {draws} draws at a confidence of {confidence:g}; it takes at"
            f" least --draws {needed}, or {sampler.largest}"
        )


class Percentile:
    """Any detector, smoothed by adding noise to the image: what it does inside does not matter.

    Args:
        detector: any.
        sigma: of the noise on the image as given, [0, 1] pixel units.
        deterministic: whether the detector draws no noise of its own; then several draws go side by side.

    Raises:
        ConfigError: no noise.

    Source: Chiang et al. 2020, "Detection as Regression: Certified Object Detection by Median Smoothing".
    """

    method = "percentile"
    quantile = 0.5
    largest = "a larger --sigma"

    def __init__(self, detector: AnomalyDetector, sigma: float, deterministic: bool) -> None:
        if not sigma > 0:
            raise ConfigError(f"--sigma {sigma:g}: must be above 0; without noise nothing can be certified")
        self.detector, self.sigma = detector, sigma
        # A detector lends one draw of its noise to all images of a batch, so side by side they would not be
        # independent.
        self.at_once = BATCH if deterministic else 1

    def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
        """See :class:`Sampler`."""
        return (1 / self.sigma,)

    def draw(
        self, image: Tensor, radii: Sequence[float], count: int, generator: torch.Generator
    ) -> tuple[Floats, Floats]:
        """See :class:`Sampler`. The image is seen through the noise only, so both bounds are the score itself."""
        scores = []
        for start in range(0, count, self.at_once):
            shape = (min(self.at_once, count - start), *image.shape)
            noised = image + self.sigma * torch.randn(shape, generator=generator)
            scores.append(validated_output(self.detector, noised, generator).scores)
        drawn = torch.cat(scores).double().numpy()
        every = np.broadcast_to(drawn, (1, len(radii), count))
        return every, every
