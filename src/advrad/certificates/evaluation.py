"""The runner of certificates: bounds on the smoothed score of every image, and the verdicts that follow.

Every finished image is a file of its own, so a run can be killed anywhere and split over processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.certificates.order_statistics import bounds, futility, interim_sizes, levels, rank_above, rank_below
from advrad.certificates.smoothing import Sampler, draws_in_reach, refuse_too_few
from advrad.certificates.two_path import TwoPath
from advrad.errors import ConfigError, DataError, OutputError
from advrad.utils.config import Config
from advrad.utils.result_store import ResultStore
from advrad.utils.seeding import seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from advrad.utils.progress import SILENT, ProgressReporter

Floats = npt.NDArray[np.float64]
Verdict = Literal["certified anomalous", "certified normal", "abstain"]

#: Radii that are tried beside those asked for, for curves and for how far a verdict reaches.
RADIUS_GRID = tuple(round(0.05 * 1.4**step, 4) for step in range(12))


class CertifyPlan(Config):
    """All that decides the result of a certification, but the detector and the images.

    Attributes:
        radii: of the changes, l2 in [0, 1] pixel units of the images as given.
        draws: of every image's score.
        confidence: with which the bounds of all images hold together, and with which each verdict holds.
        threshold: of the verdict, on the smoothed score; None for bounds alone.
        seed: of all randomness.
    """

    radii: tuple[float, ...] = Field(min_length=1)
    draws: int = Field(200, ge=2)
    confidence: float = Field(0.999, gt=0, lt=1)
    threshold: float | None = None
    seed: int = Field(0, ge=0)

    @property
    def failure(self) -> float:
        """Probability that a claim may be wrong."""
        return 1 - self.confidence

    @property
    def ladder(self) -> tuple[float, ...]:
        """All radii at which bounds are computed, 0 first."""
        return tuple(sorted({0.0, *self.radii, *RADIUS_GRID}))


@dataclass(frozen=True, eq=False)
class CertifiedImages:
    """The images to certify.

    Attributes:
        load: gives one of them as the threat model means it, (c, h, w) in [0, 1].
        labels: (n,) 0 for good, 1 for defective.
        names: of the images, all different.
        digest: of their contents.
    """

    load: Callable[[int], Tensor]
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class CertifiedPrediction:
    """A verdict on one image, for one radius.

    Attributes:
        verdict: of the smoothed score, for every image within the radius.
        draws: after which it was settled, or given up.
        radius: up to which the verdict holds; 0 for an abstention.
    """

    verdict: Verdict
    draws: int
    radius: float


@dataclass(frozen=True, slots=True)
class ImageCertificate:
    """What was certified of one image.

    Attributes:
        name: of the image.
        label: 0 for good, 1 for defective.
        score: the smoothed score of the image as given, estimated.
        lower: lower bound for each radius of the plan's ladder; None where the draws are too few.
        upper: upper bound for each radius of the plan's ladder; None where the draws are too few.
        verdicts: for each radius of the plan's ladder, from all draws; none without a threshold.
        early: for each radius of the plan, from a test that stops early.
        early_draws: for each radius of the plan, how many draws that took.
        radius: up to which the verdict holds, from all draws; 0 for an abstention.
        seconds: spent on the image.
    """

    name: str
    label: int
    score: float
    lower: tuple[float | None, ...]
    upper: tuple[float | None, ...]
    verdicts: tuple[Verdict, ...]
    early: tuple[Verdict, ...]
    early_draws: tuple[int, ...]
    radius: float
    seconds: float


def certified_decision(
    lower: Floats, upper: Floats, shifts: Sequence[float], threshold: float, failure: float, quantile: float = 0.5
) -> Verdict:
    """The verdict that draws prove.

    Args:
        lower: (parts, n) as in :func:`advrad.certificates.order_statistics.bounds`.
        upper: (parts, n) as in :func:`advrad.certificates.order_statistics.bounds`.
        shifts: of the noise, for this radius.
        threshold: anomalous where score > threshold.
        failure: probability that a certified verdict is wrong.
        quantile: that smooths.
    """
    # Where some images within the radius are anomalous and some are not, either verdict would be wrong.
    low, high = bounds(lower, upper, shifts, failure / 2, quantile)
    if low > threshold:
        return "certified anomalous"
    return "certified normal" if high <= threshold else "abstain"


def certify_sequential(
    sampler: Sampler,
    image: Tensor,
    radius: float,
    threshold: float,
    draws: int,
    failure: float,
    generator: torch.Generator,
) -> CertifiedPrediction:
    """Decide on one image with no more draws than it takes.

    The draws are looked at now and then; at each look the verdict may fail with an equal share of ``failure``. A hope
    that is too faint is given up.

    Args:
        sampler: of the score.
        image: (c, h, w) in [0, 1], as given.
        radius: for which a verdict is wanted.
        threshold: anomalous where score > threshold.
        draws: at most so many.
        failure: probability that a certified verdict, or its radius, is wrong.
        generator: source of all noise, which nobody who chose the image may foresee.
    """
    at_one, planned, quantile = sampler.shifts(*image.shape[1:]), interim_sizes(draws), sampler.quantile
    ladder = _within_reach(sorted({radius, *RADIUS_GRID}), at_one, draws, failure, quantile)
    if radius not in ladder:
        return CertifiedPrediction("abstain", 0, 0.0)
    wanted = ladder.index(radius)
    lower = upper = np.empty((len(at_one), len(ladder), 0))
    for look in planned:
        more = sampler.draw(image, ladder, look - lower.shape[2], generator)
        lower, upper = (np.concatenate([old, new], axis=2) for old, new in zip((lower, upper), more, strict=True))
        verdicts = [
            certified_decision(
                lower[:, rung], upper[:, rung], _times(at_one, here), threshold, failure / len(planned), quantile
            )
            for rung, here in enumerate(ladder)
        ]
        reached = _reach(verdicts)
        if reached >= wanted:
            return CertifiedPrediction(verdicts[0], look, ladder[reached])
        if futility(lower[:, wanted], upper[:, wanted], _times(at_one, radius), threshold, quantile=quantile):
            break
    return CertifiedPrediction("abstain", lower.shape[2], 0.0)


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
    """Bound the score of every image.

    Args:
        sampler: of the detector's score.
        images: as given.
        plan: of the certification.
        folder: of its rows; what an earlier run with the same plan finished there is kept.
        identity: of the detector and of the method; an earlier run of another one is not continued.
        process: number of this process, and of all processes; each takes its share of the images.
        progress: Receives the progress.
        wait: for all processes; called once all their rows should be there.

    Returns:
        One row per image.

    Raises:
        ConfigError: a radius is out of reach of so many draws.
        DataError: there is no image.
        OutputError: the folder holds another run, or a row cannot be written.
    """
    count = len(images.names)
    if not count:
        raise DataError("there is no image to certify; give test images, good and defective")
    rows = ResultStore.claim(folder, plan, images.names, images.digest, identity)
    share = range(process[0], count, process[1])
    missing = rows.missing(share)
    done = len(share) - len(missing)
    progress.update(done, len(share))
    for index in missing:
        generator = torch.Generator().manual_seed(seed_of(plan.seed, images.names[index]))
        row = _row(sampler, images, index, plan, generator)
        rows.write(index, asdict(row))
        done += 1
        progress.update(done, len(share))
    if wait:
        wait()
    return tuple(_read(values, rows.path(index)) for index, values in enumerate(rows.read_all()))


def check_reach(sampler: Sampler, sides: Sequence[int], plan: CertifyPlan, images: int) -> None:
    """Refuse a radius that so many draws cannot reach, before any is made.

    Raises:
        ConfigError: says how many it takes.
    """
    for radius in plan.radii:
        if not 0 <= radius < math.inf:
            raise ConfigError(f"--radius {radius:g}: must be 0 or more")
        needed = draws_in_reach(sampler, sides, radius, plan.failure / (2 * images))
        refuse_too_few(needed, plan.draws, radius, plan.confidence, sampler)


def _row(
    sampler: Sampler, images: CertifiedImages, index: int, plan: CertifyPlan, generator: torch.Generator
) -> ImageCertificate:
    began = time.perf_counter()
    image, threshold = images.load(index), plan.threshold
    check_reach(sampler, image.shape[1:], plan, len(images.names))
    at_one, quantile = sampler.shifts(*image.shape[1:]), sampler.quantile
    ladder = _within_reach(plan.ladder, at_one, plan.draws, plan.failure, quantile)
    beyond = len(plan.ladder) - len(ladder)
    lower, upper = sampler.draw(image, ladder, plan.draws, generator)
    # Both sides of all images hold together.
    failure = plan.failure / (2 * len(images.names))
    sides = [
        bounds(lower[:, rung], upper[:, rung], _times(at_one, radius), failure, quantile)
        for rung, radius in enumerate(ladder)
    ]
    verdicts: list[Verdict] = []
    early: list[tuple[Verdict, int]] = []
    reached = 0
    if threshold is not None:
        verdicts = [
            certified_decision(
                lower[:, rung], upper[:, rung], _times(at_one, radius), threshold, plan.failure, quantile
            )
            for rung, radius in enumerate(ladder)
        ]
        reached = max(0, _reach(verdicts))
        verdicts += ["abstain"] * beyond
        early = [
            _early(lower[:, rung], upper[:, rung], _times(at_one, radius), threshold, plan.failure, quantile)
            for rung, radius in enumerate(ladder)
            if radius in plan.radii
        ]
    return ImageCertificate(
        name=images.names[index],
        label=int(images.labels[index]),
        score=float(np.quantile(lower[:, 0], quantile, axis=1).mean()),
        lower=(*(low if math.isfinite(low) else None for low, _ in sides), *[None] * beyond),
        upper=(*(high if math.isfinite(high) else None for _, high in sides), *[None] * beyond),
        verdicts=tuple(verdicts),
        early=tuple(verdict for verdict, _ in early),
        early_draws=tuple(used for _, used in early),
        radius=ladder[reached],
        seconds=round(time.perf_counter() - began, 3),
    )


def _read(values: dict[str, Any], path: Path) -> ImageCertificate:
    """A row, from the JSON values of its file."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return ImageCertificate(**plain)
    except TypeError as error:
        raise OutputError(f"{path}: a row is damaged ({error}); delete it and run the same command again") from None


def _within_reach(
    ladder: Sequence[float], at_one: Sequence[float], draws: int, failure: float, quantile: float
) -> tuple[float, ...]:
    """The radii of a rising ladder at which so many draws can bound both sides; the rest need not be computed."""
    share = failure / (2 * len(at_one))

    def bounded(shift: float) -> bool:
        at = levels(shift, quantile)
        return rank_below(draws, at.low, share) is not None and rank_above(draws, at.high, share) is not None

    return tuple(radius for radius in ladder if all(bounded(at * radius) for at in at_one))


def _times(shifts: Sequence[float], radius: float) -> list[float]:
    return [shift * radius for shift in shifts]


def _reach(verdicts: Sequence[Verdict]) -> int:
    """The last rung up to which every rung of a ladder bears the same verdict; -1 if the first abstains.

    That every rung up to it must hold keeps the claim honest, however it was found: the claim is wrong only if the
    first rung beyond the truth held, too, and the probability of that is the one of a single rung.
    """
    if verdicts[0] == "abstain":
        return -1
    same = [verdict == verdicts[0] for verdict in verdicts]
    return len(same) - 1 if all(same) else same.index(False) - 1


def _early(
    lower: Floats, upper: Floats, shifts: Sequence[float], threshold: float, failure: float, quantile: float
) -> tuple[Verdict, int]:
    """What :func:`certify_sequential` would have said of draws that are all there, and after how many of them."""
    planned = interim_sizes(lower.shape[1])
    for look in planned:
        verdict = certified_decision(
            lower[:, :look], upper[:, :look], shifts, threshold, failure / len(planned), quantile
        )
        if verdict != "abstain":
            return verdict, look
        if futility(lower[:, :look], upper[:, :look], shifts, threshold, quantile=quantile):
            return "abstain", look
    return "abstain", planned[-1]


def draws_for(sampler: TwoPath, sides: Sequence[int], radius: float, failure: float) -> int:
    """Fewest draws with which :func:`advrad.certificates.evaluation.settle` can come to a verdict.

    Args:
        sampler: of the score.
        sides: height and width of the image.
        radius: for which a verdict is wanted.
        failure: probability that it is wrong.

    Raises:
        ConfigError: the radius is out of reach of any number.
    """
    draws = 1
    while True:  # more draws are looked at more often, and share the probability among more looks
        needed = draws_in_reach(sampler, sides, radius, failure / (2 * len(interim_sizes(draws))))
        if needed <= draws:
            return draws
        draws = needed
