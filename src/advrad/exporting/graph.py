"""A detector as one graph: from the pixels of an image to its score, its anomaly map and the verdict.

The graph computes what ``predict_batch`` of the detector computes for the working image, in float32. It draws nothing:
the noise of a learned detector, which its seed fixes for every image, is stored.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advrad.data.framing import Framing
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.saved import SavedDetector
from advrad.errors import ConfigError
from advrad.exporting.framing_graph import FramingGraph


class ScoreGraph(nn.Module):
    """Turns a working image into score, anomaly map, and the numbers that the verdict compares with the threshold.

    Subclasses implement :meth:`forward`.
    """

    def forward(self, working: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score a working image.

        Args:
            working: Working image, (1, 3, h, w) float32 in [0, 1].

        Returns:
            Score, (1,); anomaly map, (1, h, w); and what is compared with the threshold, (1, k): the score itself, or
            the scores of the halves of a guarded detector.
        """
        raise NotImplementedError


class DetectorGraph(nn.Module):
    """A detector as one graph, for images of 8-bit colour of any size.

    Args:
        framing: How images become working images.
        scores: From the working image to the score.
        threshold: Thresholds, k.
        halves: Whether the scores of the halves are an output.

    Attributes:
        threshold: Thresholds, (k,) float32: one, or one for each half of a guarded detector, the memory first. The
            verdict is defective where a score exceeds its threshold.
        input_names: Names of the input.
        output_names: Names of the outputs.
        calibrated: Names of the buffers that a calibration sets.
    """

    threshold: Tensor
    input_names = ("image",)

    def __init__(self, framing: Framing, scores: ScoreGraph, threshold: list[float], halves: bool = False) -> None:
        super().__init__()
        self.framing = FramingGraph(framing)
        self.scores = scores
        self.output_names = ("score", "anomaly_map", "defective", *(["half_scores"] if halves else []))
        self.calibrated = ("threshold",)
        self.register_buffer("threshold", rounded_down(threshold))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Score an image and decide.

        Args:
            image: Pixels, (1, h, w, 3) uint8, of any height and width.

        Returns:
            Score, (1,) float32; anomaly map, (1, h, w) float32, at the working size; verdict, (1,) bool; and for a
            guarded detector the scores of the halves, (1, halves) float32.
        """
        score, anomaly_map, compared = self.scores(self.framing(image))
        found = (score, anomaly_map, (compared > self.threshold).any(1))
        return (*found, compared) if "half_scores" in self.output_names else found


def rounded_down(values: list[float]) -> Tensor:
    """The largest float32 numbers that do not exceed values: a float32 score exceeds both or neither.

    Args:
        values: Values.

    Example:
        >>> bool(rounded_down([0.1])[0] <= 0.1)
        True
    """
    exact = torch.tensor(values, dtype=torch.float64)
    nearest = exact.float()
    below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    return torch.where(nearest.double() > exact, below, nearest)


def graph_of(detector: SavedDetector) -> DetectorGraph:
    """Make the graph of a detector.

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
    threshold = [detector.calibration.threshold]
    if isinstance(detector, ClosedFormDetector):
        return DetectorGraph(detector.framing, _ClosedFormGraph(detector), threshold).eval()
    raise ConfigError(f"a detector of kind {detector.config.kind} cannot be exported")


class _ClosedFormGraph(ScoreGraph):
    def __init__(self, detector: ClosedFormDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, working: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.detector.infer(working)
        if output.anomaly_maps is None:
            raise ConfigError("the closed form gives no anomaly maps")
        return output.scores, output.anomaly_maps[:, 0], output.scores[:, None]
