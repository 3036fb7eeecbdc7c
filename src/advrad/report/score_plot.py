"""The plot of the scores of a test set: bars of both classes side by side, and single images where there are few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advrad.report.plots import ANOMALOUS_COLOUR, INK, MUTED, NORMAL_COLOUR, svg_image
from advrad.report.score_axis import ScoreBins
from advrad.utils.formatting import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]

# Up to this many images, each is drawn beneath the bars.
_SINGLE = 400
# Share of a bin that a bar takes.
_BAR = 0.44


def histogram_plot(labels: Array, scores: Array, threshold: float | None) -> str:
    """Plot the scores of normal and of anomalous images, as an image for a page.

    The axis is linear, or logarithmic around its centre where a linear one could not tell normal, anomalous and
    threshold apart.

    Args:
        labels: Labels, (n,), bool, True for anomalous.
        scores: Scores, (n,), finite, n >= 1.
        threshold: Threshold to mark, or None.

    Returns:
        Markup of one ``img`` element.
    """
    from matplotlib.figure import Figure

    labels, scores = labels.astype(bool), np.asarray(scores, dtype=np.float64)
    bins = ScoreBins.of(labels, scores, threshold)
    classes = [
        (name, part, colour, style)
        for name, part, colour, style in (
            ("normal", ~labels, NORMAL_COLOUR, "o"),
            ("anomalous", labels, ANOMALOUS_COLOUR, "x"),
        )
        if part.any()
    ]
    single = scores.size <= _SINGLE
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    rows = figure.subplots(2 if single else 1, sharex=True, squeeze=False, height_ratios=[5, 1][: 2 if single else 1])
    upper, lower = rows[0, 0], rows[-1, 0]
    for place, (name, part, colour, style) in enumerate(classes):
        side = 0 if len(classes) == 1 else 2 * place - 1
        _draw_bars(upper, bins, part, side, colour, name)
        if single:
            height = np.full(int(part.sum()), -float(place))
            places = bins.scale.places(scores[part])
            lower.scatter(places, height, s=22, marker=style, color=colour, linewidths=1.2, alpha=0.75, clip_on=False)
    if single:
        lower.set(yticks=[-float(place) for place in range(len(classes))], yticklabels=[row[0] for row in classes])
        lower.set_ylim(-len(classes) + 0.4, 0.6)
    if threshold is not None:
        _mark_threshold(upper, lower, bins, threshold)
    ticks = bins.ticks()
    lower.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    lower.set_xlim(bins.edges[0], bins.edges[-1])
    lower.set_xlabel(_axis_label(bins))
    upper.set_ylabel("Share of the class (%)")
    top = upper.get_ylim()[1]
    upper.set_yticks([share for share in upper.get_yticks() if 0 <= share <= min(top, 100)])
    upper.set_ylim(0, 1.12 * top)  # place for the words beside the threshold
    figure.legend(frameon=False, loc="outside upper left", ncols=2)
    unit = bins.scale.unit  # the mean of two of the largest floats is not finite
    medians = [
        f"median of {name} images {number(float(np.median(scores[part] / unit)) * unit, '.4g')}"
        for name, part, _, _ in classes
    ]
    marked = [] if threshold is None else [f"threshold {number(threshold, '.4g')}"]
    return svg_image(figure, "Histogram of the scores: " + ", ".join(medians + marked))


def _draw_bars(axes: Axes, bins: ScoreBins, part: Array, side: int, colour: str, name: str) -> None:
    """Draw the bars of one class: in the left (-1) or right (1) half of each bin, or in its middle (0)."""
    widths = np.diff(bins.edges)
    share = 100.0 * bins.counts(part) / int(part.sum())
    middle = bins.edges[:-1] + widths / 2 + side * widths * _BAR / 2
    width = widths * (_BAR if side else 2 * _BAR)
    hatch = "/////" if name == "anomalous" else None  # differs without its colour, too
    axes.bar(
        middle,
        share,
        width,
        color=colour if hatch is None else "white",
        edgecolor=colour,
        hatch=hatch,
        linewidth=0.8,
        label=f"{name} ({int(part.sum())})",
    )


def _mark_threshold(upper: Axes, lower: Axes, bins: ScoreBins, threshold: float) -> None:
    """Draw the threshold through both parts of the plot, with its value and what lies on its sides."""
    low, high = float(bins.edges[0]), float(bins.edges[-1])
    place = float(bins.edges[bins.threshold_edge or 0])
    for axes in dict.fromkeys((upper, lower)):
        axes.axvline(place, color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
    share = (place - low) / (high - low)
    side = "left" if share < 0.15 else "right" if share > 0.85 else "center"
    upper.annotate(
        f"threshold {number(threshold, '.4g')}",
        (place, 1.0),
        (0, 4),
        ("data", "axes fraction"),
        "offset points",
        ha=side,
        va="bottom",
        color=INK,
        annotation_clip=False,
    )
    for words, left in (("called good", True), ("called defective", False)):
        if (share if left else 1 - share) > 0.22:
            axes_place = (place, 0.985)
            offset = (-5 if left else 5, 0)
            align = "right" if left else "left"
            upper.annotate(
                words, axes_place, offset, ("data", "axes fraction"), "offset points", ha=align, va="top", color=MUTED
            )


def _axis_label(bins: ScoreBins) -> str:
    """Name of the axis, with its unit and scale."""
    if bins.scale.linear:
        return "Anomaly score (no unit)"
    centre = number(bins.scale.centre * bins.scale.unit, ".3g")
    return f"Anomaly score (no unit; logarithmic on both sides of {centre})"
