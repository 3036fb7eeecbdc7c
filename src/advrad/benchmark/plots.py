"""The plots of a bench report."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from advrad.benchmark.formats import plain
from advrad.benchmark.noise_sweeps import Family
from advrad.benchmark.tables import Entry, Table
from advrad.report.plots import INK, MUTED, save_png, svg_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#3b8bd0", "#e0702f", "#3aa35b", "#b36bd1", "#c9a227", "#d1527a", "#36a9ad", "#8c7a5b")
_WIDEST = 3


def overview_plot(table: Table) -> str:
    """Plot what attacks leave of each detector: one line per detector, one point per column of the overview.

    A cross marks a figure that is incomplete or distrusted.

    Args:
        table: The overview.

    Returns:
        HTML of the image.
    """
    from matplotlib.figure import Figure

    labels = [row.label for row in table.rows]
    figure = Figure(figsize=(8.2, 1.5 + 0.34 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    for column, name in enumerate(table.columns):
        entries = [row.entries[column] for row in table.rows]
        colour = INK if column == 0 else _COLOURS[(column - 1) % len(_COLOURS)]
        _points(axes, entries, name, colour)
    for index, row in enumerate(table.rows):
        values = [entry.value for entry in row.entries if entry.value is not None]
        if values:
            axes.hlines(index, min(values), max(values), color=MUTED, linewidth=1, zorder=1)
    axes.set_yticks(range(len(labels)), [_shown(label) for label in labels], parse_math=False)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(labels) - 0.5, -0.5), xlabel="Image AUROC, mean over categories")
    _legend(figure, axes)
    with _any_letters():
        return svg_image(figure, "Clean, attacked and certified AUROC of every detector; the table holds the figures")


def _points(axes: Axes, entries: Sequence[Entry], name: str, colour: str) -> None:
    for fine, marker in ((True, "o"), (False, "x")):
        shown = [entry.value if entry.comparable is fine else None for entry in entries]
        positions = [index for index, value in enumerate(shown) if value is not None]
        values = [value for value in shown if value is not None]
        label = _shown(name) if fine else "_"
        axes.plot(values, positions, marker, color=colour, markersize=6, linestyle="none", label=label, zorder=2)


def dilemma_plot(families: Sequence[Family], attacks: Sequence[str]) -> str:
    """Plot clean and attacked AUROC over the noise level, one panel per attack, one colour per family.

    A cross marks a figure that is incomplete or distrusted.

    Args:
        families: At least one family.
        attacks: Labels in the order of ``Point.robust``; none for the clean AUROC alone.

    Returns:
        HTML of the image.
    """
    label = "AUROC without and under attack over the noise level; the table holds the figures"
    with _any_letters():
        return svg_image(_dilemma(families, attacks), label)


def draw_dilemma(path: Path, families: Sequence[Family], attacks: Sequence[str]) -> None:
    """Write the plot of :func:`dilemma_plot` as a PNG file.

    Args:
        path: Path of the file.
        families: At least one family.
        attacks: Labels in the order of ``Point.robust``.

    Raises:
        OutputError: The file cannot be written.
    """
    with _any_letters():
        save_png(path, _dilemma(families, attacks))


def _dilemma(families: Sequence[Family], attacks: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    panels = max(1, len(attacks))
    wide = min(panels, _WIDEST)
    high = -(-panels // wide)
    figure = Figure(figsize=(max(6.2, 3.6 * wide), 3.4 * high + 0.8), layout="constrained")
    grid = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True).flat
    for panel, axes in enumerate(grid):
        if panel >= panels:
            axes.set_visible(False)
            continue
        for index, family in enumerate(families):
            colour, name = _COLOURS[index % len(_COLOURS)], _shown(family.name)
            _line(axes, family, [point.standard for point in family.points], "--", colour, f"{name}, no attack")
            if attacks:
                _line(axes, family, [point.robust[panel] for point in family.points], "-", colour, f"{name}, attacked")
        if attacks:
            axes.set_title(_shown(attacks[panel]), color=INK, fontsize="medium", parse_math=False)
        axes.set(ylim=(-0.02, 1.02), xlabel="Noise sigma", ylabel="Image AUROC, mean" if panel % wide == 0 else "")
    _legend(figure, figure.axes[0])
    return figure


def _line(axes: Axes, family: Family, entries: Sequence[Entry], style: str, colour: str, label: str) -> None:
    known = [
        (point.sigma, entry.value, entry.interval or (entry.value, entry.value))
        for point, entry in zip(family.points, entries, strict=True)
        if entry.value is not None
    ]
    x, y, ends = zip(*known, strict=True) if known else ((), (), ())
    filled = colour if style == "-" else "none"
    axes.plot(x, y, f"o{style}", color=colour, markerfacecolor=filled, markersize=5, linewidth=1.8, label=label)
    for point, entry in zip(family.points, entries, strict=True):
        if entry.value is not None and not entry.comparable:
            axes.plot(point.sigma, entry.value, "x", color=colour, markersize=11, markeredgewidth=1.6)
    axes.fill_between(x, [low for low, _ in ends], [high for _, high in ends], color=colour, alpha=0.12, linewidth=0)


def _legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend below the panels, since its labels can be long."""
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _shown(label: str) -> str:
    """Shorten a label, and keep matplotlib from hiding labels that begin with an underscore."""
    label = plain(label)
    label = label if len(label) <= 60 else label[:59] + "\N{HORIZONTAL ELLIPSIS}"
    return f" {label}" if label.startswith("_") else label


@contextmanager
def _any_letters() -> Iterator[None]:
    """Ignore warnings about letters that matplotlib's font lacks; it draws boxes for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        yield
