"""Pictures in, verdicts out, one after the other, as far as the first that cannot be read or beyond it."""

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

from advrad.audit import seed_of
from advrad.certify import CertifyPlan, settle
from advrad.detector import AdvRAD
from advrad.errors import CheckpointError, DataError, PictureError
from advrad.files import make_folder
from advrad.layouts import PICTURE_SUFFIXES
from advrad.overlay import heat_overlay
from advrad.pictures import REDUCE_ABOVE_PIXELS, read_picture, read_resized, resize, to_tensor
from advrad.png import write_picture
from advrad.ranks import looks
from advrad.settings import Calibration
from advrad.smoothing import draws_in_reach, refuse_too_few
from advrad.twopath import TwoPath
from advrad.types import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proven of one picture, and of every other within a radius of it.

    Attributes:
        verdict: ``certified anomalous``, ``certified normal`` or ``abstain``.
        radius: up to which it holds, l2 in [0, 1] pixel units of the picture as given; 0 for an abstention.
        threshold: of the smoothed score.
        confidence: with which it holds.
        draws: of the noise that it took.
        seed: that, with the picture's name, the noise followed from.
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
class Verdict:
    """What is said of one picture.

    Attributes:
        path: the picture.
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


def pictures_of(names: Iterable[str | Path], left_out: Path | None = None) -> Iterator[Path | DataError]:
    """The pictures that were named: files as they are, folders by all pictures in and below them.

    Args:
        names: files and folders; taken one by one, so a pipe may give them as it goes.
        left_out: a folder that is not searched, such as that of the results.

    Yields:
        Paths, those of one folder in order; an error for a folder without pictures.
    """
    for name in names:
        path = Path(name)
        if not path.is_dir():
            yield path
            continue
        found = sorted(_below(path, left_out.resolve() if left_out else None), key=Path.as_posix)
        if found:
            yield from found
        else:
            yield DataError(f"{path}: holds no pictures; name a folder that does")


def _below(folder: Path, left_out: Path | None) -> Iterator[Path]:
    for base, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if _seen(name) and (left_out is None or Path(base, name).resolve() != left_out)
        ]
        yield from (Path(base, name) for name in files if _seen(name) and Path(name).suffix.lower() in PICTURE_SUFFIXES)


def _seen(name: str) -> bool:
    return not name.startswith(".") and name not in _CLUTTER


def judge(
    detector: AdvRAD,
    sources: Iterable[Path | DataError],
    *,
    batch_size: int = 1,
    max_pixels: int = MAX_PIXELS,
    out: Path | None = None,
    plan: CertifyPlan | None = None,
) -> Iterator[Verdict | DataError]:
    """Score pictures and decide, in order.

    Args:
        detector: calibrated.
        sources: as of :func:`pictures_of`.
        batch_size: pictures at a time; does not change the verdicts.
        max_pixels: bound on each picture file.
        out: made if missing; heat maps and reconstructions go there.
        plan: of certificates, with one radius and a threshold; None for none.

    Yields:
        A verdict for each picture, or the error that it met; all verdicts of earlier pictures come first.

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
            except PictureError as met:
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
) -> Iterator[Verdict | DataError]:
    scores, maps, recons = detector.measure(torch.stack(list(images)))
    for path, image, value, score_map, recon in zip(paths, images, scores.tolist(), maps, recons, strict=True):
        if not math.isfinite(value):
            raise CheckpointError(f"{path}: its score is {value}; the model is damaged or diverged: train it again")
        certificate = None
        if certifier is not None:
            try:
                certificate = _certified(*certifier, path, max_pixels)
            except PictureError as error:  # it went away or changed since it was scored
                yield error
                continue
        overlay = reconstruction = None
        if out is not None:
            overlay, reconstruction = _names(out, path)
            try:
                picture = _whole(path, image, max_pixels)
            except PictureError as error:
                yield error
                continue
            write_picture(overlay, heat(picture, score_map[0].numpy(), calibration))
            write_picture(reconstruction, recon.permute(1, 2, 0).numpy())
        yield Verdict(
            path, value, calibration.threshold, value > calibration.threshold, overlay, reconstruction, certificate
        )


def _certified(sampler: TwoPath, plan: CertifyPlan, path: Path, max_pixels: int) -> Certificate:
    """Certify the picture at the size that it has in its file."""
    assert plan.threshold is not None
    (radius,), image = plan.radii, to_tensor(read_picture(path, max_pixels))
    needed = draws_for(sampler, image.shape[1:], radius, plan.failure)
    refuse_too_few(needed, plan.draws, radius, plan.confidence, sampler)
    generator = torch.Generator().manual_seed(seed_of(plan.seed, path.name))
    settled = settle(sampler, image, radius, plan.threshold, plan.draws, plan.failure, generator)
    return Certificate(settled.verdict, settled.radius, plan.threshold, plan.confidence, settled.draws, plan.seed)


def draws_for(sampler: TwoPath, sides: Sequence[int], radius: float, failure: float) -> int:
    """Fewest draws with which :func:`advrad.certify.settle` can come to a verdict.

    Args:
        sampler: of the score.
        sides: height and width of the picture.
        radius: for which a verdict is wanted.
        failure: probability that it is wrong.

    Raises:
        ConfigError: the radius is out of reach of any number.
    """
    draws = 1
    while True:  # more draws are looked at more often, and share the probability among more looks
        needed = draws_in_reach(sampler, sides, radius, failure / (2 * len(looks(draws))))
        if needed <= draws:
            return draws
        draws = needed


def certified_threshold(detector: AdvRAD) -> tuple[float | None, list[str]]:
    """The threshold for the score that two-path certificates speak of, and what is to be said of it."""
    config = detector.detector_config
    if config.guarantee is not None:
        return config.guarantee.threshold, []
    if config.calibration is None:
        return None, []
    return config.calibration.threshold, [
        "the threshold was set for plain scores; it promises no false-alarm rate for certified verdicts: set one that"
        " does with 'advrad calibrate RUN DATA --radius R -o NEW'"
    ]


def heat(
    picture: npt.NDArray[np.float32], score_map: npt.NDArray[np.float32], calibration: Calibration
) -> npt.NDArray[np.float32]:
    """Lay a score map over a picture on the detector's own scale: a usual good picture stays as it is.

    Args:
        picture: (h, w, 3) in [0, 1].
        score_map: (h', w').
        calibration: of the detector.

    Returns:
        (h, w, 3) in [0, 1].
    """
    high = calibration.heat_high
    # Above a false-alarm rate of one half the threshold lies below the median.
    low = min(calibration.heat_low, high - 1e-6 * max(1.0, abs(high)))
    return heat_overlay(picture, score_map, low, high)


def _whole(path: Path, image: Tensor, max_pixels: int) -> npt.NDArray[np.float32]:
    picture = read_picture(path, max_pixels)
    small = picture.shape[0] * picture.shape[1] <= REDUCE_ABOVE_PIXELS
    if small and not torch.equal(resize(to_tensor(picture)[None], image.shape[-1])[0], image):
        raise PictureError(path, "changed while it was being judged; run it again")
    return picture


def _names(out: Path, path: Path) -> tuple[Path, Path]:
    """Names for the results: the picture's own and a digest of where it lies; namesakes do not meet."""
    place = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=5).hexdigest()
    # A name may have 255 bytes; the longest character has four.
    stem = f"{path.name[:50]}-{place}"
    return out / f"{stem}-heat.png", out / f"{stem}-reconstruction.png"
