"""Run a detector and its export on the same image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from advrad.data.framing import Framing
from advrad.data.images import read_pixels8, read_working_image
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.engines import Engine, EngineOutput
from advrad.detectors.guarded_output import GuardedOutput
from advrad.detectors.registration import RegisteredView
from advrad.detectors.saved import SavedDetector
from advrad.errors import DetectorError

Floats = npt.NDArray[np.float64]

#: Share of the pixels of a map that may lie on the edge of a part.
_EDGE = 0.001


@dataclass(frozen=True, slots=True)
class CalibrationFiles:
    """Image files that detector and export are compared on.

    Attributes:
        paths: The files.
        names: Their names in messages.
        framing: How they become working images.
        max_pixels: Largest number of pixels of a file.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    framing: Framing
    max_pixels: int

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, rows: Sequence[int]) -> CalibrationFiles:
        """Some of the files.

        Args:
            rows: Their positions.
        """
        chosen = tuple(self.paths[row] for row in rows)
        return CalibrationFiles(chosen, tuple(self.names[row] for row in rows), self.framing, self.max_pixels)

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """One image as an export takes it, (h, w, 3) uint8.

        Args:
            row: Position of the file.

        Raises:
            ImageError: It cannot be read.
        """
        return read_pixels8(self.paths[row], self.framing, self.max_pixels)

    def working(self, row: int) -> torch.Tensor:
        """One working image, as a detector takes it, (1, 3, h, w) float32 in [0, 1].

        Args:
            row: Position of the file.

        Raises:
            ImageError: It cannot be read.
        """
        return read_working_image(self.paths[row], self.framing, self.max_pixels).resized[None]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What a detector or an export says about an image.

    Attributes:
        score: Its score.
        compared: What is compared with thresholds, (k,): the score, or the scores of the halves.
        largest: Largest value of the anomaly map.
        defective: Verdict of the exported graph; None for a detector.
    """

    score: float
    compared: Floats
    largest: float
    defective: bool | None = None

    @property
    def numbers(self) -> Floats:
        """The score, and those of the halves of a guarded detector."""
        return self.compared if len(self.compared) == 1 else np.array([self.score, *self.compared])


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What a detector and its export say about an image.

    Attributes:
        name: Name of the image.
        expected: What the detector says.
        found: What the export says.
        map_difference: Largest difference of the anomaly maps; where a part is found first, of all pixels but one in a
            thousand: one on the edge of the part may fall on either side.
        height: Largest size of a value of the detector's map.
    """

    name: str
    expected: Scored
    found: Scored
    map_difference: float
    height: float


def compare(detector: SavedDetector, engine: Engine, files: CalibrationFiles, row: int) -> Pair:
    """Score an image with a detector and with its export.

    Args:
        detector: Detector.
        engine: Compiled graph of its export.
        files: Image files.
        row: Position of the file.

    Raises:
        DetectorError: The detector gives no anomaly map.
        ImageError: The file cannot be read.
    """
    output = detector.predict_batch(files.working(row))
    if output.anomaly_maps is None:
        raise DetectorError("gives no anomaly maps, which every saved detector must give")
    score, anomaly_map = float(output.scores[0]), output.anomaly_maps[0, 0].numpy()
    halves = output.half_scores if isinstance(output, GuardedOutput) else None
    compared = np.array([score]) if halves is None else halves[0].double().numpy()
    found = engine.run(files.pixels(row))
    return Pair(
        name=files.names[row],
        expected=Scored(score, compared, float(anomaly_map.max())),
        found=_scored(found),
        map_difference=_largest(np.abs(found.anomaly_map - anomaly_map), but=_EDGE if _finds_parts(detector) else 0),
        height=float(np.abs(anomaly_map).max()),
    )


def _largest(differences: npt.NDArray[np.float32], but: float) -> float:
    """The largest difference, or the largest of all but a share of the pixels; not a number where one is none."""
    left_out = int(but * differences.size)
    return float(np.partition(differences, differences.size - 1 - left_out, axis=None)[-1 - left_out])


def _finds_parts(detector: SavedDetector) -> bool:
    """Whether a detector finds a part in the image before it looks at it."""
    parts = detector.modules() if isinstance(detector, torch.nn.Module) else ()
    return any(isinstance(part, RegisteredView) for part in parts)


def score_again(engine: Engine, files: CalibrationFiles, row: int) -> Scored:
    """Score an image with the export alone.

    Args:
        engine: Compiled graph.
        files: Image files.
        row: Position of the file.

    Raises:
        ImageError: The file cannot be read.
    """
    return _scored(engine.run(files.pixels(row)))


def _scored(output: EngineOutput) -> Scored:
    halves = output.half_scores
    compared = np.array([output.score]) if halves is None else halves.astype(np.float64)
    return Scored(output.score, compared, float(output.anomaly_map.max()), output.defective)


def computes_in_float32(detector: SavedDetector) -> None:
    """Make a detector compute in float32, whatever the processor can do, as the comparison needs it.

    Args:
        detector: Detector, which is changed.
    """
    parts = detector.modules() if isinstance(detector, torch.nn.Module) else ()
    for part in parts:
        if isinstance(part, AdvRAD):
            part.update_config(precision="float32")
