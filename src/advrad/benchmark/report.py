"""The report of a bench folder: its tables as HTML, Markdown, LaTeX and CSV, with plots and their origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from advrad.benchmark.cells import Cell, Results, read_bench
from advrad.benchmark.formats import escape_markdown, latex, markdown, results_csv
from advrad.benchmark.overview import Tables, make_tables
from advrad.benchmark.plots import dilemma_plot, draw_dilemma, overview_plot
from advrad.benchmark.tables import READING, Entry, entry_text
from advrad.report.rendering import page
from advrad.utils.files import atomic_path
from advrad.utils.formatting import quoted
from advrad.utils.output_folders import check_output, claim_folder


def bench_report(place: Path | str, output: Path) -> list[Path]:
    """Write the report of a bench, which may still be running.

    ``index.html`` is self-contained. ``tables.md`` and ``tables.tex`` hold the tables, ``results.csv`` one row per
    cell, and ``dilemma.png`` the AUROC over the noise level, if the grid has detectors that differ only in ``sigma``.

    Args:
        place: Folder that ``advrad bench`` wrote, or URL of one in a bucket.
        output: Folder for the files; made if missing. A file replaces an older one once it is complete.

    Returns:
        Paths of the files, the HTML page first.

    Raises:
        DataError: See :func:`advrad.benchmark.cells.read_bench`.
        OutputError: A file cannot be written, or the folder holds files that advrad did not write.
    """
    check_output(output, "report", also=("benchmark",))
    results = read_bench(place)
    tables = make_tables(results)
    warnings, failures, origin = _warnings(results), _failures(results), _origin(results, place)
    made = {
        "index.html": _page(results, tables, warnings, failures, origin),
        "tables.md": _markdown(results, tables, warnings, failures, origin),
        "results.csv": results_csv(results),
        "tables.tex": latex(tables.all),
    }
    claim_folder(output, "report", also=("benchmark",))
    for name, text in made.items():
        with atomic_path(output / name) as temporary:
            # Text that is not valid Unicode (a lone surrogate in a label) must not stop the report.
            temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
    written = [output / name for name in made]
    drawing = output / "dilemma.png"
    if tables.families:
        draw_dilemma(drawing, tables.families, [table.short for table in tables.robust])
        written.append(drawing)
    else:
        with suppress(OSError):  # a plot of an earlier report would look like this one's
            drawing.unlink()
    return written


def _page(
    results: Results, tables: Tables, warnings: list[str], failures: list[str], origin: list[tuple[str, str]]
) -> str:
    plots = {"overview": overview_plot(tables.overview)}
    if tables.families:
        plots["dilemma"] = dilemma_plot(tables.families, [table.short for table in tables.robust])
    return page(
        "bench.html.j2",
        results=results,
        tables=tables,
        plots=plots,
        warnings=warnings,
        failures=failures,
        origin=origin,
        reading=READING,
        text=entry_text,
        look=_look,
    )


def _look(entry: Entry) -> str:
    """CSS classes of a field."""
    if entry.value is None:
        return "lost" if entry.state == "failed" else "none"
    return " ".join(name for name, holds in (("best", entry.best), ("distrusted", entry.distrusted)) if holds)


def _markdown(
    results: Results, tables: Tables, warnings: list[str], failures: list[str], origin: list[tuple[str, str]]
) -> str:
    parts = [f"# {escape_markdown(results.name)}\n"]
    parts += [f"**Warning.** {escape_markdown(warning)}\n" for warning in warnings]
    parts += map(markdown, tables.all)
    parts.append("### How to read the tables\n\n" + _list(READING))
    if failures:
        parts.append("### Failed cells\n\n" + _list(failures))
    parts.append("### Origin\n\n" + _list(f"{name}: {value}" for name, value in origin))
    return "\n".join(parts)


def _list(lines: Iterable[str]) -> str:
    return "".join(f"- {escape_markdown(line)}\n" for line in lines)


def _warnings(results: Results) -> list[str]:
    """Warnings about the results as a whole."""
    done, failed, planned = results.done, results.failed, len(results.planned)
    distrusted = sum(bool(cell.reasons) for cell in done)
    found = []
    if failed:
        found.append(f"{len(failed)} of {planned} cells failed; advrad bench tries them again.")
    if len(done) + len(failed) < planned:
        left = planned - len(done) - len(failed)
        found.append(f"{left} of {planned} cells were not run yet; advrad bench continues.")
    if distrusted:
        found.append(
            f"Sanity checks distrust {distrusted} of {len(done)} figures; the reasons are listed below their tables."
        )
    if results.orphans:
        found.append(
            f"{results.orphans} results in cells/ belong to no cell of this grid as it is now (a label, an option or"
            " an image changed); they are ignored."
        )
    mixed: tuple[tuple[str, Collection[str], str], ...] = (
        ("versions of advrad's code", {cell.code for cell in done}, "figures may differ for that reason alone"),
        ("machines", {cell.machine.words for cell in done}, "do not compare their times"),
        *((f"versions of {package}", found, "see Origin") for package, found in _versions(done).items()),
    )
    for what, values, meaning in mixed:
        if len(values) > 1:
            found.append(f"The cells come from {len(values)} {what}: {meaning}.")
    return found


def _failures(results: Results) -> list[str]:
    return [f"{_label(cell)}: {cell.error or 'no reason was recorded'}" for cell in results.failed]


def _label(cell: Cell) -> str:
    return f"{cell.detector} on {cell.category}, {cell.attack or cell.certificate or 'clean'}, seed {cell.seed}"


def _origin(results: Results, place: Path | str) -> list[tuple[str, str]]:
    """What is needed to reproduce the figures."""
    done = results.done
    dates = sorted(cell.finished for cell in done if cell.finished)
    return [
        ("Command", f"advrad bench GRID --data DATA -o {quoted(place)}"),
        ("Report", f"advrad report {quoted(place)}"),
        ("Finished", f"{dates[0]} to {dates[-1]}" if dates else "not recorded"),
        *_counted("Machine", [cell.machine.words for cell in done]),
        *_counted("Digest of advrad's code", [cell.code or "not recorded" for cell in done]),
        ("Versions", ", ".join(f"{name} {' and '.join(found)}" for name, found in _versions(done).items())),
    ]


def _counted(name: str, values: list[str]) -> list[tuple[str, str]]:
    counts = Counter(values).most_common()
    return [(name, value if len(counts) == 1 else f"{value} ({count} cells)") for value, count in counts]


def _versions(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """The versions of each package that the cells were measured with."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        for package, version in cell.versions.items():
            found.setdefault(package, set()).add(version)
    return {package: sorted(versions) for package, versions in sorted(found.items())}
