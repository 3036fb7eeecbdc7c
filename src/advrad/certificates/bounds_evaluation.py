"""Exact bounds of the scores of a set of images, for detectors that can bound their scores. Nothing is random.

Every finished image is a file of its own, so a run can be stopped at any time, resumed, and split over processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from advrad.certificates.evaluation import CertifiedImages
from advrad.certificates.lipschitz import ProvenVerdict, proven_verdict, verdict_radius
from advrad.certificates.words import proven_by_word, word_radius
from advrad.detectors.base import SupportsScoreBounds, SupportsStickerBounds
from advrad.detectors.verdicts import Verdict
from advrad.errors import DetectorError
from advrad.utils.config import Config
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.radii import Norm

if TYPE_CHECKING:
    from advrad.detectors.guarded import GuardedDetector


class BoundsPlan(Config):
    """Everything that decides the result of a certification with exact bounds, except the detector and the images.

    Attributes:
        norm: Norm of the perturbations.
        radii: Radii of the perturbations, increasing, for pixel values in [0, 1] of the images as given.
        threshold: Threshold of the score; None for bounds without verdicts.
        sticker_px: Side of the square that a sticker covers, in pixels of the images as given; None for none.

    Example:
        >>> BoundsPlan(norm="linf", radii=(2 / 255,)).threshold is None
        True
    """

    norm: Norm
    radii: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    threshold: float | None = None
    sticker_px: int | None = Field(None, gt=0)


class ImageBounds(Config):
    """The bounds of one image's score.

    Attributes:
        name: Name of the image.
        label: Label, 0 for normal and 1 for anomalous.
        score: Score of the image as given.
        lower: Lower bound of the score at each radius of the plan; None where there is none.
        upper: Upper bound of the score at each radius of the plan; None where there is none, because a perturbation may
            change where the product is found.
        verdicts: Proven verdict at each radius of the plan; empty without a threshold.
        words: Word of the verdict at each radius of the plan, by a guarded detector; empty for others.
        radius: Radius for which the verdict is proven, 0 if for none; None without a threshold.
        sticker: Lower bound of the score with a sticker anywhere; None where it was not asked for, or nothing is left.
        seconds: Time spent on the image, in seconds.
    """

    name: str
    label: int
    score: float
    lower: tuple[float | None, ...]
    upper: tuple[float | None, ...]
    verdicts: tuple[ProvenVerdict, ...] = ()
    words: tuple[Verdict, ...] = ()
    radius: float | None = None
    sticker: float | None = None
    seconds: float

    @model_serializer(mode="wrap")
    def _without_missing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        missing = {name for name in ("radius", "sticker", "words") if getattr(self, name) in (None, ())}
        return {name: value for name, value in write(self).items() if name not in missing}

    def to_dict(self) -> dict[str, Any]:
        """The bounds as JSON values."""
        return self.model_dump(mode="json")


def evaluate_bounds(
    detector: SupportsScoreBounds,
    images: CertifiedImages,
    plan: BoundsPlan,
    folder: Path,
    *,
    identity: str = "",
    process: tuple[int, int] = (0, 1),
    progress: ProgressReporter = SILENT,
    wait: Callable[[], None] | None = None,
) -> tuple[ImageBounds, ...]:
    """Bound the score of every image.

    Args:
        detector: Detector that can bound its scores.
        images: Images to certify.
        plan: Plan of the certification.
        folder: Folder of the finished images; what an earlier run with the same plan finished there is kept.
        identity: Identity of the detector; a run of another one is not continued.
        process: Index of this process, and number of processes; each certifies its share of the images.
        progress: Receives (images done, images of this process).
        wait: Function that waits for all processes; called before the results are gathered.

    Returns:
        The bounds of each image.

    Raises:
        DataError: There is no image.
        DetectorError: The detector's bounds do not enclose its score.
        OutputError: The folder holds another run, or a result cannot be written.
    """
    store = images.open_store(folder, plan, identity)
    bound = partial(_bound_image, detector, images, plan)
    return store.complete(ImageBounds, bound, process=process, progress=progress, wait=wait)


def _bound_image(detector: SupportsScoreBounds, images: CertifiedImages, plan: BoundsPlan, index: int) -> ImageBounds:
    began = time.perf_counter()
    image, name = images.load(index), images.names[index]
    score = 0.0
    lower: list[float] = []
    upper: list[float] = []
    words: list[Verdict] = []
    for radius in plan.radii:
        bounds = detector.score_bounds(image[None], radius, plan.norm)
        score = float(bounds.scores)
        lower.append(float(bounds.lower))
        upper.append(float(bounds.upper))
        words += getattr(bounds, "words", ())
        if not lower[-1] <= score <= upper[-1]:
            raise DetectorError(
                f"{name}: the score {score:.6g} is outside its own bounds, {lower[-1]:.6g} to {upper[-1]:.6g}; this is"
                " a bug in the detector"
            )
    verdicts: tuple[ProvenVerdict, ...] = ()
    reached = sticker = None
    if plan.threshold is not None:
        if words and plan.threshold == cast("GuardedDetector", detector).threshold:
            verdicts = tuple(map(proven_by_word, words))
            reached = word_radius(cast("GuardedDetector", detector), image, words[0], plan.norm)
        else:
            verdicts = tuple(proven_verdict(low, high, plan.threshold) for low, high in zip(lower, upper, strict=True))
            known = {0.0: (score, score)} | dict(zip(plan.radii, zip(lower, upper, strict=True), strict=True))
            reached = verdict_radius(detector, image, plan.threshold, plan.norm, known)
    if plan.sticker_px is not None and isinstance(detector, SupportsStickerBounds):
        sticker = _finite(float(detector.sticker_bounds(image[None], plan.sticker_px)))
    return ImageBounds(
        name=name,
        label=int(images.labels[index]),
        score=score,
        lower=tuple(map(_finite, lower)),
        upper=tuple(map(_finite, upper)),
        verdicts=verdicts,
        words=tuple(words),
        radius=reached,
        sticker=sticker,
        seconds=round(time.perf_counter() - began, 3),
    )


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
