"""Score of what lies outside the parts of a registered product: debris, a further part, a piece that broke off.

The share of the usual foreground that lies outside the sheets is a sum of weights
(:meth:`advrad.detectors.registration.RegisteredView.outside`). Its score is ``(share - location) / scale``. All steps
increase in the share and are computed in float64, so bounds of the share give bounds of the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advrad.detectors.closed_form_config import StrayConfig
from advrad.detectors.registration import RegisteredView
from advrad.detectors.registration_bounds import Pose
from advrad.detectors.views import Norm


@dataclass(frozen=True, slots=True, eq=False)
class StrayBounds:
    """Bounds of the score of one image.

    Attributes:
        lower: Lower bound of the score, ().
        upper: Upper bound of the score, ().
        lower_map: Lower bounds of the anomaly map, (1, 1, size, size).
    """

    lower: Tensor
    upper: Tensor
    lower_map: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Strays:
    """Scores what lies outside the parts that a view finds.

    Attributes:
        view: View.
        config: Settings.
    """

    view: RegisteredView
    config: StrayConfig

    def scores(self, images: Tensor) -> Tensor:
        """Compute scores, (b,), of images, (b, 3, h, w) float in [0, 1]; differentiable, the pose held fixed."""
        return self._scores(self.view.outside(images)).to(images.dtype)

    def infer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores and anomaly maps.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1].

        Returns:
            Scores, (b,), and maps, (b, 1, size, size): the score at whole weights outside the sheets, less at smaller
            ones, and minus infinity elsewhere.
        """
        weights = self.view.stray_weights(images).double()
        shares = weights.sum((1, 2)) / self.view.config.usual_mass
        return self._scores(shares).to(images.dtype), self._maps(shares, weights).to(images.dtype)

    @torch.no_grad()
    def bounds(self, image: Tensor, radius: float, norm: Norm, reached: Sequence[list[Pose]] | None) -> StrayBounds:
        """Bound the score of an image under every perturbation within a radius.

        Args:
            image: Image, (1, 3, h, w) float in [0, 1].
            radius: Radius, >= 0, in pixel units of the image as given.
            norm: Norm of the perturbation.
            reached: Poses of each part that a perturbation can cause; None if any can be.
        """
        found = self.view.outside_bounds(image, radius, norm, reached)
        shares = torch.tensor([found.lower, found.upper], dtype=torch.float64)
        lower, upper = self._scores(shares).to(image)
        return StrayBounds(lower, upper, self._maps(shares[:1], found.least[None]).to(image))

    def _scores(self, shares: Tensor) -> Tensor:
        return (shares - self.config.location) / self.config.scale

    def _maps(self, shares: Tensor, weights: Tensor) -> Tensor:
        """Maps, (b, 1, size, size), of shares, (b,), and weights, (b, m, m). Non-decreasing in both."""
        values = self._scores(shares[:, None, None] * weights).masked_fill(weights <= 0, -torch.inf)
        # ONNX Runtime has no nearest-neighbour resize in double precision.
        side_px = self.view.config.mask_px
        return values[:, None].repeat_interleave(side_px, 2).repeat_interleave(side_px, 3)
