"""The interface that attacks and certificates need of an anomaly detector, and its optional parts.

Attacks and certificates use this interface only, so AdvRAD and any other detector run through the same code. A detector
resizes and normalises images itself: perturbations are bounded on the image as it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from advrad.utils.precision import Precision

if TYPE_CHECKING:
    from advrad.detectors.advrad import AdvRAD

#: What a surrogate loss is to the score:
#: ``component``: an unbiased estimate of the score from a part of it; the mean over all components is the mean score;
#: ``scale``: the score of one scale of the error maps;
#: ``one_step``: the score with a one-step reconstruction in place of a reconstruction of many steps;
#: ``bpda``: the score itself, with gradients that bypass a part of the computation (backward pass differentiable
#: approximation);
#: ``unsaturated``: an increasing function of a score that saturates, without the saturation;
#: ``part``: the score of one part, where the score of the detector is the largest of its parts', so that its gradient
#: reaches one of them at a time;
#: ``surrogate``: any other loss that leads to the score.
SurrogateKind = Literal["component", "scale", "one_step", "bpda", "unsaturated", "part", "surrogate"]
LossFunction = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class SurrogateLoss:
    """A loss that an attack may follow in place of the score. What it finds is scored with the true score.

    Attributes:
        function: Function of images, (b, c, h, w), and a source of noise that returns losses, (b,).
        kind: Relation to the score, see :data:`SurrogateKind`.

    Example:
        >>> brightness = SurrogateLoss(lambda images, generator: images.mean((1, 2, 3)), kind="surrogate")
        >>> brightness(torch.ones(2, 3, 4, 4), torch.Generator())
        tensor([1., 1.])
    """

    function: LossFunction
    kind: SurrogateKind = "surrogate"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the losses, (b,), of images, (b, c, h, w)."""
        return self.function(images, generator)


@dataclass(frozen=True, slots=True)
class DetectorOutput:
    """Output of a detector for b images.

    Attributes:
        scores: Anomaly scores, (b,); larger is more anomalous.
        anomaly_maps: Anomaly maps, (b, 1, h, w); None for a detector without maps.
        reconstructions: Reconstructions, (b, 3, h, w), about [0, 1]; None for a detector that makes none.
        defective: Verdicts, (b,) bool, of a detector whose verdict is more than ``score > threshold``; None for others.

    Example:
        >>> DetectorOutput(torch.tensor([0.2, 0.9])).anomaly_maps is None
        True
    """

    scores: Tensor
    anomaly_maps: Tensor | None = None
    reconstructions: Tensor | None = None
    defective: Tensor | None = None


class AnomalyDetector(Protocol):
    """An anomaly detector that can be evaluated, attacked and certified. :func:`advrad.wrap` makes one of a callable.

    Example:
        >>> import advrad
        >>> detector: AnomalyDetector = advrad.wrap(lambda images: images.mean((1, 2, 3)), deterministic=True)
        >>> detector.infer(torch.ones(2, 3, 4, 4), torch.Generator()).scores
        tensor([1., 1.])
    """

    @property
    def size_px(self) -> int | None:
        """Side of the square images that it takes, in pixels; None for images of any size."""

    @property
    def deterministic(self) -> bool:
        """Whether the detector declares that an image always gets the same score, whatever the generator."""

    @property
    def differentiable(self) -> bool:
        """Whether the detector declares that gradients reach the images."""

    @property
    def threshold(self) -> float | None:
        """Threshold of the score; the verdict is defective where score > threshold. None if it gives no verdicts."""

    @property
    def noise_seed(self) -> int | None:
        """Seed of the noise that it uses once deployed, the same for every image; None if it is not fixed."""

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """Losses that an attack may follow in place of the score, by name."""

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """Compute scores and maps; row i depends on row i only.

        Args:
            images: Images, (b, c, h, w), float in [0, 1].
            generator: Source of all randomness.
        """


@runtime_checkable
class SupportsGradientPrecision(Protocol):
    """Optional part of the interface: a detector whose gradients can be computed in another precision."""

    @property
    def gradient_precision(self) -> Literal["float32", "bfloat16"]:
        """Precision of computations that record gradients. Scores without gradients do not depend on it."""

    def with_gradient_precision(self, precision: Precision) -> AnomalyDetector:
        """Return the same detector with another precision of the gradients.

        Args:
            precision: New precision; ``auto`` is bfloat16 where the processor supports it.
        """


@runtime_checkable
class SupportsTwoPath(Protocol):
    """Optional part of the interface: a detector that takes images of any size, and whose score is that of an AdvRAD.

    The two-path certificate bounds such a score.
    """

    @property
    def reconstruction_model(self) -> AdvRAD:
        """The model that computes the score."""


@dataclass(frozen=True, slots=True)
class ScoreBounds:
    """Scores of b images, and bounds that no perturbation within a radius can leave.

    Attributes:
        scores: Anomaly scores, (b,).
        lower: Lower bounds of the scores, (b,).
        upper: Upper bounds of the scores, (b,).
        lower_map: Lower bounds of the anomaly maps, (b, 1, h, w).
    """

    scores: Tensor
    lower: Tensor
    upper: Tensor
    lower_map: Tensor


@runtime_checkable
class SupportsScoreBounds(Protocol):
    """Optional part of the interface: a detector whose scores can be bounded, without randomness."""

    def score_bounds(self, images: Tensor, radius: float, norm: Literal["linf", "l2"]) -> ScoreBounds:
        """Bound the scores under every perturbation within a radius; float rounding is covered.

        Args:
            images: Images, (b, c, h, w), float in [0, 1].
            radius: Radius, >= 0, in [0, 1] pixel units of the images as given.
            norm: Norm of the perturbation.

        Raises:
            ConfigError: The radius is negative or not a number, or the norm is another one.
        """


@runtime_checkable
class SupportsStickerBounds(Protocol):
    """Optional part of the interface: a detector that bounds what a sticker anywhere in the image leaves of a score."""

    def sticker_bounds(self, images: Tensor, side_px: int) -> Tensor:
        """Bound the scores from below, whatever the pixels inside one square become, wherever the square lies.

        Args:
            images: Images, (b, c, h, w), float in [0, 1].
            side_px: Side of the square, in pixels of the images as given; >= 1.

        Returns:
            Lower bounds of the scores, (b,); the lowest possible score where nothing is left.
        """
