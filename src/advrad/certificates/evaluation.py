"""Certificates of a set of images: bounds on every smoothed score, and the verdicts that follow from them.

Every finished image is a file of its own, so a run can be stopped at any time, resumed, and split over processes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor

from advrad.certificates.order_statistics import bounds
from advrad.certificates.sequential import (
    ABSTAIN,
    Verdict,
    certified_decision,
    certified_index,
    radius_grid,
    reachable,
    replay_sequential,
    scaled,
)
from advrad.certificates.smoothing import Sampler, check_n_samples, samples_for_bounds
from advrad.errors import DataError
from advrad.utils.config import Config
from advrad.utils.files import write_text
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.result_store import ResultStore
from advrad.utils.seeding import generator_for


class CertifyPlan(Config):
    """Everything that decides the result of a certification, except the detector and the images.

    Attributes:
        radii: Radii of the perturbations, l2, for pixel values in [0, 1] of the images as given.
        n_samples: Number of noise samples per image; ``draws`` in JSON.
        confidence: Confidence with which the bounds of all images hold together, and with which each verdict holds.
        threshold: Threshold of the smoothed score; None for bounds without verdicts.
        seed: Seed for all random draws.

    Example:
        >>> round(CertifyPlan(radii=(0.1,), confidence=0.999).alpha, 6)
        0.001
    """

    radii: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    n_samples: int = Field(200, ge=2, alias="draws")
    confidence: float = Field(0.999, gt=0, lt=1)
    threshold: float | None = None
    seed: int = Field(0, ge=0)

    @property
    def alpha(self) -> float:
        """Probability that a claim is wrong, ``1 - confidence``."""
        return 1 - self.confidence

    @property
    def radius_grid(self) -> tuple[float, ...]:
        """All radii at which bounds are computed, increasing; the first is 0."""
        return radius_grid((0.0, *self.radii))


@dataclass(frozen=True, eq=False)
class CertifiedImages:
    """The images to certify.

    Attributes:
        load: Function that loads the image of an index, (c, h, w), float in [0, 1].
        labels: Labels, (n,), 0 for normal and 1 for anomalous.
        names: Names of the images, n different ones.
        digest: Digest of the images' contents.
        category: Name of the product.
        sizes: Height and width of each image in pixels, or one pair if all are equal.
        warnings: What makes the figures doubtful, such as images of another shape than those of the training.
    """

    load: Callable[[int], Tensor]
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    digest: str
    category: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()

    def open_store(self, folder: Path, plan: Config, identity: str) -> ResultStore:
        """Open the store of these images' certificates, see :meth:`ResultStore.open`.

        Args:
            folder: Folder of the finished images.
            plan: Plan of the certification.
            identity: Identity of detector and method.

        Raises:
            DataError: There is no image.
            OutputError: The folder holds another run.
        """
        if not self.names:
            raise DataError("no image to certify; give test images, normal and anomalous")
        return ResultStore.open(folder, plan, self.names, self.digest, identity)


class ImageCertificate(Config):
    """What was certified of one image.

    Attributes:
        name: Name of the image.
        label: Label, 0 for normal and 1 for anomalous.
        score: Estimate of the smoothed score of the unperturbed image.
        lower: Lower bound at each radius of the plan's grid; None where the samples are too few.
        upper: Upper bound at each radius of the plan's grid; None where the samples are too few.
        verdicts: Verdict at each radius of the plan's grid, from all samples; empty without a threshold.
        early: Verdict at each requested radius, increasing, from a test that stops early; empty without a threshold.
        early_n_samples: Number of samples that this test used; ``early_draws`` in JSON.
        radius: Radius for which the verdict is certified, from all samples; 0 for an abstention.
        seconds: Time spent on the image, in seconds.
    """

    name: str
    label: int
    score: float
    lower: tuple[float | None, ...]
    upper: tuple[float | None, ...]
    verdicts: tuple[Verdict, ...]
    early: tuple[Verdict, ...]
    early_n_samples: tuple[int, ...] = Field(alias="early_draws")
    radius: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        return self.model_dump(mode="json")


class CertificateRow(Protocol):
    """The certificate of one image, of any kind."""

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON values."""


def write_certificates(path: Path, rows: Sequence[CertificateRow]) -> None:
    """Write certificates to a file, one JSON object per line.

    Raises:
        OutputError: The file cannot be written.
    """
    write_text(path, "".join(json.dumps(row.to_dict()) + "\n" for row in rows))


def evaluate_certificates(
    sampler: Sampler,
    images: CertifiedImages,
    plan: CertifyPlan,
    folder: Path,
    *,
    identity: str = "",
    process: tuple[int, int] = (0, 1),
    progress: ProgressReporter = SILENT,
    wait: Callable[[], None] | None = None,
) -> tuple[ImageCertificate, ...]:
    """Certify every image.

    Guarantee: with probability at least ``plan.confidence``, at each radius, the bounds of all images hold together.

    Args:
        sampler: Sampler of the detector's score.
        images: Images to certify.
        plan: Plan of the certification.
        folder: Folder of the finished images; what an earlier run with the same plan finished there is kept.
        identity: Identity of detector and method; a run of another one is not continued.
        process: Index of this process, and number of processes; each certifies its share of the images.
        progress: Receives (images done, images of this process).
        wait: Function that waits for all processes; called before the results are gathered.

    Returns:
        One certificate per image.

    Raises:
        ConfigError: A radius needs more samples than the plan has.
        DataError: There is no image.
        OutputError: The folder holds another run, or a result cannot be written.
    """
    store = images.open_store(folder, plan, identity)
    certify = partial(_certify_image, sampler, images, plan)
    return store.complete(ImageCertificate, certify, process=process, progress=progress, wait=wait)


def check_reach(sampler: Sampler, sides: Sequence[int], plan: CertifyPlan, images: int) -> None:
    """Check, before any sample is drawn, that the plan's samples suffice for its radii.

    Args:
        sampler: Sampler of the score.
        sides: Height and width of the images as given.
        plan: Plan of the certification.
        images: Number of images.

    Raises:
        ConfigError: A radius needs more samples.
    """
    for radius in plan.radii:
        needed = samples_for_bounds(sampler, sides, radius, plan.alpha / (2 * images))
        check_n_samples(plan.n_samples, needed, radius, plan.confidence, sampler)


def _certify_image(sampler: Sampler, images: CertifiedImages, plan: CertifyPlan, index: int) -> ImageCertificate:
    began = time.perf_counter()
    generator = generator_for(plan.seed, images.names[index])
    image = images.load(index)
    check_reach(sampler, image.shape[1:], plan, len(images.names))
    at_one, quantile = sampler.shifts(*image.shape[1:]), sampler.quantile
    grid = reachable(plan.radius_grid, at_one, plan.n_samples, plan.alpha, quantile)
    beyond = len(plan.radius_grid) - len(grid)
    # Step 1: the noise samples, shared by all radii.
    lower, upper = sampler.sample(image, grid, plan.n_samples, generator)
    # Step 2: bounds. Both sides of all images hold together (union bound).
    alpha = plan.alpha / (2 * len(images.names))
    sides = [bounds(lower[:, i], upper[:, i], scaled(at_one, r), alpha, quantile) for i, r in enumerate(grid)]
    # Step 3: verdicts, from all samples and from a test that stops early.
    verdicts: list[Verdict] = []
    early: list[tuple[Verdict, int]] = []
    reached = 0
    if plan.threshold is not None:
        for i, radius in enumerate(grid):
            case = (lower[:, i], upper[:, i], scaled(at_one, radius), plan.threshold, plan.alpha, quantile)
            verdicts.append(certified_decision(*case))
            if radius in plan.radii:
                early.append(replay_sequential(*case))
        reached = max(0, certified_index(verdicts))
        verdicts += [ABSTAIN] * beyond
    return ImageCertificate(
        name=images.names[index],
        label=int(images.labels[index]),
        score=float(np.quantile(lower[:, 0], quantile, axis=1).mean()),
        lower=(*(low if math.isfinite(low) else None for low, _ in sides), *[None] * beyond),
        upper=(*(high if math.isfinite(high) else None for _, high in sides), *[None] * beyond),
        verdicts=tuple(verdicts),
        early=tuple(verdict for verdict, _ in early),
        early_n_samples=tuple(used for _, used in early),
        radius=grid[reached],
        seconds=round(time.perf_counter() - began, 3),
    )
