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

from advrad.detector import AdvRAD
from advrad.errors import CheckpointError, DataError, PictureError
from advrad.files import make_folder
from advrad.layouts import PICTURE_SUFFIXES
from advrad.overlay import heat_overlay
from advrad.pictures import REDUCE_ABOVE_PIXELS, read_picture, read_resized, resize, to_tensor
from advrad.png import write_picture
from advrad.settings import Calibration
from advrad.types import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX")


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
    """

    path: Path
    score: float
    threshold: float
    defective: bool
    overlay: Path | None = None
    reconstruction: Path | None = None

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
) -> Iterator[Verdict | DataError]:
    """Score pictures and decide, in order.

    Args:
        detector: calibrated.
        sources: as of :func:`pictures_of`.
        batch_size: pictures at a time; does not change the verdicts.
        max_pixels: bound on each picture file.
        out: made if missing; heat maps and reconstructions go there.

    Yields:
        A verdict for each picture, or the error that it met; all verdicts of earlier pictures come first.

    Raises:
        NotCalibratedError: there is no threshold.
        OutputError: a result cannot be written.
        CheckpointError: a score is not a finite number.
    """
    calibration = detector.calibration
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
            yield from _judged(detector, calibration, paths, images, max_pixels, out)
            paths, images = [], []
        if error is not None:
            yield error
    if paths:
        yield from _judged(detector, calibration, paths, images, max_pixels, out)


def _judged(
    detector: AdvRAD,
    calibration: Calibration,
    paths: Sequence[Path],
    images: Sequence[Tensor],
    max_pixels: int,
    out: Path | None,
) -> Iterator[Verdict | DataError]:
    scores, maps, recons = detector.measure(torch.stack(list(images)))
    for path, image, value, score_map, recon in zip(paths, images, scores.tolist(), maps, recons, strict=True):
        if not math.isfinite(value):
            raise CheckpointError(f"{path}: its score is {value}; the model is damaged or diverged: train it again")
        overlay = reconstruction = None
        if out is not None:
            overlay, reconstruction = _names(out, path)
            try:
                picture = _whole(path, image, max_pixels)
            except PictureError as error:  # it went away or changed since it was scored
                yield error
                continue
            write_picture(overlay, heat(picture, score_map[0].numpy(), calibration))
            write_picture(reconstruction, recon.permute(1, 2, 0).numpy())
        yield Verdict(path, value, calibration.threshold, value > calibration.threshold, overlay, reconstruction)


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
