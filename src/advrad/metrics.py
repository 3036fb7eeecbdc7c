"""Detection metrics: pure functions on arrays, exact, larger scores are more anomalous.

Nothing is binned or sampled: every distinct score is a threshold, and a tie between a good and a defective
sample counts one half. All functions refuse NaN, infinities, wrong shapes and, where a rate would be
undefined, a missing class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from advrad.errors import ConfigError, DataError

Floats = NDArray[np.floating[Any]]

# Elements of a temporary array in the bootstrap: bounds its memory to some tens of MB.
_CHUNK = 2_000_000


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a defect scores above a good sample, ties counting one half.

    Args:
        labels: (n,) 0 or False for good, 1 or True for defective.
        scores: (n,) finite; larger is more anomalous.

    Returns:
        The area in [0, 1]. Exact: a ratio of two integers, and so unchanged by any increasing map of the
        scores.

    Raises:
        DataError: shapes differ, a label is not 0 or 1, a score is not finite, or one class is missing.
    """
    return _area(*_classes(labels, scores))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of the ROC curve, one per distinct score.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) finite.

    Returns:
        ``(fpr, tpr)``, each (m + 1,) for m distinct scores, ascending from (0, 0) to (1, 1). The trapezoids
        below them sum to :func:`auroc`.

    Raises:
        DataError: as :func:`auroc`.
    """
    good, defective = _classes(labels, scores)
    good.sort()
    defective.sort()
    levels = np.unique(np.concatenate([good, defective]))[::-1]
    fpr = (good.size - np.searchsorted(good, levels, side="left")) / good.size
    tpr = (defective.size - np.searchsorted(defective, levels, side="left")) / defective.size
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def auroc_standard_error(area: float, good: int, defective: int) -> float:
    """Standard error of an AUROC from the number of samples in each class.

    Args:
        area: the AUROC, in [0, 1].
        good: number of good samples, >= 1.
        defective: number of defective ones, >= 1.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic (ROC)
    curve".
    """
    both_defects_above, both_goods_below = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (defective - 1) * (both_defects_above - area**2) + (good - 1) * (both_goods_below - area**2)
    return float(max(0.0, variance / (good * defective)) ** 0.5)


def auroc_interval(
    labels: ArrayLike, scores: ArrayLike, *, seed: int, draws: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`auroc`, resampled within each class.

    It speaks of the choice of test images only, not of the training seed. Where the classes are fully
    separated every resample is too, so the interval shrinks to (1, 1): then it says nothing about how few
    images were seen.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) finite.
        seed: of the resampling; the same seed gives the same interval.
        draws: number of resamples, >= 1.
        confidence: coverage in (0, 1).

    Returns:
        ``(low, high)`` in [0, 1].

    Raises:
        ConfigError: ``draws`` or ``confidence`` is out of range.
        DataError: as :func:`auroc`.
    """
    if draws < 1:
        raise ConfigError(f"draws: {draws} is too few; use 1 or more")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence: {confidence} is out of range; use a number between 0 and 1, such as 0.95")
    good, defective = _classes(labels, scores)
    levels = np.unique(np.concatenate([good, defective]))
    good_rank = np.searchsorted(levels, good)
    defective_rank = np.searchsorted(levels, defective)
    generator = np.random.default_rng(seed)
    areas = np.empty(draws)
    chunk = max(1, _CHUNK // (good.size + defective.size))
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        good_counts = _resample(good_rank, levels.size, size, generator)
        defective_counts = _resample(defective_rank, levels.size, size, generator)
        # Twice the number of good samples below each level, plus those at it: half a win for each tie.
        wins = 2 * np.cumsum(good_counts, axis=1) - good_counts
        areas[start : start + size] = (defective_counts * wins).sum(axis=1) / (2 * good.size * defective.size)
    low, high = np.quantile(areas, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


def rates(labels: ArrayLike, scores: ArrayLike, threshold: float) -> tuple[float, float]:
    """True and false positive rate of the verdict ``score > threshold``.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) finite.
        threshold: a score equal to it is still good.

    Returns:
        ``(tpr, fpr)``: the share of defects called defective, and of good samples called defective.

    Raises:
        ConfigError: the threshold is NaN.
        DataError: as :func:`auroc`.
    """
    if np.isnan(threshold):
        raise ConfigError("threshold: it is NaN; calibrate the detector again")
    good, defective = _classes(labels, scores)
    return float(np.mean(defective > threshold)), float(np.mean(good > threshold))


def pixel_auroc(masks: ArrayLike, maps: ArrayLike) -> float:
    """:func:`auroc` over the pixels of all images together.

    Args:
        masks: (n, h, w) bool, True where a pixel is defective; all False for a normal image.
        maps: (n, h, w) finite; larger is more anomalous.

    Returns:
        The area in [0, 1], exact. Needs about twice the memory of ``maps``.

    Raises:
        DataError: shapes differ, a value is not finite, or there is no defective or no good pixel.
    """
    mask, values = _pixels(masks, maps)
    return _area(values[~mask], values[mask])


def aupro(masks: ArrayLike, maps: ArrayLike, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap up to a false positive rate, as a share of the largest possible.

    A region is an 8-connected component of a mask; every region counts the same, however small. The curve
    holds, for each distinct value of ``maps`` as the threshold, the mean share of a region that is found
    against the share of all good pixels that are flagged; its points are joined by straight lines, also at
    ``fpr_limit``.

    Args:
        masks: (n, h, w) bool.
        maps: (n, h, w) finite; larger is more anomalous.
        fpr_limit: in (0, 1].

    Returns:
        The normalised area in [0, 1]. Exact up to rounding; needs about twice the memory of ``maps``.

    Raises:
        ConfigError: ``fpr_limit`` is out of range.
        DataError: as :func:`pixel_auroc`.

    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.
    """
    if not 0.0 < fpr_limit <= 1.0:
        raise ConfigError(f"fpr_limit: {fpr_limit} is out of range; use a number above 0 and up to 1, such as 0.3")
    mask, values = _pixels(masks, maps)
    good = values[~mask]
    good.sort()
    defective, weights = _region_pixels(mask, values)
    # The curve is a sum of one ramp per defective pixel: it is found as the threshold passes its value, which
    # happens between the false positive rates `start` (good pixels above it) and `stop` (above or equal). So
    # the area is a sum of closed forms, and only the good pixels have to be sorted.
    below, upto = _counts(good, defective)
    start = (good.size - upto) / good.size
    stop = (good.size - below) / good.size
    reached = np.clip(fpr_limit - start, 0.0, None)
    width = stop - start
    ramp = np.minimum(reached, width)
    slope = np.divide(ramp, width, out=np.zeros_like(ramp), where=width > 0.0)
    area = 0.5 * slope * ramp + np.clip(fpr_limit - stop, 0.0, None)
    return min(1.0, float(np.dot(weights, area) / fpr_limit))  # the sum of many shares may be a hair above 1


def _area(good: Floats, defective: Floats) -> float:
    """The share of pairs that are in order, ties counting one half; sorts ``good``."""
    good.sort()
    below, upto = _counts(good, defective)
    return int((below + upto).sum()) / (2 * good.size * defective.size)


def _counts(good: Floats, defective: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the sorted good values lie below each defective value, and how many below or at it."""
    below = np.searchsorted(good, defective, side="left")
    upto = np.searchsorted(good, defective, side="right")
    return below.astype(np.int64, copy=False), upto.astype(np.int64, copy=False)


def _resample(ranks: NDArray[np.intp], levels: int, draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(draws, levels) how often each level occurs when ``ranks`` is drawn from with replacement."""
    picked = ranks[generator.integers(0, ranks.size, size=(draws, ranks.size))]
    picked += levels * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * levels).reshape(draws, levels).astype(np.int64, copy=False)


def _region_pixels(mask: NDArray[np.bool_], values: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """Values and weights of the defective pixels: a region weighs 1 / regions, shared by its pixels."""
    from scipy import ndimage

    picked, weights, regions = [], [], 0
    for image, value in zip(mask, values, strict=True):
        if not image.any():
            continue
        found, count = ndimage.label(image, structure=np.ones((3, 3), dtype=bool))
        regions += int(count)
        inside = found[image]
        picked.append(value[image])
        weights.append(1.0 / np.bincount(inside)[inside])
    return np.concatenate(picked), np.concatenate(weights) / regions


def _classes(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Checked scores of the good and of the defective samples, as copies."""
    label, score = np.asarray(labels), np.asarray(scores)
    if label.ndim != 1 or label.shape != score.shape:
        raise DataError(f"labels {label.shape} and scores {score.shape} do not match; pass two arrays of shape (n,)")
    defective, values = _binary(label, "labels", "sample"), _finite(score, "scores")
    return values[~defective], values[defective]


def _pixels(masks: ArrayLike, maps: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Checked masks and maps."""
    mask, values = np.asarray(masks), np.asarray(maps)
    if mask.ndim != 3 or mask.shape != values.shape:
        raise DataError(f"masks {mask.shape} and maps {values.shape} do not match; pass two arrays of shape (n, h, w)")
    return _binary(mask, "masks", "pixel"), _finite(values, "maps")


def _binary(values: NDArray[Any], name: str, one: str) -> NDArray[np.bool_]:
    """Labels as booleans, both of which occur."""
    if values.dtype != np.bool_ and (values.dtype.kind not in "iuf" or not np.isin(values, (0, 1)).all()):
        raise DataError(f"{name}: a value is neither 0 nor 1; use 0 for good and 1 for defective")
    defective = values.astype(np.bool_, copy=False)
    count = int(defective.sum())
    if count == 0 or count == defective.size:
        missing = "defective" if count == 0 else "good"
        raise DataError(f"{name}: there is no {missing} {one} among {defective.size}; both classes are needed")
    return defective


def _finite(values: NDArray[Any], name: str) -> Floats:
    if values.dtype.kind not in "iufb":
        raise DataError(f"{name}: {values.dtype} is not a numeric type; pass real numbers")
    if values.dtype not in (np.float32, np.float64):  # float16 sorts slowly; the others have no fractions
        values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: a value is NaN or infinite; the model that made it has diverged")
    return values
