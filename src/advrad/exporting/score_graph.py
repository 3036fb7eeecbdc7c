"""From a working image to a score and an anomaly map, as part of a graph."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from advrad.detectors.base import DetectorOutput
from advrad.errors import DetectorError


class Scored(NamedTuple):
    """What a detector says about one image.

    Attributes:
        score: Score, (1,).
        maps: Anomaly map, (1, 1, h, w).
    """

    score: Tensor
    maps: Tensor

    @classmethod
    def of(cls, output: DetectorOutput) -> Scored:
        """Take score and map of an output.

        Args:
            output: Output of a detector that gives maps.

        Raises:
            DetectorError: It has no map.
        """
        if output.anomaly_maps is None:
            raise DetectorError("gives no anomaly maps, which every saved detector must give")
        return cls(output.scores, output.anomaly_maps)

    def as_output(self) -> DetectorOutput:
        """The same as the output of a detector."""
        return DetectorOutput(self.score, self.maps)


class ScoreGraph(nn.Module):
    """Scores a working image as ``predict_batch`` of a detector does. Subclasses implement :meth:`forward`."""

    def forward(self, working: Tensor) -> Scored:
        """Score a working image.

        Args:
            working: Working image, (1, 3, h, w) float32 in [0, 1].
        """
        raise NotImplementedError
