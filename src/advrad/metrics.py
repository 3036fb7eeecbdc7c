"""Detection metrics: AUROC, AUPRO, rates and intervals, as functions of NumPy arrays. Larger scores are more anomalous.

All metrics are exact: every distinct score is a threshold, and a tie between a normal and an anomalous sample counts
one half. All functions refuse NaN, infinities, wrong shapes and, where the metric would be undefined, a missing class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from advrad.errors import ConfigError, DataError

__all__ = [
    "aupro",
    "auroc",
    "auroc_by_chance",
    "auroc_interval",
    "auroc_standard_error",
    "pixel_auroc",
    "rates",
    "roc_curve",
    "share_above",
]

Floats = NDArray[np.floating[Any]]

# Elements of a temporary array in the bootstrap: bounds its memory to some tens of MB.
_CHUNK = 2_000_000
# Samples for which all ways to deal out the labels are counted.
_EXACT_UP_TO = 100


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the probability that an anomalous sample scores above a normal one.

    Args:
        labels: Labels, (n,), 0 or False for normal, 1 or True for anomalous.
        scores: Scores, (n,), finite; larger is more anomalous.

    Returns:
        The area, in [0, 1]; ties count one half.

    Raises:
        DataError: Shapes differ, a label is not 0 or 1, a score is not finite, or one class is missing.

    Example:
        >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9])
        0.75
    """
    return _area(*_classes(labels, scores))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of the ROC curve, one for each distinct score.

    Args:
        labels: Labels, (n,), 0 or 1.
        scores: Scores, (n,), finite.

    Returns:
        False and true positive rates, each (m + 1,) for m distinct scores, ascending from (0, 0) to (1, 1).

    Raises:
        DataError: As :func:`auroc`.

    Example:
        >>> fpr, tpr = roc_curve([0, 1], [0.2, 0.7])
        >>> fpr.tolist(), tpr.tolist()
        ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    """
    anomalous, values = _samples(labels, scores)
    order = np.argsort(-values, kind="stable")
    descending = values[order]
    # The last sample of each distinct score.
    last = np.append(np.flatnonzero(descending[1:] != descending[:-1]), values.size - 1)
    found = np.cumsum(anomalous[order])[last]
    alarms = last + 1 - found
    fpr, tpr = (np.append(0, counts) / counts[-1] for counts in (alarms, found))
    return fpr, tpr


def auroc_standard_error(area: float, n_normal: int, n_anomalous: int) -> float:
    """Standard error of an AUROC, from the number of samples of each class.

    Args:
        area: AUROC, in [0, 1].
        n_normal: Number of normal samples, >= 1.
        n_anomalous: Number of anomalous samples, >= 1.

    Example:
        >>> round(auroc_standard_error(0.9, 30, 50), 4)
        0.0339

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic (ROC)
    curve".
    """
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n_anomalous - 1) * (q1 - area**2) + (n_normal - 1) * (q2 - area**2)
    return float(max(0.0, variance / (n_normal * n_anomalous)) ** 0.5)


def auroc_by_chance(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability of an AUROC as low as this, or lower, if the scores did not depend on the labels.

    Over all ways to deal out the labels: exact for up to 100 samples, with the normal distribution for more.

    Args:
        labels: Labels, (n,), 0 or 1.
        scores: Scores, (n,), finite.

    Returns:
        The probability, in (0, 1].

    Raises:
        DataError: As :func:`auroc`.

    Example:
        >>> round(auroc_by_chance([0, 0, 0, 1, 1, 1], [7, 8, 9, 1, 2, 3]), 2)
        0.05
    """
    from scipy import special, stats

    normal, anomalous = _classes(labels, scores)
    # Twice the ranks, which are whole numbers also where scores are equal.
    ranks = np.rint(2 * stats.rankdata(np.concatenate([anomalous, normal]))).astype(np.int64)
    n, k = ranks.size, anomalous.size
    found = int(ranks[:k].sum())
    if n <= _EXACT_UP_TO:
        ways = np.zeros((k + 1, int(ranks.sum()) + 1))
        ways[0, 0] = 1.0  # one way to choose no sample
        for rank in ranks:
            ways[1:, rank:] += ways[:-1, :-rank].copy()
        return float(ways[k, : found + 1].sum() / ways[k].sum())
    deviation = float(np.sqrt(k * (n - k) / n * ranks.var(ddof=1)))
    return float(special.ndtr((found + 1 - k * ranks.mean()) / deviation)) if deviation else 1.0


def auroc_interval(
    labels: ArrayLike, scores: ArrayLike, *, seed: int, n_resamples: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`auroc`, resampled within each class.

    The interval covers the choice of test images, not the training seed. If the classes are fully separated, so is
    every resample, and the interval is (1, 1) however few the images are.

    Args:
        labels: Labels, (n,), 0 or 1.
        scores: Scores, (n,), finite.
        seed: Seed of the resampling.
        n_resamples: Number of resamples, >= 1.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ConfigError: ``n_resamples`` or ``confidence`` is out of range.
        DataError: As :func:`auroc`.

    Example:
        >>> auroc_interval([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9], seed=0)
        (0.0, 1.0)
    """
    if n_resamples < 1:
        raise ConfigError("must be 1 or more", option="n_resamples", value=n_resamples)
    if not 0.0 < confidence < 1.0:
        raise ConfigError("must be between 0 and 1, such as 0.95", option="confidence", value=confidence)
    normal, anomalous = _classes(labels, scores)
    levels = np.unique(np.concatenate([normal, anomalous]))
    normal_rank = np.searchsorted(levels, normal)
    anomalous_rank = np.searchsorted(levels, anomalous)
    generator = np.random.default_rng(seed)
    areas = np.empty(n_resamples)
    chunk = max(1, _CHUNK // (normal.size + anomalous.size))
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        normal_counts = _resample(normal_rank, levels.size, size, generator)
        anomalous_counts = _resample(anomalous_rank, levels.size, size, generator)
        # Twice the number of normal samples below each level, plus those at it: a tie counts one half.
        wins = 2 * np.cumsum(normal_counts, axis=1) - normal_counts
        areas[start : start + size] = (anomalous_counts * wins).sum(axis=1) / (2 * normal.size * anomalous.size)
    low, high = np.quantile(areas, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


def rates(labels: ArrayLike, scores: ArrayLike, threshold: float) -> tuple[float, float]:
    """True and false positive rate of the verdict ``score > threshold``.

    Args:
        labels: Labels, (n,), 0 or 1.
        scores: Scores, (n,), finite.
        threshold: Threshold; a score equal to it is normal.

    Returns:
        The share of anomalous samples above the threshold, and the share of normal samples above it.

    Raises:
        ConfigError: The threshold is NaN.
        DataError: As :func:`auroc`.

    Example:
        >>> rates([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9], 0.3)
        (0.5, 0.5)
    """
    if np.isnan(threshold):
        raise ConfigError("is NaN; calibrate the detector again", option="threshold")
    normal, anomalous = _classes(labels, scores)
    return float(np.mean(anomalous > threshold)), float(np.mean(normal > threshold))


def share_above(scores: ArrayLike, threshold: float | None) -> float | None:
    """Share of the scores above a threshold: the true or false positive rate of one class.

    Args:
        scores: Scores of one class, (n,).
        threshold: Threshold, or None.

    Returns:
        The share, in [0, 1]; None without a threshold or without scores.

    Example:
        >>> share_above([0.1, 0.4, 0.3], 0.3)
        0.3333333333333333
    """
    values = np.asarray(scores)
    return None if threshold is None or not values.size else float(np.mean(values > threshold))


def pixel_auroc(masks: ArrayLike, maps: ArrayLike) -> float:
    """:func:`auroc` over the pixels of all images together.

    Args:
        masks: Masks, (n, h, w), bool, True where a pixel is anomalous; all False for a normal image.
        maps: Anomaly maps, (n, h, w), finite; larger is more anomalous.

    Returns:
        The area, in [0, 1].

    Raises:
        DataError: Shapes differ, a value is not finite, or there is no anomalous or no normal pixel.

    Example:
        >>> pixel_auroc([[[True, False, False]]], [[[0.9, 0.1, 0.9]]])
        0.75
    """
    mask, values = _pixels(masks, maps)
    return _area(values[~mask], values[mask])


def aupro(masks: ArrayLike, maps: ArrayLike, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap (AUPRO) up to a false positive rate, divided by that rate.

    A region is an 8-connected component of a mask; every region has the same weight. The curve has one point for each
    distinct value of ``maps`` as the threshold: the mean share of a region above it, against the share of all normal
    pixels above it. Points are joined by straight lines, also at ``fpr_limit``.

    Args:
        masks: Masks, (n, h, w), bool.
        maps: Anomaly maps, (n, h, w), finite; larger is more anomalous.
        fpr_limit: Largest false positive rate, in (0, 1].

    Returns:
        The normalised area, in [0, 1], exact up to rounding.

    Raises:
        ConfigError: ``fpr_limit`` is out of range.
        DataError: As :func:`pixel_auroc`.

    Example:
        >>> aupro([[[True, False, False]]], [[[0.9, 0.1, 0.5]]])
        1.0

    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.
    """
    if not 0.0 < fpr_limit <= 1.0:
        raise ConfigError("must be above 0 and at most 1, such as 0.3", option="fpr_limit", value=fpr_limit)
    mask, values = _pixels(masks, maps)
    normal = values[~mask]
    normal.sort()
    anomalous, weights = _region_pixels(mask, values)
    # The curve is a sum of one ramp per anomalous pixel: the pixel is found as the threshold passes its value, which
    # happens between the false positive rates `start` (normal pixels above it) and `stop` (above or equal). So the
    # area is a sum of closed forms, and only the normal pixels have to be sorted.
    below, upto = _counts(normal, anomalous)
    start = (normal.size - upto) / normal.size
    stop = (normal.size - below) / normal.size
    reached = np.clip(fpr_limit - start, 0.0, None)
    width = stop - start
    ramp = np.minimum(reached, width)
    slope = np.divide(ramp, width, out=np.zeros_like(ramp), where=width > 0.0)
    area = 0.5 * slope * ramp + np.clip(fpr_limit - stop, 0.0, None)
    return min(1.0, float(np.dot(weights, area) / fpr_limit))  # rounding may bring the sum slightly above 1


def _area(normal: Floats, anomalous: Floats) -> float:
    """Share of the pairs of a normal and an anomalous sample in which the anomalous one is larger; ties count half."""
    normal.sort()  # both arrays are copies already
    below, upto = _counts(normal, anomalous)
    return int((below + upto).sum()) / (2 * normal.size * anomalous.size)


def _counts(normal: Floats, anomalous: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of sorted normal values below each anomalous value, and below or equal to it."""
    below = np.searchsorted(normal, anomalous, side="left")
    upto = np.searchsorted(normal, anomalous, side="right")
    return below.astype(np.int64, copy=False), upto.astype(np.int64, copy=False)


def _resample(ranks: NDArray[np.intp], levels: int, draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Counts of each level, (draws, levels), when ``ranks`` is resampled with replacement."""
    picked = ranks[generator.integers(0, ranks.size, size=(draws, ranks.size))]
    picked += levels * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * levels).reshape(draws, levels).astype(np.int64, copy=False)


def _region_pixels(mask: NDArray[np.bool_], values: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """Values and weights of the anomalous pixels: a region weighs 1 / regions, shared evenly by its pixels."""
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
    """Validated scores of the normal and of the anomalous samples."""
    anomalous, values = _samples(labels, scores)
    return values[~anomalous], values[anomalous]


def _samples(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Validated labels, as booleans, and scores."""
    label, score = np.asarray(labels), np.asarray(scores)
    if label.ndim != 1 or label.shape != score.shape:
        raise DataError(f"labels {label.shape} and scores {score.shape} do not match; pass two arrays of shape (n,)")
    return _binary(label, "labels", "sample"), _finite(score, "scores")


def _pixels(masks: ArrayLike, maps: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Validated masks, as booleans, and anomaly maps."""
    mask, values = np.asarray(masks), np.asarray(maps)
    if mask.ndim != 3 or mask.shape != values.shape:
        raise DataError(f"masks {mask.shape} and maps {values.shape} do not match; pass two arrays of shape (n, h, w)")
    return _binary(mask, "masks", "pixel"), _finite(values, "maps")


def _binary(values: NDArray[Any], name: str, item: str) -> NDArray[np.bool_]:
    """Labels as booleans; both classes must occur."""
    if values.dtype != np.bool_ and (values.dtype.kind not in "iuf" or not np.isin(values, (0, 1)).all()):
        raise DataError(f"{name}: a value is neither 0 nor 1; use 0 for normal and 1 for anomalous")
    anomalous = values.astype(np.bool_, copy=False)
    count = int(anomalous.sum())
    if count in (0, anomalous.size):
        missing = "anomalous" if count == 0 else "normal"
        raise DataError(f"{name}: there is no {missing} {item} among {anomalous.size}; both classes are needed")
    return anomalous


def _finite(values: NDArray[Any], name: str) -> Floats:
    """Finite values as float32 or float64."""
    if values.dtype.kind not in "iufb":
        raise DataError(f"{name}: {values.dtype} is not a numeric type; pass real numbers")
    if values.dtype not in (np.float32, np.float64):  # float16 sorts slowly; the others have no fractions
        values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: a value is NaN or infinite; the model that made it has diverged")
    return values
