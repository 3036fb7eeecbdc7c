"""Plots of a report: as SVG images inside a page, or as PNG files.

On a page each plot is an ``img`` element with the drawing in a data URI. It is a document of its own with a white
background, so it looks the same on light and dark pages and shares no identifiers with other plots.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advrad import metrics
from advrad.report.stored_results import CurveSummary
from advrad.utils.files import atomic_path
from advrad.utils.formatting import number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from advrad.attacks.results import CurveResult

Array = NDArray[Any]

INK, MUTED = "#1b2430", "#66707e"
NORMAL_COLOUR, ANOMALOUS_COLOUR = "#1f6fb2", "#c2471c"

_CURVE_POINTS = 400


def roc_plot(labels: Array, scores: Array, defective: Array | None) -> str:
    """Plot the ROC curve and the point of the verdicts, as an image for a page.

    Args:
        labels: Labels, (n,), bool, True for anomalous; both classes must occur.
        scores: Scores, (n,), finite; larger is more anomalous.
        defective: Verdicts, (n,), bool, whose rates are marked; None for none. The point lies on the curve where the
            verdict is score > threshold.

    Returns:
        Markup of one ``img`` element.
    """
    from matplotlib.figure import Figure

    fpr, tpr = metrics.roc_curve(labels, scores)
    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    axes.fill_between(fpr, tpr, color=ANOMALOUS_COLOUR, alpha=0.10, linewidth=0)
    axes.plot(fpr, tpr, color=ANOMALOUS_COLOUR, linewidth=2, clip_on=False, solid_capstyle="round")
    label = f"ROC curve of {labels.size} test images"
    if defective is not None:
        found, alarm = float(defective[labels].mean()), float(defective[~labels].mean())
        axes.plot([alarm], [found], "o", markersize=8, color=INK, clip_on=False, zorder=5)
        left = alarm < 0.6
        axes.annotate(
            "verdicts",
            (alarm, found),
            xytext=(9 if left else -9, -14),
            textcoords="offset points",
            ha="left" if left else "right",
            color=INK,
        )
        label += f"; verdicts: {percent(found)} of defects found, {percent(alarm)} false alarms"
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="False alarms (FPR)", ylabel="Defects found (TPR)")
    return svg_image(figure, label)


def loss_plot(steps: Array, losses: Array) -> str:
    """Plot the training loss and its moving mean, as an image for a page.

    Args:
        steps: Step numbers, (n,), increasing.
        losses: Losses, (n,), finite, n >= 1.

    Returns:
        Markup of one ``img`` element.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    groups = np.array_split(np.arange(steps.size), min(_CURVE_POINTS, steps.size))
    x = np.array([steps[group].mean() for group in groups])
    y = np.array([losses[group].mean() for group in groups])
    width = max(1, len(y) // 25)
    axes.plot(x, y, color=NORMAL_COLOUR, linewidth=1, alpha=0.45)
    if width > 1:
        sums = np.concatenate([[0.0], np.cumsum(y)])
        position = np.arange(len(y))
        start, stop = np.maximum(position - width, 0), np.minimum(position + width + 1, len(y))
        smooth = (sums[stop] - sums[start]) / (stop - start)
        axes.plot(x, smooth, color=NORMAL_COLOUR, linewidth=2)
    if y.min() > 0.0 and y.max() / y.min() > 5.0:
        axes.set_yscale("log")
    axes.set(xlabel="Step", ylabel="Loss")
    axes.margins(x=0.01)
    first, last = (number(float(loss), ".4g") for loss in (losses[0], losses[-1]))
    return svg_image(figure, f"Training loss from {first} to {last} over {int(steps[-1])} steps")


def curve_plot(curve: CurveSummary) -> str:
    """Plot the robust AUROC over one parameter of the attack, as an image for a page.

    Args:
        curve: Curve to plot.

    Returns:
        Markup of one ``img`` element.
    """
    first, last = (number(point.robust_auroc, ".3f") for point in (curve.points[0], curve.points[-1]))
    return svg_image(_curve_figure(curve), f"AUROC under {curve.attack} over {curve.over}, from {first} to {last}")


def draw_curve(path: Path, result: CurveResult) -> None:
    """Save the plot of a curve as a PNG file.

    Args:
        path: PNG file to write.
        result: Curve to plot.

    Raises:
        OutputError: The file cannot be written.

    Example:
        >>> import advrad, torch
        >>> from advrad.attacks.results import CurvePoint, CurveResult
        >>> detector, images = advrad.wrap(lambda images: images.amax((1, 2, 3))), torch.rand(4, 3, 16, 16)
        >>> result = advrad.attack(detector, (images, [0, 0, 1, 1]), attack="pgd", eps=0.1, steps=2)
        >>> point = CurvePoint(value=0.1, given="0.1", result=result)
        >>> about = {"attack": "pgd", "norm": "linf", "eps": "0.1", "noise": "unknown", "category": "nut"}
        >>> draw_curve(Path("curve.png"), CurveResult(over="eps", **about, points=(point,)))
    """
    save_png(path, _curve_figure(CurveSummary.of(result)))


def _curve_figure(curve: CurveSummary) -> Figure:
    from matplotlib.figure import Figure

    points = sorted(curve.points, key=lambda point: point.value)
    units = 255.0 if curve.over == "eps" and curve.norm == "linf" else 1.0
    x = np.array([point.value for point in points]) * units
    low, high = np.array([point.robust_auroc_ci for point in points]).T
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(curve.clean_auroc, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), label="clean")
    axes.fill_between(x, low, high, color=ANOMALOUS_COLOUR, alpha=0.15, linewidth=0)
    areas = [point.robust_auroc for point in points]
    axes.plot(x, areas, "o-", color=ANOMALOUS_COLOUR, linewidth=2, markersize=5, label=f"under {curve.attack}")
    names = {"eps": f"eps ({curve.norm}" + (", levels of 255)" if units > 1 else ")")}
    axes.set(xlabel=names.get(curve.over, curve.over), ylabel="Image AUROC", ylim=(-0.02, 1.02))
    axes.legend(frameon=False)
    return figure


def save_png(path: Path, figure: Figure) -> None:
    """Save a figure as a PNG file.

    Args:
        path: PNG file to write; replaced only once the new one is complete.
        figure: Figure to draw.

    Raises:
        OutputError: The file cannot be written.
    """
    _apply_style(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def svg_image(figure: Figure, label: str) -> str:
    """Draw a figure as an SVG image for a page.

    Args:
        figure: Figure to draw.
        label: Description of the plot, for readers who cannot see it.

    Returns:
        Markup of one ``img`` element, the same bytes for the same figure.
    """
    import matplotlib
    from markupsafe import Markup

    _apply_style(figure)
    buffer = io.BytesIO()
    # Text stays text, which keeps the file small. The fixed salt makes identifiers, and so the file, repeatable.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "advrad"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup('<img class="plot" src="data:image/svg+xml;base64,{}" alt="{}">').format(data, label)


def _apply_style(figure: Figure) -> None:
    """Give all axes of a figure the colours of the report."""
    for axes in figure.axes:
        axes.tick_params(which="both", color=MUTED, labelcolor=INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.grid(True, color=MUTED, alpha=0.25, linewidth=0.7)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_color(MUTED)
            spine.set_visible(side in ("left", "bottom"))
