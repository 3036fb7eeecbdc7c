"""The drawings of a report, as SVG markup that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advrad import metrics
from advrad.utils.files import atomic_path
from advrad.utils.formatting import number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

_CURVE_POINTS = 400
# Colours that no plot uses otherwise: each is replaced by the page's own, which follows its light or dark
# look.
_SENTINELS = {
    "#010203": "currentColor",
    "#010204": "var(--good)",
    "#010205": "var(--defect)",
    "#010206": "var(--muted)",
}
INK, GOOD, DEFECT, MUTED = _SENTINELS


def roc_plot(labels: Array, scores: Array, threshold: float | None) -> str:
    """The ROC curve, and on it the threshold.

    Args:
        labels: (n,) bool, both classes occur.
        scores: (n,) finite.
        threshold: None for none.
    """
    from matplotlib.figure import Figure

    fpr, tpr = metrics.roc_curve(labels, scores)
    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    axes.fill_between(fpr, tpr, color=DEFECT, alpha=0.10, linewidth=0)
    axes.plot(fpr, tpr, color=DEFECT, linewidth=2, clip_on=False, solid_capstyle="round")
    label = f"ROC curve of {labels.size} test images"
    if threshold is not None:
        found, alarm = metrics.rates(labels, scores, threshold)
        axes.plot([alarm], [found], "o", markersize=8, color=INK, clip_on=False, zorder=5)
        left = alarm < 0.6
        axes.annotate(
            "threshold",
            (alarm, found),
            xytext=(9 if left else -9, -14),
            textcoords="offset points",
            ha="left" if left else "right",
            color=INK,
        )
        label += f"; at the threshold {percent(found)} of defects found, {percent(alarm)} false alarms"
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="False alarms (FPR)", ylabel="Defects found (TPR)")
    return svg(figure, "roc", label)


def histogram_plot(labels: Array, scores: Array, threshold: float | None) -> str:
    """How the scores of good and of anomalous images are spread.

    Args:
        labels: (n,) bool.
        scores: (n,) finite, n >= 1.
        threshold: None for none.
    """
    from matplotlib.figure import Figure

    marks = scores if threshold is None else np.append(scores, threshold)
    low, high = float(marks.min()), float(marks.max())
    # Scores are often squares or ratios: spread over decades, they can only be read on a logarithmic axis.
    logarithmic = low > 0.0 and high / low > 20.0
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = int(np.clip(2.0 * math.sqrt(scores.size), 8, 40))
    edges = np.geomspace(low, high, bins + 1) if logarithmic else np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = low, high
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for part, colour, name in ((scores[~labels], GOOD, "good"), (scores[labels], DEFECT, "defective")):
        if part.size:
            share = 100.0 * np.histogram(part, edges)[0] / part.size
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.30)
            axes.stairs(share, edges, color=colour, linewidth=1.6, label=f"{name} ({part.size})")
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 3)), label="threshold")
    if logarithmic:
        axes.set_xscale("log")
    axes.set(xlabel="Score" + (" (logarithmic)" if logarithmic else ""), ylabel="Share of the class (%)")
    axes.set_xlim(low, high)
    axes.legend(frameon=False, labelcolor=INK)
    good, defective = scores[~labels], scores[labels]
    parts = [
        f"median of {name} {number(float(np.median(part)), '.4g')}"
        for name, part in (("good", good), ("defective", defective))
        if part.size
    ]
    return svg(figure, "histogram", "Histogram of the scores: " + ", ".join(parts))


def loss_plot(steps: Array, losses: Array) -> str:
    """The training loss, and its moving mean.

    Args:
        steps: (n,) rising.
        losses: (n,) finite, n >= 1.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    groups = np.array_split(np.arange(steps.size), min(_CURVE_POINTS, steps.size))
    x = np.array([steps[group].mean() for group in groups])
    y = np.array([losses[group].mean() for group in groups])
    width = max(1, len(y) // 25)
    axes.plot(x, y, color=GOOD, linewidth=1, alpha=0.45)
    if width > 1:
        sums = np.concatenate([[0.0], np.cumsum(y)])
        position = np.arange(len(y))
        start, stop = np.maximum(position - width, 0), np.minimum(position + width + 1, len(y))
        smooth = (sums[stop] - sums[start]) / (stop - start)
        axes.plot(x, smooth, color=GOOD, linewidth=2)
    if y.min() > 0.0 and y.max() / y.min() > 5.0:
        axes.set_yscale("log")
    axes.set(xlabel="Step", ylabel="Loss")
    axes.margins(x=0.01)
    first, last = (number(float(loss), ".4g") for loss in (losses[0], losses[-1]))
    return svg(figure, "loss", f"Training loss from {first} to {last} over {int(steps[-1])} steps")


def curve_plot(result: Mapping[str, Any]) -> str:
    """Robust AUROC over one thing; see :func:`advrad.attacks.pipeline.curve`."""
    areas = [number(point["robust_auroc"], ".3f") for point in result["points"]]
    label = f"AUROC under {result['attack']} over {result['over']}, from {areas[0]} to {areas[-1]}"
    return svg(_curve(result, DEFECT, INK, MUTED), f"curve-{result['over']}", label)


def draw_curve(path: Path, result: Mapping[str, Any]) -> None:
    """The same as a PNG file.

    Raises:
        OutputError: it cannot be written.
    """
    save(path, _curve(result, "tab:red", "black", "grey"))


def _curve(result: Mapping[str, Any], line: str, ink: str, muted: str) -> Figure:
    from matplotlib.figure import Figure

    points = sorted(result["points"], key=lambda point: point["value"])
    units = 255.0 if result["over"] == "eps" and result["norm"] == "linf" else 1.0
    x = np.array([point["value"] for point in points]) * units
    y = np.array([point["robust_auroc"] for point in points])
    low, high = np.array([point["robust_auroc_ci"] for point in points]).T
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(result["clean_auroc"], color=muted, linewidth=1, linestyle=(0, (3, 3)), label="clean")
    axes.fill_between(x, low, high, color=line, alpha=0.15, linewidth=0)
    axes.plot(x, y, "o-", color=line, linewidth=2, markersize=5, label=f"under {result['attack']}")
    names = {"eps": f"eps ({result['norm']}" + (", levels of 255)" if units > 1 else ")")}
    axes.set(xlabel=names.get(result["over"], result["over"]), ylabel="Image AUROC", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, labelcolor=ink)
    return figure


def certificate_plot(result: Mapping[str, Any], number_of: int) -> str:
    """Certified AUROC and verdicts over the radius; see :func:`advrad.certificates.pipeline.certify`.

    Args:
        result: of the certification.
        number_of: the drawing on its page, so that several can stand there.
    """
    areas = [f"{number(area, '.3f')} at {radius}" for radius, area in result["certified_auroc"].items()]
    label = f"Certified AUROC over the l2 radius: {', '.join(areas)}"
    return svg(_certificates(result, GOOD, DEFECT, INK), f"certificates-{number_of}", label)


def draw_certificates(path: Path, result: Mapping[str, Any]) -> None:
    """The same as a PNG file.

    Raises:
        OutputError: it cannot be written.
    """
    save(path, _certificates(result, "tab:blue", "tab:red", "black"))


def _certificates(result: Mapping[str, Any], line: str, attacks: str, ink: str) -> Figure:
    from matplotlib.figure import Figure

    curve = result["curve"]
    shown = {"certified_auroc": ("certified AUROC", "-"), "certified_right": ("verdicts certified right", "--")}
    curves = {name: np.array(curve[name], dtype=np.float64) for name in shown if name in curve}
    radii = np.array(curve["radii"])
    # Up to where nothing is left, but as far as anybody asked or attacked.
    some = [radii[np.append(0, np.flatnonzero(values))[-1]] for values in curves.values()]
    asked = [float(radius) for radius in result["certified_auroc"]] + [point["eps"] for point in result["attacked"]]
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, values in curves.items():
        label, style = shown[name]
        # Between two radii holds what is certified for the larger.
        axes.plot(radii, values, style, color=line, linewidth=2, drawstyle="steps-pre", label=label)
    for same, fill in ((True, attacks), (False, "none")):
        points = [point for point in result["attacked"] if point["same_pictures"] is same]
        if points:
            x, y = zip(*((point["eps"], point["robust_auroc"]) for point in points), strict=True)
            label = "left by attacks" + ("" if same else " on other images")
            axes.plot(x, y, "o", color=attacks, markerfacecolor=fill, markersize=6, linestyle="none", label=label)
    axes.set(xlabel="l2 radius", ylabel="AUROC, share of images", ylim=(-0.02, 1.02))
    axes.set_xlim(0, 1.1 * max(some + asked) or 1)
    axes.legend(frameon=False, labelcolor=ink)
    return figure


def save(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as markup to stand inside the page, coloured by the page's own style.

    Args:
        figure: drawn with :data:`INK`, :data:`GOOD`, :data:`DEFECT` and :data:`MUTED`, which become the page's colours.
        name: of the drawing, unique on its page; letters, digits and hyphens.
        label: what it shows, for those who cannot see it.
    """
    import matplotlib
    from markupsafe import Markup, escape

    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(which="both", color=MUTED, labelcolor=INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.grid(True, color=MUTED, alpha=0.25, linewidth=0.7)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_color(MUTED)
            spine.set_visible(side in ("left", "bottom"))
    buffer = io.StringIO()
    # Text stays text and takes the page's font. The salt makes the file repeatable.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # As a shorthand or as a property of its own: what matplotlib writes depends on its release.
    drawing = re.sub(r"""font: (\S+) [^;"]*""", r"font: \1 var(--font)", drawing)
    drawing = re.sub(r"""font-family: [^;"]*""", "font-family: var(--font)", drawing)
    # Identifiers are unique within a figure only, and the page holds several.
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r'(url\(|href=")#', rf"\1#{name}-", drawing)
    for sentinel, colour in _SENTINELS.items():
        drawing = drawing.replace(sentinel, colour)
    # Without a width and height of its own the drawing takes those of its column.
    opening = re.search(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', drawing)
    assert opening is not None
    head = f'<svg {opening.group(1)} role="img" aria-label="{escape(label)}">'
    return Markup(head + drawing[opening.end() :])
