"""A detector as one graph: from the pixels of an image to its score, its anomaly map and the verdict.

The graph computes what ``predict_batch`` of the detector computes for the working image, in float32. It draws nothing:
the noise of a learned detector, which its seed fixes for every image, is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advrad.data.framing import Framing
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.combined import CombinedDetector
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.saved import SavedDetector
from advrad.detectors.tiled import TiledDetector
from advrad.errors import ConfigError
from advrad.exporting.framing_graph import FramingGraph
from advrad.exporting.graph_guarded import GuardedGraph
from advrad.exporting.graph_learned import LearnedGraph
from advrad.exporting.graph_tiled import TiledGraph
from advrad.exporting.score_graph import Scored, ScoreGraph


class DetectorGraph(nn.Module):
    """A detector as one graph, for images of 8-bit colour of any size.

    Args:
        framing: How images become working images.
        scores: From the working image to the score; for a guarded detector, its halves.
        threshold: Thresholds, k.

    Attributes:
        threshold: Thresholds, (k,) float32: one, or one for each half of a guarded detector, the memory first. The
            verdict is defective where a score exceeds its threshold, or is no number.
        input_names: Names of the input.
        output_names: Names of the outputs.
        calibrated: Names of the buffers that a calibration sets.
    """

    threshold: Tensor
    input_names = ("image",)

    def __init__(self, framing: Framing, scores: ScoreGraph | GuardedGraph, threshold: Sequence[float]) -> None:
        super().__init__()
        self.framing = FramingGraph(framing)
        self.scores = scores
        self.register_buffer("threshold", rounded_down(threshold))
        guarded = isinstance(scores, GuardedGraph)
        self.output_names = ("score", "anomaly_map", "defective", *(("half_scores",) if guarded else ()))
        names = ("slope", "heat_low", "heat_range", "ceiling") if guarded else ()
        self.calibrated = ("threshold", *(f"scores.{name}" for name in names))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Score an image and decide.

        Args:
            image: Pixels, (1, h, w, 3) uint8, of any height and width.

        Returns:
            Score, (1,) float32; anomaly map, (1, h, w) float32, at the working size; verdict, (1,) bool; and for a
            guarded detector the scores of the halves, (1, halves) float32.
        """
        working = self.framing(image)
        if isinstance(self.scores, GuardedGraph):
            found, halves = self.scores(working, self.threshold)
            return found.score, found.maps[:, 0], self._decided(halves), halves
        found = self.scores(working)
        return found.score, found.maps[:, 0], self._decided(found.score[:, None])

    def _decided(self, scores: Tensor) -> Tensor:
        """Verdict, (1,) bool, from what is compared with the thresholds, (1, k)."""
        return torch.logical_not(scores <= self.threshold).any(1)


def rounded_down(values: Sequence[float]) -> Tensor:
    """The largest float32 numbers that do not exceed values: a float32 score exceeds both or neither.

    Args:
        values: Values.

    Example:
        >>> bool(rounded_down([0.1]).double() <= 0.1)
        True
    """
    exact = torch.tensor(values, dtype=torch.float64)
    nearest = exact.float()
    below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    return torch.where(nearest.double() > exact, below, nearest)


class _OutputGraph(ScoreGraph):
    """The score of a detector whose ``infer`` is a graph without noise."""

    def __init__(self, detector: ClosedFormDetector | FeatureDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, working: Tensor) -> Scored:
        return Scored.of(self.detector.infer(working))


class _CombinedGraph(ScoreGraph):
    """The sum of the closed form and the limited score of a learned denoiser."""

    def __init__(self, detector: CombinedDetector) -> None:
        super().__init__()
        self.memory, self.learned = _OutputGraph(detector.memory), LearnedGraph(detector.learned)
        self._joined = detector.joined

    def forward(self, working: Tensor) -> Scored:
        memory, learned = self.memory(working), self.learned(working)
        return Scored.of(self._joined(memory.as_output(), learned.as_output()))


#: How the kinds of detectors become graphs.
_GRAPHS: Mapping[type, Callable[[Any], ScoreGraph]] = {
    ClosedFormDetector: _OutputGraph,
    FeatureDetector: _OutputGraph,
    AdvRAD: LearnedGraph,
    CombinedDetector: _CombinedGraph,
    TiledDetector: TiledGraph,
}


def graph_of(detector: SavedDetector) -> DetectorGraph:
    """Make the graph of a detector. It shares the detector's tensors.

    Args:
        detector: Detector with a threshold, on the CPU.

    Returns:
        The graph, in evaluation mode.

    Raises:
        NotCalibratedError: The detector has no threshold.
        ConfigError: A part of the detector cannot be exported.

    Example:
        Needs a trained model folder.

        >>> graph = graph_of(advrad.load_detector("bottle"))  # doctest: +SKIP
        >>> score, anomaly_map, defective = graph(torch.zeros(1, 900, 900, 3, dtype=torch.uint8))  # doctest: +SKIP
    """
    threshold = detector.calibration.threshold
    framing = detector.config.framing
    if isinstance(detector, GuardedDetector):
        tests = detector.tests
        scores = GuardedGraph(_halves_of(detector), tests, detector.config.ceiling, detector.image_size_px)
        return DetectorGraph(framing, scores, [test.threshold for test in tests]).eval()
    return DetectorGraph(framing, _scores_of(detector), [threshold]).eval()


def _scores_of(detector: object) -> ScoreGraph:
    make = _GRAPHS.get(type(detector))
    if make is None:
        raise ConfigError(
            f"a detector of the type {type(detector).__name__} cannot be exported; make one with 'advrad train'"
        )
    return make(detector)


def _halves_of(detector: GuardedDetector) -> list[ScoreGraph]:
    """Graphs of the halves of a guarded detector, the memory first."""
    halves: list[ScoreGraph] = [_OutputGraph(detector.memory)]
    for half in detector.halves[1:]:
        if type(half.deployed) not in _GRAPHS:
            raise ConfigError(
                f"the half {half.name!r} is a detector of a Python file or of a foreign checkpoint, which cannot be"
                " exported; guard a detector that 'advrad train' made"
            )
        halves.append(_scores_of(half.deployed))
    return halves
