"""The axis and the bins of a plot of scores, chosen so that normal, anomalous and threshold can be told apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LEAST_BINS, _MOST_BINS = 10, 32
# A scale is good enough if two medians, or one and the threshold, are this share of the axis apart ...
_APART = 0.1
# ... and if no bin holds more than this share of the images, both classes counted alike.
_CROWDED = 0.6
# Steps into which the axis is divided to see how crowded it is.
_STEPS = 24
# Least share of a bin that is left when an edge is moved to where the classes part.
_SLIVER = 0.35
# Positions at which numbers are written on an axis that is not linear.
_TICKS = 7


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """A rising map from scores to places on an axis: linear, or logarithmic on both sides of a centre.

    Attributes:
        unit: Power of two that scores are divided by, so that differences of the largest floats stay finite.
        centre: Score around which the axis is symmetric, in units; 0 for a linear axis.
        width: Distance from the centre up to which the axis is about linear, in units; None for a linear axis.
    """

    unit: float
    centre: float = 0.0
    width: float | None = None

    @property
    def linear(self) -> bool:
        """Whether equal steps on the axis are equal steps of the score."""
        return self.width is None

    def places(self, scores: npt.ArrayLike) -> Floats:
        """Map scores to places.

        Args:
            scores: Scores, finite.
        """
        values = np.asarray(scores, dtype=np.float64) / self.unit
        return values if self.width is None else np.arcsinh((values - self.centre) / self.width)

    def scores(self, places: npt.ArrayLike) -> Floats:
        """Map places to scores.

        Args:
            places: Places on the axis.
        """
        values = np.asarray(places, dtype=np.float64)
        if self.width is not None:
            values = self.centre + self.width * np.sinh(values)
        return values * self.unit


@dataclass(frozen=True, eq=False, slots=True)
class ScoreBins:
    """Bins of the scores of a test set. A bin holds its upper edge: a score at the threshold is called good.

    Attributes:
        scale: Scale of the axis.
        edges: Places of the edges on the axis, (bins + 1,), rising.
        bins: Bin of each score, (n,).
        threshold_edge: Index of the edge at the threshold; None without a threshold.

    Example:
        >>> import numpy as np
        >>> bins = ScoreBins.of(np.array([False, False, True]), np.array([0.1, 0.2, 900.0]), threshold=0.3)
        >>> bins.scale.linear, bins.counts(np.array([True, True, False])).sum()
        (False, np.int64(2))
    """

    scale: ScoreScale
    edges: Floats
    bins: npt.NDArray[np.int64]
    threshold_edge: int | None

    @classmethod
    def of(cls, labels: npt.NDArray[Any], scores: Floats, threshold: float | None) -> ScoreBins:
        """Choose scale and bins.

        Images that are called good never share a bin with images that are called defective, and where a score
        separates the classes, normal images never share a bin with anomalous ones.

        Args:
            labels: Labels, (n,), bool, True for anomalous, n >= 1.
            scores: Scores, (n,), finite.
            threshold: Threshold, finite; None for none.
        """
        labels = labels.astype(bool)
        scale = _best_scale(labels, scores, threshold)
        cut = _parting(labels, scores)
        if cut is not None and threshold is not None and cut[0] <= threshold < cut[1]:
            cut = None  # the threshold parts the classes
        edges, at = _even_edges(scale, scores, threshold)
        borders = []
        if cut is not None:
            low, high = scale.places(cut)
            below = threshold is not None and cut[0] < threshold
            edges, edge, at = _with_edge(edges, float(low + (high - low) / 2), at, below)
            borders.append((cut[0], edge))
        if threshold is not None and at is not None:
            borders.append((threshold, at))
        bins = np.searchsorted(edges, scale.places(scores), side="left") - 1
        for value, edge in borders:  # places are rounded, scores are not
            bins = np.where(scores <= value, np.minimum(bins, edge - 1), np.maximum(bins, edge))
        return cls(scale, edges, bins.clip(0, len(edges) - 2), at)

    def counts(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Count the chosen images in each bin.

        Args:
            chosen: Which images count, (n,).

        Returns:
            Numbers of images, (bins,).
        """
        return np.bincount(self.bins[chosen], minlength=len(self.edges) - 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts of the numbers on the axis: round scores, at about equal distances."""
        low, high = float(self.edges[0]), float(self.edges[-1])
        texts = _even_texts(low * self.scale.unit, high * self.scale.unit) if self.scale.linear else []
        if not texts:
            shares = (np.arange(_TICKS) + 0.5) / _TICKS
            texts = [_roundest(self.scale, low + share * (high - low), high - low) for share in shares.tolist()]
        found = {text: float(self.scale.places(float(text))) for text in texts}
        return [(place, text) for text, place in found.items() if low <= place <= high]


def _even_texts(low: float, high: float) -> list[str]:
    """Multiples of a round step between two scores; none where floats are too coarse or too large for that."""
    least = (high - low) / _TICKS
    if not (math.isfinite(high - low) and least > 1e-300 and least > 1e-9 * max(abs(low), abs(high))):
        return []
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return [_short(f"{number * step:.12g}") for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _roundest(scale: ScoreScale, place: float, span: float) -> str:
    """Text of the score with the fewest digits near a place."""
    with np.errstate(over="ignore"):  # the axis may end beyond the largest float
        score = float(np.clip(scale.scores(place), -np.finfo(float).max, np.finfo(float).max))
    texts = ("0", *(f"{score:.{digits}g}" for digits in range(1, 17)))
    near = span / (3 * _TICKS)
    good = (text for text in texts if math.isfinite(float(text)) and abs(scale.places(float(text)) - place) <= near)
    return _short(next(good, texts[-1]))


def _short(text: str) -> str:
    """A number without an exponent, unless it is very large or very small."""
    return f"{float(text):.12g}" if 1e-4 <= abs(float(text)) < 1e5 else text


def _parting(labels: npt.NDArray[np.bool_], scores: Floats) -> tuple[float, float] | None:
    """The two neighbouring scores between which the classes part; None if they overlap or one is missing."""
    if labels.all() or not labels.any():
        return None
    for below in (~labels, labels):  # the wrong way round, too
        low, high = float(scores[below].max()), float(scores[~below].min())
        if low < high:
            return low, high
    return None


def _best_scale(labels: npt.NDArray[np.bool_], scores: Floats, threshold: float | None) -> ScoreScale:
    """The linear scale if it is good enough, else the best of the others."""
    shown = scores if threshold is None else np.append(scores, threshold)
    largest = float(np.abs(shown).max())
    unit = 2.0 ** max(min(math.frexp(largest)[1] + 1, 1023), -1000) if largest else 1.0
    best, quality = ScoreScale(unit), _quality(ScoreScale(unit), labels, scores, threshold)
    for scale in _scales(unit, labels, scores, threshold):
        if quality >= 1.0:
            break
        if (found := _quality(scale, labels, scores, threshold)) > quality:
            best, quality = scale, found
    return best


def _scales(unit: float, labels: npt.NDArray[np.bool_], scores: Floats, threshold: float | None) -> list[ScoreScale]:
    """Scales around the threshold, the medians and where the classes part, the nearest to a linear one first."""
    scores = scores / unit
    parts, cut = [scores[part] for part in (~labels, labels) if part.any()], _parting(labels, scores)
    ends = [] if cut is None else list(cut)
    centres = [] if threshold is None else [threshold / unit]
    centres += [float(np.median(part)) for part in parts] + ([cut[0] / 2 + cut[1] / 2] if cut else [])
    marks = np.concatenate([centres, ends, *(np.quantile(part, (0.25, 0.75)) for part in parts)])
    found = set()
    for centre in centres:
        distances = np.abs(marks - centre)
        found |= {(float(width), centre) for width in distances[distances > 1e-15]}
    return [ScoreScale(unit, centre, width) for width, centre in sorted(found, reverse=True)]


def _quality(scale: ScoreScale, labels: npt.NDArray[np.bool_], scores: Floats, threshold: float | None) -> float:
    """How well a scale tells normal, anomalous and threshold apart, at most 1."""
    places = scale.places(scores)
    parts = [places[part] for part in (~labels, labels) if part.any()]
    medians = [median * scale.unit for median in _medians(labels, scores / scale.unit)]
    marks = scale.places(medians + ([] if threshold is None else [threshold])).tolist()
    low, high = min(float(places.min()), *marks), max(float(places.max()), *marks)
    if low == high:
        return 1.0
    gaps = np.diff(np.unique(marks)) / (high - low)
    steps = np.linspace(low, high, _STEPS + 1)
    crowd = sum(np.histogram(part, steps)[0] / part.size for part in parts) / len(parts)
    return min([1.0, _CROWDED / float(np.max(crowd)), *(float(gap) / _APART for gap in gaps)])


def _medians(labels: npt.NDArray[np.bool_], scores: Floats) -> list[float]:
    """The median of each class; one of both where they are close, as those of a detector that sees no defects."""
    quartiles = [np.quantile(scores[part], (0.25, 0.5, 0.75)) for part in (~labels, labels) if part.any()]
    middle, spread = [float(row[1]) for row in quartiles], max(float(row[2] - row[0]) for row in quartiles)
    return middle[:1] if max(middle) - min(middle) <= spread / 2 else middle


def _even_edges(scale: ScoreScale, scores: Floats, threshold: float | None) -> tuple[Floats, int | None]:
    """Edges at equal distances over all scores, and the index of the one at the threshold, if there is one."""
    places = scale.places(scores if threshold is None else np.append(scores, threshold))
    low, high = float(places.min()), float(places.max())
    count = int(np.clip(2.0 * math.sqrt(scores.size), _LEAST_BINS, _MOST_BINS))
    step = (high - low) / count
    if step <= 1e-15 * max(abs(low), abs(high)):
        step = max(abs(low), 1.0) / count
    anchor = low - step / 2 if threshold is None else float(scale.places(threshold))
    before = max(1, math.ceil((anchor - low) / step + 1e-9)) if anchor > low else 1
    after = max(1, math.ceil((high - anchor) / step + 1e-9))
    edges = np.asarray(anchor + step * np.arange(-before, after + 1), dtype=np.float64)
    return edges, None if threshold is None else before


def _with_edge(edges: Floats, place: float, at: int | None, below: bool) -> tuple[Floats, int, int | None]:
    """Edges with one more, or with the nearest one moved, so that no bin is a sliver.

    Args:
        edges: Edges at equal distances.
        place: Place of the edge.
        at: Index of the edge at the threshold, which stays; None for none.
        below: Whether the edge lies before that of the threshold, also where both have the same place.

    Returns:
        The edges, the index of the new one, and that of the threshold.
    """
    nearest = int(np.abs(edges - place).argmin())
    near = abs(float(edges[nearest]) - place) < _SLIVER * float(edges[1] - edges[0])
    if near and 0 < nearest < len(edges) - 1 and nearest != at:
        moved = edges.copy()
        moved[nearest] = place
        return moved, nearest, at
    index = int(np.searchsorted(edges, place, side="left" if below else "right"))
    return np.insert(edges, index, place), index, None if at is None else at + below
