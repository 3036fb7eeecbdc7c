"""The tables of a bench report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from advrad.benchmark.cells import Cell, CellKey, Results
from advrad.benchmark.noise_sweeps import Family, dilemma_table, families_of
from advrad.benchmark.tables import Entry, Row, Table, certified_auroc_at, figure_of, figure_table, mark_best


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of a bench.

    Attributes:
        overview: Means over categories; its columns are those of ``standard``, ``robust`` and ``certified``.
        standard: AUROC of clean images.
        robust: AUROC under each attack.
        certified: Certified AUROC at each radius of each attack, for detectors with exact bounds, and of each
            certificate.
        verdicts: Shares of images that are called defective, without attack and certainly under every attack, for
            detectors with a threshold.
        pixels: Pixel figures, if there are any.
        families: Detectors that differ only in their noise level.
        dilemma: Table of the families; None if there are none.
        progress: Number of cells by state.
        time: Times of fitting, attacking and certifying, and numbers of gradient evaluations.
    """

    overview: Table
    standard: Table
    robust: tuple[Table, ...]
    certified: tuple[Table, ...]
    verdicts: tuple[Table, ...]
    pixels: tuple[Table, ...]
    families: tuple[Family, ...]
    dilemma: Table | None
    progress: Table
    time: Table

    @property
    def all(self) -> tuple[Table, ...]:
        """Every table, in reading order."""
        dilemma = () if self.dilemma is None else (self.dilemma,)
        figures = (self.standard, *self.robust, *self.certified, *self.verdicts, *self.pixels)
        return (self.overview, *dilemma, *figures, self.progress, self.time)


def make_tables(results: Results) -> Tables:
    """Make every table for which there are figures.

    Args:
        results: Results of the bench.
    """
    standard = figure_table(
        results,
        "standard",
        "clean",
        "Clean AUROC, no attack",
        _clean,
        figure_of("image_auroc", "image_auroc_ci"),
        _distrust_notes(results, _clean),
    )
    attacks = results.order(lambda key: key.attack)
    robust = tuple(_robust(results, f"robust-{number}", attack) for number, attack in enumerate(attacks, 1))
    certified = _certified_at_eps(results)
    certified += _certified(results, len(certified) + 1)
    overview = _overview(results, (standard, *robust, *certified))
    families = families_of(results, overview, len(robust))
    asked = (("pixel_auroc", "pixel AUROC"), ("aupro", "AUPRO"))
    return Tables(
        overview=overview,
        standard=standard,
        robust=robust,
        certified=certified,
        verdicts=(*_verdicts(results), *_certainly_found(results)),
        pixels=tuple(
            figure_table(
                results,
                name.replace("_", "-"),
                short,
                f"{short[0].upper()}{short[1:]}, no attack",
                _clean,
                figure_of(name),
            )
            for name, short in asked
            if any(getattr(cell.figures, name) is not None for cell in results.done)
        ),
        families=families,
        dilemma=dilemma_table(families, overview.columns) if families else None,
        progress=_progress(results),
        time=_time(results),
    )


def _clean(key: CellKey) -> bool:
    return key.attack is None and key.certificate is None


def _of(attack: str | None, certificate: str | None, key: CellKey) -> bool:
    return (key.attack, key.certificate) == (attack, certificate)


def _robust(results: Results, name: str, attack: str) -> Table:
    wanted = partial(_of, attack, None)
    cells = [cell for cell in results.done if wanted(cell)]
    notes = ["Both classes are attacked. Each figure is an upper bound; a stronger attack may lower it."]
    notes += dict.fromkeys(
        f"{cell.figures.note[:1].upper()}{cell.figures.note[1:]}." for cell in cells if cell.figures.note
    )
    notes += [*_suite(cells), *_fewer(results, cells), *_distrust_notes(results, wanted)]
    title = f"Robust AUROC under {attack}"
    if cells and cells[0].figures.norm and cells[0].figures.eps is not None:
        threat = _threat(cells[0].figures.norm, cells[0].figures.eps)
        title += "" if threat in attack else f" ({threat})"
    read = figure_of("robust_auroc", "robust_auroc_ci")
    return figure_table(results, name, f"attacked: {attack}", title, wanted, read, notes)


def _threat(norm: str, eps: float) -> str:
    """A threat model as text; linf in steps of 1/255 where it is one."""
    levels = round(eps * 255, 2)
    if norm == "linf" and math.isclose(eps * 255, levels, rel_tol=1e-6):
        return f"{norm} {levels:g}/255"
    return f"{norm} {eps:.4g}"


def _bounded_at(results: Results, name: str) -> dict[str, str]:
    """The radii of the attacks at which exact bounds gave a figure, each with the first attack of that radius."""
    attacks: dict[str, str] = {}
    for attack in results.order(lambda key: key.attack):
        for cell in results.done:
            found = cell.figures
            if cell.attack == attack and getattr(found, name) is not None and found.norm and found.eps is not None:
                attacks.setdefault(_threat(found.norm, found.eps), attack)
    return attacks


def _certified_at_eps(results: Results) -> tuple[Table, ...]:
    """One table per radius of the attacks at which exact bounds certified a detector."""
    tables = []
    for number, (threat, attack) in enumerate(_bounded_at(results, "certified_at_eps").items(), 1):
        notes = [
            f"Proven by exact bounds, without randomness, for the images of {attack}: no attack leaves less. Other"
            " detectors have no such bounds."
        ]
        read = figure_of("certified_at_eps", "certified_at_eps_ci")
        tables.append(
            figure_table(
                results,
                f"certified-{number}",
                f"certified {threat}",
                f"Certified AUROC within {threat}",
                partial(_of, attack, None),
                read,
                notes,
            )
        )
    return tuple(tables)


def _verdicts(results: Results) -> tuple[Table, ...]:
    """Shares of clean images that are called defective."""
    if all(cell.figures.tpr is None for cell in results.done):
        return ()
    note = "At the threshold of each detector, which normal images set; detectors without threshold have none."
    found = figure_table(
        results, "found", "found", "Share of defects found, no attack", _clean, figure_of("tpr"), [note]
    )
    title = "False alarms: share of normal images called defective, no attack"
    alarms = figure_table(results, "false-alarms", "false alarms", title, _clean, figure_of("fpr"), [note], best=False)
    return found, alarms


def _certainly_found(results: Results) -> tuple[Table, ...]:
    """One table per radius of the attacks: the share of defects that no attack of that size can hide."""
    tables = []
    for number, (threat, attack) in enumerate(_bounded_at(results, "found_at_eps").items(), 1):
        note = (
            f"Proven by exact bounds, without randomness, for the images of {attack}: whatever an attack of this size"
            " does, at least this share of the defects is called defective. Other detectors have no such bounds."
        )
        title = f"Share of defects certainly found within {threat}"
        wanted, short = partial(_of, attack, None), f"certainly found {threat}"
        read = figure_of("found_at_eps")
        tables.append(figure_table(results, f"certainly-found-{number}", short, title, wanted, read, [note]))
    return tuple(tables)


def _certified(results: Results, number: int) -> tuple[Table, ...]:
    """One table per certificate and radius, or one without radius if none of its cells is done."""
    tables: list[Table] = []
    for certificate in results.order(lambda key: key.certificate):
        wanted = partial(_of, None, certificate)
        cells = [cell for cell in results.done if wanted(cell)]
        notes = ["Proven: no perturbation of the images within the radius gives a lower AUROC."]
        notes += [f"Method: {how}." for how in dict.fromkeys(_method(cell) for cell in cells)]
        notes += [*_fewer(results, cells), *_distrust_notes(results, wanted)]
        radii = sorted({radius for cell in cells for radius in cell.figures.certified_auroc}, key=float)
        for radius in radii or [""]:
            label = f"{certificate} at {radius}" if radius else certificate
            name = f"certified-{len(tables) + number}"
            norm = next((cell.figures.norm for cell in cells if cell.figures.norm), "l2")
            title = f"Certified AUROC by {certificate}" + (f", {norm} radius {radius}" if radius else "")
            tables.append(figure_table(results, name, label, title, wanted, certified_auroc_at(radius), notes))
    return tuple(tables)


def _method(cell: Cell) -> str:
    found = cell.figures
    parts = [found.method or "not recorded"]
    parts += [f"{found.n_samples} noise samples"] if found.n_samples else []
    parts += [f"confidence {100 * found.confidence:g} %"] if found.confidence else []
    parts += [f"rounding to 8 bits is a change of l2 norm {found.rounding_l2:.2g}"] if found.rounding_l2 else []
    return ", ".join(parts)


def _suite(cells: Iterable[Cell]) -> list[str]:
    """Note on the version of the attack suite."""
    found = {cell.figures.suite_version for cell in cells}
    known = sorted(version for version in found if version is not None)
    if not known:
        return []
    shown = " and ".join(f"{version}" for version in known) + (", others not recorded" if None in found else "")
    return [f"Version of the suite: {shown}."]


def _fewer(results: Results, cells: Iterable[Cell]) -> list[str]:
    """Note on figures that use fewer images than the clean figure of their category."""
    whole = {cell.category: cell.figures.images for cell in results.done if _clean(cell)}
    found = dict.fromkeys(
        f"{cell.category} {cell.figures.images} of {whole[cell.category]}"
        for cell in cells
        if cell.figures.images and whole.get(cell.category) and cell.figures.images != whole[cell.category]
    )
    if not found:
        return []
    return [f"On part of the test images, like clean_auroc in results.csv: {', '.join(found)}."]


def _distrust_notes(results: Results, wanted: Callable[[CellKey], bool]) -> list[str]:
    """Notes on distrusted figures: each reason once, with its cells."""
    found: dict[str, list[str]] = {}
    for cell in results.done:
        for reason in cell.reasons if wanted(cell) else ():
            words = reason.name + (f": {reason.words.rstrip('.')}" if reason.words else "")
            found.setdefault(words, []).append(f"{cell.detector} on {cell.category} (seed {cell.seed})")
    return [f"\N{DAGGER} {'; '.join(where)}: {words}." for words, where in found.items()]


def _overview(results: Results, tables: Sequence[Table]) -> Table:
    """The means of all tables side by side."""
    means = [{row.label: row.entries[-1] for row in table.rows} for table in tables]
    rows = [
        Row(detector, tuple(column.get(detector, Entry("unplanned")) for column in means))
        for detector in results.order(lambda key: key.detector)
    ]
    title = "AUROC, mean over categories: clean, under attack, certified"
    columns = tuple(table.short for table in tables)
    return Table("overview", "overview", title, "Detector", columns, mark_best(rows))


def _progress(results: Results) -> Table:
    """Number of cells of each detector by state."""
    rows = []
    for detector in results.order(lambda key: key.detector):
        planned = [key for key in results.planned if key.detector == detector]
        ended = results.ended(planned)
        done = [cell for cell in ended if cell.done]
        distrusted = sum(bool(cell.reasons) for cell in done)
        counts = (len(planned), len(done), distrusted, len(ended) - len(done), len(planned) - len(ended))
        rows.append(Row(detector, tuple(Entry("value", float(count)) for count in counts)))
    columns = ("planned", "done", "of these distrusted", "failed", "not run")
    return Table("progress", "cells", "Cells", "Detector", columns, tuple(rows), decimals=0)


def _time(results: Results) -> Table:
    """Seconds and gradient evaluations: means over finished cells."""
    tests = list(dict.fromkeys((key.attack, key.certificate) for key in results.planned))
    labels = [attack or certificate or "clean" for attack, certificate in tests]
    columns = ["fit (s)", *(f"{label} (s)" for label in labels), *(f"{label} (gradients)" for label in labels)]
    rows = []
    for detector in results.order(lambda key: key.detector):
        cells = [cell for cell in results.done if cell.detector == detector]
        # One fit per category and seed, whose time every cell repeats.
        fits = {(cell.category, cell.seed): cell.fit_seconds for cell in cells}
        here = [[cell for cell in cells if _of(*test, cell)] for test in tests]
        entries = [_average(fits.values())]
        entries += [_average(cell.seconds for cell in some) for some in here]
        entries += [_average(cell.gradients for cell in some) for some in here]
        rows.append(Row(detector, tuple(entries)))
    kept = [index for index in range(len(columns)) if any(row.entries[index].value is not None for row in rows)]
    return Table(
        "time",
        "time",
        "Time and gradient evaluations",
        "Detector",
        tuple(columns[index] for index in kept),
        tuple(replace(row, entries=tuple(row.entries[index] for index in kept)) for row in rows),
        ("Means over finished cells. Times depend on the machine and its load.",),
        decimals=0,
    )


def _average(values: Iterable[float | None]) -> Entry:
    known = [value for value in values if value is not None]
    return Entry("value", statistics.fmean(known)) if known else Entry("unmeasured")
