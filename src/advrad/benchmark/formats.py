"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from advrad.benchmark.cells import Cell, CellKey, Results
from advrad.benchmark.tables import READING, Entry, Table, entry_text

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "\N{EN DASH}": r"\textendash{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{DAGGER}": r"$^\dagger$",
}
_TEX_HEAD = """\
% Written by advrad report. In the preamble: \\usepackage[T1]{fontenc}, \\usepackage{booktabs}, \\usepackage{graphicx}.
% What is too wide for the page is made smaller.
"""


def plain(text: str) -> str:
    """A text on one line, without control characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


# --- Markdown ---


def markdown(table: Table) -> str:
    """A table with its title and notes, as Markdown that GitHub shows."""
    rows = [(table.corner, *table.columns), ("---", *("---:" for _ in table.columns))]
    lines = ["| " + " | ".join(map(escape_markdown, rows[0])) + " |", "| " + " | ".join(rows[1]) + " |"]
    for row in table.rows:
        fields = (_entry(entry, table.decimals, escape_markdown, "**{}**") for entry in row.entries)
        lines.append("| " + " | ".join((escape_markdown(row.label), *fields)) + " |")
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    return "\n".join([f"### {escape_markdown(table.title)}", "", *lines, *([""] if notes else []), *notes]) + "\n"


def escape_markdown(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|&#~$])", r"\\\1", plain(text))


# --- LaTeX ---


def latex(tables: Iterable[Table]) -> str:
    """Tables in the style of booktabs, for the command ``input``; any names in them are made harmless."""
    reading = "".join(f"% {line}\n" for line in READING)
    return _TEX_HEAD + reading + "".join(f"\n{_latex(table)}" for table in tables)


def _latex(table: Table) -> str:
    head = " & ".join(map(escape_latex, (table.corner, *table.columns)))
    lines = []
    for row in table.rows:
        fields = (_entry(entry, table.decimals, escape_latex, r"\textbf{{{}}}") for entry in row.entries)
        lines.append("    " + " & ".join((escape_latex(row.label), *fields)) + r" \\")
    caption = " ".join(map(escape_latex, (f"{table.title}.", *table.notes)))
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{caption}}}",
            rf"  \label{{tab:{table.name}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"    \toprule",
            rf"    {head} \\",
            r"    \midrule",
            *lines,
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """A text that LaTeX sets as it is; letters that pdfLaTeX may not know are named by their number."""
    text = "".join(_TEX.get(letter) or _tex_letter(letter) for letter in plain(text))
    # Hyphens must not join, nor a text become the option of a line break that stands before it.
    text = re.sub("-(?=-)", "-{}", text)
    return f"{{}}{text}" if text.startswith(("[", "*")) else text


def _tex_letter(letter: str) -> str:
    # Latin letters with accents are in the T1 encoding.
    if letter.isascii() or (letter.isalpha() and ord(letter) < 0x180):
        return letter
    return f"(U+{ord(letter):04X})"


def _entry(entry: Entry, decimals: int, escape: Callable[[str], str], bold: str) -> str:
    text = escape(entry_text(entry, decimals))
    return bold.format(text) if entry.best else text


# --- CSV ---


def results_csv(results: Results) -> str:
    """One row per cell of the grid, run or not, with all that is known of it; numbers as exact as they are."""
    rows = [_flat(place, results.cells.get(place.key)) for place in results.places]
    radii = sorted({name for row in rows for name in row if name.startswith("certified_auroc ")}, key=_radius)
    names = [name for name in max(rows, key=len) if name not in radii]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*names, *radii], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _radius(name: str) -> float:
    return float(name.rpartition(" ")[2])


def _flat(place: CellKey, cell: Cell | None) -> dict[str, Any]:
    row = place.model_dump()
    if cell is None:
        return row | {"status": "missing"}
    row |= {"status": cell.status, "error": cell.error}
    for name, value in cell.figures.model_dump(exclude={"certified_auroc", "flags", "warnings", "gradients"}).items():
        if name.endswith("_ci"):
            row[f"{name}_low"], row[f"{name}_high"] = value or (None, None)
        else:
            row[name] = value
    row |= {
        "distrusted": "; ".join(f"{reason.name}: {reason.words}".rstrip(": ") for reason in cell.reasons),
        "warnings": "; ".join(cell.figures.warnings),
        "options": json.dumps(cell.options, sort_keys=True),
        "gradients": cell.gradients,
        "seconds": cell.seconds,
        "fit_seconds": cell.fit_seconds,
        "finished": cell.finished,
        "machine": cell.machine.words,
        "code": cell.code,
        "versions": json.dumps(cell.versions, sort_keys=True),
    }
    return row | {f"certified_auroc {radius}": area for radius, area in cell.figures.certified_auroc.items()}
