"""Certificates without randomness, for detectors whose scores can be bounded under every perturbation.

For every image x the detector gives bounds with ``lower <= A(x + d) <= upper`` for all perturbations d within a radius.
They hold with certainty, float rounding included, so there is no confidence level and nothing is drawn:

- **Certified AUROC**: the share of (anomalous, normal) pairs with ``lower(anomalous) > upper(normal)``. No attack on
  all images at once leaves a smaller AUROC.
- **Proven verdicts**: ``proven defective`` if ``lower > threshold``, ``proven good`` if ``upper <= threshold``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from advrad.data.labelled import load_labelled
from advrad.data.options import DataOptions
from advrad.detectors.base import SupportsScoreBounds
from advrad.errors import ConfigError
from advrad.metrics import auroc
from advrad.utils.environment import versions
from advrad.utils.files import make_folder, write_json
from advrad.utils.progress import SILENT, ProgressReporter

if TYPE_CHECKING:
    from torch import Tensor

    from advrad.data.labelled import DataSource

Norm = Literal["linf", "l2"]
ProvenVerdict = Literal["proven defective", "proven good", "not proven"]
Floats = npt.NDArray[np.float64]

#: Largest radius up to which the reach of a verdict is searched, in the norm of the certificate.
LARGEST_RADIUS = {"linf": 16 / 255, "l2": 8.0}
#: Halvings of that radius: the reach is exact to 1 / 256 of it.
_HALVINGS = 8


def proven_verdict(lower: float, upper: float, threshold: float) -> ProvenVerdict:
    """Decide which verdict the bounds of a score prove.

    Args:
        lower: Lower bound of the score.
        upper: Upper bound of the score.
        threshold: Threshold; the verdict is defective where score > threshold.

    Example:
        >>> proven_verdict(0.6, 0.9, threshold=0.5)
        'proven defective'
    """
    if lower > threshold:
        return "proven defective"
    return "proven good" if upper <= threshold else "not proven"


def certified_auroc(labels: npt.NDArray[np.int64], lower: Floats, upper: Floats) -> float | None:
    """Compute the AUROC that no attack on all images at once can undercut.

    Args:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        lower: Lower bounds of the scores, (n,).
        upper: Upper bounds of the scores, (n,).

    Returns:
        Share of pairs whose anomalous image certainly has the larger score; None without images of both classes.
    """
    low, high = lower[labels == 1], upper[labels == 0]
    return float((low[:, None] > high[None]).mean()) if low.size and high.size else None


def verdict_radius(detector: SupportsScoreBounds, image: Tensor, threshold: float, norm: Norm) -> float:
    """Find the largest radius for which the verdict on an image is proven, by bisection.

    Args:
        detector: Detector with score bounds.
        image: Image, (3, h, w) float in [0, 1].
        threshold: Threshold of the score.
        norm: Norm of the perturbation.

    Returns:
        A radius for which the verdict is proven. The largest one is at most ``LARGEST_RADIUS / 256`` larger, or it is
        above :data:`LARGEST_RADIUS`. 0 if not even the verdict on the image as given is proven.
    """

    def proven(radius: float) -> bool:
        bounds = detector.score_bounds(image[None], radius, norm)
        return proven_verdict(float(bounds.lower), float(bounds.upper), threshold) != "not proven"

    low, high = 0.0, LARGEST_RADIUS[norm]
    if proven(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if proven(middle) else (low, middle)
    return low


@dataclass(frozen=True, eq=False, repr=False)
class LipschitzResult:
    """The result of :func:`certify_bounds`: what holds under every perturbation, with certainty.

    Attributes:
        norm: Norm of the perturbations.
        radii: Radii, in [0, 1] pixel units of the images as given.
        clean_auroc: AUROC without perturbation; None without images of both classes.
        certified_auroc: AUROC that no attack can undercut, by radius.
        names: Names of the images, n.
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        scores: Scores, (n,).
        lower: Lower bounds of the scores, (radii, n).
        upper: Upper bounds of the scores, (radii, n).
        threshold: Threshold of the score; None without verdicts.
        category: Name of the product.
    """

    norm: Norm
    radii: tuple[float, ...]
    clean_auroc: float | None
    certified_auroc: dict[float, float | None]
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    scores: Floats
    lower: Floats
    upper: Floats
    threshold: float | None
    category: str

    def verdicts(self, radius: float) -> tuple[ProvenVerdict, ...]:
        """Give the proven verdict of each image at one of the radii.

        Args:
            radius: One of :attr:`radii`.

        Raises:
            ConfigError: The radius was not certified, or the detector has no threshold.
        """
        if radius not in self.radii:
            raise ConfigError(f"was not certified; choose one of {self.radii}", option="radius", value=radius)
        if self.threshold is None:
            raise ConfigError("the detector has no threshold, so there are no verdicts")
        row = self.radii.index(radius)
        pairs = zip(self.lower[row].tolist(), self.upper[row].tolist(), strict=True)
        return tuple(proven_verdict(low, high, self.threshold) for low, high in pairs)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        rows = [
            {
                "name": name,
                "label": int(self.labels[index]),
                "score": float(self.scores[index]),
                "lower": self.lower[:, index].tolist(),
                "upper": self.upper[:, index].tolist(),
            }
            for index, name in enumerate(self.names)
        ]
        return {
            "method": "lipschitz",
            "norm": self.norm,
            "radii": list(self.radii),
            "clean_auroc": self.clean_auroc,
            "certified_auroc": {f"{radius:g}": value for radius, value in self.certified_auroc.items()},
            "threshold": self.threshold,
            "category": self.category,
            "versions": versions(),
            "rows": rows,
        }

    def save(self, folder: str | Path) -> None:
        """Write ``lipschitz.json``.

        Args:
            folder: Folder, made if missing.

        Raises:
            OutputError: The file cannot be written.
        """
        write_json(make_folder(Path(folder)) / "lipschitz.json", self.to_dict())

    def __repr__(self) -> str:
        shown = ", ".join(f"{radius:g}: {value}" for radius, value in self.certified_auroc.items())
        return (
            f"LipschitzResult(norm={self.norm!r}, images={len(self.names)}, clean_auroc={self.clean_auroc},"
            f" certified_auroc={{{shown}}})"
        )


def certify_bounds(
    detector: SupportsScoreBounds,
    data: DataSource,
    *,
    radii: Sequence[float] = (1 / 255, 2 / 255, 4 / 255),
    norm: Norm = "linf",
    size_px: int = 256,
    limit: int | None = None,
    seed: int = 0,
    options: DataOptions = DataOptions(),
    progress: ProgressReporter = SILENT,
) -> LipschitzResult:
    """Certify a detector with score bounds on test images. Nothing is random: the bounds hold with certainty.

    Args:
        detector: Detector that bounds its scores, such as :class:`advrad.detectors.ClosedFormDetector`.
        data: Test images: a folder (its test split), ``FILE.py:NAME`` for a datamodule in a Python file, a datamodule,
            or a pair of images, (n, 3, h, w) float in [0, 1], and labels, (n,) of 0 (normal) and 1 (anomalous).
        radii: Radii, >= 0, in [0, 1] pixel units of the images as given.
        norm: Norm of the perturbations.
        size_px: Side of the square to which image files are scaled; the radii refer to images of this size.
        limit: Number of test images, half of them normal; None for all.
        seed: Seed of the choice of images.
        options: How image files are found and read.
        progress: Receives the number of certified images.

    Returns:
        The certified AUROC, and the bounds of every image.

    Raises:
        ConfigError: The detector cannot bound its scores, or a radius is negative.
        DataError: The data cannot be used, or images of one class are missing.

    Example:
        >>> import torch
        >>> from advrad.denoisers.memory_config import MemoryConfig
        >>> from advrad.training.closed_form import fit_closed_form
        >>> normal = torch.full((4, 3, 16, 16), 0.5) + torch.linspace(0, 0.03, 4)[:, None, None, None]
        >>> config = MemoryConfig(size_px=16, cell_px=2, patch_cells=3)
        >>> detector = fit_closed_form(normal, config, false_alarm_rate=0.3)
        >>> anomalous = normal.clone()
        >>> anomalous[:, :, 4:8, 4:8] = 1.0
        >>> result = certify_bounds(detector, (torch.cat([normal, anomalous]), [0] * 4 + [1] * 4), radii=(2 / 255,))
        >>> list(result.certified_auroc.values())
        [1.0]
    """
    if not isinstance(detector, SupportsScoreBounds):
        raise ConfigError("this detector cannot bound its scores; use advrad.certify, which adds noise")
    for radius in radii:
        if not 0 <= radius < np.inf:
            raise ConfigError("must be at least 0", option="radii", value=radius)
    images = load_labelled(data, size_px, options, limit, seed)
    count = len(images)
    scores, (lower, upper) = np.empty(count), np.empty((2, len(radii), count))
    for index in range(count):
        image = images.batch(slice(index, index + 1))
        for row, radius in enumerate(radii):
            bounds = detector.score_bounds(image, radius, norm)
            scores[index] = float(bounds.scores)
            lower[row, index], upper[row, index] = float(bounds.lower), float(bounds.upper)
        progress.update(index + 1, count)
    areas = {radius: certified_auroc(images.labels, lower[row], upper[row]) for row, radius in enumerate(radii)}
    return LipschitzResult(
        norm=norm,
        radii=tuple(radii),
        clean_auroc=auroc(images.labels, scores) if set(images.labels.tolist()) == {0, 1} else None,
        certified_auroc=areas,
        names=images.names,
        labels=images.labels,
        scores=scores,
        lower=lower,
        upper=upper,
        threshold=getattr(detector, "threshold", None),
        category=images.category,
    )
