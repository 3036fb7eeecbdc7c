"""The section of a report about the halves of a guarded detector: who sees what, and what each verdict means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.detectors.guarded_card import (
    HALF_HEADS,
    describe_tests,
    half_caption,
    half_cells,
    joint_rows,
    verdict_meanings,
    word_caption,
)
from advrad.inference.half_scores import HalfScores
from advrad.report.plots import ANOMALOUS_COLOUR, INK, MUTED, NORMAL_COLOUR, svg_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from advrad.detectors.exported_config import GuardedRecord
    from advrad.detectors.guarded_config import GuardedConfig
    from advrad.detectors.guarded_figures import GuardedFigures
    from advrad.inference.evaluation import EvaluationResult

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

# Surprise up to which the axes are about linear, and beyond which they are logarithmic.
_LINEAR = 2.0
_DEFECTIVE_BACK, _SUSPECTED_BACK = "#fbe3d8", "#fdf3cf"


@dataclass(frozen=True, eq=False)
class Halves:
    """What a report shows about the halves of a guarded detector.

    Attributes:
        scores: Scores of the halves on the test images.
        figures: Figures of the halves.
        meanings: Verdicts and their meanings.
        promise: What the tests of the halves promise.
    """

    scores: HalfScores
    figures: GuardedFigures
    meanings: tuple[tuple[str, str], ...]
    promise: str

    @classmethod
    def of(cls, config: GuardedConfig | GuardedRecord, evaluation: EvaluationResult) -> Halves | None:
        """Gather what is shown.

        Args:
            config: Configuration of the detector, or its halves in an export.
            evaluation: Its evaluation.

        Returns:
            The content; None if the detector has no tests.
        """
        if evaluation.half_scores is None or evaluation.guarded is None:
            return None
        meanings = tuple(verdict_meanings(config))
        return cls(evaluation.half_scores, evaluation.guarded, meanings, describe_tests(config))


def halves_section(content: Halves, labels: Bools) -> dict[str, Any]:
    """Make the plot and the tables of the section.

    Args:
        content: What to show.
        labels: Labels, (n,), True for anomalous.

    Returns:
        Values for the template: ``title``, ``others``, ``plots`` with the name of each attackable half, ``caption``,
        ``heads`` and ``cells`` of the table of halves, ``rows``, ``meanings``, ``promise``, ``left_out`` (images that a
        half failed on, not drawn), and ``counts`` of verdicts with their ``counts_caption``.
    """
    scores = content.scores
    plots = [
        (name, svg_image(surprise_figure(scores, place, labels), _alt(scores, place, labels)))
        for place, name in enumerate(scores.names)
        if place and np.isfinite(scores.scores[:, [0, place]]).all(1).any()
    ]
    return {
        "title": "Two halves" if len(scores.names) == 2 else "Halves",
        "others": " or ".join(scores.names[1:]),
        "plots": plots,
        "caption": half_caption(content.figures),
        "heads": HALF_HEADS,
        "cells": half_cells(content.figures),
        "rows": joint_rows(content.figures),
        "meanings": content.meanings,
        "promise": content.promise,
        "left_out": int(scores.failed.any(1).sum()),
        "counts": content.figures.counted,
        "counts_caption": word_caption(content.figures),
    }


def surprise_figure(scores: HalfScores, place: int, labels: Bools) -> Figure:
    """Draw the surprise of the memory and of another half for each image, with both thresholds and the verdicts.

    Args:
        scores: Scores of the halves.
        place: Place of the other half, >= 1.
        labels: Labels, (n,), True for anomalous.

    Returns:
        The figure. Images on which one of the two failed are left out.
    """
    from matplotlib.figure import Figure

    surprises = scores.surprises[:, [0, place]]
    shown = np.isfinite(surprises).all(1)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    low, high = _ends(surprises[shown, 0]), _ends(surprises[shown, 1])
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=1.0)
    axes.set_yscale("symlog", linthresh=_LINEAR, linscale=1.0)
    axes.set(xlim=low, ylim=high)
    _draw_regions(axes, low, high, single=len(scores.names) == 2)
    for name, part, colour, style in (
        ("normal", shown & ~labels, NORMAL_COLOUR, "o"),
        ("anomalous", shown & labels, ANOMALOUS_COLOUR, "x"),
    ):
        if part.any():
            label = f"{name} ({int(part.sum())})"
            axes.plot(
                *surprises[part].T, style, color=colour, markerfacecolor="none", markersize=6, label=label, zorder=3
            )
    axes.set(
        xlabel="Surprise of the memory (0 is its threshold)",
        ylabel=f"Surprise of {scores.names[place]} (0 is its threshold)",
    )
    _round_ticks(axes)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="upper center", bbox_to_anchor=(0.5, 1.09), ncols=2)
    return figure


def _ends(values: Floats) -> tuple[float, float]:
    """Ends of an axis: all values and 0, with room for words on both sides of 0."""
    low, high = min(float(values.min(initial=0.0)), -1.0), max(float(values.max(initial=0.0)), 1.0)
    return 1.9 * low - 0.3, 1.9 * high + 0.3


def _draw_regions(axes: Axes, x: tuple[float, float], y: tuple[float, float], *, single: bool) -> None:
    """Shade the regions of the verdicts, draw both thresholds, and write the verdicts."""
    axes.axvspan(0, x[1], color=_DEFECTIVE_BACK, linewidth=0, zorder=0)
    axes.fill_between([x[0], 0], 0, y[1], color=_SUSPECTED_BACK, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=1.3, linestyle=(0, (4, 3)), zorder=2)
    axes.plot([x[0], 0], [0, 0], color=INK, linewidth=1.3, linestyle=(0, (4, 3)), zorder=2)
    axes.plot([0, x[1]], [0, 0], color=MUTED, linewidth=0.9, linestyle=(0, (1, 3)), zorder=2)
    good = "good" if single else "good, or another half speaks"
    for words, place, across, along in (
        ("suspected", (0.015, 0.985), "left", "top"),
        (good, (0.015, 0.015), "left", "bottom"),
        ("defective", (0.985, 0.985), "right", "top"),
        ("defective, the memory alone", (0.985, 0.015), "right", "bottom"),
    ):
        back = {"boxstyle": "square,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axes.annotate(
            words, place, xycoords="axes fraction", ha=across, va=along, color=INK, weight="bold", bbox=back, zorder=2.5
        )


def _round_ticks(axes: Axes) -> None:
    """Write round numbers on both axes, none closer to another than it can be read."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    marks = [sign * size for size in (1, 2, 5, 10, 30, 100, 300, 1000, 10000, 100000) for sign in (-1, 1)] + [0]
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        inside = sorted(mark for mark in marks if low <= mark <= high)
        axis.set_major_locator(FixedLocator(inside))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _alt(scores: HalfScores, place: int, labels: Bools) -> str:
    """The plot in words."""
    name, speaks = scores.names[place], scores.speaks
    counted = []
    for words, part in (("anomalous", labels), ("normal", ~labels)):
        memory, other = speaks[part, 0], speaks[part, place]
        counted.append(
            f"of {int(part.sum())} {words} images both find {int((memory & other).sum())}, the memory alone"
            f" {int((memory & ~other).sum())}, {name} alone {int((~memory & other).sum())}"
        )
    return f"Surprise of the memory and of {name}: " + "; ".join(counted)
