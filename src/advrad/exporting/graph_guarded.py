"""A guarded detector as a graph: the scores of its halves, their tests, and the score that joins them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.guarded_output import resized
from advrad.detectors.guarded_tests import limit
from advrad.exporting.score_graph import Scored, ScoreGraph


class GuardedGraph(nn.Module):
    """The halves of a guarded detector and how they are joined, see :func:`advrad.detectors.guarded_output.join`.

    Args:
        halves: Graphs of the halves, the memory first.
        tests: Their tests.
        ceiling: Largest surprise of the other halves that counts in the score.
        size_px: Side of the maps.

    Attributes:
        slope: By how much the surprises of the halves rise with their scores, (halves,).
        heat_low: Values of their maps at which heat maps start to glow, (halves, 1, 1).
        heat_range: From there to the values that normal images rarely exceed, (halves, 1, 1).
        ceiling: Largest surprise of the other halves that counts in the score, ().
    """

    slope: Tensor
    heat_low: Tensor
    heat_range: Tensor
    ceiling: Tensor

    def __init__(self, halves: Sequence[ScoreGraph], tests: Sequence[HalfTest], ceiling: float, size_px: int) -> None:
        super().__init__()
        self.halves = nn.ModuleList(halves)
        self.size_px = size_px
        # In the shapes in which they are used, so that no runtime folds them into others: a calibration replaces them.
        low, high = (
            torch.tensor([getattr(test, name) for test in tests]).double() for name in ("heat_low", "heat_high")
        )
        self.register_buffer("slope", torch.tensor([test.slope for test in tests]))
        self.register_buffer("heat_low", low.float()[:, None, None])
        self.register_buffer("heat_range", (high - low).float()[:, None, None])
        self.register_buffer("ceiling", torch.tensor(ceiling))

    def forward(self, working: Tensor, threshold: Tensor) -> tuple[Scored, Tensor]:
        """Score a working image.

        Args:
            working: Working image, (1, 3, h, w) float32 in [0, 1].
            threshold: Thresholds of the halves, (halves,).

        Returns:
            Score and map, and the scores of the halves, (1, halves).
        """
        parts: list[Scored] = [half(working) for half in self.halves]
        scores = torch.stack([part.score for part in parts], 1)
        # The difference of two float32 numbers is above 0 exactly where one exceeds the other.
        surprises = (scores - threshold) * self.slope
        score = torch.maximum(surprises[:, 0], limit(surprises[:, 1:], self.ceiling).amax(1))
        maps = torch.cat([resized(part.maps, self.size_px) for part in parts], 1)
        units = (maps - self.heat_low) / self.heat_range
        whole = torch.maximum(units[:, :1], limit(units[:, 1:], 1.0).amax(1, keepdim=True))
        return Scored(score, whole), scores
