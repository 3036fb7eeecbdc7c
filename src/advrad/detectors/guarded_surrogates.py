"""What an attack may follow in place of the score of a guarded detector.

The score is a maximum, whose gradient reaches one half at a time, and the other halves count in it up to a ceiling. So
the losses are the surprises of the halves alone and without the ceiling, their largest, their sum, soft maxima of the
halves' own maps, which are limited in the whole map, and the losses that the halves themselves offer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advrad.detectors.base import SurrogateKind, SurrogateLoss
from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.guarded_halves import Halves
from advrad.detectors.guarded_output import GradientGates, surprise_of
from advrad.detectors.guarded_tests import FAILED_MEMORY
from advrad.detectors.scoring import soft_maximum

#: Kinds of losses of a half that keep their meaning.
_KEPT_KINDS: tuple[SurrogateKind, ...] = ("bpda", "one_step", "unsaturated")


def advance(generator: torch.Generator) -> None:
    """Make the next call get other noise, after every half has drawn from a copy.

    Args:
        generator: Source of all noise.
    """
    torch.rand((), generator=generator, device=generator.device)


@dataclass(frozen=True)
class GuardedLosses:
    """The surrogate losses of a guarded detector.

    Attributes:
        halves: The halves.
        tests: Function that gives their tests.
    """

    halves: Halves
    tests: Callable[[], Sequence[HalfTest]]

    def by_name(self) -> Mapping[str, SurrogateLoss]:
        """The losses by name: each half alone under its own, the largest as ``verdict``, the sum as ``all halves``."""
        losses: dict[str, SurrogateLoss] = {}
        for place, half in enumerate(self.halves.all):
            losses[half.name] = SurrogateLoss(partial(self._part, place), "part")
        losses["verdict"] = SurrogateLoss(self._largest, "part")
        losses["all halves"] = SurrogateLoss(self._sum, "surrogate")
        for place, half in enumerate(self.halves.all):
            losses[f"{half.name}: soft maximum"] = SurrogateLoss(partial(self._soft_maximum, place), "unsaturated")
            for name, loss in half.detector.surrogates.items():
                kind = loss.kind if loss.kind in _KEPT_KINDS else "surrogate"
                losses[f"{half.name}: {name}"] = SurrogateLoss(partial(self._inner, place, loss), kind)
        return losses

    def _part(self, place: int, images: Tensor, generator: torch.Generator) -> Tensor:
        part = self.halves.infer(place, images, generator)
        advance(generator)
        return surprise_of(part, self.tests()[place], FAILED_MEMORY)

    def _soft_maximum(self, place: int, images: Tensor, generator: torch.Generator) -> Tensor:
        """Soft maximum of a half's map; its score where it has no map."""
        part = self.halves.infer(place, images, generator)
        advance(generator)
        return part.scores if part.maps is None else soft_maximum(part.maps.flatten(1))

    def _all(self, images: Tensor, generator: torch.Generator, gates: GradientGates) -> Tensor:
        """Surprises of all halves, (halves, b)."""
        tests = self.tests()
        places = range(len(tests))
        parts = [self.halves.infer(place, gates.open(place, images), generator) for place in places]
        advance(generator)
        return torch.stack([surprise_of(part, test, FAILED_MEMORY) for part, test in zip(parts, tests, strict=True)])

    def _largest(self, images: Tensor, generator: torch.Generator) -> Tensor:
        gates = GradientGates()
        values, winners = self._all(images, generator, gates).max(0)
        gates.close(winners)
        return values

    def _sum(self, images: Tensor, generator: torch.Generator) -> Tensor:
        gates = GradientGates()
        values = self._all(images, generator, gates).sum(0)
        gates.close(torch.full_like(values, -1))
        return values

    def _inner(self, place: int, loss: SurrogateLoss, images: Tensor, generator: torch.Generator) -> Tensor:
        return loss(self.halves.as_seen_by(place, images), generator)
