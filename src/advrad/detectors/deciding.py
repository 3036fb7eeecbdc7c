"""From the scores of a batch of working images to predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from torch import Tensor

from advrad.detectors.outputs import Prediction
from advrad.detectors.saved import SupportsPrediction
from advrad.detectors.verdicts import ImageVerdict
from advrad.errors import CheckpointError, DetectorError

if TYPE_CHECKING:
    from advrad.detectors.engines import Pixels


@runtime_checkable
class SupportsVerdicts(Protocol):
    """A detector whose verdicts say more than whether the score exceeds the threshold."""

    def verdicts(self, images: Tensor) -> Sequence[ImageVerdict]:
        """Decide about images, in words.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], of any size.
        """


def decide(
    detector: SupportsPrediction,
    threshold: float,
    images: Tensor | Sequence[Pixels],
    names: Sequence[str],
    paths: Sequence[Path | None],
) -> Iterator[Prediction]:
    """Score one batch of images and decide.

    Args:
        detector: Detector.
        threshold: Threshold of the score.
        images: Working images, (b, 3, h, w), float in [0, 1]; for a detector that takes pixels, see
            :func:`advrad.detectors.saved.takes_pixels`, b images of any size, (h, w, 3) uint8 each.
        names: Names of the images, b, for errors.
        paths: Files of the images, b; None for an image in memory.

    Yields:
        One prediction per image, in order.

    Raises:
        CheckpointError: A score is not a finite number, so that no verdict can be given.
    """
    given = cast(Tensor, images)  # the caller knows what the detector takes
    if isinstance(detector, SupportsVerdicts):
        for verdict, path in zip(detector.verdicts(given), paths, strict=True):
            yield _in_words(verdict, threshold, path)
        return
    output = detector.predict_batch(given)
    maps, recons = output.anomaly_maps, output.reconstructions
    if maps is None:
        raise DetectorError("gives no anomaly maps, which every saved detector must give")
    for row, (name, path) in enumerate(zip(names, paths, strict=True)):
        score = float(output.scores[row])
        if not math.isfinite(score):
            raise CheckpointError(f"{name}: its score is {score}; the model is damaged or diverged: train it again")
        yield Prediction(
            score=score,
            threshold=threshold,
            defective=score > threshold,
            anomaly_map=maps[row, 0].numpy(),
            reconstruction=None if recons is None else recons[row].permute(1, 2, 0).numpy(),
            path=path,
        )


def _in_words(verdict: ImageVerdict, threshold: float, path: Path | None) -> Prediction:
    """The prediction of a detector that gives verdicts in words."""
    return Prediction(
        score=verdict.score,
        threshold=threshold,
        defective=verdict.word.defective,
        anomaly_map=verdict.anomaly_map.numpy(),
        path=path,
        verdict_words=verdict.word,
        halves=verdict.halves,
        reason=verdict.reason,
        half_maps=tuple(part.numpy() for part in verdict.half_maps),
    )
