"""From cells to tables: means over seeds and categories, their intervals, and the best of each column.

A cell holds an interval but not the images behind it, so the images cannot be resampled here. Instead:

- Seeds of one detector on one category share their test images: the interval of their mean is the mean of their
  intervals. The sample standard deviation over seeds is shown beside it.
- Categories have different images: the half-widths of the interval of their mean are the root of the sum of squares of
  their half-widths, divided by their number (normal approximation for independent figures).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from advrad.benchmark.cells import CellKey, Figures, Results

Pair = tuple[float, float]
Reading = Callable[[Figures], tuple[float | None, Pair | None]]
State = Literal["value", "missing", "failed", "unmeasured", "unplanned"]

#: Number of decimals with which values are compared and shown.
DECIMALS = 3
#: Heading of the last column of each table of figures.
MEAN = "mean"
#: How to read the tables.
READING = (
    "Bold: the best of a column, among complete and trusted figures.",
    "In brackets: the 95 % bootstrap interval over test images. Over several seeds it is the mean of their intervals,"
    " since they share the images; over categories it is the normal approximation from theirs, taken as independent.",
    "After \N{PLUS-MINUS SIGN}: the sample standard deviation over seeds.",
    "(k of n): only k of n cells have this figure; do not compare it with means of other cells.",
    "\N{DAGGER}: a sanity check distrusts this figure, or one that it is averaged from; the reasons are listed.",
    "not run: not all of its cells are finished; failed: they ended in errors, which are listed; n/a: finished without"
    " this figure; \N{EN DASH}: not in the grid.",
)
_WORDS: dict[State, str] = {
    "missing": "not run",
    "failed": "failed",
    "unmeasured": "n/a",
    "unplanned": "\N{EN DASH}",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One field of a table.

    Attributes:
        state: ``value``; ``missing`` if not all cells have run; ``failed`` if all have failed; ``unmeasured`` if they
            are done without this figure; ``unplanned`` if they are not in the grid.
        value: Mean over the cells with this figure.
        interval: Interval of the mean; None if a cell has none.
        seeds: Value by seed.
        parts: Number of cells with the figure.
        planned: Number of cells that should have it.
        distrusted: Whether a sanity check distrusts one of them.
        best: Whether it is the best of its column.
    """

    state: State
    value: float | None = None
    interval: Pair | None = None
    seeds: Mapping[int, float] = field(default_factory=dict)
    parts: int = 0
    planned: int = 0
    distrusted: bool = False
    best: bool = False

    @property
    def comparable(self) -> bool:
        """Whether it can be the best of its column: complete and not distrusted."""
        return self.value is not None and self.parts == self.planned and not self.distrusted


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        label: Label of the row.
        entries: One entry per column.
    """

    label: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table, independent of the output format.

    Attributes:
        name: Short unique name of lower-case letters, digits and hyphens.
        short: Heading of its means in the overview.
        title: Title.
        corner: Heading of the first column.
        columns: Headings of the other columns.
        rows: Rows in grid order.
        notes: Notes below the table, besides :data:`READING`.
        decimals: Number of decimals of its values.
    """

    name: str
    short: str
    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    decimals: int = DECIMALS


def entry_text(entry: Entry, decimals: int) -> str:
    """Format an entry as plain text, without the mark of the best.

    Args:
        entry: The entry.
        decimals: Number of decimals.
    """
    if entry.value is None:
        return _WORDS[entry.state]
    text = f"{entry.value:.{decimals}f}"
    if len(entry.seeds) > 1:
        text += f" \N{PLUS-MINUS SIGN} {statistics.stdev(entry.seeds.values()):.{decimals}f}"
    if entry.interval is not None:
        text += f" [{entry.interval[0]:.{decimals}f}, {entry.interval[1]:.{decimals}f}]"
    if entry.parts < entry.planned:
        text += f" ({entry.parts} of {entry.planned})"
    return text + (" \N{DAGGER}" if entry.distrusted else "")


def seeds_entry(results: Results, planned: Sequence[CellKey], read: Reading) -> Entry:
    """Combine the seeds of one detector on one category.

    Args:
        results: Results of the bench.
        planned: Cells, one per seed.
        read: Function that reads the figure and its interval from a cell's figures.
    """
    ended = results.ended(planned)
    found = [(cell, *read(cell.figures)) for cell in ended if cell.done]
    seeds = {cell.seed: value for cell, value, _ in found if value is not None}
    intervals = [interval for _, value, interval in found if value is not None and interval is not None]
    state: State = "value"
    if not planned:
        state = "unplanned"
    elif not seeds:
        state = "missing" if len(ended) < len(planned) else "unmeasured" if found else "failed"
    return Entry(
        state,
        value=statistics.fmean(seeds.values()) if seeds else None,
        interval=_middle(intervals) if seeds and len(intervals) == len(seeds) else None,
        seeds=seeds,
        parts=len(seeds),
        planned=len(planned),
        distrusted=any(cell.reasons for cell, value, _ in found if value is not None),
    )


def _middle(intervals: Sequence[Pair]) -> Pair:
    return statistics.fmean(low for low, _ in intervals), statistics.fmean(high for _, high in intervals)


def mean_entry(entries: Iterable[Entry]) -> Entry:
    """Average the entries of all categories that have a value.

    Values by seed are averaged over the seeds that all these categories have.

    Args:
        entries: One entry per category.
    """
    asked = [entry for entry in entries if entry.state != "unplanned"]
    planned = sum(entry.planned for entry in asked)
    known = [(entry, entry.value) for entry in asked if entry.value is not None]
    if not known:
        states: set[State] = {entry.state for entry in asked}
        order: tuple[State, ...] = ("missing", "failed", "unmeasured")
        return Entry(next((state for state in order if state in states), "unplanned"), planned=planned)
    value = statistics.fmean(part for _, part in known)
    intervals = [(part, entry.interval) for entry, part in known if entry.interval is not None]
    below = math.hypot(*(part - low for part, (low, _) in intervals)) / len(known)
    above = math.hypot(*(high - part for part, (_, high) in intervals)) / len(known)
    common = set.intersection(*(set(entry.seeds) for entry, _ in known))
    return Entry(
        "value",
        value=value,
        interval=(value - below, value + above) if len(intervals) == len(known) else None,
        seeds={seed: statistics.fmean(entry.seeds[seed] for entry, _ in known) for seed in sorted(common)},
        parts=sum(entry.parts for entry, _ in known),
        planned=planned,
        distrusted=any(entry.distrusted for entry, _ in known),
    )


def mark_best(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Mark the largest comparable value of each column, and all values that are shown equal to it.

    Nothing is marked in a column with fewer than two comparable values.

    Args:
        rows: Rows with the same number of entries.
    """
    columns = [_with_best(column) for column in zip(*(row.entries for row in rows), strict=True)]
    return tuple(Row(row.label, entries) for row, entries in zip(rows, zip(*columns, strict=True), strict=True))


def _with_best(column: Sequence[Entry]) -> list[Entry]:
    shown = [round(entry.value, DECIMALS) if entry.comparable and entry.value is not None else None for entry in column]
    known = [value for value in shown if value is not None]
    best = max(known) if len(known) > 1 else None
    return [
        replace(entry, best=value is not None and value == best) for entry, value in zip(column, shown, strict=True)
    ]


def figure_table(
    results: Results,
    name: str,
    short: str,
    title: str,
    wanted: Callable[[CellKey], bool],
    read: Reading,
    notes: Sequence[str] = (),
    *,
    best: bool = True,
) -> Table:
    """Make a table of one figure: detectors by categories, and the mean over categories.

    Args:
        results: Results of the bench.
        name: Name of the table.
        short: Heading of its means in the overview.
        title: Title.
        wanted: Function that chooses the cells.
        read: Function that reads the figure and its interval from a cell's figures.
        notes: Notes below the table.
        best: Whether to mark the largest values, which are the best ones unless smaller is better.
    """
    cells = [key for key in results.planned if wanted(key)]
    categories = tuple(dict.fromkeys(key.category for key in cells))
    rows = []
    for detector in dict.fromkeys(key.detector for key in cells):
        entries = [
            seeds_entry(
                results,
                [key for key in cells if (key.detector, key.category) == (detector, category)],
                read,
            )
            for category in categories
        ]
        rows.append(Row(detector, (*entries, mean_entry(entries))))
    shown = mark_best(rows) if best else tuple(rows)
    return Table(name, short, title, "Detector", (*categories, MEAN), shown, tuple(notes))


def figure_of(name: str, interval: str | None = None) -> Reading:
    """Reader of a figure and its interval by their names."""
    return lambda figures: (getattr(figures, name), getattr(figures, interval) if interval else None)


def certified_auroc_at(radius: str) -> Reading:
    """Reader of the certified AUROC at a radius, which is a bound without an interval."""
    return lambda figures: (figures.certified_auroc.get(radius), None)
