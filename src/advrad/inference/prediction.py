"""Images in, verdicts out, one after the other, as far as the first that cannot be read or beyond it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.evaluation import CertifyPlan
from advrad.certificates.sequential import certify_sequential, samples_for_verdict
from advrad.certificates.smoothing import check_n_samples
from advrad.certificates.two_path import TwoPath
from advrad.data.images import REDUCE_ABOVE_PIXELS, read_image, read_resized
from advrad.data.png import write_image
from advrad.data.records import MAX_PIXELS
from advrad.data.transforms import resize, to_tensor
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import Calibration
from advrad.errors import CheckpointError, DataError, ImageError
from advrad.inference.heatmaps import draw_heat_map
from advrad.utils.files import make_folder
from advrad.utils.seeding import generator_for

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proven of one image, and of every other within a radius of it.

    Attributes:
        verdict: ``certified anomalous``, ``certified normal`` or ``abstain``.
        radius: up to which it holds, l2 in [0, 1] pixel units of the image as given; 0 for an abstention.
        threshold: of the smoothed score.
        confidence: with which it holds.
        draws: of the noise that it took.
        seed: that, with the image's name, the noise followed from.
    """

    verdict: str
    radius: float
    threshold: float
    confidence: float
    draws: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "certified": self.verdict,
            "certified_radius": self.radius,
            "certified_threshold": self.threshold,
            "confidence": self.confidence,
            "draws": self.draws,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """What is said of one image.

    Attributes:
        path: the image.
        score: larger is more anomalous.
        threshold: a larger score is called defective.
        defective: the verdict.
        overlay: the heat map that was written, if any.
        reconstruction: the reconstruction that was written, if any.
        certificate: what is proven of it, if that was asked for.
    """

    path: Path
    score: float
    threshold: float
    defective: bool
    overlay: Path | None = None
    reconstruction: Path | None = None
    certificate: Certificate | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; ``overlay`` and ``reconstruction`` only where they were written."""
        values: dict[str, Any] = {
            "path": str(self.path),
            "score": self.score,
            "threshold": self.threshold,
            "verdict": "defective" if self.defective else "good",
        }
        if self.overlay is not None and self.reconstruction is not None:
            values |= {"overlay": str(self.overlay), "reconstruction": str(self.reconstruction)}
        if self.certificate is not None:
            values |= self.certificate.as_json()
        return values


def predict_paths(
    detector: AdvRAD,
    sources: Iterable[Path | DataError],
    *,
    batch_size: int = 1,
    max_pixels: int = MAX_PIXELS,
    out: Path | None = None,
    plan: CertifyPlan | None = None,
) -> Iterator[PredictionRecord | DataError]:
    """Score images and decide, in order.

    Args:
        detector: calibrated.
        sources: as of :func:`images_of`.
        batch_size: images at a time; does not change the verdicts.
        max_pixels: bound on each image file.
        out: made if missing; heat maps and reconstructions go there.
        plan: of certificates, with one radius and a threshold; None for none.

    Yields:
        A verdict for each image, or the error that it met; all verdicts of earlier images come first.

    Raises:
        NotCalibratedError: there is no threshold.
        OutputError: a result cannot be written.
        CheckpointError: a score is not a finite number.
        ConfigError: the radius is out of reach of the plan's draws.
    """
    calibration = detector.calibration
    certifier = None if plan is None else (TwoPath(detector), plan)
    if out is not None:
        make_folder(out)
    paths: list[Path] = []
    images: list[Tensor] = []
    for source in sources:
        error = source if isinstance(source, DataError) else None
        if isinstance(source, Path):
            try:
                images.append(read_resized(source, detector.size_px, max_pixels))
                paths.append(source)
            except ImageError as met:
                error = met
        if paths and (error is not None or len(paths) == batch_size):
            yield from _judged(detector, calibration, paths, images, max_pixels, out, certifier)
            paths, images = [], []
        if error is not None:
            yield error
    if paths:
        yield from _judged(detector, calibration, paths, images, max_pixels, out, certifier)


def _judged(
    detector: AdvRAD,
    calibration: Calibration,
    paths: Sequence[Path],
    images: Sequence[Tensor],
    max_pixels: int,
    out: Path | None,
    certifier: tuple[TwoPath, CertifyPlan] | None,
) -> Iterator[PredictionRecord | DataError]:
    scores, maps, recons = detector.predict_batch(torch.stack(list(images)))
    for path, image, value, score_map, recon in zip(paths, images, scores.tolist(), maps, recons, strict=True):
        if not math.isfinite(value):
            raise CheckpointError(f"{path}: its score is {value}; the model is damaged or diverged: train it again")
        certificate = None
        if certifier is not None:
            try:
                certificate = _certified(*certifier, path, max_pixels)
            except ImageError as error:  # it went away or changed since it was scored
                yield error
                continue
        overlay = reconstruction = None
        if out is not None:
            overlay, reconstruction = _names(out, path)
            try:
                full = _whole(path, image, max_pixels)
            except ImageError as error:
                yield error
                continue
            write_image(overlay, draw_heat_map(full, score_map[0].numpy(), calibration))
            write_image(reconstruction, recon.permute(1, 2, 0).numpy())
        yield PredictionRecord(
            path, value, calibration.threshold, value > calibration.threshold, overlay, reconstruction, certificate
        )


def _certified(sampler: TwoPath, plan: CertifyPlan, path: Path, max_pixels: int) -> Certificate:
    """Certify the image at the size that it has in its file."""
    assert plan.threshold is not None
    (radius,), image = plan.radii, to_tensor(read_image(path, max_pixels))
    needed = samples_for_verdict(sampler, image.shape[1:], radius, plan.alpha)
    check_n_samples(plan.n_samples, needed, radius, plan.confidence, sampler)
    generator = generator_for(plan.seed, path.name)
    found = certify_sequential(sampler, image, radius, plan.threshold, plan.n_samples, plan.alpha, generator)
    return Certificate(found.verdict, found.radius, plan.threshold, plan.confidence, found.n_samples, plan.seed)


def _whole(path: Path, image: Tensor, max_pixels: int) -> npt.NDArray[np.float32]:
    full = read_image(path, max_pixels)
    small = full.shape[0] * full.shape[1] <= REDUCE_ABOVE_PIXELS
    if small and not torch.equal(resize(to_tensor(full)[None], image.shape[-1])[0], image):
        raise ImageError(path, "changed while it was being judged; run it again")
    return full


def _names(out: Path, path: Path) -> tuple[Path, Path]:
    """Names for the results: the image's own and a digest of where it lies; namesakes do not meet."""
    place = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=5).hexdigest()
    # A name may have 255 bytes; the longest character has four.
    stem = f"{path.name[:50]}-{place}"
    return out / f"{stem}-heat.png", out / f"{stem}-reconstruction.png"
