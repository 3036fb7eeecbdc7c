"""What an attack climbs: the score, or something smoother that leads to it, signed by what the image is.

A maximum gives an attacker the gradient of one place; the surrogates here look at many. Whatever one of them leads to
is judged by the true score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advrad.attacks.base import Objective
from advrad.detectors.base import AnomalyDetector, DetectorOutput
from advrad.errors import ConfigError

Surrogate = Callable[[DetectorOutput], Tensor]


def _maps(judged: DetectorOutput) -> Tensor:
    """(b, h w), or the scores where there are no maps."""
    return judged.scores[:, None] if judged.maps is None else judged.maps.flatten(1)


def log_sum_exp(judged: DetectorOutput) -> Tensor:
    """A soft maximum of the map, (b,), at a temperature of half the map's own standard deviation."""
    maps = _maps(judged)
    if maps.shape[1] == 1:
        return maps[:, 0]
    # A constant of the image: nothing would be gained by blowing the temperature up.
    heat = 0.5 * maps.detach().std(1, keepdim=True) + 1e-12
    values: Tensor = (heat * torch.logsumexp(maps / heat, 1, keepdim=True))[:, 0]
    return values


def top(judged: DetectorOutput) -> Tensor:
    """Mean of the largest hundredth of the map, (b,)."""
    maps = _maps(judged)
    return maps.topk(max(1, maps.shape[1] // 100), dim=1).values.mean(1)


#: Of any detector that gives maps; ``score`` needs none. A detector's own hints come beside these.
SURROGATES: dict[str, Surrogate] = {
    "score": lambda judged: judged.scores,
    "maximum": lambda judged: _maps(judged).amax(1),
    "logsumexp": log_sum_exp,
    "top": top,
    "sum": lambda judged: _maps(judged).mean(1),
}
NEED_MAPS = frozenset(SURROGATES) - {"score"}
#: Takes the unbiased parts of a score in turn: a stochastic gradient for a fraction of the price.
IN_TURN = "in turn"


def available_objectives(detector: AnomalyDetector) -> tuple[str, ...]:
    """Names that :func:`objective` takes for this detector."""
    parts = [name for name in detector.surrogates if name.startswith("part")]
    return (*SURROGATES, *detector.surrogates, *([IN_TURN] if parts else []))


def objective(
    detector: AnomalyDetector,
    signs: Tensor,
    surrogate: str,
    generator: torch.Generator,
    *,
    eot: int = 1,
    known_noise: int | None = None,
) -> Objective:
    """What an attack on images is to climb.

    Args:
        detector: under attack.
        signs: (b,) +1 for normal images, whose score shall rise, -1 for anomalous ones.
        surrogate: a name from :data:`SURROGATES`, one of the detector's hints, or ``in turn``.
        generator: source of the detector's noise; every call of the objective draws anew.
        eot: calls of the detector that are averaged, each on noise of its own (expectation over transformation).
        known_noise: the seed of the noise, if the attacker knows it; then every call draws the same.

    Raises:
        ConfigError: the detector has no such surrogate.
    """
    if surrogate not in available_objectives(detector):
        raise ConfigError(
            f"--surrogate {surrogate}: is unknown here; choose {', '.join(available_objectives(detector))}"
        )
    parts = [name for name in detector.surrogates if name.startswith("part")]
    turn = 0

    def once(images: Tensor, source: torch.Generator) -> Tensor:
        nonlocal turn
        if surrogate in SURROGATES:
            return SURROGATES[surrogate](detector.infer(images, source))
        if surrogate == IN_TURN:
            turn += 1
            return detector.surrogates[parts[turn % len(parts)]](images, source)
        return detector.surrogates[surrogate](images, source)

    def climbed(images: Tensor) -> Tensor:
        if known_noise is not None:
            return signs.to(images) * once(images, torch.Generator().manual_seed(known_noise))
        values = torch.stack([once(images, generator) for _ in range(eot)])
        return signs.to(images) * values.mean(0)

    return climbed
