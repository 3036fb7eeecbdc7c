"""From the cells of a bench to tables: means over seeds and categories, their intervals, and which is best.

A cell holds an interval but not the images that it was drawn from, so two rules stand in for drawing anew:

- Seeds of one detector on one category share their test images: the interval of their mean is the mean of their
  intervals. How far the seeds lie apart is shown beside it, as a sample standard deviation.
- Categories have images of their own: the interval of their mean reaches as far to each side as the root of the
  summed squares of what theirs do, over their number (the normal approximation for independent figures).
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

#: Shares are compared, and shown, with this many decimals.
DECIMALS = 3
#: Heading of the column that each figure table ends in.
MEAN = "mean"
#: How to read any table.
READING = (
    "Bold is the best of a column, of those that are whole and that no audit distrusts.",
    "In brackets: the 95 % bootstrap interval over test images; of several seeds the mean of theirs, since they share"
    " the images; of a mean over categories the normal approximation from theirs, taken as independent.",
    "After \N{PLUS-MINUS SIGN}: the sample standard deviation over seeds.",
    "(k of n): only k of n cells hold this figure; do not compare it with means of other cells.",
    "\N{DAGGER}: an audit distrusts this figure, or one that it is made of; the reasons are listed.",
    "not run: none of its cells has ended yet, or not all; failed: they ended in errors, which are listed; n/a: done,"
    " but without this figure; \N{EN DASH}: not in the grid.",
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
        state: ``value``; ``missing``, not all of it was run; ``failed``, errors and nothing else; ``unmeasured``, done
            without this figure; ``unplanned``, not in the grid.
        value: mean over the cells that hold it.
        interval: of it; None where one of them has none.
        seeds: the value by seed.
        parts: cells that hold the figure.
        planned: cells that should.
        distrusted: an audit distrusts one of them.
        best: of its column.
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
        """Whether it may be the best: whole, and not distrusted."""
        return self.value is not None and self.parts == self.planned and not self.distrusted


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: its label, and one entry per column."""

    label: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table, to be written in any format.

    Attributes:
        name: short, of lower-case letters, digits and hyphens; unique.
        short: heading of its means where they stand beside those of others.
        title: what it shows.
        corner: heading of the first column.
        columns: headings of the others.
        rows: in grid order.
        notes: what to know of it besides :data:`READING`.
        decimals: that its values are shown with.
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
    """An entry as plain text, but for being the best."""
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


def seeds_entry(results: Results, places: Sequence[CellKey], read: Reading) -> Entry:
    """The seeds of one detector on one category as one entry.

    Args:
        results: of the bench.
        places: one per seed.
        read: takes the figure and its interval from a cell's figures.
    """
    ended = results.ended(places)
    found = [(cell, *read(cell.figures)) for cell in ended if cell.done]
    seeds = {cell.seed: value for cell, value, _ in found if value is not None}
    intervals = [interval for _, value, interval in found if value is not None and interval is not None]
    state: State = "value"
    if not places:
        state = "unplanned"
    elif not seeds:
        state = "missing" if len(ended) < len(places) else "unmeasured" if found else "failed"
    return Entry(
        state,
        value=statistics.fmean(seeds.values()) if seeds else None,
        interval=_middle(intervals) if seeds and len(intervals) == len(seeds) else None,
        seeds=seeds,
        parts=len(seeds),
        planned=len(places),
        distrusted=any(cell.reasons for cell, value, _ in found if value is not None),
    )


def _middle(intervals: Sequence[Pair]) -> Pair:
    return statistics.fmean(low for low, _ in intervals), statistics.fmean(high for _, high in intervals)


def mean_entry(entries: Iterable[Entry]) -> Entry:
    """The mean over categories of those that have a value; by seed of those seeds that they all have."""
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
    """Mark the largest comparable value of each column, and all that equal it as shown.

    Where fewer than two can be compared, none is marked.

    Args:
        rows: with the same number of entries each.
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
) -> Table:
    """Detectors x categories of one figure, and the mean over categories.

    Args:
        results: of the bench.
        name: of the table.
        short: heading of its means elsewhere.
        title: what it shows.
        wanted: which places it is made of.
        read: takes the figure and its interval from a cell's figures.
        notes: what to know of it.
    """
    places = [place for place in results.places if wanted(place)]
    categories = tuple(dict.fromkeys(place.category for place in places))
    rows = []
    for detector in dict.fromkeys(place.detector for place in places):
        entries = [
            seeds_entry(
                results,
                [place for place in places if (place.detector, place.category) == (detector, category)],
                read,
            )
            for category in categories
        ]
        rows.append(Row(detector, (*entries, mean_entry(entries))))
    return Table(name, short, title, "Detector", (*categories, MEAN), mark_best(rows), tuple(notes))


def figure_of(name: str, interval: str | None = None) -> Reading:
    """Reads a figure by its name, and its interval by its own."""
    return lambda figures: (getattr(figures, name), getattr(figures, interval) if interval else None)


def radius_of(radius: str) -> Reading:
    """Reads the certified AUROC at a radius; it is a bound already, and has no interval."""
    return lambda figures: (figures.certified_auroc.get(radius), None)
