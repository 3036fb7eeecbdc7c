"""Plots of certifications: as SVG images inside a page, or as PNG files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advrad.report.plots import ANOMALOUS_COLOUR, MUTED, NORMAL_COLOUR, save_png, svg_image
from advrad.report.proofs import attacked_points, is_proof
from advrad.utils.formatting import number, reach_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from advrad.certificates.results import CertificationResult


def certificate_plot(result: CertificationResult) -> str:
    """Plot what a certification proves over the radius, and what attacks left, as an image for a page.

    Args:
        result: Certification to plot.

    Returns:
        Markup of one ``img`` element.
    """
    label = f"Certified AUROC over the {result.norm} radius: {_listed(result.certified_auroc.items(), result)}"
    if is_proof(result) and (attacked := attacked_points(result)):
        label += f"; left by attacks: {_listed(attacked, result)}"
    return svg_image(_figure(result), label)


def _listed(points: Iterable[tuple[float, float | None]], result: CertificationResult) -> str:
    return ", ".join(f"{number(area, '.3f')} at {reach_text(radius, result.norm)}" for radius, area in points)


def draw_certificates(path: Path, result: CertificationResult) -> None:
    """Save the plot of a certification as a PNG file.

    Args:
        path: PNG file to write.
        result: Certification to plot.

    Raises:
        OutputError: The file cannot be written.

    Example:
        >>> import advrad, torch
        >>> detector, images = advrad.wrap(lambda images: images.mean((1, 2, 3))), torch.rand(4, 3, 16, 16)
        >>> result = advrad.certify(detector, (images, [0, 0, 1, 1]), radii=(0.1,), n_samples=100)
        >>> draw_certificates(Path("certificates.png"), result)
    """
    save_png(path, _figure(result))


def _figure(result: CertificationResult) -> Figure:
    """The same drawing for a page and for a file."""
    return _bounds_figure(result) if is_proof(result) else _smoothed_figure(result)


def _smoothed_figure(result: CertificationResult) -> Figure:
    """Certified AUROC and certified verdicts over the radius."""
    from matplotlib.figure import Figure

    radii = np.array(result.curve.radii)
    # Label, style, and value for each radius.
    curves = [("certified AUROC", "-", np.array(result.curve.certified_auroc, dtype=np.float64))]
    if result.curve.certified_right is not None:
        curves.append(("verdicts certified right", "--", np.array(result.curve.certified_right)))
    # The axis ends where every curve is zero, but covers all requested radii and all attacks.
    last_nonzero = [radii[np.append(0, np.flatnonzero(values))[-1]] for _, _, values in curves]
    attacked = [point.eps for point in result.attacked]
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for label, style, values in curves:
        # Between two radii, the value certified for the larger one holds.
        axes.plot(radii, values, style, color=NORMAL_COLOUR, linewidth=2, drawstyle="steps-pre", label=label)
    for same, fill in ((True, ANOMALOUS_COLOUR), (False, "none")):
        points = [(point.eps, point.robust_auroc) for point in result.attacked if point.same_images is same]
        if points:
            x, y = zip(*points, strict=True)
            label = "left by attacks" + ("" if same else " on other images")
            axes.scatter(x, y, s=36, facecolors=fill, edgecolors=ANOMALOUS_COLOUR, zorder=3, label=label)
    axes.set(xlabel=f"{result.norm} radius", ylabel="AUROC, share of images", ylim=(-0.02, 1.02))
    axes.set_xlim(0, 1.1 * max([*last_nonzero, *result.radii, *attacked]) or 1)
    axes.legend(frameon=False)
    return figure


def _bounds_figure(bounds: CertificationResult) -> Figure:
    """What is proven and what attacks left over the radius. linf radii are in units of 1/255."""
    from matplotlib.figure import Figure

    units, attacked = 255.0 if bounds.norm == "linf" else 1.0, attacked_points(bounds)
    clean = [] if bounds.clean_auroc is None else [(0.0, bounds.clean_auroc)]
    pairs = [(radius, area) for radius, area in bounds.certified_auroc.items() if area is not None]
    proven = sorted(dict(clean + pairs).items())
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    if attacked:
        x, y = np.array(sorted(dict([*clean, *attacked]).items())).T
        axes.plot(x * units, y, "o--", color=ANOMALOUS_COLOUR, linewidth=2, markersize=6, label="left by attacks")
    if proven:
        x, y = np.array(proven).T
        # Between two radii, what is proven for the larger one holds.
        axes.plot(
            x * units, y, "-", color=NORMAL_COLOUR, linewidth=2, drawstyle="steps-pre", label="proven: never below"
        )
        axes.fill_between(x * units, 0, y, step="pre", color=NORMAL_COLOUR, alpha=0.12, linewidth=0)
        axes.plot(x * units, y, "s", color=NORMAL_COLOUR, markersize=5)
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    axes.annotate("chance", (1, 0.5), (-2, 3), ("axes fraction", "data"), "offset points", color=MUTED, ha="right")
    axes.set(
        xlabel=f"{bounds.norm} radius" + (" in units of 1/255" if units > 1 else ""),
        ylabel="Image AUROC",
        ylim=(-0.02, 1.02),
    )
    axes.set_xlim(0, 1.05 * units * max([*bounds.radii, *(radius for radius, _ in attacked)], default=1) or 1)
    axes.legend(frameon=False, loc="lower left")
    return figure
