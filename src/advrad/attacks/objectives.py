"""Objectives of attacks: the score, or a smoother loss that leads to it, with the sign of the label.

The gradient of a maximum comes from one place of the map; the losses here use many. Whatever an attack finds with one
of them is scored with the true score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advrad.detectors.base import AnomalyDetector, DetectorOutput, LossFunction
from advrad.detectors.scoring import soft_maximum
from advrad.errors import ConfigError

OutputLoss = Callable[[DetectorOutput], Tensor]


def _flat_maps(output: DetectorOutput) -> Tensor:
    """Maps, (b, h w), or scores, (b, 1), where there are no maps."""
    return output.scores[:, None] if output.anomaly_maps is None else output.anomaly_maps.flatten(1)


def log_sum_exp(output: DetectorOutput) -> Tensor:
    """Soft maximum of the map, (b,), at a temperature of half the map's own standard deviation."""
    return soft_maximum(_flat_maps(output))


def top(output: DetectorOutput) -> Tensor:
    """Mean of the largest 1 % of the map, (b,)."""
    maps = _flat_maps(output)
    return maps.topk(max(1, maps.shape[1] // 100), dim=1).values.mean(1)


#: Losses of any detector, as functions of its output. All but ``score`` need maps.
OUTPUT_LOSSES: dict[str, OutputLoss] = {
    "score": lambda output: output.scores,
    "maximum": lambda output: _flat_maps(output).amax(1),
    "logsumexp": log_sum_exp,
    "top": top,
    "sum": lambda output: _flat_maps(output).mean(1),
}
NEED_MAPS = frozenset(OUTPUT_LOSSES) - {"score"}
#: Name of the loss that uses the components of the score in turn: a stochastic gradient at a fraction of the cost.
ALTERNATING = "in turn"


def component_names(detector: AnomalyDetector) -> tuple[str, ...]:
    """Names of the surrogate losses that are components of the detector's score."""
    return tuple(name for name, loss in detector.surrogates.items() if loss.kind == "component")


def available_objectives(detector: AnomalyDetector) -> tuple[str, ...]:
    """Names that :func:`make_objective` takes for a detector.

    Example:
        >>> from advrad.detectors.wrappers import wrap
        >>> available_objectives(wrap(lambda images: images.mean((1, 2, 3))))
        ('score', 'maximum', 'logsumexp', 'top', 'sum')
    """
    alternating = (ALTERNATING,) if component_names(detector) else ()
    return (*OUTPUT_LOSSES, *detector.surrogates, *alternating)


class ComponentCycle:
    """A loss that uses one component of a score after the other, one per call.

    Attributes:
        components: Components, unbiased estimates of the score.
        calls: Number of calls so far. Call n, counted from 0, uses component n + 1 modulo their number.
    """

    def __init__(self, components: Sequence[LossFunction]) -> None:
        self.components = tuple(components)
        self.calls = 0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the next component, (b,), of images, (b, c, h, w)."""
        self.calls += 1
        return self.components[self.calls % len(self.components)](images, generator)


@dataclass(frozen=True, eq=False)
class SignedObjective:
    """A loss with the sign of the label, averaged over noise: what an attack maximises.

    Attributes:
        loss: Loss.
        signs: +1 for images whose loss shall rise (normal), -1 for the others (anomalous), (b,).
        generator: Source of the detector's noise; every call draws new noise.
        eot: Number of noise draws that are averaged (expectation over transformation).
        known_noise: Seed of the noise if the attacker knows it: every call then draws the same noise, once.
    """

    loss: LossFunction
    signs: Tensor
    generator: torch.Generator
    eot: int = 1
    known_noise: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Evaluate the objective, (b,), of images, (b, c, h, w)."""
        signs = self.signs.to(images)
        if self.known_noise is not None:
            return signs * self.loss(images, torch.Generator().manual_seed(self.known_noise))
        return signs * torch.stack([self.loss(images, self.generator) for _ in range(self.eot)]).mean(0)


def make_objective(
    detector: AnomalyDetector,
    signs: Tensor,
    surrogate: str,
    generator: torch.Generator,
    *,
    eot: int = 1,
    known_noise: int | None = None,
) -> SignedObjective:
    """Make the objective of an attack on images.

    Args:
        detector: Detector whose score or losses are used.
        signs: +1 for normal images, whose score shall rise, -1 for anomalous ones, (b,).
        surrogate: Name from :data:`OUTPUT_LOSSES`, one of the detector's surrogate losses, or ``in turn``.
        generator: Source of the detector's noise; every call of the objective draws new noise.
        eot: Number of noise draws that are averaged (expectation over transformation).
        known_noise: Seed of the noise if the attacker knows it; every call then draws the same noise.

    Raises:
        ConfigError: The detector has no such surrogate loss.

    Example:
        >>> from advrad.detectors.wrappers import wrap
        >>> detector = wrap(lambda images: images.mean((1, 2, 3)))
        >>> objective = make_objective(detector, torch.tensor([1.0, -1.0]), "score", torch.Generator())
        >>> objective(torch.ones(2, 3, 4, 4))
        tensor([ 1., -1.])
    """
    check_surrogate(detector, surrogate)
    return SignedObjective(_loss(detector, surrogate), signs, generator, eot, known_noise)


def check_surrogate(detector: AnomalyDetector, surrogate: str) -> None:
    """Check that an attack on a detector can use a surrogate loss.

    Raises:
        ConfigError: The detector has no such surrogate loss.
    """
    names = available_objectives(detector)
    if surrogate not in names:
        raise ConfigError(f"is unknown here; choose {', '.join(names)}", option="surrogate", value=surrogate)


def _loss(detector: AnomalyDetector, surrogate: str) -> LossFunction:
    if surrogate in OUTPUT_LOSSES:
        of_output = OUTPUT_LOSSES[surrogate]
        return lambda images, generator: of_output(detector.infer(images, generator))
    if surrogate == ALTERNATING:
        return ComponentCycle([detector.surrogates[name].function for name in component_names(detector)])
    return detector.surrogates[surrogate].function
